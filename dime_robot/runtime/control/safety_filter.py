"""SafetyFilter: the last thing between a policy and a machine that can hurt someone.

Pure: no clock, no thread, no ROS. Every step is told the time, so every answer can be tested and
replayed. A trouble's first answer is in `reasons.FIRST_RESPONSE`; while it lasts the answer climbs:

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

from dime_robot.runtime.contract.policy_spec import IMU_TERMS, FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.command_limits import CommandLimits
from dime_robot.runtime.control.faults import FIRST_RESPONSE, UNUSABLE, Fault, SafetyLevel
from dime_robot.runtime.control.observation import projected_gravity
from dime_robot.runtime.control.rest import Rest, RestReached
from dime_robot.runtime.control.state import JointCommand, RobotState

SPEED_TOLERANCE = 1.5  # measured over permitted speed that no sensor should show
RANGE_TOLERANCE = 0.02  # share of the range by which a reading may pass a hard stop
UNIT = (0.5, 2.0)  # norm of an orientation; a driver that has none sends zeros
FAR = 1e5  # [rad or m] of a joint without stops: beyond it float32 shows no motion any more


class Decision(NamedTuple):
    """What is sent, how it came about, and why."""

    command: JointCommand  # where it is not `sent`: the one before
    level: SafetyLevel
    reasons: tuple[Fault, ...] = ()
    sent: bool = True  # False: nothing may be sent, the robot's own time-out has to act


class SafetyFilter:
    """Limits of the robot and the ladder of answers.

    Args:
        spec: the policy's contract.
        robot: the machine, already found compatible.
    """

    def __init__(self, spec: PolicySpec, robot: RobotConfig) -> None:
        self.limits = CommandLimits(spec, robot)
        self.level = SafetyLevel.STOP  # until armed
        self.cause: tuple[Fault, ...] = ()  # of the last hold, damp or stop
        self._config = robot.safety
        self.rest = Rest(self.limits, robot)
        self._names = [joint.name for joint in spec.joints]
        self._low, self._high = np.full(len(self._names), -FAR), np.full(len(self._names), FAR)
        self._speed = np.empty(len(self._names))
        for i, name in enumerate(self._names):
            joint = robot.joint(name)
            self._speed[i] = SPEED_TOLERANCE * joint.velocity_limit
            if joint.position_limits is not None:
                low, high = joint.position_limits
                slack = RANGE_TOLERANCE * (high - low)
                self._low[i], self._high[i] = low - slack, high + slack
        self._steered = spec.needs("command_velocity")
        self._gyro = robot.imu.max_rate if robot.imu is not None else np.inf
        self._needs_imu = spec.needs(*IMU_TERMS) or self._config.tilt_limit is not None
        tilt = self._config.tilt_limit
        self._cos_tilt = -2.0 if tilt is None else math.cos(math.radians(tilt))
        count = len(self.limits.names)
        self._sent: FloatArray | None = None  # until armed, and again after the way out
        self._sent_at: float | None = None  # steady time [s]; None: nothing was sent yet
        self._newest: RobotState | None = None  # that could be trusted
        self._defaults = np.array(
            [spec.joint(name).default_position for name in self.limits.names]
            if self.limits.kind == "position"
            else np.zeros(count)
        )
        self._ramp = robot.safety.ramp  # length of the present one [s]
        self._ramp_from: FloatArray = np.zeros(count)
        self._ramp_began = 0.0
        self._trouble_began: float | None = None
        self._trouble_seen = 0.0

    @property
    def latched(self) -> bool:
        """Is it stopped until an operator re-arms?"""
        return self.level == SafetyLevel.STOP

    def problems_of(self, state: RobotState) -> list[Fault]:
        """What is wrong with a reading by itself."""
        found: list[Fault] = []
        position, velocity = state.joint_position, state.joint_velocity
        plausible = (
            (position >= self._low) & (position <= self._high) & (np.abs(velocity) <= self._speed)
        )
        if not plausible.all():  # nor is a NaN
            finite = np.isfinite(position).all() and np.isfinite(velocity).all()
            found.append(Fault.OBSERVATION_OUT_OF_RANGE if finite else Fault.OBSERVATION_NAN)
        elif self.limits.is_beyond_reach(state):
            found.append(Fault.OBSERVATION_OUT_OF_RANGE)
        if self._needs_imu:
            if state.orientation is None or state.angular_velocity is None:
                found.append(Fault.IMU_STALE)
            elif not (
                np.isfinite(state.orientation).all()
                and np.isfinite(state.angular_velocity).all()
                and UNIT[0] < np.linalg.norm(state.orientation) < UNIT[1]
            ):
                found.append(Fault.OBSERVATION_NAN)
            elif np.abs(state.angular_velocity).max() > self._gyro:
                found.append(Fault.OBSERVATION_OUT_OF_RANGE)
            elif -projected_gravity(state.orientation)[2] < self._cos_tilt:
                found.append(Fault.TILT)
        asked = state.command_velocity
        if self._steered and (asked is None or not np.isfinite(asked).all()):
            found.append(Fault.OBSERVATION_NAN)
        return found

    def describe(self, state: RobotState) -> str:
        """What is wrong with a reading, as a phrase that names it; empty: nothing."""
        position, velocity = state.joint_position, state.joint_velocity
        for values, what in ((position, "position"), (velocity, "velocity")):
            lacking = [n for n, v in zip(self._names, values, strict=True) if not np.isfinite(v)]
            if lacking:
                return f"no finite {what} of {', '.join(lacking[:6])}"
        for i, name in enumerate(self._names):
            if not self._low[i] <= position[i] <= self._high[i]:
                return f"{name} reads {position[i]:.4g}, beyond its stops"
            if abs(velocity[i]) > self._speed[i]:
                return (
                    f"{name} reads a velocity of {velocity[i]:.4g}, up to {self._speed[i]:g} is"
                    " possible"
                )
        if self.limits.is_beyond_reach(state):
            return "a joint stands so far beyond a stop that no target within reach is allowed"
        if not self._needs_imu:
            return ""
        if state.orientation is None or state.angular_velocity is None:
            return "no reading of the imu yet"
        if not np.isfinite(state.orientation).all():
            return "the imu gives no orientation: orientation_covariance[0] is -1, or NaN"
        if not np.isfinite(state.angular_velocity).all():
            return "the imu gives no angular velocity: its covariance[0] is -1, or NaN"
        norm = float(np.linalg.norm(state.orientation))
        if not UNIT[0] < norm < UNIT[1]:
            return f"the imu's orientation has a norm of {norm:.3g}, expected a unit quaternion"
        fastest = float(np.abs(state.angular_velocity).max())
        if fastest > self._gyro:
            return f"the imu reads {fastest:.4g} rad/s, imu.max_rate is {self._gyro:g}"
        if -projected_gravity(state.orientation)[2] < self._cos_tilt:
            return f"the base is tilted by {tilt_of(state.orientation):.0f} degrees"
        return ""

    def arm(self, now: float, state: RobotState) -> None:
        """Permit commands: a ramp from the measured pose (effort, twist: from the last command).

        Args:
            now: steady time [s].
            state: the newest reading.

        Raises:
            ValueError: the state has a problem.
        """
        found = self.problems_of(state)
        if _serious(found):
            names = [reason.value for reason in found]
            raise ValueError(f"expected a state without a problem to arm at, got {names}")
        self.level, self.cause = SafetyLevel.RUN, ()
        self._trouble_began = None
        self._newest = state
        self.rest.restart()
        if self._sent is None:
            self._sent, self._sent_at = self.limits.start(state), None
        self._begin_ramp(now)
        if self.limits.kind == "position":
            self._ramp_from = self.limits.start(state)
            way = np.abs(self._defaults - self._ramp_from)
            slowest = way / (self.limits.slew * self._config.safe_speed)
            if self._config.ramp > 0:  # 0: the robot's file wants none
                self._ramp = max(self._config.ramp, float(slowest.max()))

    def resume(self, now: float, state: RobotState, gap: float) -> None:
        """Go on after this process did not run for `gap` [s]: a ramp from the measured pose.

        It lasts as long as the gap did. A whole activation ramp would leave a walking robot
        without its policy for longer than it can stand that.

        Args:
            now: steady time [s].
            state: the newest reading.
            gap: how long this process did not run [s].
        """
        assert self._sent is not None
        self._begin_ramp(now)
        if self.limits.kind == "position":
            self._ramp_from = self.limits.start(state)
        self._ramp = gap

    def disarm(self) -> None:
        """The way out has ended: the next activation begins anew."""
        self.level, self._sent, self._sent_at, self._newest = SafetyLevel.STOP, None, None, None

    def trip(self, reason: Fault) -> None:
        """Stop at the next step, and stay stopped."""
        before = tuple(r for r in self.cause if r != reason) if self.latched else ()
        self.level, self.cause = SafetyLevel.STOP, (*before, reason)

    def step(
        self,
        now: float,
        wanted: JointCommand | None,
        state: RobotState | None,
        problems: Sequence[Fault] = (),
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
            found.append(Fault.ACTION_NAN)
            wanted = None
        unusable = bool(found) and not UNUSABLE.isdisjoint(found)
        if state is None and not unusable:
            found.append(Fault.OBSERVATION_STALE)
        elif wanted is None and not self.latched and not _serious(found):
            found.append(Fault.ACTION_NAN)  # nobody gave one
        trusted = self._trusted(state, found)
        before = self.level
        self.level = self._climb(now, found)
        if before >= SafetyLevel.DAMP > self.level:
            self._begin_ramp(now)
        elapsed = self.limits.elapsed(self._sent_at, now)
        value: FloatArray | None
        if self.level >= SafetyLevel.DAMP:
            value = self.rest.step(now, elapsed, self._sent, trusted, self._newest)
        elif trusted is None or unusable:
            value = self._sent
        else:
            self.rest.restart()
            held = self.level == SafetyLevel.HOLD or wanted is None
            aim = self._sent if wanted is None or held else self._ramped(now, wanted.value)
            value, clamped = self.limits.clamp(aim, self._sent, trusted, elapsed)
            found += clamped
            if clamped and not held:
                self.level = SafetyLevel.CLAMP
        if value is not None and not np.isfinite(value).all():
            self.level = SafetyLevel.STOP  # the last line: nothing above should let this through
            found.append(Fault.OBSERVATION_NAN)
            value = self.rest.step(now, elapsed, self._sent, None, None)
        if self.level >= SafetyLevel.HOLD and not (before == SafetyLevel.STOP and self.cause):
            self.cause = (
                tuple(r for r in found if FIRST_RESPONSE[r] >= SafetyLevel.HOLD) or self.cause
            )
        reasons = self.cause if self.latched else tuple(found)
        if self.level >= SafetyLevel.HOLD and not reasons:
            reasons = self.cause  # it recovers from this
        return self._decision(now, value, reasons)

    def leave(
        self, now: float, state: RobotState | None, problems: Sequence[Fault] = ()
    ) -> tuple[Decision, RestReached | None]:
        """One step of the way out, and how it ended.

        Args:
            now: steady time [s].
            state: the reading of this step.
            problems: faults of this step.

        Raises:
            ValueError: it was never armed.
        """
        if self._sent is None:
            raise ValueError("a filter that was never armed has nothing to bring to rest")
        trusted = self._trusted(state, list(problems))
        elapsed = self.limits.elapsed(self._sent_at, now)
        value, reached = self.rest.leave(now, elapsed, self._sent, trusted, self._newest)
        self.level = SafetyLevel.STOP
        return self._decision(now, value, tuple(problems)), reached

    def _trusted(self, state: RobotState | None, found: list[Fault]) -> RobotState | None:
        """The reading, if a robot may be damped by it; the newest of these is kept."""
        if state is None:
            return None
        doubts = UNUSABLE.intersection(found)
        if doubts and (doubts != {Fault.OBSERVATION_OUT_OF_RANGE} or not self._plausible(state)):
            return None
        if not doubts and not np.isfinite(state.joint_velocity).all():
            return None
        self._newest = state
        return state

    def _plausible(self, state: RobotState) -> bool:
        """Beyond what the policy may see, but within what a sensor can show?"""
        position, speed = state.joint_position, np.abs(state.joint_velocity)
        inside = (position >= self._low) & (position <= self._high) & (speed <= self._speed)
        return bool(inside.all())

    def _decision(
        self, now: float, value: FloatArray | None, reasons: tuple[Fault, ...]
    ) -> Decision:
        assert self._sent is not None
        sent = value is not None
        if value is not None:
            value.setflags(write=False)  # it may be held: nobody may change it
            self._sent, self._sent_at = value, now
        command = JointCommand(self.limits.names, self._sent, self.limits.kind)
        return Decision(command, self.level, reasons, sent)

    def _climb(self, now: float, problems: list[Fault]) -> SafetyLevel:
        """Where on the ladder this step stands."""
        if self.latched:
            return SafetyLevel.STOP
        if not problems and self._trouble_began is None:
            return SafetyLevel.RUN
        first = max((FIRST_RESPONSE[reason] for reason in problems), default=SafetyLevel.RUN)
        if first >= SafetyLevel.HOLD:
            if self._trouble_began is None:
                self._trouble_began = now
            self._trouble_seen = now
            lasted = now - self._trouble_began
            if lasted > self._config.hold + self._config.damp:
                return SafetyLevel.STOP
            climbed = SafetyLevel.HOLD if lasted < self._config.hold else SafetyLevel.DAMP
            return max(
                first, climbed, self.level if self.level == SafetyLevel.DAMP else SafetyLevel.RUN
            )
        if self._trouble_began is not None:
            if now - self._trouble_seen < self._config.recover:
                return SafetyLevel.DAMP if self.level == SafetyLevel.DAMP else SafetyLevel.RUN
            self._trouble_began = None
        return SafetyLevel.RUN

    def _begin_ramp(self, now: float) -> None:
        assert self._sent is not None
        self._ramp_began, self._ramp_from = now, self._sent
        self._ramp = self._config.ramp

    def _ramped(self, now: float, value: FloatArray) -> FloatArray:
        """Between the pose at activation and the policy's, over the ramp's length."""
        elapsed = now - self._ramp_began
        if elapsed >= self._ramp:
            return value
        share = elapsed / self._ramp
        return self._ramp_from + share * (value - self._ramp_from)


def tilt_of(orientation: FloatArray) -> float:
    """Angle between the base's vertical axis and the world's [degrees].

    Args:
        orientation: of the base, w x y z, shape (4,).
    """
    upright = float(np.clip(-projected_gravity(orientation)[2], -1.0, 1.0))
    return math.degrees(math.acos(upright))


def _serious(problems: list[Fault]) -> bool:
    return any(FIRST_RESPONSE[reason] >= SafetyLevel.HOLD for reason in problems)
