"""The critics and their batch renormalisation against the definitions, written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.plain_dime import PlainBatchRenorm
from dime_robot.learning.critic import BatchRenorm, BatchStatistics, DistributionalCritic
from dime_robot.learning.networks import parameter_count

COLD, WARM = torch.tensor(False), torch.tensor(True)


def test_critic_size_is_the_published_one() -> None:
    critic = DistributionalCritic(67 + 21, widths=[2048, 2048], atoms=101, warmup=0)
    assert 4.5e6 < parameter_count(critic) / 2 < 5.3e6


# -- batch renormalisation -----------------------------------------------------------------------


def make_norm(channels: int = 6) -> tuple[BatchRenorm, Tensor]:
    torch.manual_seed(0)
    norm = BatchRenorm(2, channels).double()
    with torch.no_grad():
        norm.gain.normal_()
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    x = torch.randn(2, 64, channels, dtype=torch.float64) * 1.5 + 0.7
    return norm, x


def test_cold_renorm_is_batch_norm_with_biased_variance() -> None:
    norm, x = make_norm()
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    before = norm.running_mean.clone(), norm.running_var.clone()
    expected = norm.gain * (x - mean) / torch.sqrt(var + 1e-3) + norm.bias
    normalised, statistics = norm.training_pass(x, COLD)
    torch.testing.assert_close(normalised, expected)
    torch.testing.assert_close(norm.running_mean, before[0], rtol=0, atol=0)  # only read so far
    norm.absorb(statistics)
    torch.testing.assert_close(norm.running_mean, 0.99 * before[0] + 0.01 * mean)
    torch.testing.assert_close(norm.running_var, 0.99 * before[1] + 0.01 * var)


def test_warm_renorm_with_r_1_and_d_0_is_batch_norm() -> None:
    norm, x = make_norm()
    with torch.no_grad():
        norm.running_mean.copy_(x.mean(1, keepdim=True))
        norm.running_var.copy_(x.var(1, keepdim=True, correction=0))
    other, _ = make_norm()
    torch.testing.assert_close(norm.training_pass(x, WARM)[0], other.training_pass(x, COLD)[0])


def test_warm_renorm_inside_its_limits_normalises_by_running_statistics() -> None:
    norm, x = make_norm()
    torch.testing.assert_close(norm.training_pass(x, WARM)[0], norm(x), rtol=0, atol=1e-2)


def test_warm_renorm_clips_r_and_d() -> None:
    """Against the definition, written out, with statistics far from the running ones."""
    norm, x = make_norm()
    x = 20 * x + 100
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    std = torch.sqrt(norm.running_var + 1e-3)
    r = (torch.sqrt(var + 1e-3) / std).clamp(1 / 3, 3)
    d = ((mean - norm.running_mean) / std).clamp(-5, 5)
    assert (r == 3).any()
    assert (d == 5).any()
    new_mean, new_var = mean - d * torch.sqrt(var) / r, var / r**2
    expected = norm.gain * (x - new_mean) / torch.sqrt(new_var + 1e-3) + norm.bias
    torch.testing.assert_close(norm.training_pass(x, WARM)[0], expected)


def test_evaluation_uses_running_statistics_and_moves_nothing() -> None:
    norm, x = make_norm()
    before = norm.running_mean.clone()
    expected = norm.gain * (x - norm.running_mean) / torch.sqrt(norm.running_var + 1e-3) + norm.bias
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm.running_mean, before)


def test_gradient_flows_through_batch_statistics() -> None:
    """The mean of a batch-normalised column is constant, so its gradient vanishes."""
    norm, x = make_norm()
    x.requires_grad_()
    for warm in (COLD, WARM):
        (gradient,) = torch.autograd.grad(norm.training_pass(x, warm)[0][:, 0].sum(), x)
        assert gradient[:, 1:].abs().max() > 1e-6  # rows 1.. matter only through the statistics


@pytest.mark.parametrize("warm", [COLD, WARM])
@pytest.mark.parametrize("spread", [1.0, 20.0], ids=["inside r and d", "beyond them"])
def test_gradient_in_closed_form_is_that_of_the_definition(warm: Tensor, spread: float) -> None:
    norm, x = make_norm()
    x = (spread * x).requires_grad_()
    weight = torch.randn_like(x)
    inputs = [x, norm.gain, norm.bias]
    state = copy.deepcopy(norm.state_dict())
    got = torch.autograd.grad((norm.training_pass(x, warm)[0] * weight).sum(), inputs)
    for member in range(2):
        plain = PlainBatchRenorm(x.shape[2]).double()
        plain.load_state_dict({name: value[member, 0] for name, value in state.items()})
        rows = x[member].detach().requires_grad_()
        loss = (plain(rows, bool(warm)) * weight[member]).sum()
        expected = torch.autograd.grad(loss, [rows, plain.gain, plain.bias])
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours[member].squeeze(0), theirs, rtol=1e-10, atol=1e-10)


def test_constant_input_gives_finite_gradients() -> None:
    norm, x = make_norm()
    x = torch.ones_like(x).requires_grad_()
    (gradient,) = torch.autograd.grad(norm.training_pass(x, WARM)[0].square().sum(), x)
    assert torch.isfinite(gradient).all()


def test_warm_up_counts_training_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    critic = DistributionalCritic(3, widths=[8], atoms=5, warmup=2)
    obs, action = torch.randn(16, 2), torch.randn(16, 1)
    seen: list[bool] = []
    corrections = BatchRenorm.corrections

    def record(batch: BatchStatistics, running: BatchStatistics, warm: Tensor) -> Any:
        seen.append(bool(warm))
        return corrections(batch, running, warm)

    monkeypatch.setattr(BatchRenorm, "corrections", record)
    critic(obs, action)
    for _ in range(4):
        critic.absorb(critic.training_pass(obs, action)[1])
    assert seen == [False] * 2 * 2 + [True] * 2 * 2  # two layers each


def test_critics_are_independent() -> None:
    critic = DistributionalCritic(3, widths=[8, 8], atoms=5, warmup=0)
    logits, _ = critic.training_pass(torch.randn(16, 2), torch.randn(16, 1))
    gradients = torch.autograd.grad(logits[0].square().sum(), list(critic.parameters()))
    for gradient in gradients:
        assert gradient[1].abs().max() == 0


def test_critic_is_the_plain_sequence_of_layers() -> None:
    torch.manual_seed(0)
    critic = DistributionalCritic(3, widths=[8, 6], atoms=5, warmup=100).double()
    obs = torch.randn(32, 2, dtype=torch.float64)
    action = torch.randn(32, 1, dtype=torch.float64)
    logits, _ = critic.training_pass(obs, action)
    for member in range(2):
        hidden = torch.cat([obs, action], -1)
        for i, (weight, bias) in enumerate(zip(critic.weights, critic.biases, strict=True)):
            mean, var = hidden.mean(0), hidden.var(0, correction=0)
            hidden = (hidden - mean) / torch.sqrt(var + 1e-3)
            hidden = hidden @ weight[member] + bias[member]
            if i < 2:
                hidden = torch.relu(hidden)
        torch.testing.assert_close(logits[member], hidden)
