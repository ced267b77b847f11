"""What flows between a robot (real or simulated) and a policy, in SI units."""

from __future__ import annotations

from dataclasses import dataclass

from dime_robot.runtime.spec import FloatArray


@dataclass(frozen=True)
class RobotState:
    """One reading of a robot, joints in the order of `PolicySpec.joints`."""

    stamp: float  # [s], monotonic
    joint_position: FloatArray  # Shape (n_joints,), [rad or m]
    joint_velocity: FloatArray  # Shape (n_joints,), [rad/s or m/s]


@dataclass(frozen=True)
class JointCommand:
    """One command, in the order of `joints`."""

    joints: tuple[str, ...]
    effort: FloatArray  # Shape (len(joints),), [N m or N]
