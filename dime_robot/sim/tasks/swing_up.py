"""Swing-up of a cart-pole. Every term with its unit."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.control.state import JointCommand, RobotState
from dime_robot.sim.config.robot_task import SwingUpConfig
from dime_robot.sim.plant.plant import Plant


class SwingUp:
    """Swing the pole up and keep it standing near the rail's centre.

    reward in [0, 1] = upright * centred * slow * gentle, with
        upright = (1 + cos(pole)) / 2
        centred = (1 + exp(-(x / position_width)^2)) / 2        x [m]
        slow    = (1 + exp(-(w / velocity_width)^2)) / 2        w [rad/s]
        gentle  = (4 + max(0, 1 - (effort / limit)^2)) / 5      effort [N]
    Nothing terminates an episode; the time limit truncates it.
    """

    command_velocity: FloatArray | None = None

    def __init__(self, config: SwingUpConfig, spec: PolicySpec, plant: Plant) -> None:
        names = [joint.name for joint in spec.joints]
        self._config, self._plant = config, plant
        self.metrics: dict[str, float] = {}
        self._cart, self._pole = names.index(config.cart), names.index(config.pole)
        self._scale = spec.action.scale[config.cart]
        self._cos_success = math.cos(math.radians(config.success_angle))
        self._standing: deque[bool] = deque(maxlen=round(config.success_window * spec.rate))

    def start(self, rng: np.random.Generator) -> None:
        """Let the pole hang, with a random offset of up to 0.1 rad and 0.1 m."""
        self._standing.clear()
        self._plant.reset(
            {
                self._config.cart: rng.uniform(-0.1, 0.1),
                self._config.pole: math.pi + rng.uniform(-0.1, 0.1),
            }
        )

    def set_command(self, velocity: Sequence[float] | None) -> None:
        """Ignore the velocity."""

    def step(self, command: JointCommand, rng: np.random.Generator) -> float:
        """Return the reward of the period of `command`; call it at the period's end."""
        return self.reward(self._plant.state(), command)

    def reward(self, state: RobotState, command: JointCommand) -> float:
        """Return the reward of the step that led to `state`."""
        cos = math.cos(state.joint_position[self._pole])
        self._standing.append(cos >= self._cos_success)
        x = state.joint_position[self._cart] / self._config.position_width
        w = state.joint_velocity[self._pole] / self._config.velocity_width
        u = command.value[command.joints.index(self._config.cart)] / self._scale
        upright = (1 + cos) / 2
        centred = (1 + math.exp(-(x**2))) / 2
        slow = (1 + math.exp(-(w**2))) / 2
        gentle = (4 + max(0.0, 1 - u**2)) / 5
        return float(upright * centred * slow * gentle)

    def is_success(self) -> bool:
        """Whether it stood for the required share of the last `success_window` seconds."""
        full = len(self._standing) == self._standing.maxlen
        return full and sum(self._standing) >= self._config.success_share * len(self._standing)

    def terminated(self) -> bool:
        """Return False: only the time limit ends an episode."""
        return False
