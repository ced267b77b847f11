"""StreamWatchdog: monitors age, order, clock and rate of a stream of readings.

Pure: every time is passed in. Ages are measured twice, by the stamps (the robot's clock) and by the
time of arrival (this process's steady clock), since either can be wrong.
"""

from __future__ import annotations

import math
from enum import Enum

CLOCK_TOLERANCE = 0.002  # [s] that a stamp may lie in the future without a warning
CLOCK_JUMP = 0.5  # [s]: a larger step back is not reordering, a larger one ahead not latency
CONSISTENT = 3  # such stamps in a row mean that a clock was set; fewer are errors
SEGMENT = 0.4  # [s] over which a mean rate is measured, and
SEGMENT_READINGS = 8  # least number of readings in it
RATE_WARNING, RATE_SLACK = 0.1, 0.2  # relative error of a mean rate: warning, fault
WHOLE = 0.25  # share of a period by which a gap may differ from whole periods
SINGLE = 0.15  # share of gaps of one period, from which longer gaps count as lost readings
SEGMENTS = 3  # in a row, all too slow or all too fast, mean a wrong rate


class Arrival(Enum):
    """How the stamp of a message compares with those before."""

    NEW = "new"
    REPEATED = "repeated"  # the same stamp again, or an older one: not a new reading
    FUTURE = "future"  # a single stamp ahead of the clock
    WENT_BACK = "went back"  # the robot's clock was set back


class StreamWatchdog:
    """Monitor one stream.

    A message counts only if its stamp is newer than the last one's: a driver that repeats a reading
    is treated like one that is silent.

    Args:
        max_age: older readings are stale [s].
        same_clock: stamps and this machine's wall clock agree, so a stamp gives an age.
        rate: expected of the stream [Hz]; None: any.
        lossy: count published readings, even if they did not arrive. A busy machine loses readings
            of a fast stream, of which only the newest is kept; a timer does not need each of them.
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
        """Forget everything: the robot may have been restarted, with another clock."""
        self.stamp = -math.inf  # of the newest reading, on the robot's clock [s]
        self.received = -math.inf  # when it came, on the steady clock [s]
        self.interval = math.inf  # between the last two stamps [s]
        self.arrivals = 0  # readings so far
        self.stamp_error = ""  # what was wrong with the last message's stamp; empty: nothing
        self._behind = self._ahead = 0  # messages in a row with a stamp far in the past, or future
        self.restart_rate()

    def restart_rate(self) -> None:
        """Measure the rate afresh, since this process was suspended and missed readings."""
        self.rate: float | None = None  # mean over the last segment [Hz]; None: unknown
        self._segment_from: float | None = None  # arrival of the first reading of the segment [s]
        self._segment_count = 0
        self._single = self._lost = 0  # gaps of one period; readings lost in longer gaps
        # too slow (-1) or too fast (1), for how many segments
        self._off_side, self._off_count = 0, 0

    def arrive(self, stamp: float, received: float, robot_now: float) -> Arrival:
        """Take a message.

        Args:
            stamp: its own [s, the robot's clock].
            received: when it came [s, steady].
            robot_now: this machine's wall clock, for streams on the same clock [s].
        """
        if not stamp > self.stamp:  # NaN compares false
            back = self.stamp - stamp
            self._behind = self._behind + 1 if back > CLOCK_JUMP else 0
            self.stamp_error = (
                f"its stamp {stamp:.3f} s is not newer than {self.stamp:.3f} s before it"
                if stamp
                else "its stamp is 0: expected a driver that sets header.stamp"
            )
            return Arrival.WENT_BACK if self._behind >= CONSISTENT else Arrival.REPEATED
        ahead = stamp - robot_now
        if self._same_clock and ahead > CLOCK_JUMP:
            self._ahead += 1
            self.stamp_error = f"its stamp {stamp:.3f} s lies {ahead:.3g} s in the future"
            if self._ahead < CONSISTENT and not self.is_ahead(robot_now):
                return Arrival.FUTURE
        else:
            self._ahead, self.stamp_error = 0, ""
        self._behind = 0
        self.interval = stamp - self.stamp
        self.stamp, self.received = stamp, received
        self.arrivals += 1
        self._count(received)
        return Arrival.NEW

    def age_by_receipt(self, now: float) -> float:
        """Return the time since the newest reading arrived, `now` on the steady clock [s].

        Args:
            now: steady time [s].
        """
        return now - self.received

    def age_by_stamp(self, robot_now: float) -> float:
        """Return its age by its stamp, `robot_now` on the robot's clock [s]; < 0: clocks differ.

        Args:
            robot_now: the robot's clock [s].
        """
        return robot_now - self.stamp

    def is_stale(self, now: float, robot_now: float) -> bool:
        """Whether the newest reading is too old, by arrival or by stamp.

        Args:
            now: steady time [s].
            robot_now: the robot's clock [s].
        """
        if self.age_by_receipt(now) >= self._max_age:
            return True
        return self._same_clock and self.age_by_stamp(robot_now) >= self._max_age

    def describe_age(self, now: float, robot_now: float) -> str:
        """Return why the newest reading is stale, as a phrase; times as in `is_stale`.

        Args:
            now: steady time [s].
            robot_now: the robot's clock [s].
        """
        receipt, stamp = self.age_by_receipt(now), self.age_by_stamp(robot_now)
        if self.stamp_error:
            return self.stamp_error
        if self._same_clock and receipt < self._max_age:
            return f"the newest reading was {stamp:.3f} s old when it came"
        return f"no new reading for {receipt:.3f} s"

    def is_ahead(self, robot_now: float) -> bool:
        """Whether the newest stamp lies in the future.

        Args:
            robot_now: the robot's clock [s].
        """
        return self._same_clock and self.age_by_stamp(robot_now) < -CLOCK_TOLERANCE

    @property
    def rate_is_off(self) -> bool:
        """Whether the mean rate of the last segment calls for a warning."""
        return self._error() > RATE_WARNING

    @property
    def rate_is_wrong(self) -> bool:
        """Whether the mean rate was too slow, or too fast, for SEGMENTS in a row."""
        return self._off_count >= SEGMENTS

    @property
    def rate_is_unusable(self) -> bool:
        """Whether the mean rate of the last segment is further off than jitter explains."""
        return self._error() > RATE_SLACK

    def describe_rate(self) -> str:
        """Describe the expected and the measured rate, as a phrase."""
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
                self.rate = self._published(span)  # an estimate until the first segment ends
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
        """Return the mean rate over a segment of `span` [s], lost readings included [Hz]."""
        rate = self._segment_count / span
        if self._expected is None or self._single < SINGLE * self._segment_count:
            return rate
        # lost readings cannot make a stream faster than expected
        return max(rate, min(rate + self._lost / span, self._expected))
