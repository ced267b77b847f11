"""The data that a robot (real or simulated) and a policy exchange, in SI units.

Named tuples, since they are made at every step: a frozen dataclass takes five times as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from dime_robot.runtime.contract.policy_spec import FloatArray

CommandKind = Literal["effort", "position", "velocity", "twist"]


class RobotState(NamedTuple):
    """One reading of a robot, joints in the order of `PolicySpec.joints`."""

    stamp: float  # [s], when it was measured, on the robot's clock
    joint_position: FloatArray  # Shape (n_joints,), [rad or m]
    joint_velocity: FloatArray  # Shape (n_joints,), [rad/s or m/s]
    # of the base; None where the robot has no such sensor, or no reading has come yet
    orientation: FloatArray | None = None  # Shape (4,), base to world, w x y z
    angular_velocity: FloatArray | None = None  # Shape (3,), in the base's frame [rad/s]
    command_velocity: FloatArray | None = None  # Shape (3,) [m/s, m/s, rad/s]
    # task commands and sensors, by name, in SI units; a value that has not come yet is missing
    signals: Mapping[str, FloatArray] | None = None
    joint_effort: FloatArray | None = None  # Shape (n_joints,), measured [N m or N]
    foot_contact: FloatArray | None = None  # Shape (n_feet,), as in `PolicySpec.feet`, 1 or 0


class JointCommand(NamedTuple):
    """One command, in the order of `joints`.

    `value` has shape (len(joints),): an effort [N m or N], a target position [rad or m], a target
    velocity of the joints [rad/s or m/s], or the base's velocity [m/s, rad/s], where `joints` names
    the axes of a twist.
    """

    joints: tuple[str, ...]
    value: FloatArray
    kind: CommandKind = "effort"
