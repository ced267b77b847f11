"""Fold a trained actor into one static ONNX graph of the whole sampler.

Between two evaluations of the score network a DIME step is affine in x and elementwise, with
coefficients known at export. With s the prior's standard deviation, per action dimension,

    P_0 = 1,  P_{n+1} = P_n (1 - eta_n / s^2),     x_n = P_n (v_n + z_n)
    z_0 = s eps_0,  z_{n+1} = z_n + (sqrt(2 eta_n) eps_{n+1} + eta_n b_out) / P_{n+1}
    v_0 = 0,  v_{n+1} = v_n + diag(eta_n / P_{n+1}) W_out h_n

z does not depend on the network: it is computed for all n at once from the noise input. So are the
first layer's products with z, the observation and the time embedding. The rest of a step is one
Gemm per layer (the first adds the prepared product, the last adds v) and one activation per hidden
layer. The algebra is exact, computed in float64 and stored in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from dime_robot.learning import diffusion
from dime_robot.learning.networks import ScoreNetwork
from dime_robot.learning.observation_normalization import BOUND
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.graph_check import IR_VERSION, OPSET

SMALLEST_FACTOR = 0.05  # below it, dividing by P_n would lose float32 precision

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FoldedSampler:
    """Every constant of the graph, in float64. H: width, d: actions, N: diffusion steps."""

    clip: Array  # Shape (n_obs,), inf for none
    offset: Array  # Shape (n_obs,), added to the clipped observation: minus the mean, or 0
    scale: Array  # Shape (n_obs,)
    bound: float  # of a scaled entry; inf for none
    noise_scale: Array  # Shape (N+1, d): s, then sqrt(2 eta_n) / P_{n+1}
    noise_offset: Array  # Shape (N+1, d): 0, then the running sum of eta_n b_out / P_{n+1}
    factors: Array  # Shape (N+1, d): P_n
    first_latent: Array  # Shape (d, H): W_x transposed
    first_obs: Array  # Shape (n_obs, H)
    first_bias: Array  # Shape (N, H): W_t t_n + b_1
    hidden: tuple[tuple[Array, Array], ...]  # (weight (H, H), bias (H,)) of the layers after it
    output: Array  # Shape (H, d): W_out transposed
    output_gain: Array  # Shape (N, d): eta_n / P_{n+1}

    @property
    def steps(self) -> int:
        """Number of diffusion steps, N."""
        return len(self.first_bias)


def fold(actor: ScoreNetwork, spec: PolicySpec) -> FoldedSampler:
    """Compute the constants from the actor's parameters.

    Raises:
        InputError: P_n becomes so small that the folded graph would lose precision.
    """
    with torch.no_grad():
        double = actor.in_float64()
        eta = double.step_sizes().numpy()
        embedding = double.time_embedding(double.step_index).numpy()
        weights = {name: value.numpy() for name, value in double.named_parameters()}
    prior_variance = diffusion.PRIOR_STD**2
    factors = np.cumprod(np.vstack([np.ones_like(eta[:1]), 1 - eta / prior_variance]), axis=0)
    if factors.min() < SMALLEST_FACTOR:
        raise InputError(
            f"the sampler contracts its latents to {factors.min():.3f} of their size, expected at"
            f" least {SMALLEST_FACTOR}: the folded graph would lose digits; train with a smaller"
            " --dt-init or fewer --diffusion-steps"
        )
    n_act, n_obs = spec.n_act, spec.n_obs
    first = weights["trunk.0.weight"]
    w_x, w_s, w_t = np.split(first, [n_act, n_act + n_obs], axis=1)
    drift = eta * weights["output.bias"] / factors[1:]
    offset, scale = np.zeros(n_obs), spec.observation_scale().astype(np.float64)
    if actor.normalization is not None:
        mean, gain = (each.cpu().double().numpy() for each in actor.normalization.constants())
        offset, scale = -mean, gain
    return FoldedSampler(
        clip=spec.observation_clip().astype(np.float64),
        offset=offset,
        scale=scale,
        bound=np.inf if actor.normalization is None else BOUND,
        noise_scale=np.vstack(
            [np.full((1, n_act), diffusion.PRIOR_STD), np.sqrt(2 * eta) / factors[1:]]
        ),
        noise_offset=np.vstack([np.zeros((1, n_act)), np.cumsum(drift, axis=0)]),
        factors=factors,
        first_latent=w_x.T,
        first_obs=w_s.T,
        first_bias=embedding @ w_t.T + weights["trunk.0.bias"],
        hidden=tuple(
            (weights[f"trunk.{i}.weight"].T, weights[f"trunk.{i}.bias"])
            for i in range(1, len(actor.trunk))
        ),
        output=weights["output.weight"].T,
        output_gain=eta / factors[1:],
    )


class _Graph:
    """Nodes and constants of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.ArrayLike, dtype: Any = np.float32) -> str:
        array = np.ascontiguousarray(np.asarray(value, dtype=dtype))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def split(self, value: str, outputs: Sequence[str], sizes: Sequence[int], axis: int) -> None:
        name = self.constant(f"{value}_sizes", sizes, np.int64)
        self.nodes.append(
            helper.make_node("Split", [value, name], outputs, name=f"{value}_split", axis=axis)
        )


def build(folded: FoldedSampler, batch: int = 1) -> onnx.ModelProto:
    """Build the graph for a fixed batch size B.

    Its inputs are `observation`, shape (B, n_obs), raw SI units, and `noise`, shape (B, N+1, d),
    unit normals. Its output is `action`, shape (B, d) in [-1, 1].
    """
    steps, n_obs, n_act = folded.steps, len(folded.first_obs), folded.output.shape[1]
    graph = _Graph()
    base = _prepared_products(graph, folded, batch)
    gelu = {"approximate": "tanh"}

    v = ""
    for n in range(steps):
        hidden = base[n]
        if n > 0:  # v_0 = 0
            weight = graph.constant(f"w_x_{n}", folded.factors[n][:, None] * folded.first_latent)
            hidden = graph.add("Gemm", [v, weight, base[n]], f"first_{n}")
        hidden = graph.add("Gelu", [hidden], f"gelu_{n}_0", **gelu)
        for i, (weight_i, bias_i) in enumerate(folded.hidden, start=1):
            if n == 0:
                graph.constant(f"w_{i}", weight_i)
                graph.constant(f"b_{i}", bias_i)
            hidden = graph.add("Gemm", [hidden, f"w_{i}", f"b_{i}"], f"hidden_{n}_{i}")
            hidden = graph.add("Gelu", [hidden], f"gelu_{n}_{i}", **gelu)
        weight = graph.constant(f"w_out_{n}", folded.output * folded.output_gain[n])
        v = graph.add("Gemm", [hidden, weight, *([v] if v else [])], f"v_{n + 1}")

    last = graph.constant("last_factor", folded.factors[-1])
    latent = graph.add("Add", [graph.add("Mul", [v, last], "driven"), "free_latent"], "latent")
    graph.add("Tanh", [latent], "action")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "dime_sampler",
            [
                helper.make_tensor_value_info("observation", TensorProto.FLOAT, [batch, n_obs]),
                helper.make_tensor_value_info(
                    "noise", TensorProto.FLOAT, [batch, steps + 1, n_act]
                ),
            ],
            [helper.make_tensor_value_info("action", TensorProto.FLOAT, [batch, n_act])],
            initializer=graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="dime_robot",
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _prepared_products(graph: _Graph, folded: FoldedSampler, batch: int) -> list[str]:
    """Add the products of observation, time and noise; return the first layer's input per step."""
    steps, (_, width), n_act = folded.steps, folded.first_obs.shape, folded.output.shape[1]
    obs = "observation"
    if np.isfinite(folded.clip).any():
        bound = np.minimum(folded.clip, np.finfo(np.float32).max)
        obs = graph.add("Min", [obs, graph.constant("upper", bound)], "bounded_above")
        obs = graph.add("Max", [obs, graph.constant("lower", -bound)], "bounded")
    if folded.offset.any():
        obs = graph.add("Add", [obs, graph.constant("offset", folded.offset)], "centred")
    if (folded.scale != 1).any():
        obs = graph.add("Mul", [obs, graph.constant("scale", folded.scale)], "scaled")
    if np.isfinite(folded.bound):
        obs = graph.add("Min", [obs, graph.constant("most", [folded.bound])], "not_above")
        obs = graph.add("Max", [obs, graph.constant("least", [-folded.bound])], "normalised")
    from_obs = graph.add("MatMul", [obs, graph.constant("w_s", folded.first_obs)], "from_obs")
    shape = graph.constant("per_step", [batch, 1, width], np.int64)
    from_obs = graph.add("Reshape", [from_obs, shape], "from_obs_per_step")

    # z_n: a running sum of the scaled noise, as a product with a triangle of ones
    scaled = graph.add("Mul", ["noise", graph.constant("noise_scale", folded.noise_scale)], "eps")
    triangle = graph.constant("triangle", np.tri(steps + 1))
    z = graph.add("MatMul", [triangle, scaled], "running_sum")
    z = graph.add("Add", [z, graph.constant("noise_offset", folded.noise_offset)], "z")
    x = graph.add("Mul", [z, graph.constant("factors", folded.factors)], "free_path")
    graph.split(x, ["free_steps", "free_end"], [steps, 1], axis=1)
    end = graph.constant("end_shape", [batch, n_act], np.int64)
    graph.add("Reshape", ["free_end", end], "free_latent")

    base = graph.add("MatMul", ["free_steps", graph.constant("w_x", folded.first_latent)], "w_x_z")
    base = graph.add("Add", [base, graph.constant("first_bias", folded.first_bias)], "with_time")
    base = graph.add("Add", [base, from_obs], "with_obs")
    flat = graph.constant("flat", [batch, steps * width], np.int64)
    base = graph.add("Reshape", [base, flat], "bases")
    names = [f"base_{n}" for n in range(steps)]
    graph.split(base, names, [width] * steps, axis=1)
    return names
