"""VelocityCommand: the operator's velocity command, within the robot's limits."""

from __future__ import annotations

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.contract.robot_config import VelocityInput


class VelocityCommand:
    """The newest velocity command, clipped to the robot's limits; 0 after a time-out.

    Args:
        given: limits and time-out.
    """

    def __init__(self, given: VelocityInput) -> None:
        self._timeout = given.timeout
        self._low, self._high = (np.array(bound) for bound in given.bounds)
        self.restart()

    def restart(self) -> None:
        """Forget the command."""
        self._velocity: FloatArray = np.zeros(3)
        self._received = -np.inf  # steady time [s]

    def receive(self, velocity: FloatArray, now: float) -> None:
        """Take a new command; ignore one that is not finite.

        Args:
            velocity: shape (3,) [m/s, m/s, rad/s].
            now: steady time [s].
        """
        if np.isfinite(velocity).all():
            self._velocity = np.clip(velocity, self._low, self._high)
            self._received = now

    def is_lost(self, now: float) -> bool:
        """Whether the last command is older than the time-out. `now`: steady time [s].

        Args:
            now: steady time [s].
        """
        return now - self._received > self._timeout

    def at(self, now: float) -> FloatArray:
        """Return the command at steady time `now` [s], shape (3,) [m/s, m/s, rad/s].

        Args:
            now: steady time [s].
        """
        return np.zeros(3) if self.is_lost(now) else self._velocity
