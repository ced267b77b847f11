"""Between the wire's names, order, signs and offsets and the policy's. Built once, by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.state import CommandKind, JointCommand, RobotState
from dime_robot.runtime.io.errors import InputError


class JointMapping:
    """Turns readings of the wire into policy order, and commands into wire order.

    `joint = sign * (wire - offset)`; velocities and efforts only change sign.

    Args:
        spec: the policy's joints and what it commands.
        robot: the machine, already found compatible.
    """

    def __init__(self, spec: PolicySpec, robot: RobotConfig) -> None:
        joints = [robot.joint(joint.name) for joint in spec.joints]
        self._wire_names = [joint.wire for joint in joints]
        self._held_names = [robot.joint(name).wire for name in spec.held_joints]
        held = [robot.joint(name) for name in spec.held_joints]
        self._held_sign = np.array([float(joint.sign) for joint in held])
        self._held_offset = np.array([joint.offset for joint in held])
        self._needed = frozenset(self._wire_names)
        self._sign = np.array([float(joint.sign) for joint in joints])
        self._offset = np.array([joint.offset for joint in joints])
        # nothing to turn or shift: a multiplication less on the way of every reading
        self._plain = bool((self._sign == 1).all() and (self._offset == 0).all())
        listed = [joint.name for joint in robot.joints]
        self._robot_order = np.argsort([listed.index(joint.name) for joint in spec.joints])
        self._names: list[str] | None = None  # of the messages seen so far
        self._index = np.zeros(len(joints), dtype=np.intp)
        assert spec.action.kind != "flat"  # the controller's decoder has refused it
        self._kind: CommandKind = spec.action.kind
        self._action_joints = order = spec.action_joints
        if spec.action.kind == "twist":
            wired = [(axis, axis, 1.0, 0.0) for axis in order]
        else:
            wired = [
                (j.name, j.wire, float(j.sign), j.offset) for j in robot.joints if j.name in order
            ]
        self.command_names = tuple(wire for _, wire, _, _ in wired)
        self._command_index = np.array([order.index(name) for name, *_ in wired], dtype=np.intp)
        self._command_sign = np.array([sign for _, _, sign, _ in wired])
        position = spec.action.kind == "position"
        self._command_offset = np.array([offset if position else 0.0 for *_, offset in wired])

    def follow(self, names: Sequence[str]) -> bool:
        """Learn the order of a message's joints; True where it changed since the last message.

        Raises:
            InputError: a joint that the policy needs is missing or there twice.
        """
        if names == self._names:
            return False
        listed = list(names)
        for name in self._wire_names:
            if listed.count(name) != 1:
                raise InputError(
                    f"expected each of the joints {self._wire_names} once, {name} came"
                    f" {listed.count(name)} times, got {listed[:40]}",
                    code="joints",
                )
        changed = self._names is not None
        self._index = np.array([listed.index(name) for name in self._wire_names], dtype=np.intp)
        self._names = listed
        return changed

    def concerns(self, names: Sequence[str]) -> bool:
        """Is any joint of the policy in a message with these names? A gripper's has none."""
        return names == self._names or not self._needed.isdisjoint(names)

    def held(self, wire: FloatArray) -> FloatArray | None:
        """Positions of the contract's held joints in its order [rad or m]; None: it has none.

        Args:
            wire: positions as in the message, shape (n_wire,) [rad or m].
        """
        if not self._held_names:
            return None
        assert self._names is not None
        rows = [self._names.index(n) if n in self._names else -1 for n in self._held_names]
        values = np.array([wire[row] if row >= 0 else np.nan for row in rows])
        held: FloatArray = self._held_sign * (values - self._held_offset)
        return held

    def positions(self, wire: FloatArray) -> FloatArray:
        """Positions of a message that `follow` accepted, in policy order [rad or m].

        Args:
            wire: positions as in the message, shape (n_wire,) [rad or m].
        """
        if self._plain:
            return wire[self._index]
        position: FloatArray = self._sign * (wire[self._index] - self._offset)
        return position

    def velocities(self, wire: FloatArray) -> FloatArray:
        """Velocities of a message that `follow` accepted, in policy order [rad/s or m/s].

        Args:
            wire: velocities as in the message, shape (n_wire,) [rad/s or m/s].
        """
        if self._plain:
            return wire[self._index]
        velocity: FloatArray = self._sign * wire[self._index]
        return velocity

    def command(self, command: JointCommand) -> FloatArray:
        """Numbers in the order of `command_names`."""
        values: FloatArray = (
            self._command_sign * command.value[self._command_index] + self._command_offset
        )
        return values

    # the other way round, for a simulated robot

    def readings(self, state: RobotState) -> tuple[list[str], FloatArray, FloatArray]:
        """Wire names, positions and velocities of a state, in the robot's own order."""
        order = self._robot_order
        position = self._sign * state.joint_position + self._offset
        velocity = self._sign * state.joint_velocity
        return [self._wire_names[i] for i in order], position[order], velocity[order]

    def held_readings(self, held: FloatArray) -> tuple[list[str], FloatArray]:
        """Wire names and positions of the contract's held joints, shape (n_held,) [rad or m].

        Args:
            held: positions in the contract's order, shape (n_held,) [rad or m].
        """
        wire: FloatArray = self._held_sign * held + self._held_offset
        return self._held_names, wire

    def commanded(self, values: FloatArray) -> JointCommand:
        """The command that `command` turned into `values`.

        Args:
            values: in the robot's order, shape (n_act,).
        """
        value = np.empty(len(values))
        value[self._command_index] = self._command_sign * (values - self._command_offset)
        return JointCommand(self._action_joints, value, self._kind)
