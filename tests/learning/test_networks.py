"""The networks against the published sizes and a plain, slow form of each computation."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import pytest
import torch

from dime_robot.learning import diffusion
from dime_robot.learning.config import TrainConfig
from dime_robot.learning.networks import (
    Actor,
    GaussianActor,
    ScoreNetwork,
    gelu,
    make_actor,
    parameter_count,
)
from dime_robot.runtime.contract.policy_spec import Action, ObservationTerm, PolicySpec
from tests.learning.toy import flat_spec

A = TypeVar("A", bound=Actor)


def randomise(network: A) -> A:
    """Weights as after training: the initial output layer would hide every mistake before it."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.double()


@pytest.mark.parametrize(("obs", "act", "count"), [(67, 21, 422_677), (223, 38, 471_334)])
def test_parameter_counts_are_the_published_ones(obs: int, act: int, count: int) -> None:
    network = ScoreNetwork(flat_spec(obs, act), width=256, depth=3, steps=16, dt=0.1)
    assert parameter_count(network) == count + (1 + act)


def test_control_is_zero_at_initialisation() -> None:
    network = ScoreNetwork(flat_spec(5, 2), width=256, depth=3, steps=16, dt=0.1)
    assert (
        network(torch.randn(64, 2), torch.randn(64, 5), torch.tensor(3.0)).abs().max().item() < 1e-4
    )
    assert torch.nn.functional.softplus(network.dt_raw).item() == pytest.approx(0.1)
    assert torch.nn.functional.softplus(network.friction_raw).tolist() == pytest.approx([1, 1])


def test_first_layer_computed_once_is_exact() -> None:
    spec = PolicySpec(
        name="scaled",
        rate=50,
        observation=(
            ObservationTerm(name="a", kind="flat", unit="1", size=3, scale=0.5),
            ObservationTerm(name="b", kind="flat", unit="1", size=4, scale=2.0, clip=0.7),
        ),
        action=Action(kind="flat", size=2),
    )
    network = randomise(ScoreNetwork(spec, width=32, depth=3, steps=8, dt=0.1))
    obs = torch.randn(16, 7, dtype=torch.float64)
    noise = torch.randn(9, 16, 2, dtype=torch.float64)
    eta = network.step_sizes()
    plain = partial(diffusion.advance, lambda x, n: network(x, obs, n))
    slow = diffusion.generate(plain, network.step_index, noise, eta)
    torch.testing.assert_close(network.act(obs, noise), slow[-1].tanh(), rtol=0, atol=1e-12)
    sample = network.sample(obs, noise)
    torch.testing.assert_close(sample.latent, slow[-1], rtol=0, atol=1e-12)
    torch.testing.assert_close(
        sample.path_cost, diffusion.path_cost(slow, noise, eta), rtol=1e-12, atol=1e-12
    )


def test_observation_is_clipped_in_its_unit_then_scaled() -> None:
    spec = PolicySpec(
        name="scaled",
        rate=50,
        observation=(
            ObservationTerm(name="a", kind="flat", unit="rad/s", size=1, scale=0.1, clip=5.0),
        ),
        action=Action(kind="flat", size=1),
    )
    network = ScoreNetwork(spec, width=8, depth=1, steps=2, dt=0.1)
    got = network.scaled_observation(torch.tensor([[2.0], [7.0], [-9.0]]))
    assert got.flatten().tolist() == pytest.approx([0.2, 0.5, -0.5])


@pytest.mark.parametrize("rows", [4, 4096])
def test_gelu_is_the_same_function_everywhere(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.linspace(-9, 9, 8 * rows, dtype=torch.float64).reshape(rows, 8)
    expected = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    torch.testing.assert_close(gelu(x), expected, rtol=0, atol=1e-14)
    x.requires_grad_()
    torch.testing.assert_close(gelu(x).detach(), expected, rtol=0, atol=1e-14)
    (slope,) = torch.autograd.grad(gelu(x).sum(), x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(gelu(x).detach(), expected, rtol=0, atol=1e-14)
    (other,) = torch.autograd.grad(gelu(x).sum(), x)
    torch.testing.assert_close(slope, other, rtol=0, atol=1e-13)


def test_chain_in_blocks_is_the_chain() -> None:
    network = randomise(ScoreNetwork(flat_spec(5, 2), width=16, depth=2, steps=8, dt=0.1))
    obs, noise = torch.randn(4, 5).double(), torch.randn(9, 4, 2).double()
    whole = network.sample(obs, noise)
    network._block = 4
    for ours, expected in zip(network.sample(obs, noise), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-14)


# -- the Gaussian to compare with ----------------------------------------------------------------


def test_gaussian_bound_is_its_log_density() -> None:
    actor = randomise(GaussianActor(flat_spec(5, 3), width=16, depth=2))
    obs, noise = torch.randn(64, 5).double(), torch.randn(1, 64, 3).double()
    sample = actor.sample(obs, noise)
    mean, log_std = actor(obs)
    normal = torch.distributions.Normal(mean, log_std.exp())
    squash = torch.distributions.TanhTransform(cache_size=1)
    policy = torch.distributions.TransformedDistribution(normal, [squash])
    latent = mean + log_std.exp() * noise[0]
    expected = policy.log_prob(squash(latent)).sum(-1)
    torch.testing.assert_close(sample.bound, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sample.prior_term, diffusion.prior_term(noise))
    torch.testing.assert_close(actor.act(obs, noise), sample.action)


def test_gaussian_begins_as_one_policy_everywhere() -> None:
    actor = GaussianActor(flat_spec(5, 3), width=16, depth=2)
    mean, log_std = actor(torch.randn(8, 5))
    assert mean.abs().max() < 1e-5
    assert log_std.abs().max() < 1e-5


def test_configuration_chooses_the_actor_and_what_it_learns() -> None:
    spec = flat_spec(5, 2)
    gaussian = make_actor(spec, TrainConfig(actor="gaussian"))
    assert isinstance(gaussian, GaussianActor)
    for learned in (True, False):
        actor = make_actor(spec, TrainConfig(learn_step_size=learned))
        assert isinstance(actor, ScoreNetwork)
        assert actor.dt_raw.requires_grad == actor.friction_raw.requires_grad == learned
        assert actor.phase.requires_grad
