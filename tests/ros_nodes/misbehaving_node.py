"""policy_node with a policy that is slow or raises where the pole spins fast, hiccups, or fails.

No policy file can do either: the graph check refuses loops and table look-ups.

    python misbehaving_node.py slow SECONDS --ros-args ...
    python misbehaving_node.py crash --ros-args ...
    python misbehaving_node.py hiccup SECONDS --ros-args ...      at every fifth step
    python misbehaving_node.py fail STEPS --ros-args ...          after so many steps
"""

from __future__ import annotations

import itertools
import sys
import time

import numpy as np

from dime_robot.runtime.contract.policy_spec import Float32Array
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.state import JointCommand, RobotState
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from ros_nodes import policy_node

FAST = 20.0  # [rad/s] of the pole, faster than ever in training
POLE_VELOCITY = 4  # its place in the observation

_act, _infer = OnnxPolicy.act, Controller._infer


def _slow(seconds: float) -> None:
    def act(self: OnnxPolicy, observation: np.ndarray) -> np.ndarray:
        if observation[POLE_VELOCITY] > FAST:
            time.sleep(seconds)
        return _act(self, observation)

    OnnxPolicy.act = act  # type: ignore[method-assign]


def _crash() -> None:
    def act(self: OnnxPolicy, observation: np.ndarray) -> np.ndarray:
        if observation[POLE_VELOCITY] > FAST:
            raise RuntimeError("ONNX Runtime failed")
        return _act(self, observation)

    OnnxPolicy.act = act  # type: ignore[method-assign]


def _hiccup(seconds: float) -> None:
    calls = itertools.count()

    def infer(self: Controller, observation: Float32Array, state: RobotState) -> JointCommand:
        if next(calls) % 5 == 0:
            time.sleep(seconds)
        return _infer(self, observation, state)

    Controller._infer = infer  # type: ignore[method-assign]


def _fail(steps: int) -> None:
    calls = itertools.count()

    def infer(self: Controller, observation: Float32Array, state: RobotState) -> JointCommand:
        if next(calls) >= steps:
            raise RuntimeError("ONNX Runtime failed")
        return _infer(self, observation, state)

    Controller._infer = infer  # type: ignore[method-assign]


if __name__ == "__main__":
    match sys.argv.pop(1):
        case "slow":
            _slow(float(sys.argv.pop(1)))
        case "hiccup":
            _hiccup(float(sys.argv.pop(1)))
        case "fail":
            _fail(int(sys.argv.pop(1)))
        case _:
            _crash()
    sys.exit(policy_node.main())
