"""VelocityCommand: the velocity that an operator gives the base, for the policy and its judge."""

from __future__ import annotations

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.contract.robot_config import VelocityInput


class VelocityCommand:
    """The newest velocity within the robot's limits; standing still where none comes any more.

    Args:
        given: limits and time-out.
    """

    def __init__(self, given: VelocityInput) -> None:
        self._timeout = given.timeout
        self._low, self._high = (np.array(bound) for bound in given.bounds)
        self.restart()

    def restart(self) -> None:
        """Forget what was given."""
        self._velocity: FloatArray = np.zeros(3)
        self._received = -np.inf  # steady time [s]

    def receive(self, velocity: FloatArray, now: float) -> None:
        """Take note of a velocity, if it is a number.

        Args:
            velocity: shape (3,) [m/s, m/s, rad/s].
            now: steady time [s].
        """
        if np.isfinite(velocity).all():
            self._velocity = np.clip(velocity, self._low, self._high)
            self._received = now

    def is_lost(self, now: float) -> bool:
        """Has none come for longer than the time-out?

        Args:
            now: steady time [s].
        """
        return now - self._received > self._timeout

    def at(self, now: float) -> FloatArray:
        """What to follow at a time, shape (3,) [m/s, m/s, rad/s].

        Args:
            now: steady time [s].
        """
        return np.zeros(3) if self.is_lost(now) else self._velocity
