"""The folded graph is the plain sampler: exact algebra, checked where every term matters."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from dime_robot.learning.diffusion import inverse_softplus
from dime_robot.runtime.contract.policy_spec import Action, ObservationTerm, PolicySpec
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.graph_check import (
    OPERATORS,
    GraphError,
    check_graph,
    split_model,
)
from export.graph import FoldedSampler, build, fold
from export.onnx import graph_session
from export.proofs import CertificateError, parity_certificate, plain_sampler
from tests.export.actors import SIZES, random_inputs, redrawn_actor
from tests.learning.toy import flat_spec

SCALED = PolicySpec(
    name="scaled",
    rate=50,
    observation=(
        ObservationTerm(name="a", kind="flat", unit="rad/s", size=3, scale=0.1, clip=4.0),
        ObservationTerm(name="b", kind="flat", unit="1", size=2),
    ),
    action=Action(kind="flat", size=2),
)


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize(("n_obs", "n_act"), SIZES)
def test_parity_with_the_plain_sampler_in_float64(n_obs: int, n_act: int, batch: int) -> None:
    spec = flat_spec(n_obs, n_act)
    actor = redrawn_actor(spec)
    obs, noise = random_inputs(spec, actor.steps, 64 if batch == 1 else 1000)
    control = actor(torch.randn(64, n_act), torch.as_tensor(obs[:64]), torch.tensor(3.0))
    assert 0.3 < control.abs().mean().item() < 3
    model = build(fold(actor, spec), batch)
    result = parity_certificate(actor, graph_session(model), obs, noise)
    assert result.max_error <= result.limit <= 1e-4


def forget_output_bias(folded: FoldedSampler) -> FoldedSampler:
    return dataclasses.replace(folded, noise_offset=np.zeros_like(folded.noise_offset))


def forget_one_time_bias(folded: FoldedSampler) -> FoldedSampler:
    bias = folded.first_bias.copy()
    bias[7] = 0
    return dataclasses.replace(folded, first_bias=bias)


def forget_a_factor(folded: FoldedSampler) -> FoldedSampler:
    factors = folded.factors.copy()
    factors[5] = factors[4]
    return dataclasses.replace(folded, factors=factors)


@pytest.mark.parametrize("mistake", [forget_output_bias, forget_one_time_bias, forget_a_factor])
def test_a_forgotten_term_fails_parity(mistake: object) -> None:
    spec = flat_spec(17, 6)
    actor = redrawn_actor(spec)
    wrong = mistake(fold(actor, spec))  # type: ignore[operator]
    inputs = random_inputs(spec, actor.steps, 32)
    with pytest.raises(CertificateError, match="parity"):
        parity_certificate(actor, graph_session(build(wrong)), *inputs)


def test_forgotten_friction_fails_parity() -> None:
    spec = flat_spec(17, 6)
    actor, frictionless = redrawn_actor(spec), redrawn_actor(spec)
    with torch.no_grad():
        frictionless.friction_raw.fill_(inverse_softplus(1.0))
    inputs = random_inputs(spec, actor.steps, 32)
    with pytest.raises(CertificateError, match="parity"):
        parity_certificate(actor, graph_session(build(fold(frictionless, spec))), *inputs)


def test_scaled_policy_takes_raw_observations() -> None:
    actor = redrawn_actor(SCALED, width=32, depth=2, steps=8)
    obs, noise = random_inputs(SCALED, 8, 200)
    obs *= 5  # beyond the clip
    policy = graph_session(build(fold(actor, SCALED)))
    result = parity_certificate(actor, policy, obs, noise)
    assert result.max_error <= result.limit
    exact = plain_sampler(actor.in_float64(), obs, noise)
    flat = flat_spec(5, 2)  # the same weights, scale and clip forgotten
    wrong = graph_session(build(fold(redrawn_actor(flat, width=32, depth=2, steps=8), flat)))
    assert np.abs(wrong(obs, noise) - exact).max() > 0.01


def forget_the_mean(folded: FoldedSampler) -> FoldedSampler:
    return dataclasses.replace(folded, offset=np.zeros_like(folded.offset))


def forget_the_bound(folded: FoldedSampler) -> FoldedSampler:
    return dataclasses.replace(folded, bound=np.inf)


def keep_the_contracts_scale(folded: FoldedSampler) -> FoldedSampler:
    return dataclasses.replace(folded, scale=SCALED.observation_scale())


def test_statistics_of_observations_are_constants_of_the_graph() -> None:
    actor = redrawn_actor(SCALED, width=32, depth=2, steps=8, normalize=True)
    obs, noise = random_inputs(SCALED, 8, 400)
    obs = obs * np.float32([1, 3, 0.01, 0.3, 40]) + np.float32([0, 2, 1, -300, 0])
    actor.absorb(torch.as_tensor(obs[:200]))
    obs[200:] *= 3  # also beyond the contract's clip and the bound
    folded = fold(actor, SCALED)
    model = build(folded)
    result = parity_certificate(actor, graph_session(model), obs, noise)
    assert result.max_error <= result.limit
    kinds = [node.op_type for node in model.graph.node[:6]]
    assert kinds == ["Min", "Max", "Add", "Mul", "Min", "Max"]
    check_graph(split_model(model.SerializeToString()))
    for mistake in (forget_the_mean, forget_the_bound, keep_the_contracts_scale):
        with pytest.raises(CertificateError, match="parity"):
            parity_certificate(actor, graph_session(build(mistake(folded))), obs, noise)


@pytest.mark.parametrize("factor", [np.nan, np.inf, 0.0, -2.0])
def test_a_forged_deviation_is_refused(factor: float) -> None:
    actor = redrawn_actor(SCALED, width=8, depth=1, steps=2, normalize=True)
    folded = fold(actor, SCALED)
    scale = folded.scale.copy()
    scale[3] = factor
    content = build(dataclasses.replace(folded, scale=scale)).SerializeToString()
    with pytest.raises(GraphError, match=r"finite numbers|factors above 0"):
        check_graph(split_model(content))


@pytest.fixture(scope="module")
def official() -> onnx.ModelProto:
    spec = flat_spec(48, 12)
    return build(fold(redrawn_actor(spec), spec))


def test_graph_is_small_static_and_standard(official: onnx.ModelProto) -> None:
    assert len(official.graph.node) <= 130
    assert [(o.domain, o.version) for o in official.opset_import] == [("", 20)]
    kinds = {node.op_type for node in official.graph.node}
    assert kinds <= OPERATORS
    assert not kinds & {"If", "Loop", "Scan", "RandomNormal", "RandomNormalLike"}
    assert official.graph.node[-1].op_type == "Tanh"
    inferred = onnx.shape_inference.infer_shapes(official, check_type=True, strict_mode=True)
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        assert all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim), value
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    steps = [node.op_type for node in official.graph.node].count("Gemm")
    assert steps == 16 * 4 - 1  # a step: one per layer and the output; step 0 has no first one


def test_scale_and_clip_are_the_first_operations() -> None:
    model = build(fold(redrawn_actor(SCALED, width=8, depth=1, steps=2), SCALED))
    assert [node.op_type for node in model.graph.node[:3]] == ["Min", "Max", "Mul"]


def test_other_interpreters_accept_it() -> None:
    spec = flat_spec(6, 3)
    actor = redrawn_actor(spec, width=16, depth=2, steps=4)
    model = build(fold(actor, spec))
    onnx.checker.check_model(model, full_check=True)
    obs, noise = random_inputs(spec, 4, 1)
    (action,) = ReferenceEvaluator(model).run(None, {"observation": obs, "noise": noise})
    np.testing.assert_allclose(action, plain_sampler(actor, obs, noise), atol=1e-5)


def test_openvino_gives_the_same_actions() -> None:
    openvino = pytest.importorskip("openvino")
    spec = flat_spec(17, 6)
    actor = redrawn_actor(spec)
    model = build(fold(actor, spec))
    core = openvino.Core()
    # on a CPU with bf16 or fp16 units OpenVINO takes those unless told otherwise
    exact_mode = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", exact_mode)
    obs, noise = random_inputs(spec, actor.steps, 20)
    exact = plain_sampler(actor.in_float64(), obs, noise)
    for i in range(20):
        action = compiled({"observation": obs[i : i + 1], "noise": noise[i : i + 1]})["action"]
        np.testing.assert_allclose(action, exact[i : i + 1], atol=1e-4)


def test_too_strong_a_contraction_is_refused() -> None:
    spec = flat_spec(3, 1)
    actor = redrawn_actor(spec, width=8, depth=1, steps=16, dt=4.0)
    with pytest.raises(InputError, match="would lose digits"):
        fold(actor, spec)
