"""Limit a command to what the robot permits, given the time since the last one."""

from __future__ import annotations

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.contract.robot_joint import RobotJoint
from dime_robot.runtime.control.faults import Fault
from dime_robot.runtime.control.state import CommandKind, RobotState

_INFINITE = (-np.inf, np.inf)
MAX_GAP = 2.0  # control periods: after a longer pause a command changes no more than in these
# control periods that a joint may move on at a velocity before it is lowered. From 4 on one that
# follows its command a period late does not overshoot: z^2 - z + 1 / REACTION has real roots
REACTION = 4.0


class CommandLimits:
    """The robot's limits in the order of the policy's commands; arrays have shape (n_act,).

    Args:
        spec: the policy's contract.
        robot: the machine, found compatible.
    """

    def __init__(self, spec: PolicySpec, robot: RobotConfig) -> None:
        if spec.action.kind == "flat":
            raise ValueError("a flat action names nothing that could be limited")
        self.kind: CommandKind = spec.action.kind
        self.names = spec.action_joints
        self.period = spec.period
        count = len(self.names)
        self.state_index = np.zeros(count, dtype=np.intp)  # of each command's joint in a state
        self.effort = np.full(count, np.inf)  # largest [N m or N]
        self.low, self.high = np.full(count, -np.inf), np.full(count, np.inf)  # [SI]
        self._margin = np.zeros(count)
        self._speed = np.full(count, np.inf)
        self.slew = np.full(count, np.inf)  # largest change of a command [its unit per s]
        self.reach = np.full(count, np.inf)  # largest distance of a target from the joint
        self._reaction = REACTION * spec.period  # [s]
        if self.kind == "twist":
            self.high[:] = [robot.command.limits[axis] for axis in self.names]
            self.low[:] = -self.high
            self.slew[:] = robot.command.acceleration
            self._slews = True
            return
        order = [joint.name for joint in spec.joints]
        for i, name in enumerate(self.names):
            joint = robot.joint(name)
            self.state_index[i] = order.index(name)
            self._of_joint(i, joint, robot.safety.soft_margin)
            if self.kind == "velocity":
                self.slew[i] = joint.acceleration
            elif self.kind == "position":
                self.slew[i] = joint.velocity_limit
                stiffness = spec.joint(name).stiffness
                if stiffness is not None and joint.effort_limit is not None:
                    self.reach[i] = joint.effort_limit / stiffness
        self._slews = bool(np.isfinite(self.slew).any())
        self._soft_low, self._soft_high = self.low + self._margin, self.high - self._margin

    def _of_joint(self, i: int, joint: RobotJoint, soft_margin: float) -> None:
        low, high = joint.position_limits or _INFINITE
        self._margin[i] = soft_margin * (high - low) if np.isfinite(high - low) else 0.0
        self.low[i], self.high[i] = low, high
        self._speed[i] = joint.velocity_limit
        if joint.effort_limit is not None:
            self.effort[i] = joint.effort_limit
        if self.kind == "effort" and joint.effort_rate_limit is not None:
            self.slew[i] = joint.effort_rate_limit

    def elapsed(self, since: float | None, now: float) -> float:
        """Return the time since the last command, at most MAX_GAP; `since` None: a period [s].

        Args:
            since: when the command before was sent, steady time [s].
            now: steady time [s].
        """
        if since is None:
            return self.period
        return min(max(now - since, 0.0), MAX_GAP * self.period)

    def start(self, state: RobotState) -> FloatArray:
        """Return the neutral command: no effort, no speed, or the measured position."""
        if self.kind == "position":
            return self.position(state).copy()
        return np.zeros(len(self.names))

    def clamp(
        self, value: FloatArray, previous: FloatArray, state: RobotState, elapsed: float
    ) -> tuple[FloatArray, list[Fault]]:
        """Return the nearest permitted value, and which limits changed it.

        Args:
            value: wanted, shape (n_act,).
            previous: sent before, shape (n_act,).
            state: the newest reading.
            elapsed: since `previous` was sent, see `elapsed` [s].
        """
        match self.kind:
            case "effort":
                return self._clamp_effort(value, previous, state, elapsed)
            case "position":
                return self._clamp_position(value, previous, state, elapsed)
            case "velocity":
                return self._clamp_velocity(value, previous, state, elapsed)
        result = _Clamped(value)
        result.set(_clip(value, self.low, self.high), Fault.VELOCITY_LIMIT)
        result.set(self.slewed(result.value, previous, elapsed), Fault.VELOCITY_LIMIT)
        return result.value, result.faults

    def held(self, previous: FloatArray, elapsed: float) -> FloatArray:
        """Return the command that holds: the last one again, or velocities of joints towards 0.

        A held velocity would run on, and without readings no limit would stop it before a stop.

        Args:
            previous: sent before, shape (n_act,).
            elapsed: since it was sent [s].
        """
        if self.kind != "velocity":
            return previous
        return self.slewed(np.zeros(len(self.names)), previous, elapsed)

    def before_stops(self, value: FloatArray, state: RobotState) -> FloatArray:
        """Limit velocities towards a stop, so that each joint can still stop before the soft stop.

        A joint at a distance d that moves on at v for the reaction time h and then decelerates at
        a stops in time if v h + v^2 / (2 a) <= d, so the largest velocity is

            v = sqrt((a h)^2 + 2 a d) - a h,  and 0 beyond the soft stop

        A joint that follows its command needs no more than the deceleration a to stay below this.
        Nothing else may: a reading that is nearer to the stop than expected lowers the velocity at
        once.

        Args:
            value: shape (n_act,) [rad/s or m/s].
            state: the newest reading.
        """
        position, lost = self.position(state), self.slew * self._reaction
        above = np.maximum(self._soft_high - position, 0.0)
        below = np.maximum(position - self._soft_low, 0.0)
        return _clip(
            value,
            lost - np.sqrt(lost**2 + 2 * self.slew * below),
            np.sqrt(lost**2 + 2 * self.slew * above) - lost,
        )

    def within_effort(self, value: FloatArray) -> FloatArray:
        """Clip an effort to its limits, and to no other limit [N m or N].

        Args:
            value: shape (n_act,) [N m or N].
        """
        return _clip(value, -self.effort, self.effort)

    def within_reach(self, value: FloatArray, state: RobotState, soft: bool = False) -> FloatArray:
        """Clip a position target to both the stops and the joint's reach.

        A target further from the joint than effort limit / stiffness would need more than the
        largest effort. If a joint is so far beyond a stop that no target satisfies both, the result
        is the target within its reach that is furthest inward.

        Args:
            value: shape (n_act,) [rad or m].
            state: the newest reading.
            soft: whether the stops are those with the soft margin.
        """
        position = self.position(state)
        low, high = (self._soft_low, self._soft_high) if soft else (self.low, self.high)
        near, far = position - self.reach, position + self.reach
        value = _clip(value, np.maximum(low, near), np.minimum(high, far))
        value = np.where(near > high, near, value)
        return np.where(far < low, far, value)

    def is_beyond_reach(self, state: RobotState) -> bool:
        """Whether a joint is so far beyond a stop that no target within its reach is allowed."""
        if self.kind != "position":
            return False
        position = self.position(state)
        beyond = (position - self.reach > self._soft_high) | (
            position + self.reach < self._soft_low
        )
        return bool(beyond.any())

    def slewed(self, value: FloatArray, previous: FloatArray, elapsed: float) -> FloatArray:
        """Limit the change of a command to what the elapsed time allows.

        Args:
            value: wanted, shape (n_act,).
            previous: sent before, shape (n_act,).
            elapsed: since it was sent [s].
        """
        if not self._slews:
            return value
        step = self.slew * elapsed
        return _clip(value, previous - step, previous + step)

    def position(self, state: RobotState) -> FloatArray:
        """Return the measured positions of the commanded joints [rad or m]."""
        return state.joint_position[self.state_index]

    def velocity(self, state: RobotState) -> FloatArray:
        """Return the measured velocities of the commanded joints [rad/s or m/s]."""
        return state.joint_velocity[self.state_index]

    def _clamp_effort(
        self, value: FloatArray, previous: FloatArray, state: RobotState, elapsed: float
    ) -> tuple[FloatArray, list[Fault]]:
        result = _Clamped(value)
        result.set(self.within_effort(value), Fault.EFFORT_LIMIT)
        result.set(self.slewed(result.value, previous, elapsed), Fault.EFFORT_LIMIT)
        position, velocity = self.position(state), self.velocity(state)
        # an effort towards a stop fades out over the soft margin before it
        if (position < self._soft_low).any() or (position > self._soft_high).any():
            room = np.where(result.value > 0, self.high - position, position - self.low)
            fade = np.clip(room / np.maximum(self._margin, 1e-9), 0.0, 1.0)
            result.set(result.value * fade, Fault.POSITION_LIMIT)
        too_fast = np.abs(velocity) > self._speed
        if too_fast.any():
            faster = too_fast & (velocity * result.value > 0)
            result.set(np.where(faster, 0.0, result.value), Fault.VELOCITY_LIMIT)
        return result.value, result.faults

    def _clamp_position(
        self, value: FloatArray, previous: FloatArray, state: RobotState, elapsed: float
    ) -> tuple[FloatArray, list[Fault]]:
        result = _Clamped(value)
        result.set(_clip(value, self._soft_low, self._soft_high), Fault.POSITION_LIMIT)
        result.set(self.slewed(result.value, previous, elapsed), Fault.VELOCITY_LIMIT)
        reached = self.within_reach(result.value, state, soft=True)
        if (reached != result.value).any():
            # if the joint is pushed away the target follows it, but no faster than it may move
            result.value = self.slewed(reached, previous, elapsed)
            result.faults.append(Fault.EFFORT_LIMIT)
        return result.value, result.faults

    def _clamp_velocity(
        self, value: FloatArray, previous: FloatArray, state: RobotState, elapsed: float
    ) -> tuple[FloatArray, list[Fault]]:
        result = _Clamped(value)
        result.set(_clip(value, -self._speed, self._speed), Fault.VELOCITY_LIMIT)
        result.set(self.slewed(result.value, previous, elapsed), Fault.VELOCITY_LIMIT)
        # last, since no acceleration limit is a reason to drive into a stop
        result.set(self.before_stops(result.value, state), Fault.POSITION_LIMIT)
        return result.value, result.faults


class _Clamped:
    """A command while it passes the limits, and the faults of those that changed it."""

    def __init__(self, value: FloatArray) -> None:
        self.value = value
        self.faults: list[Fault] = []

    def set(self, value: FloatArray, fault: Fault) -> None:
        """Replace the command; note the fault if that changes it."""
        if value is not self.value and (value != self.value).any():
            self.faults.append(fault)
        self.value = value


def _clip(value: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    # np.clip takes three times as long on a few numbers
    clipped: FloatArray = np.minimum(np.maximum(value, low), high)
    return clipped
