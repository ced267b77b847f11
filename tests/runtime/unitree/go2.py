"""A Go2 for tests of its wire: readings, and a loop with the clock in hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from dime_robot.runtime.contract.config_files import read_config
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import robot_of
from dime_robot.runtime.unitree.driver_loop import DriverLoop, DriverSettings, MotorTargets
from dime_robot.runtime.unitree.low_level import LOW_STATE_LAYOUT, MOTORS, Frame, read_message
from dime_robot.runtime.unitree.motors import Motors, motors_of
from tests.paths import ROOT

N = len(MOTORS)
PERIOD = 0.002  # [s]
CROUCH = np.tile([0.0, 1.36, -2.65], 4)


def motors() -> Motors:
    path = ROOT / "sim_configs/go2.yaml"
    content = read_config(path)
    return motors_of(PolicySpec.model_validate(content["policy"]), robot_of(path, content))


class Readings:
    """LowState messages that change from one to the next, as real ones do."""

    def __init__(self) -> None:
        self.frame = Frame(LOW_STATE_LAYOUT)
        self.fields: Any = self.frame.fields
        self.fields["imu_state"]["quaternion"] = (1, 0, 0, 0)
        self.fields["imu_state"]["accelerometer"] = (0, 0, 9.8)
        self.fields["motor_state"]["temperature"] = 40
        self.set(CROUCH)
        self._count = 0

    def set(self, position: np.ndarray) -> None:
        self.fields["motor_state"]["q"][:N] = position

    def tilt(self, angle: float) -> None:
        """Roll the base [rad]."""
        half = angle / 2
        self.fields["imu_state"]["quaternion"] = (math.cos(half), math.sin(half), 0, 0)

    def next(self) -> Any:
        self._count += 1
        self.fields["tick"] = 2 * self._count
        self.fields["imu_state"]["gyroscope"][0] = 1e-3 * (self._count % 7)
        self.fields["motor_state"]["dq"][:N] = 1e-3 * (self._count % 5)
        return read_message(LOW_STATE_LAYOUT, self.frame.sealed())


class Run:
    """A loop, its robot and its commands, step by step."""

    def __init__(self, **settings: Any) -> None:
        given = {"timeout": 0.1, "tilt_limit": math.radians(60), **settings}
        self.loop = DriverLoop(motors(), DriverSettings(**given))
        self.readings = Readings()
        self.now = 100.0
        self.states = True  # whether LowState arrives
        self.target: np.ndarray | None = None  # commanded every 20 ms
        self.names: tuple[str, ...] = MOTORS
        self.sent: MotorTargets | None = None
        self.log: list[str] = []
        self._commanded_at = -math.inf

    def permitted(self) -> Run:
        self.go(0.02)
        self.loop.take_mode("", self.now)
        assert not self.loop.permit(self.now)
        return self

    def following(self, position: np.ndarray = CROUCH) -> Run:
        self.permitted()
        self.go(0.1)
        self.target = np.array(position)
        self.go(1.0)
        return self

    def step(self, wait: float = PERIOD) -> MotorTargets | None:
        self.now += wait
        if self.states:
            self.loop.take_state(self.readings.next(), self.now)
        if self.target is not None and self.now - self._commanded_at >= 0.0199:
            self._commanded_at = self.now
            self.loop.take_command(self.names, self.target.tolist(), self.now)
        sent = self.loop.step(self.now)
        self.sent = None if sent is None else dataclasses.replace(
            sent, position=sent.position.copy(), stiffness=sent.stiffness.copy(),
            damping=sent.damping.copy(),
        )  # fmt: skip
        self.log += [text for _, text in self.loop.events]
        self.loop.events.clear()
        return self.sent

    def go(self, duration: float) -> list[MotorTargets | None]:
        return [self.step() for _ in range(round(duration / PERIOD))]
