"""What keeps a command within the robot's limits, and the commands that bring it to rest."""

from __future__ import annotations

import numpy as np

from dime_robot.runtime.reasons import Reason
from dime_robot.runtime.robot import RobotConfig
from dime_robot.runtime.robot_joint import RobotJoint
from dime_robot.runtime.spec import FloatArray, PolicySpec
from dime_robot.runtime.state import CommandKind, RobotState

_INFINITE = (-np.inf, np.inf)


class CommandLimits:
    """The robot's limits in the order of the policy's commands.

    What each command kind does where the policy may not command (`rest`):
        effort    -damping * velocity, bounded by the effort limit; 0 where no velocity is known
        position  goes to the safe position at `safe_speed` of each joint's velocity limit
        twist     goes to zero at the configured acceleration
    """

    def __init__(self, spec: PolicySpec, robot: RobotConfig) -> None:
        if spec.action.kind == "flat":
            raise ValueError("a flat action names nothing that could be limited")
        self.kind: CommandKind = spec.action.kind
        self.names = spec.action_joints
        self._period = spec.period
        count = len(self.names)
        self._state_index = np.zeros(count, dtype=np.intp)
        self._effort = np.full(count, np.inf)
        self._damping = np.zeros(count)
        self._low, self._high = np.full(count, -np.inf), np.full(count, np.inf)
        self._margin = np.zeros(count)
        self._speed = np.full(count, np.inf)
        self._step = np.full(count, np.inf)  # largest change of a command in one period
        self._reach = np.full(count, np.inf)  # largest distance of a target from the joint
        self._rest = np.zeros(count)
        self._rest_step = np.full(count, np.inf)
        if self.kind == "twist":
            self._high[:] = [robot.command.limits[axis] for axis in self.names]
            self._low[:] = -self._high
            self._step[:] = self._rest_step[:] = robot.command.acceleration * self._period
            self._slews = True
            return
        order = [joint.name for joint in spec.joints]
        for i, name in enumerate(self.names):
            joint = robot.joint(name)
            self._state_index[i] = order.index(name)
            self._of_joint(i, joint, robot.safety.soft_margin)
            if self.kind == "position":
                self._step[i] = joint.velocity_limit * self._period
                self._rest[i] = joint.safe_position or 0.0
                self._rest_step[i] = self._step[i] * robot.safety.safe_speed
                stiffness = spec.joint(name).stiffness
                if stiffness is not None and joint.effort_limit is not None:
                    self._reach[i] = joint.effort_limit / stiffness
        self._slews = bool(np.isfinite(self._step).any())
        self._soft_low, self._soft_high = self._low + self._margin, self._high - self._margin

    def _of_joint(self, i: int, joint: RobotJoint, soft_margin: float) -> None:
        low, high = joint.position_limits or _INFINITE
        self._margin[i] = soft_margin * (high - low) if np.isfinite(high - low) else 0.0
        self._low[i], self._high[i] = low, high
        self._speed[i] = joint.velocity_limit
        self._damping[i] = joint.damping or 0.0
        if joint.effort_limit is not None:
            self._effort[i] = joint.effort_limit
        if self.kind == "effort" and joint.effort_rate_limit is not None:
            self._step[i] = joint.effort_rate_limit * self._period

    def start(self, state: RobotState) -> FloatArray:
        """The command that changes nothing: no effort, no speed, or the measured position."""
        if self.kind == "position":
            return self._position(state).copy()
        return np.zeros(len(self.names))

    def clamp(
        self, value: FloatArray, previous: FloatArray, state: RobotState
    ) -> tuple[FloatArray, list[Reason]]:
        """The nearest permitted value and which limits changed it."""
        match self.kind:
            case "effort":
                return self._clamp_effort(value, previous, state)
            case "position":
                return self._clamp_position(value, previous, state)
        reasons: list[Reason] = []
        value = _bounded(value, self._low, self._high, Reason.VELOCITY_LIMIT, reasons)
        return self._slewed(value, previous, Reason.VELOCITY_LIMIT, reasons), reasons

    def rest(self, previous: FloatArray, state: RobotState | None) -> FloatArray:
        """The next command on the way to rest; see the class. `state` only if it can be trusted."""
        if self.kind != "effort":
            step = np.clip(self._rest - previous, -self._rest_step, self._rest_step)
            value = previous + step
            if self.kind == "position" and state is not None:  # a blocked joint is not forced
                position = self._position(state)
                value = np.clip(value, position - self._reach, position + self._reach)
            return value
        if state is None:
            return np.zeros(len(self.names))
        velocity = state.joint_velocity[self._state_index]
        return np.clip(-self._damping * velocity, -self._effort, self._effort)

    def at_rest(self, value: FloatArray) -> bool:
        """Has the way to rest ended?"""
        return self.kind == "effort" or bool(np.array_equal(value, self._rest))

    def _position(self, state: RobotState) -> FloatArray:
        return state.joint_position[self._state_index]

    def _clamp_effort(
        self, value: FloatArray, previous: FloatArray, state: RobotState
    ) -> tuple[FloatArray, list[Reason]]:
        reasons: list[Reason] = []
        value = _bounded(value, -self._effort, self._effort, Reason.EFFORT_LIMIT, reasons)
        value = self._slewed(value, previous, Reason.EFFORT_LIMIT, reasons)
        position = self._position(state)
        # an effort towards a stop fades out over the soft margin before it
        if (position < self._soft_low).any() or (position > self._soft_high).any():
            room = np.where(value > 0, self._high - position, position - self._low)
            fade = np.clip(room / np.maximum(self._margin, 1e-9), 0.0, 1.0)
            value = _changed(value, value * fade, Reason.POSITION_LIMIT, reasons)
        velocity = state.joint_velocity[self._state_index]
        too_fast = np.abs(velocity) > self._speed
        if too_fast.any():
            further = too_fast & (velocity * value > 0)
            value = _changed(value, np.where(further, 0.0, value), Reason.VELOCITY_LIMIT, reasons)
        return value, reasons

    def _clamp_position(
        self, value: FloatArray, previous: FloatArray, state: RobotState
    ) -> tuple[FloatArray, list[Reason]]:
        reasons: list[Reason] = []
        value = _bounded(value, self._soft_low, self._soft_high, Reason.POSITION_LIMIT, reasons)
        value = self._slewed(value, previous, Reason.VELOCITY_LIMIT, reasons)
        position = self._position(state)
        # a target further off would ask for more than the largest effort: where the joint is
        # pushed away the target follows it, however fast
        low, high = position - self._reach, position + self._reach
        return _bounded(value, low, high, Reason.EFFORT_LIMIT, reasons), reasons

    def _slewed(
        self, value: FloatArray, previous: FloatArray, reason: Reason, reasons: list[Reason]
    ) -> FloatArray:
        if not self._slews:
            return value
        return _bounded(value, previous - self._step, previous + self._step, reason, reasons)


def _bounded(
    value: FloatArray, low: FloatArray, high: FloatArray, reason: Reason, reasons: list[Reason]
) -> FloatArray:
    # not np.clip, which takes three times as long on a few numbers
    return _changed(value, np.minimum(np.maximum(value, low), high), reason, reasons)


def _changed(
    before: FloatArray, after: FloatArray, reason: Reason, reasons: list[Reason]
) -> FloatArray:
    if (before != after).any():
        reasons.append(reason)
    return after
