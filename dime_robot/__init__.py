"""dime_robot: the runtime that takes a diffusion policy from MuJoCo to a robot.

The names in `__all__` are loaded when they are first used: the import itself loads no torch, no
simulator and no ONNX Runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dime_robot.envs import make_env as make_env
    from dime_robot.learning.config import TrainConfig as TrainConfig
    from dime_robot.loaded_policy import evaluate_policy as evaluate_policy
    from dime_robot.loaded_policy import load_policy as load_policy
    from dime_robot.runtime.contract.policy_spec import PolicySpec as PolicySpec
    from dime_robot.runtime.contract.robot_config import RobotConfig as RobotConfig
    from dime_robot.runtime.control.controller import Controller as Controller
    from dime_robot.runtime.policy.onnx_policy import OnnxPolicy as OnnxPolicy
    from dime_robot.training.train_policy import train_policy as train_policy

__version__ = "0.1.0"

_HOMES = {
    "Controller": "dime_robot.runtime.control.controller",
    "OnnxPolicy": "dime_robot.runtime.policy.onnx_policy",
    "PolicySpec": "dime_robot.runtime.contract.policy_spec",
    "RobotConfig": "dime_robot.runtime.contract.robot_config",
    "TrainConfig": "dime_robot.learning.config",
    "evaluate_policy": "dime_robot.loaded_policy",
    "export_policy": "export.onnx",
    "load_policy": "dime_robot.loaded_policy",
    "make_env": "dime_robot.envs",
    "train_policy": "dime_robot.training.train_policy",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # so that the next access needs no import
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
