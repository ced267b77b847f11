"""SafetyFilter: the last check between a policy and a machine that can injure someone.

Pure: no clock, no thread, no ROS. The time is an argument of every step, so every response can be
tested and replayed. The response to a fault begins at its `first_response` and escalates while the
fault lasts:

    hold   for `safety.hold`, then (velocities of joints slow down meanwhile)
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
from dime_robot.runtime.control.interpolation import CommandPath
from dime_robot.runtime.control.observation import projected_gravity, tilt_of
from dime_robot.runtime.control.phases import Phase
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
    # where the interpolation that begins with it leads, shape (n_act,); None: it leads nowhere
    goal: FloatArray | None = None
    phase: Phase = Phase.POLICY
    policy: str = ""  # name of the policy that acts

    @property
    def of_step(self) -> JointCommand:
        """The command of the whole step: the goal, or else the command."""
        return self.command if self.goal is None else self.command._replace(value=self.goal)


class Needs(NamedTuple):
    """What a policy, or a phase without one, needs of a reading."""

    imu: bool = False
    command: bool = False  # a commanded velocity
    effort: bool = False  # of the joints
    contact: bool = False  # of the feet
    signals: tuple[str, ...] = ()  # task commands and sensors


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
        self._gyro = robot.imu.max_rate if robot.imu is not None else np.inf
        self._limits_tilt = robot.phases is not None and robot.limits_tilt
        self.needs = self.needs_of(spec)
        tilt = self._config.tilt_limit
        self._cos_tilt = -2.0 if tilt is None else math.cos(math.radians(tilt))
        count = len(self.limits.names)
        self._sent: FloatArray | None = None  # last command; None: not armed
        self._sent_at: float | None = None  # steady time [s]; None: nothing sent yet
        self._newest: RobotState | None = None  # newest trusted state
        self._spec = spec
        # to the policy's commands, at the level RUN or CLAMP; None: without an interpolation
        self.path = CommandPath.of(robot.command.interpolated, spec.period)
        self._ramp = robot.safety.ramp  # duration of the current ramp [s]
        self._ramp_from: FloatArray = np.zeros(count)
        self._ramp_began = 0.0
        self._fault_began: float | None = None  # steady time [s]; None: no fault
        self._fault_seen = 0.0  # last time [s]

    @property
    def latched(self) -> bool:
        """Whether it stays stopped until an operator re-arms."""
        return self.level == SafetyLevel.STOP

    def needs_of(self, spec: PolicySpec | None) -> Needs:
        """Return what a policy needs of a reading; None: what every phase without one needs."""
        tilt = self._config.tilt_limit is not None
        if spec is None:
            return Needs(imu=tilt or self._limits_tilt)
        return Needs(
            imu=tilt or spec.needs(*IMU_TERMS),
            command=spec.needs("command_velocity"),
            effort=spec.needs("joint_effort"),
            contact=spec.needs("foot_contact"),
            signals=tuple(spec.signals),
        )

    def require(self, needs: Needs) -> None:
        """Judge readings by this from now on: another policy commands, or none."""
        self.needs = needs

    def faults_in(self, state: RobotState, needs: Needs | None = None) -> list[Fault]:
        """List the faults that one reading shows by itself.

        Args:
            state: the reading.
            needs: what is needed of it; None: what was required last.
        """
        return [fault for fault, _ in self._defects(state, needs or self.needs)]

    def describe(self, state: RobotState, needs: Needs | None = None) -> str:
        """Describe the first fault of a reading as a phrase; empty: none.

        Args:
            state: the reading.
            needs: as in `faults_in`.
        """
        return next((phrase for _, phrase in self._defects(state, needs or self.needs)), "")

    def _defects(self, state: RobotState, needs: Needs) -> Iterator[tuple[Fault, str]]:
        """Yield the faults of a reading, at most one per sensor, each with a phrase."""
        if not self._plausible(state):
            yield self._joint_defect(state)
        elif self.limits.is_beyond_reach(state):
            yield (
                Fault.OBSERVATION_OUT_OF_RANGE,
                "a joint is so far beyond a stop that no target within its reach is allowed",
            )
        if needs.imu:
            yield from self._imu_defect(state)
        command = state.command_velocity
        if needs.command and (command is None or not np.isfinite(command).all()):
            yield Fault.OBSERVATION_NAN, "no finite commanded velocity"
        if needs.effort:
            effort = state.joint_effort
            if effort is None or not np.isfinite(effort).all():
                yield Fault.OBSERVATION_NAN, "no finite effort of a joint"
        if needs.contact:
            contact = state.foot_contact
            if contact is None:
                yield Fault.CONTACT_STALE, "no reading of the feet yet"
            elif not np.isfinite(contact).all():
                yield Fault.OBSERVATION_NAN, "no finite force on a foot"
        for name in needs.signals:
            value = None if state.signals is None else state.signals.get(name)
            if value is None or not np.isfinite(value).all():
                yield Fault.OBSERVATION_NAN, f"no finite value of {name}"
                break

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

    @property
    def last_command(self) -> FloatArray:
        """The last command, shape (n_act,); armed filters have one."""
        assert self._sent is not None
        return self._sent

    def arm(
        self, now: float, state: RobotState, spec: PolicySpec | None = None, ramps: bool = True
    ) -> None:
        """Permit commands, with a ramp from the measured pose (no position: the last command).

        Args:
            now: steady time [s].
            state: the newest reading.
            spec: contract of the policy that acts; None: the one that was given first.
            ramps: False: the commands begin at the measured pose by themselves.

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
        self.begin_ramp(now)
        if not ramps:
            self._ramp = 0.0
        elif self.limits.kind == "position":
            self._ramp_from = self.limits.start(state)
            spec = spec or self._spec
            defaults = [spec.joint(name).default_position for name in self.limits.names]
            distance = np.abs(np.array(defaults) - self._ramp_from)
            duration = distance / (self.limits.slew * self._config.safe_speed)
            # an action that is relative to the measured pose begins there, wherever that is;
            # a ramp of 0: the robot's file disables it
            if self._config.ramp > 0 and spec.action.reference == "default":
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
        self.begin_ramp(now)
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
            self.begin_ramp(now)
        elapsed = self.limits.elapsed(self._sent_at, now)
        value: FloatArray | None
        goal: FloatArray | None = None
        if self.level >= SafetyLevel.DAMP:
            value = self.rest.step(now, elapsed, self._sent, trusted, self._newest)
        elif trusted is None or unusable:
            value = self.limits.held(self._sent, elapsed)
        else:
            self.rest.restart()
            held = self.level == SafetyLevel.HOLD or wanted is None
            if wanted is None or held:
                target = self.limits.held(self._sent, elapsed)
            else:
                target = self._ramped(now, wanted.value)
            if self.path is None or held:
                value, clamped = self.limits.clamp(target, self._sent, trusted, elapsed)
            else:
                value, goal, clamped = self._lead(now, target, trusted, elapsed)
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
        return self._decision(now, value, shown, goal)

    def _lead(
        self, now: float, target: FloatArray, state: RobotState, elapsed: float
    ) -> tuple[FloatArray, FloatArray, list[Fault]]:
        """Begin a path; return its first command, where it leads, and what limits that."""
        assert self.path is not None and self._sent is not None
        begin = self.path.at(now, self._sent)
        begin, _ = self.limits.clamp(begin, self._sent, state, elapsed)
        goal, clamped = self.limits.clamp(target, begin, state, self.limits.period)
        self.path.lead(now, begin, goal)
        return begin, goal, clamped

    def between(self, now: float) -> JointCommand | None:
        """Return the command on the path to the last step's, within all limits; None: no path.

        Args:
            now: steady time [s].
        """
        path, previous, state = self.path, self._sent, self._newest
        if path is None or not path.leads or self.latched or previous is None or state is None:
            return None
        elapsed = self.limits.elapsed(self._sent_at, now)
        value, _ = self.limits.clamp(path.at(now, previous), previous, state, elapsed)
        return self._decision(now, value, (), path.goal).command

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
        self,
        now: float,
        value: FloatArray | None,
        faults: tuple[Fault, ...],
        goal: FloatArray | None = None,
    ) -> Decision:
        assert self._sent is not None
        if goal is None and self.path is not None:
            self.path.stop()  # a hold or a safe command: it ends here
        sent = value is not None
        if value is not None:
            value.setflags(write=False)  # it may be sent again, so it must not change
            self._sent, self._sent_at = value, now
        command = JointCommand(self.limits.names, self._sent, self.limits.kind)
        return Decision(command, self.level, faults, sent, goal)

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

    def begin_ramp(self, now: float) -> None:
        """Blend from the last command to the wanted ones, over `safety.ramp`.

        Args:
            now: steady time [s].
        """
        assert self._sent is not None
        self._ramp_began, self._ramp_from = now, self._sent
        self._ramp = self._config.ramp
        if self.path is not None:  # continue from the last command that was really sent
            self.path.stop()

    def ramps(self, now: float) -> bool:
        """Whether commands are still blended with the one at the start of a ramp.

        Args:
            now: steady time [s].
        """
        return now - self._ramp_began < self._ramp

    def end_ramp(self) -> None:
        """Blend no longer: the wanted commands begin at the last one by themselves."""
        self._ramp = 0.0

    def _ramped(self, now: float, value: FloatArray) -> FloatArray:
        """Blend from the command at the start of the ramp to the policy's."""
        elapsed = now - self._ramp_began
        if elapsed >= self._ramp:
            return value
        share = elapsed / self._ramp
        return self._ramp_from + share * (value - self._ramp_from)
