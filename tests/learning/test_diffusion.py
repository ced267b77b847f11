"""The sampler and its entropy bound against closed forms, in float64 where they are exact."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dime_robot.learning import diffusion
from tests.learning.toy import ToySampler, mixture

N, DT = 16, 0.1


def steps(n: int = N, dt: float = DT, dims: int = 1) -> Tensor:
    dt_raw = torch.tensor(diffusion.inverse_softplus(dt), dtype=torch.float64)
    friction_raw = torch.full((dims,), diffusion.inverse_softplus(1.0), dtype=torch.float64)
    return diffusion.step_sizes(dt_raw, friction_raw, diffusion.cosine_weights(n))


def chain(control: diffusion.Score, noise: Tensor, eta: Tensor) -> Tensor:
    index = torch.arange(len(eta), dtype=torch.float64)
    return diffusion.generate(partial(diffusion.advance, control), index, noise, eta)


def uncontrolled(samples: int, dims: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((N + 1, samples, dims), generator=generator, dtype=torch.float64)
    eta = steps(dims=dims)
    return chain(lambda x, n: torch.zeros_like(x), noise, eta), noise, eta


def test_cosine_weights_are_the_published_schedule() -> None:
    table = [
        *(0.9998, 0.9880, 0.9577, 0.9101, 0.8470, 0.7708, 0.6844, 0.5911),
        *(0.4943, 0.3977, 0.3050, 0.2198, 0.1451, 0.0839, 0.0384, 0.0104),
    ]
    weights = diffusion.cosine_weights(16)
    assert weights.tolist() == pytest.approx(table, abs=5.1e-5)
    sums = {2: 1.494, 4: 2.486, 8: 4.472, 16: 8.444, 32: 16.388}
    for n, total in sums.items():
        assert diffusion.cosine_weights(n).sum().item() == pytest.approx(total, abs=5.1e-4)


def test_initial_step_sizes() -> None:
    eta = steps()
    assert torch.sqrt(2 * eta[0]).item() == pytest.approx(0.447, abs=5e-4)
    assert torch.sqrt(2 * eta[-1]).item() == pytest.approx(0.0457, abs=5e-5)
    assert torch.prod(1 - eta / 6.25).item() == pytest.approx(0.873, abs=5e-4)


def test_kernel_identity_without_control() -> None:
    latents, noise, eta = uncontrolled(400_000)
    ratio = -diffusion.log_kernel_ratio(latents, noise, eta)  # log b - log p
    assert ratio.std().item() == pytest.approx(0.486, abs=0.005)
    assert ratio.mean().item() == pytest.approx(0.00071, abs=4 * 0.486 / math.sqrt(400_000))
    assert latents[-1].std().item() == pytest.approx(2.5018, abs=4 * 2.5 / math.sqrt(800_000))


def test_bound_without_control_matches_its_closed_form() -> None:
    dims = 3
    latents, noise, eta = uncontrolled(400_000, dims)
    cost = diffusion.path_cost(latents, noise, eta)
    prior = diffusion.prior_term(noise)
    for value, expected in ((cost, 2.8568), (prior, -2.3352), (cost + prior, 0.5215)):
        error = 4 * value.std().item() / math.sqrt(len(value))
        assert value.mean().item() == pytest.approx(expected * dims, abs=error + 2e-4 * dims)


def test_initial_policy_is_the_squashed_prior() -> None:
    latents, _, _ = uncontrolled(400_000)
    action = torch.tanh(latents[-1]).abs()
    assert (action > 0.99).double().mean().item() == pytest.approx(0.29, abs=0.01)
    assert (action > 0.9).double().mean().item() == pytest.approx(0.56, abs=0.01)


def test_log_ratio_is_the_difference_of_two_normal_densities() -> None:
    torch.manual_seed(0)
    dims = 4
    dt_raw = torch.randn((), dtype=torch.float64)
    friction_raw = torch.randn(dims, dtype=torch.float64)
    eta = diffusion.step_sizes(dt_raw, friction_raw, diffusion.cosine_weights(N))
    noise = torch.randn(N + 1, 32, dims, dtype=torch.float64)
    weight = torch.randn(dims, dims, dtype=torch.float64)

    def control(x: Tensor, n: Tensor) -> Tensor:
        return torch.sin(x @ weight + n)

    latents = chain(control, noise, eta)
    expected = torch.zeros(32, dtype=torch.float64)
    for n in range(N):
        x, y, std = latents[n], latents[n + 1], torch.sqrt(2 * eta[n])
        forward = torch.distributions.Normal(
            x + eta[n] * (-x / 6.25 + control(x, torch.tensor(float(n)))), std
        )
        backward = torch.distributions.Normal(y * (1 - eta[n] / 6.25), std)
        expected += (forward.log_prob(y) - backward.log_prob(x)).sum(-1)
    got = diffusion.log_kernel_ratio(latents, noise, eta)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_tanh_log_det_is_the_derivative() -> None:
    x = torch.linspace(-8, 8, 101, dtype=torch.float64)[:, None]
    expected = torch.log1p(-torch.tanh(x).square()).squeeze(1)
    torch.testing.assert_close(diffusion.tanh_log_det(x), expected, rtol=1e-8, atol=1e-8)
    assert torch.isfinite(diffusion.tanh_log_det(torch.tensor([[60.0]]))).all()


def test_prior_term_is_the_prior_density() -> None:
    noise = torch.randn(2, 5, 3, dtype=torch.float64)
    expected = torch.distributions.Normal(0, 2.5).log_prob(2.5 * noise[0]).sum(-1)
    torch.testing.assert_close(diffusion.prior_term(noise), expected)


# -- the bound on bandits with a known normaliser ------------------------------------------------


@pytest.mark.parametrize("trained", [0, 300])
def test_bound_never_exceeds_the_log_normaliser(trained: int) -> None:
    """log Z - E[log target - C] >= 0 for any network, and >= KL of the action marginal."""
    target = mixture((0.3, 0.4, 0.12), (0.7, -0.4, 0.12))
    toy = ToySampler.new(target, steps=8)
    toy.train(trained)
    with torch.no_grad():
        action, cost = toy.draw(100_000, torch.Generator().manual_seed(3))
    error = 3 * cost.std().item() / math.sqrt(len(cost))
    counts = torch.histc(action, bins=200, min=-1, max=1).double()
    mass = counts / counts.sum()
    centres = torch.linspace(-1, 1, 401, dtype=torch.float64)[1::2]
    expected = target(centres[:, None]) + math.log(0.01)
    seen = mass > 0
    divergence = (mass[seen] * (mass[seen].log() - expected[seen])).sum().item()
    assert cost.mean().item() >= -error
    assert cost.mean().item() >= divergence - error - 0.02  # 0.02: bins of 0.01


def test_uniform_target_has_log_normaliser_log_two() -> None:
    """Q = 0: E[-C] <= log 2 per dimension."""
    latents, noise, eta = uncontrolled(200_000, dims=2)
    bound = -(diffusion.path_cost(latents, noise, eta) + diffusion.prior_term(noise))
    error = 3 * bound.std().item() / math.sqrt(len(bound))
    assert bound.mean().item() <= 2 * math.log(2) + error


@pytest.mark.slow
def test_trained_sampler_reaches_the_computed_optimum() -> None:
    """N(.3, .1), N = 8, dt .3, phi 1: the best possible gap is 1.94 +- .02 nat."""
    toy = ToySampler.new(mixture((1.0, 0.3, 0.1)), steps=8, dt=0.3)
    toy.train(2000, freeze_step_sizes=True)
    gap, _ = toy.gap()
    assert F.softplus(toy.network.dt_raw).item() == pytest.approx(0.3)
    assert 1.89 <= gap <= 2.24


@pytest.mark.slow
def test_trained_sampler_keeps_both_modes_and_grows_dt() -> None:
    toy = ToySampler.new(mixture((0.5, 0.5, 0.1), (0.5, -0.5, 0.1)), steps=16)
    toy.train(4000)
    _, action = toy.gap()
    right = (action > 0).float().mean().item()
    assert 0.1 < right < 0.9
    assert F.softplus(toy.network.dt_raw).item() > 0.12
