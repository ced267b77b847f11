"""Whether a stream of readings is alive: by the time it arrives and by the stamps it carries."""

from __future__ import annotations

import math

CLOCK_TOLERANCE = 0.002  # [s] a stamp may lie in our future before it is remarked


class Freshness:
    """Ages of the newest reading.

    A reading counts only if its stamp is newer than the last one's: a driver that repeats itself
    (frozen stamp) is as dead as one that is silent.

    Args:
        max_age: older is stale [s].
        same_clock: stamps and our wall clock agree, so an age can be read off a stamp.
    """

    def __init__(self, max_age: float, same_clock: bool = True) -> None:
        self._max_age, self._same_clock = max_age, same_clock
        self.stamp = -math.inf  # of the newest reading, on the robot's clock [s]
        self.received = -math.inf  # when it came, on the steady clock [s]
        self.interval = math.inf  # between the last two stamps [s]

    def arrive(self, stamp: float, received: float) -> bool:
        """Take note of a message; False where it is not newer than the last."""
        if not stamp > self.stamp:  # a NaN is no progress either
            return False
        self.interval = stamp - self.stamp
        self.stamp, self.received = stamp, received
        return True

    def age_by_receipt(self, now: float) -> float:
        """Since it came, `now` on the steady clock [s]."""
        return now - self.received

    def age_by_stamp(self, robot_now: float) -> float:
        """Since it was measured, `robot_now` on the robot's clock [s]; negative: clocks differ."""
        return robot_now - self.stamp

    def is_stale(self, now: float, robot_now: float) -> bool:
        """Too old by either measure?"""
        if self.age_by_receipt(now) > self._max_age:
            return True
        return self._same_clock and self.age_by_stamp(robot_now) > self._max_age

    def is_ahead(self, robot_now: float) -> bool:
        """Does the newest stamp lie in our future?"""
        return self._same_clock and self.age_by_stamp(robot_now) < -CLOCK_TOLERANCE
