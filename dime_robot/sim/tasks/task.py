"""The interface of robot tasks, and the task of a configuration."""

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
    """Starts, rewards and ends episodes, from the true state of the plant."""

    metrics: dict[str, float]  # of the last step, for `info["measures"]`

    @property
    def command_velocity(self) -> FloatArray | None:
        """The commanded velocity, shape (3,) [m/s, m/s, rad/s]; None: the task has none."""

    def start(self, rng: np.random.Generator) -> None:
        """Reset the plant for an episode."""

    def set_command(self, velocity: Sequence[float] | None) -> None:
        """Fix the commanded velocity [m/s, m/s, rad/s]; None: draw it again.

        A task without a commanded velocity ignores it.
        """

    def step(self, command: JointCommand, rng: np.random.Generator) -> float:
        """Return the reward of the period of `command`; call it at the period's end."""

    def terminated(self) -> bool:
        """Whether the episode has ended, apart from the time limit."""

    def is_success(self) -> bool:
        """Whether the success criterion holds at this step."""


def make_task(config: RobotTaskConfig, plant: Plant) -> Task:
    """Make the task of a configuration.

    Args:
        config: the configuration.
        plant: the robot.

    Raises:
        InputError: it has no task.
    """
    task = require_task(config)
    if isinstance(task, SwingUpConfig):
        return SwingUp(task, config.policy, plant)
    return VelocityTracking(task, config.policy, plant)
