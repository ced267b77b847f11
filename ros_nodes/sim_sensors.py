"""Sensors of a simulated robot: encoder counts and noise."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.control.state import RobotState
from ros_nodes.parameters import SimParameters


class Sensors:
    """Reads a state as encoders, tachometers and an imu would; by default exactly.

    Args:
        spec: the joints, in the order of the states.
        given: the parameters of sim_node: encoder counts, noise and its seed.
    """

    def __init__(self, spec: PolicySpec, given: SimParameters) -> None:
        self._resolution: FloatArray | None = None  # shape (n_joints,) [rad or m]
        if given.encoder_counts:
            spans = [1.0 if joint.type == "prismatic" else 2 * math.pi for joint in spec.joints]
            self._resolution = np.array(spans) / given.encoder_counts
        self._position, self._velocity = given.position_noise, given.velocity_noise
        self._gyro, self._orientation = given.gyro_noise, given.orientation_noise
        # another stream than that of the episodes' initial states
        self._random = np.random.default_rng([given.seed, 1])

    def read(self, state: RobotState) -> RobotState:
        """Return the state as the sensors measure it."""
        position, velocity = state.joint_position, state.joint_velocity
        if self._position:
            position = position + self._random.normal(0.0, self._position, position.shape)
        if self._resolution is not None:
            position = np.round(position / self._resolution) * self._resolution
        if self._velocity:
            velocity = velocity + self._random.normal(0.0, self._velocity, velocity.shape)
        orientation, turning = state.orientation, state.angular_velocity
        if self._orientation and orientation is not None:
            orientation = _turned(orientation, self._random.normal(0.0, self._orientation, 3))
        if self._gyro and turning is not None:
            turning = turning + self._random.normal(0.0, self._gyro, 3)
        return state._replace(
            joint_position=position,
            joint_velocity=velocity,
            orientation=orientation,
            angular_velocity=turning,
        )


def _turned(orientation: FloatArray, rotation: FloatArray) -> FloatArray:
    """Rotate a quaternion w x y z by a rotation vector in its own frame [rad]."""
    turned = orientation.copy()
    mujoco.mju_quatIntegrate(turned, rotation, 1.0)
    return turned
