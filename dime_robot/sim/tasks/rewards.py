"""Terms of `task.rewards`: one number per control step, before its weight.

`largest` declares the largest value of a term, from which the atoms of the critic follow. That of a
cost is infinite: its weight is negative, or its entry in the file states `largest`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, TypeVar

import numpy as np
from pydantic import Field

from dime_robot.sim.config.quantities import Names, Seconds, Share
from dime_robot.sim.tasks.view import TaskView

Width = Annotated[float, Field(gt=0)]
_Term = TypeVar("_Term", bound=Callable[..., float])


def _at_most(largest: float) -> Callable[[_Term], _Term]:
    def mark(term: _Term) -> _Term:
        term.largest = largest  # type: ignore[attr-defined]
        return term

    return mark


_cost = _at_most(math.inf)


# ---- a legged base


@_at_most(1.0)
def track_linear_velocity(view: TaskView, width: Width) -> float:
    """Return exp(-|v_xy - c_xy|^2 / width^2), v in the level frame of the base [1].

    Args:
        view: of the task.
        width: error at which it falls to e^-1 [m/s].
    """
    off = view.base.velocity[:2] - view.commanded("velocity", 3)[:2]
    return math.exp(-float(off.dot(off)) / width**2)


@_at_most(1.0)
def track_yaw_rate(view: TaskView, width: Width) -> float:
    """Return exp(-(w_z - c_z)^2 / width^2), w in the base's frame [1].

    Args:
        view: of the task.
        width: error at which it falls to e^-1 [rad/s].
    """
    off = view.base.angular_velocity[2] - view.commanded("velocity", 3)[2]
    return math.exp(-(off**2) / width**2)


@_at_most(1.0)
def alive(view: TaskView) -> float:
    """Return 1 at every step [1]."""
    return 1.0


@_cost
def vertical_speed(view: TaskView) -> float:
    """Return the squared vertical velocity of the base [m^2/s^2]."""
    return float(view.base.velocity[2] ** 2)


@_cost
def roll_pitch_rate(view: TaskView) -> float:
    """Return w_x^2 + w_y^2 of the base [rad^2/s^2]."""
    rate = view.base.angular_velocity[:2]
    return float(rate.dot(rate))


@_cost
def tilt(view: TaskView) -> float:
    """Return sin^2 of the tilt: g_x^2 + g_y^2 of gravity's unit vector in the base's frame [1]."""
    gravity = view.base.gravity[:2]
    return float(gravity.dot(gravity))


@_cost
def base_height_error(view: TaskView, height: Width) -> float:
    """Return the squared difference of the base's height from a wanted one [m^2].

    Args:
        view: of the task.
        height: wanted, of the base above the world's origin [m].
    """
    return float((view.base.height - height) ** 2)


class FeetAirTime:
    """Sum over feet that touch down of the time since they were lifted minus a wanted one [s].

    Long steps are rewarded and short ones cost, so that no foot is dragged; see Rudin et al.,
    Learning to Walk in Minutes (CoRL 2021), appendix A. Standing earns nothing. Its largest value
    per step is small against 1: state `largest` if it is weighted strongly.

    Args:
        view: of the task.
        wanted: time in the air of a step [s].
        feet: names in `sim.feet`.
        force: above which a foot is in contact [N].
    """

    largest = 1.0

    def __init__(
        self,
        view: TaskView,
        wanted: Annotated[Seconds, Field(gt=0)],
        feet: Names,
        force: Width = 1.0,
    ) -> None:
        view.require_feet(feet)
        self._wanted, self._feet, self._force = wanted, feet, force
        self._air = np.zeros(len(feet))

    def reset(self, view: TaskView) -> None:
        """Begin an episode: all feet count as on the ground."""
        self._air = np.zeros(len(self._feet))

    def __call__(self, view: TaskView) -> float:
        """Return the reward of this step."""
        contact = view.plant.foot_forces(self._feet) > self._force
        landed = contact & (self._air > 0)
        earned = float((self._air[landed] - self._wanted).sum())
        self._air = np.where(contact, 0.0, self._air + view.spec.period)
        return earned


# ---- any robot


@_cost
def action_size(view: TaskView) -> float:
    """Return the sum of a^2, a after the low-pass [1]."""
    return float(view.action.dot(view.action))


@_cost
def near_stops(view: TaskView, margin: Share, joints: Names = ()) -> float:
    """Return how far joints are within a margin before their stops, summed [rad or m].

    Args:
        view: of the task.
        margin: share of a joint's range at each end.
        joints: names or patterns; none: all of the policy. Those without stops do not count.
    """
    total = 0.0
    for i in view.indices(joints):
        low, high = view.spec.joints[i].position_limits or (-math.inf, math.inf)
        if math.isfinite(high - low):
            position, room = float(view.joint_position[i]), margin * (high - low)
            total += max(0.0, low + room - position) + max(0.0, position - high + room)
    return total


@_cost
def action_change(view: TaskView) -> float:
    """Return the sum of (a_t - a_{t-1})^2, a after the low-pass, 0 in the first step [1]."""
    change = view.action - view.previous_action
    return float(change.dot(change))


@_cost
def effort(view: TaskView) -> float:
    """Return the sum over joints of the squared effort of drives, mean over the step [N^2 m^2]."""
    return view.effort_squared


@_cost
def joint_deviation(view: TaskView, joints: Names = ()) -> float:
    """Return the sum of |position - default position| [rad or m].

    Args:
        view: of the task.
        joints: names or patterns; none: all of the policy.
    """
    index = view.indices(joints)
    off = view.joint_position[index] - view.default_position[index]
    return float(np.abs(off).sum())


@_cost
def joint_speed(view: TaskView, joints: Names = ()) -> float:
    """Return the sum of squared joint velocities [rad^2/s^2 or m^2/s^2].

    Args:
        view: of the task.
        joints: names or patterns; none: all of the policy.
    """
    speed = view.joint_velocity[view.indices(joints)]
    return float(speed.dot(speed))


# ---- targets


@_at_most(1.0)
def near_point(view: TaskView, site: str, command: str, width: Width) -> float:
    """Return exp(-d / width), d the distance of a site from the commanded point [1].

    Args:
        view: of the task.
        site: in the model.
        command: name of the command: a point in the frame of the robot's base [m].
        width: distance at which it falls to e^-1 [m].
    """
    off = view.site(site) - view.commanded(command, 3)
    return math.exp(-math.sqrt(float(off.dot(off))) / width)


@_at_most(1.0)
def track_joints(view: TaskView, command: str, width: Width, joints: Names = ()) -> float:
    """Return exp(-mean of (q - c)^2 / width^2), c the commanded positions [1].

    Args:
        view: of the task.
        command: name of the command: a position for each of the joints [rad or m].
        width: error at which it falls to e^-1 [rad or m].
        joints: names or patterns; none: all of the policy.
    """
    index = view.indices(joints)
    off = view.joint_position[index] - view.commanded(command, len(index))
    return math.exp(-float(off.dot(off)) / len(index) / width**2)


# ---- a pole on a cart


@_at_most(1.0)
def upright(view: TaskView, joint: str) -> float:
    """Return (1 + cos(q)) / 2 [1].

    Args:
        view: of the task.
        joint: revolute, 0 = upright.
    """
    position = view.joint_position[view.joint(joint, "revolute")]
    return (1 + math.cos(position)) / 2


@_at_most(1.0)
def centred(view: TaskView, joint: str, width: Width) -> float:
    """Return (1 + exp(-(x / width)^2)) / 2 [1].

    Args:
        view: of the task.
        joint: prismatic.
        width: distance at which the exponential falls to e^-1 [m].
    """
    x = view.joint_position[view.joint(joint, "prismatic")] / width
    return (1 + math.exp(-(x**2))) / 2


@_at_most(1.0)
def slow(view: TaskView, joint: str, width: Width) -> float:
    """Return (1 + exp(-(v / width)^2)) / 2 [1].

    Args:
        view: of the task.
        joint: whose velocity is meant.
        width: speed at which the exponential falls to e^-1 [rad/s or m/s].
    """
    v = view.joint_velocity[view.joint(joint)] / width
    return (1 + math.exp(-(v**2))) / 2


@_at_most(1.0)
def gentle(view: TaskView, joint: str) -> float:
    """Return (4 + max(0, 1 - a^2)) / 5, a the joint's action [1].

    Args:
        view: of the task.
        joint: that the policy commands.
    """
    a = float(view.action[view.action_index(joint)])
    return (4 + max(0.0, 1 - a**2)) / 5
