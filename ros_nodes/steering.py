"""Steering: the velocity that an operator asks of the base, for the policy and for its judge."""

from __future__ import annotations

import numpy as np

from dime_robot.runtime.robot import VelocityInput
from dime_robot.runtime.spec import FloatArray
from ros_nodes.conversions import TwistMessage, twist_values


class Steering:
    """The newest one, within the robot's limits; standing still where nobody asks any more."""

    def __init__(self, given: VelocityInput) -> None:
        self._timeout = given.timeout
        self._low, self._high = (np.array(bound) for bound in given.bounds)
        self._velocity: FloatArray = np.zeros(3)
        self._received = -np.inf  # steady time [s]

    def receive(self, message: TwistMessage, now: float) -> None:
        """Take note of what is asked, if it is a number; `now`: steady time [s]."""
        velocity = twist_values(message)
        if np.isfinite(velocity).all():
            self._velocity = np.clip(velocity, self._low, self._high)
            self._received = now

    def is_lost(self, now: float) -> bool:
        """Has nobody asked for longer than the time-out?"""
        return now - self._received > self._timeout

    def asked(self, now: float) -> FloatArray:
        """What to follow at steady time `now` [s], shape (3,) [m/s, m/s, rad/s]."""
        return np.zeros(3) if self.is_lost(now) else self._velocity
