"""Small machines of each command kind, and a scripted policy.

One period is 1/128 s, so that sums of periods are exact.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np

from dime_robot.runtime.contract.interpolation import NO_INTERPOLATION, Interpolation
from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig, require_compatible
from dime_robot.runtime.control.faults import Fault
from dime_robot.runtime.control.safety_filter import Decision, SafetyFilter
from dime_robot.runtime.control.state import CommandKind, JointCommand, RobotState
from dime_robot.runtime.policy.noise import NoiseSource

RATE, T = 128.0, 1 / 128
JOINTS = ("wrist", "wheel", "rail")  # in policy order; the hardware has another
UPRIGHT = np.array([1.0, 0.0, 0.0, 0.0])

SCALES: dict[str, dict[str, float]] = {
    "effort": {"rail": 40.0, "wrist": 8.0, "wheel": 4.0},
    "position": {"rail": 0.5, "wrist": 3.0, "wheel": 20.0},
    "velocity": {"rail": 3.0, "wrist": 10.0, "wheel": 50.0},
    "twist": {"angular_z": 3.0, "linear_x": 2.0},
}
SPEC: dict[str, Any] = {
    "name": "machine",
    "rate": RATE,
    "joints": [
        {"name": "wrist", "type": "revolute", "position_limits": [-1.0, 2.0], "effort_limit": 8.0,
         "stiffness": 16.0, "damping": 1.0, "default_position": 0.5},
        {"name": "wheel", "type": "revolute", "effort_limit": 4.0, "stiffness": 2.0,
         "damping": 0.5},
        {"name": "rail", "type": "prismatic", "position_limits": [0.0, 0.5], "effort_limit": 40.0,
         "stiffness": 100.0, "damping": 20.0, "default_position": 0.25},
    ],
    "observation": [
        {"name": "q", "kind": "joint_position", "joints": list(JOINTS), "size": 3, "unit": "mixed"},
    ],
}  # fmt: skip
ROBOT: dict[str, Any] = {
    "name": "machine",
    "joints": [
        {"name": "rail", "wire_name": "axis_1", "sign": -1, "offset": 0.125, "damping": 20.0,
         "position_limits": [0.0, 0.5], "velocity_limit": 2.0, "effort_limit": 40.0,
         "safe_position": 0.25},
        {"name": "spare", "velocity_limit": 1.0},
        {"name": "wheel", "velocity_limit": 40.0, "effort_limit": 4.0, "damping": 0.5,
         "safe_position": 0.0},
        {"name": "wrist", "wire_name": "axis_6", "offset": -0.5, "position_limits": [-1.0, 2.0],
         "velocity_limit": 8.0, "effort_limit": 8.0, "damping": 2.0, "safe_position": 1.0},
    ],
    "state": {"rate": RATE, "max_age": 2.5 * T},
    "imu": {"max_age": 2.5 * T},
    "command_velocity": {
        "timeout": 0.5, "limits": {"linear_x": 1.0, "linear_y": 0.0, "angular_z": 1.0}
    },
    "command": {"topic": "commands", "timeout": 0.1},
    "safety": {
        "soft_margin": 0.1, "hold": 3.5 * T, "damp": 8 * T, "recover": 5.5 * T, "ramp": 0.0,
        "safe_speed": 0.125,
    },
}  # fmt: skip
OUTPUTS: dict[str, dict[str, Any]] = {
    "effort": {"kind": "forward", "interface": "effort"},
    "position": {"kind": "trajectory", "interface": "position"},
    "velocity": {"kind": "forward", "interface": "velocity"},
    "twist": {
        "kind": "twist",
        "interface": "velocity",
        "limits": {"linear_x": 1.0, "angular_z": 2.0},
        "acceleration": 4.0,
    },
}
KINDS: tuple[CommandKind, ...] = ("effort", "position", "velocity", "twist")


def put(data: dict[str, Any], path: str, value: Any) -> None:
    """Set `a.0.b`; None removes it."""
    node: Any = data
    *parents, last = path.split(".")
    for key in parents:
        node = node[int(key)] if isinstance(node, list) else node[key]
    key = int(last) if isinstance(node, list) else last
    if value is None:
        node.pop(key)
    else:
        node[key] = value


def spec_data(kind: str = "effort") -> dict[str, Any]:
    data = copy.deepcopy(SPEC)
    data["action"] = {"kind": kind, "size": len(SCALES[kind]), "scale": dict(SCALES[kind])}
    return data


def robot_data(kind: str = "effort") -> dict[str, Any]:
    data = copy.deepcopy(ROBOT)
    data["command"].update(copy.deepcopy(OUTPUTS[kind]))
    if kind == "effort":
        data["safety"]["may_go_limp"] = True
    return data


def make_spec(kind: str = "effort", **changes: Any) -> PolicySpec:
    """Keys of `changes` are paths with `__` for the dots."""
    data = spec_data(kind)
    for path, value in changes.items():
        put(data, path.replace("__", "."), value)
    return PolicySpec.model_validate(data)


def make_robot(kind: str = "effort", **changes: Any) -> RobotConfig:
    data = robot_data(kind)
    for path, value in changes.items():
        put(data, path.replace("__", "."), value)
    return RobotConfig.model_validate(data)


def make_state(
    wrist: float = 0.5, wheel: float = 0.0, rail: float = 0.25, **fields: Any
) -> RobotState:
    """By default at rest in the middle; `velocity` in policy order."""
    velocity = np.array(fields.pop("velocity", [0.0, 0.0, 0.0]), dtype=float)
    return RobotState(fields.pop("stamp", 0.0), np.array([wrist, wheel, rail]), velocity, **fields)


class Run:
    """A filter that is stepped once per period."""

    def __init__(self, kind: CommandKind = "effort", **changes: Any) -> None:
        self.spec, self.robot = make_spec(kind), make_robot(kind, **changes)
        require_compatible(self.spec, self.robot)
        self.filter = SafetyFilter(self.spec, self.robot)
        self.kind, self.k, self.state = kind, 0, make_state()

    def arm(self, state: RobotState | None = None) -> Run:
        self.state = state or self.state
        self.filter.arm(self.k * T, self.state)
        return self

    def step(
        self, value: list[float] | FloatArray | None = None, *faults: Fault, **fields: Any
    ) -> Decision:
        """`value` in SI units and policy order; None: the policy was not evaluated."""
        wanted = None
        if value is not None:
            wanted = JointCommand(
                self.filter.limits.names, np.asarray(value, dtype=float), self.kind
            )
        state = fields.get("state", self.state)
        decision = self.filter.step(self.k * T, wanted, state, faults)
        self.k += 1
        return decision

    def levels(self, steps: int, *faults: Fault) -> list[str]:
        return [self.step(None, *faults).level.name for _ in range(steps)]


class ScriptedPolicy:
    """Responds to an observation with what the function `respond` returns."""

    provider = "cpu"

    def __init__(
        self,
        spec: PolicySpec,
        respond: Callable[[FloatArray], Any] | None = None,
        interpolation: Interpolation = NO_INTERPOLATION,
    ) -> None:
        self.spec = spec
        self.file = Mock(policy_digest="f" * 64, interpolation=interpolation)
        self.noise = NoiseSource((1, 3, spec.n_act), 0, "fresh")
        self.respond = respond or (lambda _: np.zeros(spec.n_act))
        self.seen: list[FloatArray] = []
        self.resets = 0

    def act(self, observation: FloatArray) -> Any:
        self.seen.append(observation.copy())
        self.noise.draw()
        return np.asarray(self.respond(observation), dtype=np.float32)

    def reset(self, seed: int | None = None) -> None:
        self.resets += 1
        self.noise.reset(seed)
