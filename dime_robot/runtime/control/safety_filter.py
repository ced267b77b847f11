"""SafetyFilter: the last check between a policy and a machine that can injure someone.

Pure: no clock, no thread, no ROS. The time is an argument of every step, so every response can be
tested and replayed. The response to a fault begins at its `first_response` and escalates while the
fault lasts:

    hold   for `safety.hold`, then
    damp   for `safety.damp`, then
    stop   until an operator re-arms

A fault is over after `safety.recover` without any fault; intermittent faults escalate too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dime_robot.runtime.contract.policy_spec import IMU_TERMS, FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.command_limits import CommandLimits
from dime_robot.runtime.control.faults import UNUSABLE, Fault, SafetyLevel, serious
from dime_robot.runtime.control.observation import projected_gravity
from dime_robot.runtime.control.rest import Rest, RestReached
from dime_robot.runtime.control.state import JointCommand, RobotState

SPEED_TOLERANCE = 1.5  # largest plausible ratio of measured to permitted speed
RANGE_TOLERANCE = 0.02  # share of the range by which a reading may exceed a hard stop
MIN_NORM, MAX_NORM = 0.5, 2.0  # of an orientation; a driver without one sends zeros
MAX_POSITION = 1e5  # [rad or m] of a joint without stops: float32 resolves no motion beyond it


class Decision(NamedTuple):
    """The command of one step, the level of the response, and the faults responded to."""

    command: JointCommand  # the previous one where `sent` is False
    level: SafetyLevel
    faults: tuple[Fault, ...] = ()
    sent: bool = True  # False: nothing may be sent, the robot's own time-out has to act


class SafetyFilter:
    """Enforce the robot's limits and escalate the response to faults.

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
        self._high = np.full(len(self._names), MAX_POSITION)
        self._low = -self._high
        self._speed = np.empty(len(self._names))
        for i, name in enumerate(self._names):
            joint = robot.joint(name)
            self._speed[i] = SPEED_TOLERANCE * joint.velocity_limit
            if joint.position_limits is not None:
                low, high = joint.position_limits
                slack = RANGE_TOLERANCE * (high - low)
                self._low[i], self._high[i] = low - slack, high + slack
        self._needs_command = spec.needs("command_velocity")
        self._gyro = robot.imu.max_rate if robot.imu is not None else np.inf
        self._needs_imu = spec.needs(*IMU_TERMS) or self._config.tilt_limit is not None
        tilt = self._config.tilt_limit
        self._cos_tilt = -2.0 if tilt is None else math.cos(math.radians(tilt))
        count = len(self.limits.names)
        self._sent: FloatArray | None = None  # last command; None: not armed
        self._sent_at: float | None = None  # steady time [s]; None: nothing sent yet
        self._newest: RobotState | None = None  # newest trusted state
        self._defaults = np.array(
            [spec.joint(name).default_position for name in self.limits.names]
            if self.limits.kind == "position"
            else np.zeros(count)
        )
        self._ramp = robot.safety.ramp  # duration of the current ramp [s]
        self._ramp_from: FloatArray = np.zeros(count)
        self._ramp_began = 0.0
        self._fault_began: float | None = None  # steady time [s]; None: no fault
        self._fault_seen = 0.0  # last time [s]

    @property
    def latched(self) -> bool:
        """Whether it stays stopped until an operator re-arms."""
        return self.level == SafetyLevel.STOP

    def faults_in(self, state: RobotState) -> list[Fault]:
        """List the faults that one reading shows by itself."""
        return [fault for fault, _ in self._defects(state)]

    def describe(self, state: RobotState) -> str:
        """Describe the first fault of a reading as a phrase; empty: none."""
        return next((phrase for _, phrase in self._defects(state)), "")

    def _defects(self, state: RobotState) -> Iterator[tuple[Fault, str]]:
        """Yield the faults of a reading, at most one per sensor, each with a phrase."""
        if not self._plausible(state):
            yield self._joint_defect(state)
        elif self.limits.is_beyond_reach(state):
            yield (
                Fault.OBSERVATION_OUT_OF_RANGE,
                "a joint is so far beyond a stop that no target within its reach is allowed",
            )
        if self._needs_imu:
            yield from self._imu_defect(state)
        command = state.command_velocity
        if self._needs_command and (command is None or not np.isfinite(command).all()):
            yield Fault.OBSERVATION_NAN, "no finite commanded velocity"

    def _joint_defect(self, state: RobotState) -> tuple[Fault, str]:
        position, velocity = state.joint_position, state.joint_velocity
        for values, what in ((position, "position"), (velocity, "velocity")):
            missing = [n for n, v in zip(self._names, values, strict=True) if not np.isfinite(v)]
            if missing:
                return Fault.OBSERVATION_NAN, f"no finite {what} of {', '.join(missing[:6])}"
        beyond = (position < self._low) | (position > self._high)
        i = int((beyond | (np.abs(velocity) > self._speed)).argmax())
        phrase = (
            f"{self._names[i]} reads {position[i]:.4g}, beyond its stops"
            if beyond[i]
            else f"{self._names[i]} reads a velocity of {velocity[i]:.4g}, up to"
            f" {self._speed[i]:g} is possible"
        )
        return Fault.OBSERVATION_OUT_OF_RANGE, phrase

    def _imu_defect(self, state: RobotState) -> Iterator[tuple[Fault, str]]:
        orientation, rate = state.orientation, state.angular_velocity
        if orientation is None or rate is None:
            yield Fault.IMU_STALE, "no reading of the imu yet"
        elif not np.isfinite(orientation).all():
            phrase = "the imu gives no orientation: orientation_covariance[0] is -1, or NaN"
            yield Fault.OBSERVATION_NAN, phrase
        elif not np.isfinite(rate).all():
            phrase = "the imu gives no angular velocity: its covariance[0] is -1, or NaN"
            yield Fault.OBSERVATION_NAN, phrase
        elif not MIN_NORM < (norm := float(np.linalg.norm(orientation))) < MAX_NORM:
            phrase = f"the imu's orientation has a norm of {norm:.3g}, expected a unit quaternion"
            yield Fault.OBSERVATION_NAN, phrase
        elif (fastest := float(np.abs(rate).max())) > self._gyro:
            phrase = f"the imu reads {fastest:.4g} rad/s, imu.max_rate is {self._gyro:g}"
            yield Fault.OBSERVATION_OUT_OF_RANGE, phrase
        elif -projected_gravity(orientation)[2] < self._cos_tilt:
            yield Fault.TILT, f"the base is tilted by {tilt_of(orientation):.0f} degrees"

    def arm(self, now: float, state: RobotState) -> None:
        """Permit commands, with a ramp from the measured pose (effort, twist: the last command).

        Args:
            now: steady time [s].
            state: the newest reading.

        Raises:
            ValueError: the state has a fault.
        """
        if found := serious(self.faults_in(state)):
            names = [fault.value for fault in found]
            raise ValueError(f"expected a state without faults to arm at, got {names}")
        self.level, self.cause = SafetyLevel.RUN, ()
        self._fault_began = None
        self._newest = state
        self.rest.restart()
        if self._sent is None:
            self._sent, self._sent_at = self.limits.start(state), None
        self._begin_ramp(now)
        if self.limits.kind == "position":
            self._ramp_from = self.limits.start(state)
            distance = np.abs(self._defaults - self._ramp_from)
            duration = distance / (self.limits.slew * self._config.safe_speed)
            if self._config.ramp > 0:  # 0: the robot's file disables the ramp
                self._ramp = max(self._config.ramp, float(duration.max()))

    def resume(self, now: float, state: RobotState, gap: float) -> None:
        """Continue after this process did not run for `gap` [s]: ramp from the measured pose.

        The ramp lasts as long as the gap. A walking robot would fall during a full activation ramp.

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
        """Forget the last command once shutdown has ended: the next activation starts afresh."""
        self.level, self._sent, self._sent_at, self._newest = SafetyLevel.STOP, None, None, None

    def trip(self, fault: Fault) -> None:
        """Stop at the next step, and stay stopped until re-armed."""
        before = tuple(r for r in self.cause if r != fault) if self.latched else ()
        self.level, self.cause = SafetyLevel.STOP, (*before, fault)

    def step(
        self,
        now: float,
        wanted: JointCommand | None,
        state: RobotState | None,
        faults: Sequence[Fault] = (),
    ) -> Decision:
        """Compute the command of this step.

        Args:
            now: steady time [s].
            wanted: the policy's command; None where the policy was not evaluated.
            state: the newest reading; None where there is none.
            faults: all faults found so far, those of `faults_in(state)` included.

        Raises:
            ValueError: it was never armed and has no good state, so no pose to start from.
        """
        found = list(faults)
        if self._sent is None:
            if state is None or serious(self.faults_in(state)):
                raise ValueError("arm the filter at a measured state before its first step")
            self._sent = self.limits.start(state)
        if wanted is not None and not np.isfinite(wanted.value).all():
            found.append(Fault.ACTION_NAN)
            wanted = None
        unusable = bool(found) and not UNUSABLE.isdisjoint(found)
        if state is None and not unusable:
            found.append(Fault.OBSERVATION_STALE)
        elif wanted is None and not self.latched and not serious(found):
            found.append(Fault.ACTION_NAN)  # the policy gave no command
        trusted = self._trusted(state, found)
        before = self.level
        self.level = self._escalate(now, found)
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
            target = self._sent if wanted is None or held else self._ramped(now, wanted.value)
            value, clamped = self.limits.clamp(target, self._sent, trusted, elapsed)
            found += clamped
            if clamped and not held:
                self.level = SafetyLevel.CLAMP
        if value is not None and not np.isfinite(value).all():
            self.level = SafetyLevel.STOP  # the last check: nothing above should let this through
            found.append(Fault.OBSERVATION_NAN)
            value = self.rest.step(now, elapsed, self._sent, None, None)
        if self.level >= SafetyLevel.HOLD and not (before == SafetyLevel.STOP and self.cause):
            self.cause = tuple(serious(found)) or self.cause
        shown = self.cause if self.latched else tuple(found)
        if self.level >= SafetyLevel.HOLD and not shown:
            shown = self.cause  # still recovering from it
        return self._decision(now, value, shown)

    def shut_down(
        self, now: float, state: RobotState | None, faults: Sequence[Fault] = ()
    ) -> tuple[Decision, RestReached | None]:
        """Take one step of the shutdown: the command, and how it ended; arguments as in `step`.

        Args:
            now: steady time [s].
            state: the reading of this step.
            faults: of this step.

        Raises:
            ValueError: it was never armed.
        """
        if self._sent is None:
            raise ValueError("expected arm() before shut_down(): there is no command to start from")
        trusted = self._trusted(state, list(faults))
        elapsed = self.limits.elapsed(self._sent_at, now)
        value, reached = self.rest.shut_down(now, elapsed, self._sent, trusted, self._newest)
        self.level = SafetyLevel.STOP
        return self._decision(now, value, tuple(faults)), reached

    def _trusted(self, state: RobotState | None, found: list[Fault]) -> RobotState | None:
        """Return the reading if it may be used for damping, and keep it as the newest of these."""
        if state is None:
            return None
        unusable = UNUSABLE.intersection(found)
        if unusable == {Fault.OBSERVATION_OUT_OF_RANGE}:  # of a reading that may be correct
            good = self._plausible(state)
        else:
            good = not unusable and bool(np.isfinite(state.joint_velocity).all())
        if not good:
            return None
        self._newest = state
        return state

    def _plausible(self, state: RobotState) -> bool:
        """Whether joint positions and velocities are within what the sensors can measure."""
        position, speed = state.joint_position, np.abs(state.joint_velocity)
        inside = (position >= self._low) & (position <= self._high) & (speed <= self._speed)
        return bool(inside.all())  # NaN compares false

    def _decision(
        self, now: float, value: FloatArray | None, faults: tuple[Fault, ...]
    ) -> Decision:
        assert self._sent is not None
        sent = value is not None
        if value is not None:
            value.setflags(write=False)  # it may be sent again, so it must not change
            self._sent, self._sent_at = value, now
        command = JointCommand(self.limits.names, self._sent, self.limits.kind)
        return Decision(command, self.level, faults, sent)

    def _escalate(self, now: float, faults: list[Fault]) -> SafetyLevel:
        """Return the level of the response at this step, before limits are applied."""
        if self.latched:
            return SafetyLevel.STOP
        if not faults and self._fault_began is None:
            return SafetyLevel.RUN
        first = max((fault.first_response for fault in faults), default=SafetyLevel.RUN)
        # damping continues until the fault is over
        damping = SafetyLevel.DAMP if self.level == SafetyLevel.DAMP else SafetyLevel.RUN
        if first >= SafetyLevel.HOLD:
            if self._fault_began is None:
                self._fault_began = now
            self._fault_seen = now
            lasted = now - self._fault_began
            if lasted > self._config.hold + self._config.damp:
                return SafetyLevel.STOP
            escalated = SafetyLevel.HOLD if lasted < self._config.hold else SafetyLevel.DAMP
            return max(first, escalated, damping)
        if self._fault_began is not None:
            if now - self._fault_seen < self._config.recover:
                return damping
            self._fault_began = None
        return SafetyLevel.RUN

    def _begin_ramp(self, now: float) -> None:
        assert self._sent is not None
        self._ramp_began, self._ramp_from = now, self._sent
        self._ramp = self._config.ramp

    def _ramped(self, now: float, value: FloatArray) -> FloatArray:
        """Blend from the command at the start of the ramp to the policy's."""
        elapsed = now - self._ramp_began
        if elapsed >= self._ramp:
            return value
        share = elapsed / self._ramp
        return self._ramp_from + share * (value - self._ramp_from)


def tilt_of(orientation: FloatArray) -> float:
    """Return the angle between the base's vertical axis and the world's [degrees].

    Args:
        orientation: base to world, w x y z, shape (4,).
    """
    upright = float(np.clip(-projected_gravity(orientation)[2], -1.0, 1.0))
    return math.degrees(math.acos(upright))
