"""Real policy files with another record, or that misbehave where the pole spins fast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.policy.graph_check import IR_VERSION, OPSET
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from export.onnx import seal
from tests.ros_nodes.graph import POLICY

FAST = 20.0  # [rad/s] of the pole, faster than ever in training


def resealed(path: Path, spec: PolicySpec | None = None, **provenance: object) -> Path:
    """The shipped policy with another contract or record, its digests right."""
    policy = OnnxPolicy(POLICY)
    record = policy.file.provenance.model_copy(update=provenance)
    path.write_bytes(seal(onnx.load(POLICY), spec or policy.spec, record))
    return path


def nan_policy(path: Path) -> Path:
    """Its action is NaN where the pole is faster than FAST: 0 times what has overflowed."""
    nodes = [
        helper.make_node("MatMul", ["observation", "pole_velocity"], ["speed"]),
        helper.make_node("Add", ["speed", "minus_fast"], ["excess"]),
        helper.make_node("Max", ["excess", "zero"], ["too_fast"]),
        helper.make_node("Mul", ["too_fast", "huge"], ["large"]),
        helper.make_node("Mul", ["large", "huge"], ["infinite"]),
        helper.make_node("Mul", ["infinite", "zero"], ["nan"]),
        # every input has to be used: the noise counts for nothing
        helper.make_node("Reshape", ["noise", "row"], ["all_noise"]),
        helper.make_node("MatMul", ["all_noise", "zeros"], ["no_noise"]),
        helper.make_node("Add", ["nan", "no_noise"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["action"]),
    ]
    shipped = OnnxPolicy(POLICY)
    size = shipped.noise.values.size
    selector = np.zeros((5, 1), dtype=np.float32)
    selector[4] = 1
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
            numpy_helper.from_array(selector, "pole_velocity"),
            numpy_helper.from_array(np.zeros((size, 1), dtype=np.float32), "zeros"),
            numpy_helper.from_array(np.array([1, size], dtype=np.int64), "row"),
            _float("minus_fast", -FAST),
            _float("zero", 0.0),
            _float("huge", 3e38),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    path.write_bytes(seal(model, shipped.spec, shipped.file.provenance))
    return path


def obedient_policy(path: Path, spec: PolicySpec) -> Path:
    """Its action is tanh of the first observation, whatever the others are."""
    shipped = OnnxPolicy(POLICY)
    shape, size = list(shipped.noise.values.shape), shipped.noise.values.size
    selector = np.eye(spec.n_obs, 1, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["observation", "first"], ["wanted"]),
        # every input has to be used: the noise counts for nothing
        helper.make_node("Reshape", ["noise", "row"], ["all_noise"]),
        helper.make_node("MatMul", ["all_noise", "zeros"], ["no_noise"]),
        helper.make_node("Add", ["wanted", "no_noise"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["action"]),
    ]
    graph = helper.make_graph(
        nodes,
        "obedient",
        [
            helper.make_tensor_value_info("observation", TensorProto.FLOAT, [1, spec.n_obs]),
            helper.make_tensor_value_info("noise", TensorProto.FLOAT, shape),
        ],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, [1, 1])],
        [
            numpy_helper.from_array(selector, "first"),
            numpy_helper.from_array(np.zeros((size, 1), dtype=np.float32), "zeros"),
            numpy_helper.from_array(np.array([1, size], dtype=np.int64), "row"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    path.write_bytes(seal(model, spec, shipped.file.provenance))
    return path


def _float(name: str, value: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array([[value]], dtype=np.float32), name)
