"""What the sensors of a simulated robot make of its state: encoder counts and noise."""

from __future__ import annotations

import math

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.control.state import RobotState


class Sensors:
    """Reads a state as encoders, tachometers and an imu would. Without any of it: the state itself.

    Args:
        spec: the joints, in the order of the states.
        encoder_counts: per turn of a revolute joint, per metre of a prismatic one; 0: exact.
        position_noise: standard deviation [rad or m], before the counts.
        velocity_noise: standard deviation [rad/s or m/s].
        imu_noise: standard deviation of the angular velocity [rad/s] and of the orientation [rad].
        seed: of the noise.
    """

    def __init__(
        self,
        spec: PolicySpec,
        encoder_counts: int = 0,
        position_noise: float = 0.0,
        velocity_noise: float = 0.0,
        imu_noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._resolution: FloatArray | None = None  # shape (n_joints,) [rad or m]
        if encoder_counts:
            spans = [1.0 if joint.type == "prismatic" else 2 * math.pi for joint in spec.joints]
            self._resolution = np.array(spans) / encoder_counts
        self._position, self._velocity, self._imu = position_noise, velocity_noise, imu_noise
        self._random = np.random.default_rng([seed, 1])  # not that of the episodes' starts

    def read(self, state: RobotState) -> RobotState:
        """What is read of a state."""
        position, velocity = state.joint_position, state.joint_velocity
        if self._position:
            position = position + self._random.normal(0.0, self._position, position.shape)
        if self._resolution is not None:
            position = np.round(position / self._resolution) * self._resolution
        if self._velocity:
            velocity = velocity + self._random.normal(0.0, self._velocity, velocity.shape)
        orientation, turning = state.orientation, state.angular_velocity
        if self._imu and orientation is not None and turning is not None:
            orientation = _turned(orientation, self._random.normal(0.0, self._imu, 3))
            turning = turning + self._random.normal(0.0, self._imu, 3)
        return state._replace(
            joint_position=position,
            joint_velocity=velocity,
            orientation=orientation,
            angular_velocity=turning,
        )


def _turned(orientation: FloatArray, rotation: FloatArray) -> FloatArray:
    """A quaternion w x y z, turned by a small rotation vector in its own frame [rad]."""
    w, (x, y, z) = 1.0, rotation / 2
    a, b, c, d = orientation
    turned = np.array(
        [
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ]
    )
    unit: FloatArray = turned / np.linalg.norm(turned)
    return unit
