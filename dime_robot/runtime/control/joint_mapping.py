"""JointMapping: converts between the joints of the hardware and those of the policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.state import CommandKind, JointCommand, RobotState
from dime_robot.runtime.io.errors import InputError


class JointMapping:
    """Convert readings to policy order and units of the contract, and commands to hardware order.

    position = sign * (hardware reading - offset); velocities and efforts only change sign.

    Args:
        spec: the policy's joints and what it commands.
        robot: the machine, already found compatible.
    """

    def __init__(self, spec: PolicySpec, robot: RobotConfig) -> None:
        joints = [robot.joint(joint.name) for joint in spec.joints]
        self._hardware_names = [joint.hardware_name for joint in joints]
        held = [robot.joint(name) for name in spec.held_joints]
        self._held_names = [joint.hardware_name for joint in held]
        self._held_sign = np.array([float(joint.sign) for joint in held])
        self._held_offset = np.array([joint.offset for joint in held])
        self._needed = frozenset(self._hardware_names)
        self._sign = np.array([float(joint.sign) for joint in joints])
        self._offset = np.array([joint.offset for joint in joints])
        # no sign and no offset: saves a multiplication for every reading
        self._plain = bool((self._sign == 1).all() and (self._offset == 0).all())
        listed = [joint.name for joint in robot.joints]
        self._robot_order = np.argsort([listed.index(joint.name) for joint in spec.joints])
        self._names: list[str] | None = None  # of the messages seen so far
        self._index = np.zeros(len(joints), dtype=np.intp)
        assert spec.action.kind != "flat"  # the controller's decoder has refused it
        self._kind: CommandKind = spec.action.kind
        self._action_joints = order = spec.action_joints
        if spec.action.kind == "twist":
            commanded = [(axis, axis, 1.0, 0.0) for axis in order]
        else:
            commanded = [
                (j.name, j.hardware_name, float(j.sign), j.offset)
                for j in robot.joints
                if j.name in order
            ]
        self.command_names = tuple(hardware_name for _, hardware_name, _, _ in commanded)
        self._command_index = np.array([order.index(name) for name, *_ in commanded], dtype=np.intp)
        self._command_sign = np.array([sign for _, _, sign, _ in commanded])
        position = spec.action.kind == "position"
        self._command_offset = np.array([offset if position else 0.0 for *_, offset in commanded])

    def set_order(self, names: Sequence[str]) -> bool:
        """Take the order of a message's joints; return whether it changed since the last message.

        Raises:
            InputError: a joint that the policy needs is missing or there twice.
        """
        if names == self._names:
            return False
        listed = list(names)
        for name in self._hardware_names:
            if listed.count(name) != 1:
                raise InputError(
                    f"expected each of the joints {self._hardware_names} once, {name} came"
                    f" {listed.count(name)} times, got {listed[:40]}",
                    code="joints",
                )
        changed = self._names is not None
        self._index = np.array([listed.index(name) for name in self._hardware_names], dtype=np.intp)
        self._names = listed
        return changed

    def concerns(self, names: Sequence[str]) -> bool:
        """Whether a message with these names has any joint of the policy; a gripper's has none."""
        return names == self._names or not self._needed.isdisjoint(names)

    def held(self, readings: FloatArray) -> FloatArray | None:
        """Return the positions of the contract's held joints [rad or m]; None: it has none.

        Args:
            readings: positions as in the message, shape (n_names,) [rad or m].
        """
        if not self._held_names:
            return None
        assert self._names is not None
        rows = [self._names.index(n) if n in self._names else -1 for n in self._held_names]
        values = np.array([readings[row] if row >= 0 else np.nan for row in rows])
        held: FloatArray = self._held_sign * (values - self._held_offset)
        return held

    def positions(self, readings: FloatArray) -> FloatArray:
        """Convert the positions of a message to policy order, after `set_order` [rad or m].

        Args:
            readings: positions as in the message, shape (n_names,) [rad or m].
        """
        if self._plain:
            return readings[self._index]
        position: FloatArray = self._sign * (readings[self._index] - self._offset)
        return position

    def velocities(self, readings: FloatArray) -> FloatArray:
        """Convert the velocities of a message to policy order, after `set_order` [rad/s or m/s].

        Args:
            readings: velocities as in the message, shape (n_names,) [rad/s or m/s].
        """
        if self._plain:
            return readings[self._index]
        velocity: FloatArray = self._sign * readings[self._index]
        return velocity

    def efforts(self, readings: FloatArray) -> FloatArray:
        """Convert the efforts of a message to policy order, after `set_order` [N m or N].

        Args:
            readings: efforts as in the message, shape (n_names,) [N m or N].
        """
        return self.velocities(readings)  # of both only the sign changes

    def command(self, command: JointCommand) -> FloatArray:
        """Convert a command to the hardware's numbers, in the order of `command_names`."""
        values: FloatArray = (
            self._command_sign * command.value[self._command_index] + self._command_offset
        )
        return values

    # ---- the inverse, for a simulated robot

    def readings(self, state: RobotState) -> tuple[list[str], FloatArray, FloatArray]:
        """Return hardware names, positions and velocities of a state, in the robot's order."""
        order = self._robot_order
        position = self._sign * state.joint_position + self._offset
        velocity = self._sign * state.joint_velocity
        return [self._hardware_names[i] for i in order], position[order], velocity[order]

    def effort_readings(self, effort: FloatArray) -> FloatArray:
        """Return the hardware's readings of measured efforts, in the robot's order [N m or N].

        Args:
            effort: in policy order, shape (n_joints,) [N m or N].
        """
        readings: FloatArray = (self._sign * effort)[self._robot_order]
        return readings

    def held_readings(self, held: FloatArray) -> tuple[list[str], FloatArray]:
        """Return hardware names and readings of the held joints, shape (n_held,) [rad or m].

        Args:
            held: positions in the contract's order, shape (n_held,) [rad or m].
        """
        readings: FloatArray = self._held_sign * held + self._held_offset
        return self._held_names, readings

    def commanded(self, values: FloatArray) -> JointCommand:
        """Convert the hardware's numbers back to a command: the inverse of `command`.

        Args:
            values: in the robot's order, shape (n_act,).
        """
        value = np.empty(len(values))
        value[self._command_index] = self._command_sign * (values - self._command_offset)
        return JointCommand(self._action_joints, value, self._kind)
