"""policy_node with a policy that is slow or raises where the pole spins fast.

No policy file can do either: the graph check refuses loops and table look-ups.

    python misbehaving_node.py slow SECONDS --ros-args ...
    python misbehaving_node.py crash --ros-args ...
"""

from __future__ import annotations

import sys
import time

import numpy as np

from dime_robot.runtime.policy import OnnxPolicy
from ros_nodes import policy_node

FAST = 20.0  # [rad/s] of the pole, faster than ever in training
POLE_VELOCITY = 4  # its place in the observation

_act = OnnxPolicy.act


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


if __name__ == "__main__":
    if sys.argv.pop(1) == "slow":
        _slow(float(sys.argv.pop(1)))
    else:
        _crash()
    sys.exit(policy_node.main())
