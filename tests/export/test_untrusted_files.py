"""Files whose digests were made right again are still refused for what they hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.wire_format import WireFormatError, parse
from dime_robot.runtime.policy import graph_check, policy_file
from dime_robot.runtime.policy.graph_check import GraphError, check_graph, split_model
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.policy.policy_file import (
    FILE_DIGEST,
    FORMAT,
    NO_DIGEST,
    POLICY_DIGEST,
    PROVENANCE,
    SPEC,
    load_policy_file,
    policy_digest,
    zeroed_digest,
)
from tests.paths import ROOT

RESULTS = ROOT / "results"
SHIPPED = RESULTS / "sim-cartpole.onnx"
# (path, policy digest, sum of the actions below), as written by the release that exported them
SHIPPED_DIGESTS = {
    SHIPPED: "49c80b6c6a66edd462f7c79bcf9dda3ad8ebb023911b63931735da97aaf319ec",
    RESULTS / "go2" / "policy.onnx": (
        "4df258f23153e7e4f072442bc8fd97441a28fa24441abbbe8f4293dd1bcda1be"
    ),
}


def resealed(model: onnx.ModelProto, **entries: str | None) -> bytes:
    """Metadata replaced or (None) removed, then both digests made right: what an attacker does."""
    found = {e.key: e.value for e in model.metadata_props}
    for key, value in entries.items():
        found["dime." + key] = value  # type: ignore[assignment]
    kept = {key: value for key, value in found.items() if value is not None}
    kept[FILE_DIGEST] = NO_DIGEST
    if "policy_digest" not in entries:
        graph = model.graph.SerializeToString(deterministic=True)
        kept[POLICY_DIGEST] = policy_digest(graph, kept[SPEC])
    del model.metadata_props[:]
    helper.set_model_props(model, kept)
    content = model.SerializeToString(deterministic=True)
    return content.replace(NO_DIGEST.encode(), zeroed_digest(content, NO_DIGEST).encode())


def refusal(path: Path, content: bytes) -> InputError:
    """The one sentence with which the file is refused."""
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        OnnxPolicy(path)
    assert "\n" not in str(caught.value)
    return caught.value


def shipped() -> onnx.ModelProto:
    return onnx.load(SHIPPED)


@pytest.mark.parametrize("path", SHIPPED_DIGESTS, ids=lambda path: path.name)
def test_shipped_files_load_and_keep_their_names(path: Path) -> None:
    assert OnnxPolicy(path).file.policy_digest == SHIPPED_DIGESTS[path]
    assert split_model(path.read_bytes()).metadata[FORMAT] == "1"


def test_resealed_without_a_change_loads(tmp_path: Path) -> None:
    path = tmp_path / "p.onnx"
    path.write_bytes(resealed(shipped()))
    assert OnnxPolicy(path).file.policy_digest == SHIPPED_DIGESTS[SHIPPED]


# -- graphs --------------------------------------------------------------------------------------


def node(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.op_type == kind)


def constant(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def before_action(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Put nodes between the Tanh, now called `raw`, and the action."""
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.extend(nodes)


def add_external(model: onnx.ModelProto) -> None:
    tensor = constant(model, "w_1")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def add_loop(model: onnx.ModelProto) -> None:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Tanh", ["x"], ["y"]),
        ],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []),
         info("x", TensorProto.FLOAT, [1, 1])],
        [info("go_on", TensorProto.BOOL, []), info("y", TensorProto.FLOAT, [1, 1])],
    )  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.array(10**12), "trips"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    before_action(model, helper.make_node("Loop", ["trips", "yes", "raw"], ["action"], body=body))


def add_subgraph_to_an_allowed_operator(model: onnx.ModelProto) -> None:
    graph = helper.make_graph([], "hidden", [], [])
    node(model, "Tanh").attribute.append(helper.make_attribute("body", graph))


def add_function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function(
            "", "Tanh", ["x"], ["y"], [helper.make_node("Exp", ["x"], ["y"])],
            [helper.make_opsetid("", 20)],
        )
    )  # fmt: skip


def other_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    node(model, "Gelu").domain = "com.microsoft"


def domain_of_a_node(model: onnx.ModelProto) -> None:
    node(model, "Gelu").domain = "com.microsoft"


def gain_after_tanh(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.full(1, 988.0, "f4"), "gain"))
    before_action(model, helper.make_node("Mul", ["raw", "gain"], ["action"]))


def nan_weight(model: onnx.ModelProto) -> None:
    weight = numpy_helper.to_array(constant(model, "w_1")).copy()
    weight[0, 0] = np.nan
    constant(model, "w_1").raw_data = weight.tobytes()


def outer_product(model: onnx.ModelProto) -> None:
    size = 2**14
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.ones((size, 1), "f4"), "column"),
            numpy_helper.from_array(np.ones((1, size), "f4"), "line"),
        ]
    )
    model.graph.node.insert(0, helper.make_node("MatMul", ["column", "line"], ["vast"]))


def many_products(model: onnx.ModelProto) -> None:
    size = 2**12
    outer_product(model)
    for name, shape in (("column", (size, 1)), ("line", (1, size))):
        constant(model, name).CopyFrom(numpy_helper.from_array(np.ones(shape, "f4"), name))
    for i in range(2):
        vast = helper.make_node("MatMul", ["vast", "vast"], [f"vaster_{i}"])
        model.graph.node.insert(1, vast)


def negative_reshape(model: onnx.ModelProto) -> None:
    name = node(model, "Reshape").input[1]
    constant(model, name).CopyFrom(numpy_helper.from_array(np.array([-1, 1, 1]), name))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def truncated_tensor(model: onnx.ModelProto) -> None:
    tensor = constant(model, "w_1")
    tensor.raw_data = tensor.raw_data[:-4]


def float_tensor(model: onnx.ModelProto) -> None:
    tensor = constant(model, "w_1")
    tensor.float_data.extend([0.0])


def default_for_an_input(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 5), "f4"), "observation"))


def third_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def symbolic_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def exact_gelu(model: onnx.ModelProto) -> None:
    node(model, "Gelu").attribute[0].s = b"none"


def gemm_attribute(model: onnx.ModelProto) -> None:
    node(model, "Gemm").attribute.append(helper.make_attribute("alpha", 2.0))


def other_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21


def training_info(model: onnx.ModelProto) -> None:
    model.training_info.add()


def unknown_operator(model: onnx.ModelProto) -> None:
    before_action(model, helper.make_node("RandomNormalLike", ["raw"], ["action"]))


def use_before_it_is_computed(model: onnx.ModelProto) -> None:
    node(model, "Gelu").input[0] = "latent"


def twice_the_same_name(model: onnx.ModelProto) -> None:
    node(model, "Gelu").output[0] = "observation"


def on_the_observation(model: onnx.ModelProto, other: str) -> None:
    """Multiply the observation before anything else."""
    for each in model.graph.node:
        each.input[:] = ["twisted" if name == "observation" else name for name in each.input]
    model.graph.node.insert(0, helper.make_node("Mul", ["observation", other], ["twisted"]))


def negative_factor(model: onnx.ModelProto) -> None:
    sign = np.array([1, 1, -1, 1, 1], "f4")
    model.graph.initializer.append(numpy_helper.from_array(sign, "sign"))
    on_the_observation(model, "sign")


def squared_observation(model: onnx.ModelProto) -> None:
    on_the_observation(model, "observation")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (negative_factor, "factors above 0 on the observation, got -1"),
        (squared_observation, "expected the observation and a constant"),
        (add_external, "field 13"),
        (add_loop, "not one of|expected float32 or int64|list of integers"),
        (add_subgraph_to_an_allowed_operator, "attribute of Tanh"),
        (add_function, "model: field 25"),
        (other_domain, "other operator sets"),
        (domain_of_a_node, "com.microsoft.Gelu is not one of"),
        (gain_after_tanh, "come out of Tanh"),
        (nan_weight, "finite"),
        (outer_product, "hold more than"),
        (many_products, "multiplications"),
        (negative_reshape, "expected sizes of 1"),
        (sparse, "graph: field 15"),
        (truncated_tensor, "do not fit its shape"),
        (float_tensor, "field 4"),
        (default_for_an_input, "its own name"),
        (third_input, "expected inputs"),
        (symbolic_size, "dimension: field 2"),
        (exact_gelu, "not allowed"),
        (gemm_attribute, "attribute of Gemm"),
        (other_opset, "opset 21"),
        (training_info, "model: field 20"),
        (unknown_operator, "RandomNormalLike is not one of"),
        (use_before_it_is_computed, "not computed before"),
        (twice_the_same_name, "its own name"),
    ],
)
def test_a_resealed_graph_is_refused(
    change: Callable[[onnx.ModelProto], None], words: str, tmp_path: Path
) -> None:
    model = shipped()
    change(model)
    error = refusal(tmp_path / "p.onnx", resealed(model))
    assert error.code == "graph"
    assert any(word in str(error) for word in words.split("|")), error


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(sorted(onnx.defs.get_all_schemas(), key=lambda s: s.name)))
def test_every_operator_off_the_list_is_refused(name: onnx.defs.OpSchema) -> None:
    model = shipped()
    model.graph.node[-1].op_type = name.name
    part = split_model(model.SerializeToString())
    if name.name == "Tanh":
        check_graph(part)
        return
    with pytest.raises(GraphError):
        check_graph(part)


# -- metadata ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("digest", [None, "", NO_DIGEST[:-1] + "1", "x" * 64])
def test_an_absent_or_wrong_policy_digest_is_refused(
    version: str, digest: str | None, tmp_path: Path
) -> None:
    error = refusal(tmp_path / "p.onnx", resealed(shipped(), format=version, policy_digest=digest))
    assert "policy_digest" in str(error) or "policy digest" in str(error)


@pytest.mark.parametrize("version", ["", "0", "01", "4", "1.0"])
def test_other_versions_are_refused(version: str, tmp_path: Path) -> None:
    assert refusal(tmp_path / "p.onnx", resealed(shipped(), format=version)).code == "version"


@pytest.mark.parametrize("key", ["spec", "provenance"])
@pytest.mark.parametrize("opening", ["[", '{"noise":', '{"x":[', '{"diffusion_steps":8,"y":['])
def test_deeply_nested_metadata_is_refused(key: str, opening: str, tmp_path: Path) -> None:
    refusal(tmp_path / "p.onnx", resealed(shipped(), **{key: opening * 100_000}))


@pytest.mark.parametrize(
    "record",
    ["", "null", "[]", "{}", "1e999", '{"diffusion_steps":1e999,"batch":1,"noise":{}}',
     '{"diffusion_steps":8,"batch":-1,"noise":{}}', '{"diffusion_steps":8,"batch":true,"noise":{}}',
     '{"diffusion_steps":8,"batch":1,"noise":{"fresh":{"certified":"yes"}}}',
     '{"diffusion_steps":8,"batch":99999999999999999999,"noise":{}}'],
)  # fmt: skip
def test_a_provenance_that_does_not_fit_is_refused(record: str, tmp_path: Path) -> None:
    refusal(tmp_path / "p.onnx", resealed(shipped(), provenance=record))


def test_metadata_that_comes_twice_is_refused(tmp_path: Path) -> None:
    model = shipped()
    content = resealed(model)
    model = onnx.load_from_string(content)
    entry = next(e for e in model.metadata_props if e.key == PROVENANCE)
    model.metadata_props.add(key=PROVENANCE, value=entry.value)
    twice = model.SerializeToString()
    (digest,) = policy_file.digest_entries(twice, FILE_DIGEST)
    right = zeroed_digest(twice, digest)
    error = refusal(tmp_path / "p.onnx", twice.replace(digest.encode(), right.encode()))
    assert "once, got it twice" in str(error)


# -- files that are no files ---------------------------------------------------------------------


def test_a_fifo_a_device_and_a_vast_file_are_refused_at_once(tmp_path: Path) -> None:
    fifo, vast = tmp_path / "fifo", tmp_path / "vast.onnx"
    os.mkfifo(fifo)
    vast.touch()
    os.truncate(vast, policy_file.MAX_BYTES + 1)
    for path, words in (
        (fifo, "name a regular file"),
        (Path("/dev/zero"), "name a regular file"),
        (tmp_path, "Is a directory"),
        (vast, "up to 268,435,456 bytes"),
        (tmp_path / "a\0b", "null"),
    ):
        with pytest.raises(InputError, match=words):
            OnnxPolicy(path)


# -- any bytes -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_mutation_of_the_bytes_is_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(SHIPPED.read_bytes())
    kind = data.draw(st.sampled_from(["set", "insert", "delete"]))
    at = data.draw(st.integers(0, len(content) - 1))
    more = data.draw(st.binary(min_size=1, max_size=8))
    if kind == "set":
        content[at : at + len(more)] = more
    elif kind == "insert":
        content[at:at] = more
    else:
        del content[at : at + len(more)]
    if bytes(content) == SHIPPED.read_bytes():
        return
    refusal(tmp_path_factory.getbasetemp() / "mutated.onnx", bytes(content))


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_mutated_graph_is_refused_or_has_another_digest(data: st.DataObject) -> None:
    """The checks behind the file digest: nothing but GraphError, whatever the bytes."""
    content = bytearray(SHIPPED.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        model = split_model(bytes(content))
        check_graph(model)
    except GraphError:
        return
    original = split_model(SHIPPED.read_bytes())
    if bytes(model.graph) == bytes(original.graph):
        return
    assert hashlib.sha256(model.graph).digest() != hashlib.sha256(original.graph).digest()
    onnx.checker.check_model(onnx.load_from_string(bytes(content)), full_check=True)


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=200))
def test_the_reader_refuses_or_reads_any_bytes(data: bytes) -> None:
    try:
        inputs = parse(memoryview(data), graph_check._NODE, "node").texts("input")
        domain = parse(memoryview(data), graph_check._NODE, "node").text("domain")
    except WireFormatError:
        return
    read = onnx.NodeProto.FromString(data)  # what we accept, protobuf reads in the same way
    assert (list(read.input), read.domain) == (inputs, domain)


# -- actions -------------------------------------------------------------------------------------


def test_an_action_beyond_its_bounds_is_an_error_and_never_given_out() -> None:
    policy = OnnxPolicy(SHIPPED)

    class Broken:
        value = 988.0

        def run(self) -> None:
            policy._action[:] = self.value

    broken = Broken()
    policy._binding = broken
    obs = np.zeros(5, np.float32)
    for value in (988.0, -1.01, np.inf, -np.inf):
        broken.value = value
        with pytest.raises(InputError, match=r"expected actions in \[-1, 1\]") as caught:
            policy.act(obs)
        assert caught.value.code == "action"
        with pytest.raises(InputError, match=r"expected actions in \[-1, 1\]"):
            policy.act_with(obs, policy.noise.values)
        assert np.isnan(policy._action).all()
    for value in (1.0, -1.0, 1 + 1e-6):
        broken.value = value
        assert policy.act(obs).item() == np.float32(value)
    broken.value = np.nan  # the controller's own business
    assert np.isnan(policy.act(obs)).all()


def test_loading_reads_the_same_as_onnx() -> None:
    _, file = load_policy_file(SHIPPED)
    model = shipped()
    assert {e.key: e.value for e in model.metadata_props}[PROVENANCE] == file.record
    shapes = check_graph(split_model(SHIPPED.read_bytes()))
    for value in (*model.graph.input, *model.graph.output):
        dims = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        assert shapes[value.name] == dims
