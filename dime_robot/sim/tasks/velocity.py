"""Velocity tracking: a legged base tracks a commanded velocity. Every term with its unit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dime_robot.runtime.contract.policy_spec import TWIST_AXES, FloatArray, PolicySpec
from dime_robot.runtime.control.state import JointCommand
from dime_robot.sim.config.robot_task import VelocityTrackingConfig
from dime_robot.sim.plant.plant import Plant


class VelocityTracking:
    """Reward of one control period, with the weights of `task.rewards`, never below 0.

        track_linear     exp(-|v_xy - c_xy|^2 / linear_width^2)    v: level frame of the base [m/s]
        track_yaw        exp(-(w_z - c_z)^2 / yaw_width^2)         w: base's frame [rad/s]
        alive            1
        vertical_speed   v_z^2                                     [m^2/s^2]
        roll_pitch_rate  w_x^2 + w_y^2                             [rad^2/s^2]
        tilt             g_x^2 + g_y^2                             g: gravity in the base's frame
        action_change    sum of (a_t - a_{t-1})^2                  a: after the low-pass [1]
        torque           mean over the period of the sum of t^2    [N^2 m^2]
        hip_angle        sum of |hip - its default position|       [rad]

    c is the commanded velocity. An episode terminates when the base tilts or sinks too far; the
    time limit truncates it.
    """

    def __init__(self, config: VelocityTrackingConfig, spec: PolicySpec, plant: Plant) -> None:
        self._config, self._plant = config, plant
        self._names = [joint.name for joint in spec.joints]
        self._defaults = np.array([joint.default_position for joint in spec.joints])
        self._hips = np.array([self._names.index(name) for name in config.hips], dtype=np.intp)
        self._scale = np.array([spec.action.scale[name] for name in spec.action_joints])
        self._period, self._redraw = spec.period, round(config.commands.resample * spec.rate)
        self._cos_tilt = math.cos(math.radians(config.largest_tilt))
        self._fixed: FloatArray | None = None  # commanded instead of drawn velocities
        self.command_velocity: FloatArray = np.zeros(3)  # [m/s, m/s, rad/s]
        self.metrics: dict[str, float] = {}  # of the last step [m/s], [rad/s], [reward]
        self._reset_statistics()

    def _reset_statistics(self) -> None:
        self._steps, self._fallen = 0, False
        self._offset = np.zeros(2)  # sum over steps of v_xy - c_xy
        self._targets: FloatArray | None = None

    def set_command(self, velocity: Sequence[float] | None) -> None:
        """Fix the commanded velocity [m/s, m/s, rad/s]; None: draw it again."""
        self._fixed = None if velocity is None else np.array(velocity, dtype=float)
        if self._fixed is not None:
            self.command_velocity = self._fixed

    def start(self, rng: np.random.Generator) -> None:
        """Start near the default pose, with a new commanded velocity."""
        self._reset_statistics()
        noise = self._config.start_noise
        pose = self._defaults + rng.uniform(-noise, noise, len(self._defaults))
        positions = dict(zip(self._names, pose.tolist(), strict=True))
        self._plant.reset(positions, self._config.start_height)
        self._draw(rng)

    def _draw(self, rng: np.random.Generator) -> None:
        commands = self._config.commands
        drawn = np.array([rng.uniform(*getattr(commands, axis)) for axis in TWIST_AXES])
        kind = rng.random()
        if kind < commands.standing:
            drawn[:] = 0.0
        elif kind < commands.standing + commands.turning:
            drawn[:2] = 0.0
            low, high = commands.angular_z  # the faster half, since slow turning is nearly standing
            drawn[2] = rng.choice((low, high)) * rng.uniform(0.5, 1.0)
        self.command_velocity = drawn if self._fixed is None else self._fixed

    def step(self, command: JointCommand, rng: np.random.Generator) -> float:
        """Return the reward of the period of `command`; call it at the period's end."""
        weights, base = self._config.rewards, self._plant.base()
        off = base.velocity[:2] - self.command_velocity[:2]
        yaw_off = base.angular_velocity[2] - self.command_velocity[2]
        widths = self._config.linear_width, self._config.yaw_width
        tracking = weights.track_linear * math.exp(-float(off @ off) / widths[0] ** 2)
        tracking += weights.track_yaw * math.exp(-(yaw_off**2) / widths[1] ** 2)
        targets = command.value / self._scale
        change = np.zeros(1) if self._targets is None else targets - self._targets
        drive = self._plant.drive
        squares = 0.0 if drive is None else drive.take_squares() / self._plant.decimation
        hips = self._plant.joint_position()[self._hips] - self._defaults[self._hips]
        reward = (
            tracking
            + weights.alive
            + weights.vertical_speed * base.velocity[2] ** 2
            + weights.roll_pitch_rate * float(base.angular_velocity[:2] @ base.angular_velocity[:2])
            + weights.tilt * float(base.gravity[:2] @ base.gravity[:2])
            + weights.action_change * float(change @ change)
            + weights.torque * squares
            + weights.hip_angle * float(np.abs(hips).sum())
        )
        self._targets = targets
        self._offset += off
        self._steps += 1
        tilted = bool(-base.gravity[2] < self._cos_tilt)
        self._fallen = tilted or base.height < self._config.lowest
        self.metrics = {
            "velocity_error": float(np.hypot(*off)),
            "yaw_rate_error": abs(float(yaw_off)),
            "tracking_reward": tracking,
        }
        if self._steps % self._redraw == 0:
            self._draw(rng)
        return max(0.0, float(reward))

    def terminated(self) -> bool:
        """Whether it has fallen."""
        return self._fallen

    def is_success(self) -> bool:
        """Whether it has not fallen, and its mean velocity was near the commanded one."""
        error = float(np.hypot(*self._offset)) / max(1, self._steps)
        return not self._fallen and error <= self._config.success_error
