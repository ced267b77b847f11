"""SafetyFilter: the last thing between a policy and a machine that can hurt someone.

Pure: no clock, no thread, no ROS. Every step is told the time, so every answer can be tested and
replayed. A trouble's first answer is in `reasons.FIRST_ANSWER`; while it lasts the answer climbs:

    hold   for `safety.hold`, then
    damp   for `safety.damp`, then
    stop   until an operator re-arms

A trouble counts as over after `safety.recover` without any; troubles that come and go climb too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dime_robot.runtime.limits import CommandLimits
from dime_robot.runtime.observation import projected_gravity
from dime_robot.runtime.reasons import FIRST_ANSWER, UNUSABLE, Reason, Rung
from dime_robot.runtime.robot import RobotConfig
from dime_robot.runtime.spec import IMU_TERMS, FloatArray, PolicySpec
from dime_robot.runtime.state import JointCommand, RobotState

SPEED_TOLERANCE = 1.5  # measured over permitted speed that no sensor should show
RANGE_TOLERANCE = 0.02  # share of the range by which a reading may pass a hard stop
UNIT = (0.5, 2.0)  # norm of an orientation; a driver that has none sends zeros


class Decision(NamedTuple):
    """What is sent, how it came about, and why."""

    command: JointCommand
    rung: Rung
    reasons: tuple[Reason, ...] = ()


class SafetyFilter:
    """Limits of the robot and the ladder of answers.

    Args:
        spec: the policy's contract.
        robot: the machine, already found compatible.
    """

    def __init__(self, spec: PolicySpec, robot: RobotConfig) -> None:
        self.limits = CommandLimits(spec, robot)
        self.rung = Rung.STOP  # until armed
        self.cause: tuple[Reason, ...] = ()  # of the last hold, damp or stop
        self._config = robot.safety
        self._names = [joint.name for joint in spec.joints]
        self._low, self._high = (
            np.full(len(self._names), -np.inf),
            np.full(len(self._names), np.inf),
        )
        self._speed = np.empty(len(self._names))
        for i, name in enumerate(self._names):
            joint = robot.joint(name)
            self._speed[i] = SPEED_TOLERANCE * joint.velocity_limit
            if joint.position_limits is not None:
                low, high = joint.position_limits
                slack = RANGE_TOLERANCE * (high - low)
                self._low[i], self._high[i] = low - slack, high + slack
        self._steered = spec.needs("command_velocity")
        self._turning = not np.isfinite(self._high).all()  # some joint turns freely
        self._needs_imu = spec.needs(*IMU_TERMS) or self._config.tilt_limit is not None
        tilt = self._config.tilt_limit
        self._cos_tilt = -2.0 if tilt is None else math.cos(math.radians(tilt))
        count = len(self.limits.names)
        self._sent: FloatArray | None = None  # until armed for the first time
        self._ramp_from: FloatArray = np.zeros(count)
        self._ramp_began = 0.0
        self._trouble_began: float | None = None
        self._trouble_seen = 0.0

    @property
    def latched(self) -> bool:
        """Is it stopped until an operator re-arms?"""
        return self.rung == Rung.STOP

    def problems_of(self, state: RobotState) -> list[Reason]:
        """What is wrong with a reading by itself."""
        found: list[Reason] = []
        position, velocity = state.joint_position, state.joint_velocity
        plausible = (
            (position >= self._low) & (position <= self._high) & (np.abs(velocity) <= self._speed)
        )
        if not plausible.all():  # nor is a NaN
            finite = np.isfinite(position).all() and np.isfinite(velocity).all()
            found.append(Reason.OBSERVATION_OUT_OF_RANGE if finite else Reason.OBSERVATION_NAN)
        elif self._turning and not np.isfinite(position).all():
            found.append(Reason.OBSERVATION_NAN)  # infinity is within no limits at all
        if self._needs_imu:
            if state.orientation is None or state.angular_velocity is None:
                found.append(Reason.IMU_STALE)
            elif not (
                np.isfinite(state.orientation).all()
                and np.isfinite(state.angular_velocity).all()
                and UNIT[0] < np.linalg.norm(state.orientation) < UNIT[1]
            ):
                found.append(Reason.OBSERVATION_NAN)
            elif -projected_gravity(state.orientation)[2] < self._cos_tilt:
                found.append(Reason.TILT)
        asked = state.command_velocity
        if self._steered and (asked is None or not np.isfinite(asked).all()):
            found.append(Reason.OBSERVATION_NAN)
        return found

    def arm(self, now: float, state: RobotState) -> None:
        """Permit commands, beginning at the measured pose (twist: at the speed last sent).

        Raises:
            ValueError: the state has a problem.
        """
        found = self.problems_of(state)
        if _serious(found):
            names = [reason.value for reason in found]
            raise ValueError(f"expected a state without a problem to arm at, got {names}")
        self.rung, self.cause = Rung.RUN, ()
        self._trouble_began = None
        if self._sent is None or self.limits.kind != "twist":
            self._sent = self.limits.start(state)
        self._begin_ramp(now)

    def trip(self, reason: Reason) -> None:
        """Stop at the next step, and stay stopped."""
        before = tuple(r for r in self.cause if r != reason) if self.latched else ()
        self.rung, self.cause = Rung.STOP, (*before, reason)

    def step(
        self,
        now: float,
        wanted: JointCommand | None,
        state: RobotState | None,
        problems: Sequence[Reason] = (),
    ) -> Decision:
        """The command of this step.

        Args:
            now: steady time [s].
            wanted: what the policy asks for; None where it was not asked.
            state: the newest reading; None where there is none.
            problems: everything found wrong so far; `problems_of` the state included.

        Raises:
            ValueError: it was never armed and has no good state, so it knows no pose to begin at.
        """
        found = list(problems)
        if self._sent is None:
            if state is None or _serious(self.problems_of(state)):
                raise ValueError("arm the filter at a measured state before its first step")
            self._sent = self.limits.start(state)
        if wanted is not None and not np.isfinite(wanted.value).all():
            found.append(Reason.ACTION_NAN)
            wanted = None
        unusable = bool(found) and not UNUSABLE.isdisjoint(found)
        if state is None and not unusable:
            found.append(Reason.OBSERVATION_STALE)
        elif wanted is None and not self.latched and not _serious(found):
            found.append(Reason.ACTION_NAN)  # nobody gave one
        trusted = None if unusable else state
        before = self.rung
        self.rung = self._climb(now, found)
        if before >= Rung.DAMP > self.rung:
            self._begin_ramp(now)
        if self.rung >= Rung.DAMP:
            value = self.limits.rest(self._sent, trusted)
        elif trusted is None:
            value = self._sent
        else:
            held = self.rung == Rung.HOLD or wanted is None
            aim = self._sent if wanted is None or held else self._ramped(now, wanted.value)
            value, clamped = self.limits.clamp(aim, self._sent, trusted)
            found += clamped
            if clamped and not held:
                self.rung = Rung.CLAMP
        if not np.isfinite(value).all():  # the last line: nothing above should let this through
            self.rung = Rung.STOP
            found.append(Reason.OBSERVATION_NAN)
            value = self.limits.rest(self._sent, None)
        value.setflags(write=False)  # it may be held: nobody may change it
        self._sent = value
        if self.rung >= Rung.HOLD and not (before == Rung.STOP and self.cause):
            self.cause = tuple(r for r in found if FIRST_ANSWER[r] >= Rung.HOLD) or self.cause
        reasons = self.cause if self.latched else tuple(found)
        return Decision(
            JointCommand(self.limits.names, value, self.limits.kind), self.rung, reasons
        )

    def rest_step(self) -> tuple[JointCommand, bool]:
        """One step to rest where the process is about to end; True when it has arrived.

        Raises:
            ValueError: it was never armed.
        """
        if self._sent is None:
            raise ValueError("a filter that was never armed has nothing to bring to rest")
        self._sent = self.limits.rest(self._sent, None)
        command = JointCommand(self.limits.names, self._sent, self.limits.kind)
        return command, self.limits.at_rest(self._sent)

    def _climb(self, now: float, problems: list[Reason]) -> Rung:
        """Where on the ladder this step stands."""
        if self.latched:
            return Rung.STOP
        if not problems and self._trouble_began is None:
            return Rung.RUN
        first = max((FIRST_ANSWER[reason] for reason in problems), default=Rung.RUN)
        if first >= Rung.HOLD:
            if self._trouble_began is None:
                self._trouble_began = now
            self._trouble_seen = now
            lasted = now - self._trouble_began
            if lasted > self._config.hold + self._config.damp:
                return Rung.STOP
            climbed = Rung.HOLD if lasted < self._config.hold else Rung.DAMP
            return max(first, climbed, self.rung if self.rung == Rung.DAMP else Rung.RUN)
        if self._trouble_began is not None:
            if now - self._trouble_seen < self._config.recover:
                return Rung.DAMP if self.rung == Rung.DAMP else Rung.RUN
            self._trouble_began = None
        return Rung.RUN

    def _begin_ramp(self, now: float) -> None:
        assert self._sent is not None
        self._ramp_began, self._ramp_from = now, self._sent

    def _ramped(self, now: float, value: FloatArray) -> FloatArray:
        """Between the pose at activation and the policy's, over `safety.ramp`."""
        elapsed = now - self._ramp_began
        if elapsed >= self._config.ramp:
            return value
        share = elapsed / self._config.ramp
        return self._ramp_from + share * (value - self._ramp_from)


def _serious(problems: list[Reason]) -> bool:
    return any(FIRST_ANSWER[reason] >= Rung.HOLD for reason in problems)
