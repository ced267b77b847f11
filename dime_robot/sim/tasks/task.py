"""What every robot task has, and which class a configuration means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.control.state import JointCommand
from dime_robot.sim.config.robot_task import RobotTaskConfig, SwingUpConfig, require_task
from dime_robot.sim.plant.plant import Plant
from dime_robot.sim.tasks.swing_up import SwingUp
from dime_robot.sim.tasks.velocity import VelocityTracking


class Task(Protocol):
    """Starts, rewards and ends. It looks at the plant, which knows more than any sensor."""

    measures: dict[str, float]  # of the last step, for `info`

    @property
    def asked(self) -> FloatArray | None:
        """Velocity to follow, shape (3,) [m/s, m/s, rad/s]; None: the task knows none."""

    def start(self, rng: np.random.Generator) -> None:
        """Put the plant where an episode begins."""

    def follow(self, velocity: Sequence[float] | None) -> None:
        """Ask for this [m/s, m/s, rad/s] instead of what would be drawn; None: draw again.

        A task that follows no velocity ignores it.
        """

    def step(self, command: JointCommand, rng: np.random.Generator) -> float:
        """Reward of the period that `command` was sent in; called at the period's end."""

    def terminated(self) -> bool:
        """Is the episode over, the time limit aside?"""

    def is_success(self) -> bool:
        """Does the task's criterion hold at this step?"""


def make_task(config: RobotTaskConfig, plant: Plant) -> Task:
    """The task of a configuration.

    Args:
        config: the configuration.
        plant: the robot that the task looks at and resets.

    Raises:
        InputError: it has no task.
    """
    task = require_task(config)
    if isinstance(task, SwingUpConfig):
        return SwingUp(task, config.policy, plant)
    return VelocityTracking(task, config.policy, plant)
