"""Motors: the twelve motors of a Go2 with the gains of a policy's contract and their limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.unitree.low_level import MOTORS


@dataclass(frozen=True)
class Motors:
    """What a command to each motor is made with; arrays of shape (12,), in the order of `MOTORS`.

    Positions are those of the hardware: position = sign * policy's position + offset.
    """

    names: tuple[str, ...]
    """Of the joints in the policy's contract."""
    stiffness: FloatArray
    """[N m/rad]"""
    damping: FloatArray
    """[N m s/rad]"""
    low: FloatArray
    """Lower hard stop [rad]."""
    high: FloatArray
    """Upper hard stop [rad]."""
    speed: FloatArray
    """Largest speed [rad/s]."""
    effort: FloatArray
    """Largest torque [N m]."""
    sign: FloatArray
    offset: FloatArray
    """[rad]"""
    default: FloatArray
    """Default position in the policy's terms [rad]."""
    lying: FloatArray
    """Safe position, in which the robot lies, in the policy's terms [rad]; NaN: there is none."""
    period: float
    """Of the policy [s]."""

    def in_policy_terms(self, position: FloatArray) -> FloatArray:
        """Return positions as the policy sees them, shape (12,) [rad].

        Args:
            position: of the hardware, shape (12,) [rad].
        """
        found: FloatArray = self.sign * (position - self.offset)
        return found


def motors_of(spec: PolicySpec, robot: RobotConfig) -> Motors:
    """Return the motors for a policy and a machine that fit each other.

    Args:
        spec: the policy's contract.
        robot: the machine.

    Raises:
        InputError: they are not a Go2 whose twelve joints take positions.
    """
    where = f"policy {spec.name} on robot {robot.name}: "
    if spec.action.kind != "position":
        raise InputError(
            f"{where}expected position commands, with the contract's stiffness and damping, got"
            f" {spec.action.kind}",
            code="command-kind",
        )
    by_motor = {robot.joint(name).hardware_name: name for name in spec.action_joints}
    if sorted(by_motor) != sorted(MOTORS) or len(spec.action_joints) != len(MOTORS):
        raise InputError(
            f"{where}expected the hardware names of the commanded joints to be those of a Go2's"
            f" motors, {', '.join(MOTORS)}, got {', '.join(sorted(by_motor))}",
            code="joints",
        )
    for motor, name in by_motor.items():
        if name != motor and name in MOTORS:
            raise InputError(
                f"{where}expected the policy's joint {name} to be the motor of that name, wire_name"
                f" makes it {motor}: two legs or joints are exchanged",
                code="joints",
            )
    names = tuple(by_motor[motor] for motor in MOTORS)
    joints = [spec.joint(name) for name in names]
    machine = [robot.joint(name) for name in names]
    ends = []
    for ours, joint in zip(machine, joints, strict=True):
        if ours.position_limits is None or ours.effort_limit is None:
            raise InputError(
                f"{where}joint {joint.name}: expected position_limits and an effort_limit, got"
                " none",
                code="limits",
            )
        if not joint.stiffness or not joint.damping:
            raise InputError(
                f"{where}joint {joint.name}: expected a stiffness and a damping above 0, which the"
                f" motor gets with each position, got {joint.stiffness} and {joint.damping}",
                code="limits",
            )
        ends.append(sorted(ours.sign * limit + ours.offset for limit in ours.position_limits))
    return Motors(
        names=names,
        stiffness=np.array([joint.stiffness or 0.0 for joint in joints]),
        damping=np.array([joint.damping or 0.0 for joint in joints]),
        low=np.array([low for low, _ in ends]),
        high=np.array([high for _, high in ends]),
        speed=np.array([ours.velocity_limit for ours in machine]),
        effort=np.array([ours.effort_limit for ours in machine]),
        sign=np.array([float(ours.sign) for ours in machine]),
        offset=np.array([ours.offset for ours in machine]),
        default=np.array([joint.default_position for joint in joints]),
        lying=np.array([np.nan if o.safe_position is None else o.safe_position for o in machine]),
        period=spec.period,
    )
