"""The two shipped tasks written down a second time, as equations, with the values of release 0.1.

Nothing here uses a term or the configuration models, so that both can be compared with it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
import yaml

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.control.state import JointCommand
from dime_robot.sim.plant.plant import Plant
from tests.paths import CONFIGS_OF_RELEASE_0_1

Values = dict[str, Any]


def values_of(name: str) -> Values:
    """The section `task:` of a file of release 0.1, over that of the file that it extends."""
    content = yaml.safe_load((CONFIGS_OF_RELEASE_0_1 / f"{name}.yaml").read_text())
    if "extends" not in content:
        task: Values = content["task"]
        return task
    task = values_of(content["extends"].removesuffix(".yaml"))
    for key, value in content.get("task", {}).items():
        task[key] = {**task[key], **value} if isinstance(value, dict) else value
    return task


class Reference:
    """What a RobotEnv uses of a task."""

    def __init__(self, values: Values, spec: PolicySpec, plant: Plant) -> None:
        self.values, self.spec, self.plant = values, spec, plant
        self.names = [joint.name for joint in spec.joints]
        self.defaults = np.array([joint.default_position for joint in spec.joints])
        self.scale = np.array([spec.action.scale[name] for name in spec.action_joints])
        self.command_velocity: FloatArray | None = None
        self.metrics: dict[str, float] = {}

    @property
    def commands(self) -> dict[str, FloatArray]:
        return {} if self.command_velocity is None else {"velocity": self.command_velocity}

    def sensors(self) -> dict[str, FloatArray]:
        return {}


class VelocityTracking(Reference):
    """A legged base tracks a commanded velocity c.

    reward = max(0, sum of weight * term):
        track_linear     exp(-|v_xy - c_xy|^2 / linear_width^2)    v: level frame of the base [m/s]
        track_yaw        exp(-(w_z - c_z)^2 / yaw_width^2)         w: base's frame [rad/s]
        alive            1
        vertical_speed   v_z^2
        roll_pitch_rate  w_x^2 + w_y^2
        tilt             g_x^2 + g_y^2                             g: gravity in the base's frame
        action_change    sum of (a_t - a_{t-1})^2                  a: after the low-pass
        torque           mean over the period of the sum of t^2
        hip_angle        sum of |hip - its default position|
    """

    fixed: FloatArray | None = None
    fallen = False

    def set_command(self, name: str, value: FloatArray) -> None:
        assert name == "velocity"
        self.command_velocity = self.fixed = value

    def start(self, rng: np.random.Generator) -> None:
        self.steps, self.fallen, self.offset = 0, False, np.zeros(2)
        self.before: FloatArray | None = None
        noise = self.values["start_noise"]
        pose = self.defaults + rng.uniform(-noise, noise, len(self.defaults))
        positions = dict(zip(self.names, pose.tolist(), strict=True))
        self.plant.reset(positions, self.values["start_height"])
        self.draw(rng)

    def draw(self, rng: np.random.Generator) -> None:
        commands = self.values["commands"]
        ranges = [commands[axis] for axis in ("linear_x", "linear_y", "angular_z")]
        drawn = np.array([rng.uniform(low, high) for low, high in ranges])
        kind = rng.random()
        if kind < commands["standing"]:
            drawn = np.zeros(3)
        elif kind < commands["standing"] + commands["turning"]:
            low, high = ranges[2]
            drawn = np.array([0.0, 0.0, rng.choice((low, high)) * rng.uniform(0.5, 1.0)])
        self.command_velocity = drawn if self.fixed is None else self.fixed

    def step(self, command: JointCommand, rng: np.random.Generator) -> float:
        values, base, commanded = self.values, self.plant.base(), self.command_velocity
        assert commanded is not None and self.plant.drive is not None
        weights = values["rewards"]
        off, yaw = base.velocity[:2] - commanded[:2], base.angular_velocity[2] - commanded[2]
        targets = command.value / self.scale
        change = np.zeros(1) if self.before is None else targets - self.before
        hips = [self.names.index(name) for name in values["hips"]]
        pose = self.plant.joint_position()
        terms = {
            "track_linear": math.exp(-float(off @ off) / values["linear_width"] ** 2),
            "track_yaw": math.exp(-(yaw**2) / values["yaw_width"] ** 2),
            "alive": 1.0,
            "vertical_speed": base.velocity[2] ** 2,
            "roll_pitch_rate": float((base.angular_velocity[:2] ** 2).sum()),
            "tilt": float((base.gravity[:2] ** 2).sum()),
            "action_change": float((change**2).sum()),
            "torque": self.plant.drive.take_squares() / self.plant.decimation,
            "hip_angle": float(np.abs(pose[hips] - self.defaults[hips]).sum()),
        }
        weighted = {name: weights[name] * value for name, value in terms.items()}
        self.before = targets
        self.offset, self.steps = self.offset + off, self.steps + 1
        too_tilted = -base.gravity[2] < math.cos(math.radians(values["largest_tilt"]))
        self.fallen = bool(too_tilted) or base.height < values["lowest"]
        self.metrics = {
            "velocity_error": float(np.linalg.norm(off)),
            "yaw_rate_error": abs(float(yaw)),
            "tracking_reward": weighted["track_linear"] + weighted["track_yaw"],
        }
        if self.steps % round(values["commands"]["resample"] * self.spec.rate) == 0:
            self.draw(rng)
        return max(0.0, float(sum(weighted.values())))

    def terminated(self) -> bool:
        return self.fallen

    def is_success(self) -> bool:
        error = float(np.linalg.norm(self.offset)) / max(1, self.steps)
        return self.steps > 0 and not self.fallen and error <= self.values["success_error"]


class SwingUp(Reference):
    """Swing the pole up and keep it standing near the rail's centre.

    reward = upright * centred * slow * gentle:
        upright = (1 + cos(pole)) / 2
        centred = (1 + exp(-(x / position_width)^2)) / 2        x [m]
        slow    = (1 + exp(-(w / velocity_width)^2)) / 2        w [rad/s]
        gentle  = (4 + max(0, 1 - (effort / scale)^2)) / 5      effort [N]
    """

    def start(self, rng: np.random.Generator) -> None:
        window = round(self.values["success_window"] * self.spec.rate)
        self.standing: deque[bool] = deque(maxlen=window)
        cart, pole = rng.uniform(-0.1, 0.1), math.pi + rng.uniform(-0.1, 0.1)
        self.plant.reset({self.values["cart"]: cart, self.values["pole"]: pole})

    def step(self, command: JointCommand, rng: np.random.Generator) -> float:
        state = self.plant.state()
        cart, pole = (self.names.index(self.values[name]) for name in ("cart", "pole"))
        cos = math.cos(state.joint_position[pole])
        self.standing.append(cos >= math.cos(math.radians(self.values["success_angle"])))
        x = state.joint_position[cart] / self.values["position_width"]
        w = state.joint_velocity[pole] / self.values["velocity_width"]
        u = float(command.value[0] / self.scale[0])
        centred, slow = (1 + math.exp(-(x**2))) / 2, (1 + math.exp(-(w**2))) / 2
        return float((1 + cos) / 2 * centred * slow * (4 + max(0.0, 1 - u**2)) / 5)

    def terminated(self) -> bool:
        return False

    def is_success(self) -> bool:
        full = len(self.standing) == self.standing.maxlen
        return full and sum(self.standing) >= self.values["success_share"] * len(self.standing)


def reference_of(name: str, spec: PolicySpec, plant: Plant) -> Reference:
    """The task of a shipped configuration, as equations."""
    values = values_of(name)
    kind = {"swing_up": SwingUp, "velocity_tracking": VelocityTracking}[values["kind"]]
    return kind(values, spec, plant)
