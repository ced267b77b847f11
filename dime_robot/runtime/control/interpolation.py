"""CommandPath, BetweenSteps: which commands are sent between two steps of a policy, and when.

At each step a path begins at the command of that time, and leads to the new one in one period:

    linear  at constant speed
    cubic   as a cubic Hermite curve. Its tangent at the beginning is the one with which the path
            before ended, so that the speed does not jump; at the end it is the smaller one of the
            last two changes per period if both have the same sign, else 0

Both reach a command one period after its step: that is their delay. A steady motion is followed
exactly, a period late, by both. After a sudden end of a motion the cubic one goes further for a
moment, by 4/27 of the change of the period before at most; the linear one never does. The largest
speed of the cubic one is 1.5 times that of the linear one, where it begins and ends at rest.

Pure: time is passed in. The robot's limits are not known here: on the robot the safety filter
applies them to each command of a path. Simulation and robot use this same object.
"""

from __future__ import annotations

import numpy as np

from dime_robot.runtime.contract.interpolation import Interpolation
from dime_robot.runtime.contract.policy_spec import FloatArray

LAST = 0.5  # times between two commands by which the next step may be late before the path's end
LATE = 0.5  # periods after the end of a path up to which a new one continues at its speed


class CommandPath:
    """The path from one command to the next; arrays have shape (n,), in the command's unit.

    Args:
        cubic: else linear.
        period: time from one command to the next, in any unit, which is that of all times [s].
    """

    def __init__(self, cubic: bool, period: float) -> None:
        self._cubic, self._period = cubic, period
        self._began = 0.0
        self._from: FloatArray | None = None  # None: it leads nowhere
        self._to: FloatArray = np.zeros(0)
        # changes per period: of the whole path, and its tangents at both ends
        self._change: FloatArray = np.zeros(0)
        self._first: FloatArray = np.zeros(0)
        self._last: FloatArray = np.zeros(0)

    @classmethod
    def of(cls, interpolation: Interpolation, period: float) -> CommandPath | None:
        """Make the path of a robot's commands; None: without an interpolation.

        Args:
            interpolation: of the robot.
            period: see the class [s].
        """
        return cls(interpolation.kind == "cubic", period) if interpolation else None

    @property
    def leads(self) -> bool:
        """Whether it leads to a command."""
        return self._from is not None

    @property
    def goal(self) -> FloatArray:
        """Where it leads, or has led last, shape (n,)."""
        return self._to

    def stop(self) -> None:
        """End the path where the robot is: the next one begins there, at rest."""
        self._from = None

    def at(self, now: float, otherwise: FloatArray) -> FloatArray:
        """Return the command at a time; from the end of the path on, where it leads.

        Args:
            now: not before the path began [s].
            otherwise: returned where there is no path, shape (n,).
        """
        if self._from is None:
            return otherwise
        s = (now - self._began) / self._period
        if s >= 1.0:
            return self._to
        s = max(s, 0.0)
        if not self._cubic:
            return self._from + s * self._change
        rest = 1.0 - s
        value: FloatArray = (
            self._from
            + s * s * (3.0 - 2.0 * s) * self._change
            + s * rest * (rest * self._first - s * self._last)
        )
        return value

    def _speed(self, now: float) -> FloatArray:
        """Return the change per period of a cubic path; 0 a while after its end [s]."""
        s = (now - self._began) / self._period
        if s > 1.0 + LATE:
            return np.zeros(len(self._to))
        if s >= 1.0:
            return self._last
        s = max(s, 0.0)
        value: FloatArray = (
            6.0 * s * (1.0 - s) * self._change
            + (1.0 - s) * (1.0 - 3.0 * s) * self._first
            + s * (3.0 * s - 2.0) * self._last
        )
        return value

    def lead(self, now: float, begin: FloatArray, end: FloatArray) -> None:
        """Begin a path.

        Args:
            now: when it begins [s].
            begin: the command now, shape (n,).
            end: the command a period later, shape (n,).
        """
        change: FloatArray = end - begin
        if self._cubic:
            before: FloatArray
            if self._from is None:
                before = self._first = np.zeros_like(change)
            else:
                # a limit has moved a command off the path: from there straight on
                self._first = np.where(begin == self.at(now, begin), self._speed(now), change)
                before = self._change
            same = before * change > 0
            smaller = np.where(np.abs(before) < np.abs(change), before, change)
            self._last = np.where(same, smaller, 0.0)
        self._from, self._to, self._began, self._change = begin.copy(), end.copy(), now, change


class BetweenSteps:
    """The deadlines of the commands between two steps, absolute from the step on.

    The last one, at which the path ends, coincides with the next step, so it is only due if that
    one is late.

    Args:
        count: commands in a period, that of the step included.
        period: between two steps [s].

    Attributes:
        due: the next deadline, steady time [s]; infinity: there is none.
        missed: deadlines that passed without a command.
    """

    def __init__(self, count: int, period: float) -> None:
        self._count, self._interval = count, period / count
        self._base = 0.0  # when the step was due [s]
        self._number = 0  # of the next deadline
        self.due = np.inf
        self.missed = 0

    def begin(self, now: float) -> None:
        """Begin with a step.

        Args:
            now: steady time [s].
        """
        self._base, self._number = now, 0
        self._advance()

    def align(self, due: float) -> None:
        """Count from the time at which a step was due, not from when it was taken.

        Args:
            due: steady time [s].
        """
        if self.due < np.inf:
            self.begin(due)

    def is_due(self, now: float) -> bool:
        """Whether a command is due; several late ones count as one and missed ones.

        Args:
            now: steady time [s].
        """
        if now < self.due:
            return False
        self._advance()
        while now >= self.due:
            self.missed += 1
            self._advance()
        return True

    def end(self, now: float) -> None:
        """End with the next step.

        Args:
            now: steady time [s].
        """
        while now >= self.due and self._number < self._count:
            self.missed += 1
            self._advance()
        self.due = np.inf

    def _advance(self) -> None:
        self._number += 1
        if self._number > self._count:
            self.due = np.inf
        else:
            late = LAST if self._number == self._count else 0.0
            self.due = self._base + (self._number + late) * self._interval
