"""Terms of `task.metrics`: numbers about one control step, which evaluations average."""

from __future__ import annotations

import numpy as np

from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.quantities import Names
from dime_robot.sim.tasks.view import TaskView


def velocity_error(view: TaskView) -> float:
    """Return the length of the base's velocity minus the commanded one, horizontal [m/s]."""
    off = view.base.velocity[:2] - view.commanded("velocity", 3)[:2]
    return float(np.hypot(*off.tolist()))


def yaw_rate_error(view: TaskView) -> float:
    """Return |yaw rate - commanded yaw rate| [rad/s]."""
    return abs(float(view.base.angular_velocity[2] - view.commanded("velocity", 3)[2]))


def reward_of(view: TaskView, rewards: Names) -> float:
    """Return the sum of some rewards of this step, with their weights [1].

    Args:
        view: of the task.
        rewards: names in `task.rewards`.
    """
    unknown = [name for name in rewards if name not in view.rewards]
    if unknown:
        known = list(view.rewards)
        raise InputError(f"rewards: expected names of rewards, {known}, got {unknown[0]!r}")
    return sum(view.rewards[name] for name in rewards)


def point_error(view: TaskView, site: str, command: str) -> float:
    """Return the distance of a site from the commanded point [m].

    Args:
        view: of the task.
        site: in the model.
        command: name of the command: a point in the frame of the robot's base [m].
    """
    return float(np.linalg.norm(view.site(site) - view.commanded(command, 3)))


def joint_error(view: TaskView, command: str) -> float:
    """Return the largest |position - commanded position| of a joint [rad or m].

    Args:
        view: of the task.
        command: name of the command: a position for each of the policy's joints [rad or m].
    """
    target = view.commanded(command, len(view.joint_position))
    return float(np.abs(view.joint_position - target).max())
