"""Terms of `task.commands`: what is commanded in training; each returns an array, in SI units."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.quantities import Names, Radians, Share, SpeedRange, YawRateRange
from dime_robot.sim.tasks.view import TaskView


def uniform_velocity(
    view: TaskView,
    linear_x: SpeedRange,
    linear_y: SpeedRange,
    angular_z: YawRateRange,
    standing: Share = 0.0,
    turning: Share = 0.0,
) -> FloatArray:
    """Draw a velocity of the base uniformly.

    Args:
        view: of the task.
        linear_x: forward, lower and upper [m/s].
        linear_y: left, lower and upper [m/s].
        angular_z: yaw rate to the left, lower and upper [rad/s].
        standing: share of draws with velocity 0.
        turning: share of draws that turn on the spot.

    Returns:
        Shape (3,) [m/s, m/s, rad/s].
    """
    if standing + turning > 1:
        raise InputError(f"expected standing + turning up to 1, got {standing:g} + {turning:g}")
    rng = view.rng
    drawn = np.array([rng.uniform(*limits) for limits in (linear_x, linear_y, angular_z)])
    kind = rng.random()
    if kind < standing:
        drawn[:] = 0.0
    elif kind < standing + turning:
        drawn[:2] = 0.0
        # the faster half, since slow turning is nearly standing
        drawn[2] = rng.choice(angular_z) * rng.uniform(0.5, 1.0)
    return drawn


def uniform(view: TaskView, low: tuple[float, ...], high: tuple[float, ...]) -> FloatArray:
    """Draw each number uniformly and independently.

    Args:
        view: of the task.
        low: smallest value of each number, in the command's unit.
        high: largest.

    Returns:
        Shape (len(low),), in the command's unit.
    """
    if len(low) != len(high) or any(a > b for a, b in zip(low, high, strict=True)):
        raise InputError(f"expected low and high of one length, low <= high, got {low}, {high}")
    return view.rng.uniform(low, high)


def reachable_point(
    view: TaskView,
    site: str,
    spread: Annotated[Radians, Field(gt=0)],
    joints: Names = (),
    lowest: float = -10.0,
    nearest: float = 0.0,
) -> FloatArray:
    """Draw a point that a site of the robot can reach: its position in a random pose.

    Poses with the site too low or too near are drawn again, up to 100 times.

    Args:
        view: of the task.
        site: in the model.
        spread: largest distance of a joint from its default position, within its stops [rad or m].
        joints: names or patterns of the joints that are drawn; none: all of the policy.
        lowest: smallest height of the point in the frame of the robot's base [m].
        nearest: smallest distance from the base's origin [m].

    Returns:
        In the frame of the robot's base, shape (3,) [m].
    """
    index = view.indices(joints)
    stops = [view.spec.joints[i].position_limits or (-np.inf, np.inf) for i in index]
    low, high = np.array(stops, dtype=float).T
    middle = view.default_position[index]
    low, high = np.maximum(low, middle - spread), np.minimum(high, middle + spread)
    return view.site_in_random_pose(
        site,
        index,
        lambda: view.rng.uniform(low, high),
        lambda point: bool(point[2] >= lowest and np.linalg.norm(point) >= nearest),
    )


def joint_targets(view: TaskView, joints: Names = (), share: Share = 0.5) -> FloatArray:
    """Draw a target position of each joint, around its default position.

    Args:
        view: of the task.
        joints: names or patterns; none: all of the policy.
        share: of the way from the default position to a stop, or 1 rad or m without stops.

    Returns:
        Shape (n,), in the contract's order of the joints [rad or m].
    """
    drawn = []
    for i in view.indices(joints):
        joint = view.spec.joints[i]
        middle = joint.default_position
        low, high = joint.position_limits or (middle - 1.0, middle + 1.0)
        drawn.append(
            view.rng.uniform(middle + share * (low - middle), middle + share * (high - middle))
        )
    return np.array(drawn)
