"""Real policy files that misbehave where the pole spins faster than ever in training."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dime_robot.runtime.policy import OnnxPolicy
from dime_robot.runtime.spec import PolicySpec
from export.onnx import seal
from tests.ros_nodes.graph import POLICY

FAST = 20.0  # [rad/s] of the pole, beyond which they misbehave
_LOOPS_TO_CALIBRATE = 2000


def resealed(path: Path, spec: PolicySpec | None = None, **provenance: object) -> Path:
    """The shipped policy with another contract or record, its digests right."""
    policy = OnnxPolicy(POLICY)
    record = policy.file.provenance.model_copy(update=provenance)
    path.write_bytes(seal(onnx.load(POLICY), spec or policy.spec, record))
    return path


def nan_policy(path: Path) -> Path:
    """Its action is sqrt(FAST - pole_velocity): NaN above it."""
    nodes = [
        helper.make_node("Slice", ["observation", "four", "five", "one"], ["speed"]),
        helper.make_node("Sub", ["fast", "speed"], ["room"]),
        helper.make_node("Sqrt", ["room"], ["action"]),
    ]
    return _sealed(path, nodes, [_float("fast", FAST)])


def crashing_policy(path: Path) -> Path:
    """It looks up its action in a table of FAST rows: ONNX Runtime raises beyond the last."""
    nodes = [
        helper.make_node("Slice", ["observation", "four", "five", "one"], ["speed"]),
        helper.make_node("Abs", ["speed"], ["absolute"]),
        helper.make_node("Cast", ["absolute"], ["row"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["row", "one"], ["index"]),
        helper.make_node("Gather", ["table", "index"], ["action"]),
    ]
    table = np.linspace(-1, 1, int(FAST), dtype=np.float32)[:, None]
    return _sealed(path, nodes, [numpy_helper.from_array(table, "table")])


def slow_policy(path: Path, seconds: float) -> Path:
    """It computes for about `seconds` above FAST, on this machine.

    Measured by the processor's time: who else uses it now need not do so later.
    """
    probe = OnnxPolicy(_slow(path, _LOOPS_TO_CALIBRATE))
    fast = np.array([0, 1, 0, 0, 2 * FAST], dtype=np.float32)
    times = []
    for _ in range(30):
        began = time.thread_time()
        probe.act(fast)
        times.append(time.thread_time() - began)
    return _slow(path, round(_LOOPS_TO_CALIBRATE * seconds / min(times)))


def _slow(path: Path, loops: int) -> Path:
    vector = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Cos", ["x"], ["next"]),
        ],
        "body",
        [
            vector("i", TensorProto.INT64, []),
            vector("go", TensorProto.BOOL, []),
            vector("x", TensorProto.FLOAT, [1, 1]),
        ],
        [vector("go_on", TensorProto.BOOL, []), vector("next", TensorProto.FLOAT, [1, 1])],
    )
    nodes = [
        helper.make_node("Slice", ["observation", "four", "five", "one"], ["speed"]),
        helper.make_node("Greater", ["speed", "fast"], ["is_fast"]),
        helper.make_node("Cast", ["is_fast"], ["switch"], to=TensorProto.INT64),
        helper.make_node("Mul", ["switch", "loops"], ["trips"]),
        helper.make_node("Reshape", ["trips", "scalar"], ["trip_count"]),
        helper.make_node("Loop", ["trip_count", "yes", "speed"], ["action"], body=body),
    ]
    constants = [
        _float("fast", FAST),
        numpy_helper.from_array(np.array([[loops]], dtype=np.int64), "loops"),
        numpy_helper.from_array(np.array([], dtype=np.int64), "scalar"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    return _sealed(path, nodes, constants)


def _float(name: str, value: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array([[value]], dtype=np.float32), name)


def _sealed(path: Path, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> Path:
    shipped = OnnxPolicy(POLICY)
    # every input has to be used: the noise counts for nothing
    nodes = [
        *nodes[:-1],
        onnx.NodeProto.FromString(nodes[-1].SerializeToString()),
        helper.make_node("ReduceSum", ["noise"], ["noise_sum"], keepdims=0),
        helper.make_node("Mul", ["noise_sum", "nothing"], ["no_noise"]),
        helper.make_node("Mul", ["raw_action", "gain"], ["gentle_action"]),
        helper.make_node("Add", ["gentle_action", "no_noise"], ["action"]),
    ]
    nodes[-5].output[0] = "raw_action"
    graph = helper.make_graph(
        nodes,
        "misbehaving",
        [
            helper.make_tensor_value_info("observation", TensorProto.FLOAT, [1, 5]),
            helper.make_tensor_value_info(
                "noise", TensorProto.FLOAT, list(shipped.noise.values.shape)
            ),
        ],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, [1, 1])],
        [
            *constants,
            _float("nothing", 0.0),
            _float("gain", 0.01),  # the pole hardly moves
            *(
                numpy_helper.from_array(np.array([value], dtype=np.int64), name)
                for name, value in (("one", 1), ("four", 4), ("five", 5))
            ),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    path.write_bytes(seal(model, shipped.spec, shipped.file.provenance))
    return path
