"""PositionDrive: what a robot's joint controller and its motor do with a position target."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dime_robot.runtime.spec import FloatArray, PolicySpec


class PositionDrive:
    """effort = strength * clip(stiffness * (target - q) - damping * v), up to the motor's limits.

    The contract owns gains and effort limits. A motor near its largest speed has less torque in the
    direction it turns: none at the limit.

    Args:
        spec: gains and effort limits, one joint per action.
        full_torque_speed: share of the speed limit up to which the whole effort is there.
        speed_limits: joint -> largest speed [rad/s or m/s].
    """

    def __init__(
        self, spec: PolicySpec, full_torque_speed: float | None, speed_limits: Mapping[str, float]
    ) -> None:
        joints = [spec.joint(name) for name in spec.action_joints]
        # Shape (n_act,) each; randomisation writes into these
        self.stiffness = np.array([joint.stiffness or 0.0 for joint in joints])
        self.damping = np.array([joint.damping or 0.0 for joint in joints])
        self.strength = np.ones(len(joints))  # share of the effort that the motor really gives
        self._limit = np.array([joint.effort_limit or np.inf for joint in joints])
        self._fades = full_torque_speed is not None
        if full_torque_speed is not None:
            self._fastest = np.array([speed_limits[joint.name] for joint in joints])
            self._fade = 1 / ((1 - full_torque_speed) * self._fastest)
        self.reset()

    def reset(self) -> None:
        """Begin to measure anew."""
        self.peak = np.zeros(len(self._limit))  # largest |effort| since `reset` [N m or N]
        self.squares = 0.0  # sum of the squared efforts since `take_squares` [N^2 m^2]
        self.applied: FloatArray = np.zeros(len(self._limit))  # the last effort [N m or N]

    def take_squares(self) -> float:
        """Sum over joints and simulation steps of the squared effort since the last call."""
        squares, self.squares = self.squares, 0.0
        return squares

    def effort(self, target: FloatArray, position: FloatArray, velocity: FloatArray) -> FloatArray:
        """Effort at the joints [N m or N]. All shapes (n_act,)."""
        wanted = self.stiffness * (target - position) - self.damping * velocity
        limit = self._limit
        if self._fades:
            forward = np.minimum(np.maximum((self._fastest - velocity) * self._fade, 0.0), 1.0)
            backward = np.minimum(np.maximum((self._fastest + velocity) * self._fade, 0.0), 1.0)
            wanted = np.maximum(np.minimum(wanted, limit * forward), -limit * backward)
        else:
            wanted = np.maximum(np.minimum(wanted, limit), -limit)
        applied: FloatArray = self.strength * wanted
        self.applied = applied
        self.peak = np.maximum(self.peak, np.abs(applied))
        self.squares += float(applied @ applied)
        return applied
