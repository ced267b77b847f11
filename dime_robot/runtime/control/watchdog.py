"""StreamWatchdog: is a stream of readings alive, in order, on one clock, and at its rate?

Pure: every time is handed in. Ages are told twice, by the stamps (the robot's clock) and by the
time of arrival (this process' steady clock), since either can lie.
"""

from __future__ import annotations

import math
from enum import Enum

CLOCK_TOLERANCE = 0.002  # [s] a stamp may lie in our future before it is remarked
CLOCK_JUMP = 0.5  # [s]: older by more is no reordering, newer by more is no latency
CONSISTENT = 3  # such stamps in a row are a clock that was set, fewer are strays
SEGMENT = 0.4  # [s] over which a mean rate is taken, but at least
SEGMENT_READINGS = 8  # readings
RATE_WARNING, RATE_SLACK = 0.1, 0.2  # relative error of a mean rate: remarked, and too much
WHOLE = 0.25  # share of a period by which a gap of whole periods may be off
SHOWN = 0.25  # share of the gaps that have to be one period before longer ones are losses
SEGMENTS = 3  # in a row with too much, all to the same side, are a wrong rate and no hiccup


class Arrival(Enum):
    """What a message is to its stream."""

    NEW = "new"
    REPEATED = "repeated"  # the same stamp again, or an older one: no reading
    FUTURE = "future"  # a stray stamp that no clock shows yet
    WENT_BACK = "went back"  # the robot's clock was set back


class StreamWatchdog:
    """Ages, order, clock and rate of one stream.

    A message counts only if its stamp is newer than the last one's: a driver that repeats itself
    is as dead as one that is silent.

    Args:
        max_age: older readings are stale [s].
        same_clock: stamps and our wall clock agree, so an age can be read off a stamp.
        rate: expected of the stream [Hz]; None: any.
        lossy: count what was published, even if it did not reach us. A busy machine loses readings
            of a fast stream, of which only the newest is kept; where no step hangs on each of them
            the age alone tells whether that matters.
    """

    def __init__(
        self,
        max_age: float,
        same_clock: bool = True,
        rate: float | None = None,
        lossy: bool = False,
    ) -> None:
        self._max_age, self._same_clock, self._expected = max_age, same_clock, rate
        self._lossy = lossy
        self._segment = SEGMENT if rate is None else max(SEGMENT, SEGMENT_READINGS / rate)
        self.restart()

    def restart(self) -> None:
        """Forget everything: what comes now may be another life of the robot, on another clock."""
        self.stamp = -math.inf  # of the newest reading, on the robot's clock [s]
        self.received = -math.inf  # when it came, on the steady clock [s]
        self.interval = math.inf  # between the last two stamps [s]
        self.arrivals = 0  # readings so far
        self.stray = ""  # what was wrong with the last message's stamp; empty: nothing
        self._behind = self._ahead = 0  # messages in a row whose stamp lies there
        self.restart_rate()

    def restart_rate(self) -> None:
        """Measure the rate anew: this process was stopped, and what it missed is no slowness."""
        self.rate: float | None = None  # mean over the last segment [Hz]; None: not known yet
        self._segment_from: float | None = None  # the reading that the segment began with [s]
        self._segment_count = 0
        self._single = self._lost = 0  # gaps of one period, and readings that longer ones lack
        self._off_side, self._off_count = 0, 0  # segments in a row that are too slow or too fast

    def arrive(self, stamp: float, received: float, robot_now: float) -> Arrival:
        """Take note of a message.

        Args:
            stamp: its own [s, the robot's clock].
            received: when it came [s, steady].
            robot_now: the time by our wall clock, for streams on the same clock [s].
        """
        if not stamp > self.stamp:  # a NaN is no progress either
            back = self.stamp - stamp
            self._behind = self._behind + 1 if back > CLOCK_JUMP else 0
            self.stray = (
                f"its stamp {stamp:.3f} s is not newer than {self.stamp:.3f} s before it"
                if stamp
                else "its stamp is 0: expected a driver that sets header.stamp"
            )
            return Arrival.WENT_BACK if self._behind >= CONSISTENT else Arrival.REPEATED
        ahead = stamp - robot_now
        if self._same_clock and ahead > CLOCK_JUMP:
            self._ahead += 1
            self.stray = f"its stamp {stamp:.3f} s lies {ahead:.3g} s in the future"
            if self._ahead < CONSISTENT and not self.is_ahead(robot_now):
                return Arrival.FUTURE
        else:
            self._ahead, self.stray = 0, ""
        self._behind = 0
        self.interval = stamp - self.stamp
        self.stamp, self.received = stamp, received
        self.arrivals += 1
        self._count(received)
        return Arrival.NEW

    def age_by_receipt(self, now: float) -> float:
        """Since it came [s].

        Args:
            now: steady time [s].
        """
        return now - self.received

    def age_by_stamp(self, robot_now: float) -> float:
        """Since it was measured [s]; negative: clocks differ.

        Args:
            robot_now: the robot's clock [s].
        """
        return robot_now - self.stamp

    def is_stale(self, now: float, robot_now: float) -> bool:
        """Too old by either measure?

        Args:
            now: steady time [s].
            robot_now: the robot's clock [s].
        """
        if self.age_by_receipt(now) >= self._max_age:
            return True
        return self._same_clock and self.age_by_stamp(robot_now) >= self._max_age

    def describe_age(self, now: float, robot_now: float) -> str:
        """Why the newest reading is stale, as a phrase.

        Args:
            now: steady time [s].
            robot_now: the robot's clock [s].
        """
        receipt, stamp = self.age_by_receipt(now), self.age_by_stamp(robot_now)
        if self.stray:
            return self.stray
        if self._same_clock and receipt < self._max_age:
            return f"the newest reading was {stamp:.3f} s old when it came"
        return f"no new reading for {receipt:.3f} s"

    def is_ahead(self, robot_now: float) -> bool:
        """Does the newest stamp lie in our future?

        Args:
            robot_now: the robot's clock [s].
        """
        return self._same_clock and self.age_by_stamp(robot_now) < -CLOCK_TOLERANCE

    @property
    def rate_is_off(self) -> bool:
        """Is the mean rate of the last segment worth a remark?"""
        return self._error() > RATE_WARNING

    @property
    def rate_is_wrong(self) -> bool:
        """Has the mean rate been too slow, or too fast, for SEGMENTS in a row?"""
        return self._off_count >= SEGMENTS

    @property
    def rate_is_unusable(self) -> bool:
        """Is the mean rate of the last segment further off than jitter explains?"""
        return self._error() > RATE_SLACK

    def describe_rate(self) -> str:
        """The expected and the measured rate, as a phrase."""
        if self.rate is None or self._expected is None:
            return "its rate is not known yet"
        return f"{self._expected:g} Hz, got {self.rate:.1f} Hz"

    def _error(self) -> float:
        if self.rate is None or self._expected is None:
            return 0.0
        return abs(self.rate / self._expected - 1)

    def _count(self, received: float) -> None:
        if self._segment_from is None:
            self._begin_segment(received)
            return
        self._segment_count += 1
        if self._lossy and self._expected is not None:
            periods = self.interval * self._expected
            whole = round(periods) if periods < 1e9 else 0
            if abs(periods - whole) < WHOLE:
                self._single += whole == 1
                self._lost += max(0, whole - 1)
        span = received - self._segment_from
        if span < self._segment:
            if self.rate is None and self._segment_count >= SEGMENT_READINGS:
                self.rate = self._published(span)  # the best there is until the first ends
            return
        self.rate = self._published(span)
        self._begin_segment(received)
        if self._expected is None:
            return
        side = 0
        if self._error() > RATE_SLACK:
            side = 1 if self.rate > self._expected else -1
        self._off_count = self._off_count + 1 if side and side == self._off_side else abs(side)
        self._off_side = side

    def _begin_segment(self, received: float) -> None:
        self._segment_from, self._segment_count = received, 0
        self._single = self._lost = 0

    def _published(self, span: float) -> float:
        """Mean rate over a segment of `span` [s], losses added where its gaps show them [Hz]."""
        rate = self._segment_count / span
        if self._expected is None or self._single < SHOWN * self._segment_count:
            return rate
        # no loss makes a stream faster than it should be
        return max(rate, min(rate + self._lost / span, self._expected))
