"""Losses and update: the categorical target, the joint pass, the temperature, the gradients."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dime_robot.learning.config import TrainConfig
from dime_robot.learning.dime import DIME, project
from dime_robot.learning.metrics import metrics
from dime_robot.learning.replay_buffer import Batch
from dime_robot.runtime.io.errors import InputError
from dime_robot.training.presets import preset_config
from tests.learning.toy import flat_spec

OBS, ACT, B = 5, 2, 32
SUPPORT = torch.linspace(-10, 10, 21, dtype=torch.float64)


def make_agent(**changes: Any) -> DIME:
    settings = {"threads": 0, "v_min": -20.0, "v_max": 20.0, **changes}
    config = preset_config("tiny", "Some-v0").model_copy(update=settings)
    return DIME(flat_spec(OBS, ACT), config, torch.device("cpu"))


def as_double(agent: DIME) -> DIME:
    agent.actor.double()
    agent.critic.double()
    agent.support = agent.support.double()
    agent.log_alpha = agent.log_alpha.detach().double().requires_grad_()
    generator = torch.Generator().manual_seed(3)  # of its own: the order of tests must not matter
    for parameter in agent.actor.parameters():  # away from the flat start
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return agent


def make_batch(size: int = B, dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    return Batch(
        normal(size, OBS),
        torch.tanh(normal(size, ACT)),
        normal(size, OBS),
        normal(size),
        (normal(size) > 1).to(dtype),
    )


# -- categorical projection ----------------------------------------------------------------------


def brute_force(probs: Tensor, atoms: Tensor) -> Tensor:
    """Every target atom takes max(0, 1 - distance / spacing) of every moved atom's mass."""
    distance = (atoms.clamp(-10, 10)[:, None] - SUPPORT).abs()
    return (probs[:, None] * (1 - distance).clamp_min(0)).sum(0)


@settings(deadline=None)
@given(shift=st.floats(-30, 30), factor=st.floats(0, 1), seed=st.integers(0, 99))
def test_projection_matches_its_definition(shift: float, factor: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(21, generator=generator, dtype=torch.float64)
    probs = probs / probs.sum()
    atoms = shift + factor * SUPPORT
    got = project(probs, atoms, SUPPORT)
    torch.testing.assert_close(got, brute_force(probs, atoms), rtol=0, atol=1e-12)
    assert got.sum().item() == pytest.approx(1, abs=1e-12)
    if shift + 10 * factor <= 10 and shift - 10 * factor >= -10:
        assert (got @ SUPPORT).item() == pytest.approx((probs @ atoms).item(), abs=1e-9)


@pytest.mark.parametrize("value", [-10.0, -9.5, 0.0, 3.0, 9.0, 10.0, 99.0])
def test_projection_of_one_atom(value: float) -> None:
    probs = torch.zeros(21, dtype=torch.float64)
    probs[4] = 1
    got = project(probs, torch.full((21,), value, dtype=torch.float64), SUPPORT)
    assert (got @ SUPPORT).item() == pytest.approx(min(value, 10.0))


def test_target_subtracts_the_bound_and_stops_at_termination() -> None:
    agent = make_agent(alpha_init=0.5)
    reward, bound = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0])
    atoms = agent.target_atoms(reward, torch.tensor([0.0, 1.0]), bound)
    expected = 1 + 0.99 * (agent.support - 0.5 * 3)
    torch.testing.assert_close(atoms[0], expected)
    torch.testing.assert_close(atoms[1], torch.ones_like(agent.support))


# -- critic --------------------------------------------------------------------------------------


def test_next_half_is_a_constant_that_shares_its_statistics() -> None:
    """Its output gives no gradient; through the joint batch statistics it does matter."""
    agent = as_double(make_agent(critic_entropy=0.0))
    batch = make_batch(dtype=torch.float64)
    action, bound = torch.zeros(B, ACT, dtype=torch.float64), torch.zeros(B, dtype=torch.float64)
    parameters = list(agent.critic.parameters())
    got = torch.autograd.grad(agent.critic_loss(batch, action, bound)[0], parameters)

    logits, _ = agent.critic.training_pass(
        torch.cat([batch.obs, batch.next_obs]), torch.cat([batch.action, action])
    )
    probs = logits[:, B:].softmax(-1).detach()
    atoms = agent.target_atoms(batch.reward, batch.terminated, bound)
    target = project(probs, atoms.expand_as(probs), agent.support).mean(0)
    loss = -(target * logits[:, :B].log_softmax(-1)).sum(-1).mean(-1).sum()
    expected = torch.autograd.grad(loss, parameters)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)

    alone, _ = agent.critic.training_pass(batch.obs, batch.action)
    assert (alone - logits[:, :B]).abs().max() > 1e-3


def test_entropy_bonus_flattens_the_prediction() -> None:
    """With only the bonus in the loss, a step raises the predicted entropy."""
    agent = as_double(make_agent(critic_entropy=1e6))
    batch = make_batch(dtype=torch.float64)
    zeros = torch.zeros(B, ACT, dtype=torch.float64), torch.zeros(B, dtype=torch.float64)

    def entropy() -> float:
        probs = agent.critic.training_pass(batch.obs, batch.action)[0].softmax(-1)
        return -(probs * probs.log()).sum(-1).mean().item()

    before = entropy()
    gradients = torch.autograd.grad(
        agent.critic_loss(batch, *zeros)[0], list(agent.critic.parameters())
    )
    with torch.no_grad():
        for parameter, gradient in zip(agent.critic.parameters(), gradients, strict=True):
            parameter -= 1e-9 * gradient
    assert entropy() > before


def test_critic_learns_a_known_return() -> None:
    """Reward 1 and termination everywhere: both values go to 1."""
    agent = make_agent()
    batch = make_batch(128)._replace(reward=torch.ones(128), terminated=torch.ones(128))
    for _ in range(300):
        agent.critic_step(batch)
    values = agent.q_values(batch.obs, batch.action).mean(dim=1)
    assert values.tolist() == pytest.approx([1, 1], abs=0.3)


# -- actor and temperature -----------------------------------------------------------------------


def test_actor_gradient_against_finite_differences() -> None:
    agent = as_double(make_agent(alpha_init=0.7))
    batch = make_batch(dtype=torch.float64)
    shape = (agent.config.diffusion_steps + 1, B, ACT)
    noise = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss() -> Tensor:
        return agent.actor_loss(batch.obs, agent.actor.sample(batch.obs, noise))[0]

    actor = agent.actor
    checked = {
        "dt_raw": (actor.dt_raw, ()),
        "friction_raw": (actor.friction_raw, (1,)),
        "phase": (actor.phase, (3,)),
        "first": (actor.trunk[0].weight, (2, 1)),
        "output": (actor.output.weight, (1, 5)),
        "time": (actor.time_mlp[0].weight, (4, 7)),
    }
    gradients = torch.autograd.grad(loss(), [p for p, _ in checked.values()])
    for (name, (parameter, index)), gradient in zip(checked.items(), gradients, strict=True):
        with torch.no_grad():
            step, values = 1e-5, []
            for sign in (1, -1):
                parameter[index] += sign * step
                values.append(loss().item())
                parameter[index] -= sign * step
        numeric = (values[0] - values[1]) / (2 * step)
        assert gradient[index].item() == pytest.approx(numeric, rel=1e-5, abs=1e-8), name


def test_actor_step_leaves_the_critic_alone() -> None:
    agent = make_agent()
    before = {name: value.clone() for name, value in agent.critic.state_dict().items()}
    agent.actor_step(make_batch().obs)
    for name, value in agent.critic.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in agent.critic.parameters())


@pytest.mark.parametrize(("cost", "sign"), [(5.0, 1), (3.0, -1)])
def test_alpha_rises_while_the_path_cost_is_above_four_per_dimension(
    cost: float, sign: int
) -> None:
    agent = make_agent(alpha_lr=1e-3)
    before = agent.log_alpha.item()
    agent.temperature_loss(torch.full((B,), cost * ACT)).backward()
    agent.temperature_optimizer.step()
    assert agent.log_alpha.item() - before == pytest.approx(sign * 1e-3, rel=1e-3)


def test_actor_gradients_are_clipped_elementwise_and_nan_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = make_agent(alpha_init=1e6)
    original = torch.autograd.grad

    def one_nan(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        gradients = original(*args, **kwargs)
        gradients[0].view(-1)[0] = torch.nan
        monkeypatch.setattr(torch.autograd, "grad", original)  # the temperature's stays
        return gradients

    monkeypatch.setattr(torch.autograd, "grad", one_nan)
    agent.actor_step(make_batch().obs)
    gradients = torch.cat([p.grad.flatten() for p in agent.actor_parameters])  # type: ignore[union-attr]
    assert gradients[0].item() == 0.0
    assert gradients.abs().max().item() == 1.0
    assert (gradients.abs() < 1).any()


# -- the update ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "expected"), [(0, [3, 6, 9, 12]), (6, [9, 12])])
def test_policy_delay_counts_critic_updates_from_one(start: int, expected: list[int]) -> None:
    agent = make_agent(actor_start=start)
    seen: list[int] = []
    actor_step, counted = agent.actor_step, agent._updates
    agent.actor_step = lambda obs: (seen.append(int(counted)), actor_step(obs))[1]  # type: ignore[method-assign,assignment,func-returns-value]
    for _ in range(6):
        agent.update(make_batch(64))
    assert agent.updates == counted == 12
    assert seen == expected


def test_optimisers_are_the_authors() -> None:
    agent = DIME(flat_spec(3, 1), TrainConfig(actor_width=8, critic_width=8), torch.device("cpu"))
    for optimizer, lr, betas in (
        (agent.actor_optimizer, 3e-4, (0.5, 0.999)),
        (agent.critic_optimizer, 3e-4, (0.5, 0.999)),
        (agent.temperature_optimizer, 1e-3, (0.9, 0.999)),
    ):
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["eps"]) == (lr, betas, 1e-8)
        assert group["weight_decay"] == 0
    assert agent.path_cost_target == 4.0
    assert agent.alpha.item() == 1.0


def test_all_actor_parameters_are_trained() -> None:
    agent = as_double(make_agent())
    batch = make_batch(dtype=torch.float64)
    drawn = torch.Generator().manual_seed(2)
    noise = torch.randn(9, B, ACT, dtype=torch.float64, generator=drawn)
    loss, _ = agent.actor_loss(batch.obs, agent.actor.sample(batch.obs, noise))
    for name, gradient in zip(
        dict(agent.actor.named_parameters()),
        torch.autograd.grad(loss, agent.actor_parameters),
        strict=True,
    ):
        assert gradient.abs().max() > 0, name


def test_update_repeats_exactly_after_a_state_round_trip() -> None:
    first, second = make_agent(), make_agent(seed=3)
    batch = make_batch(64)
    first.update(batch)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(3):
        first.update(batch)
        second.update(batch)
    for ours, theirs in (
        (first.actor, second.actor),
        (first.critic, second.critic),
    ):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    assert first.log_alpha.item() == second.log_alpha.item()


def test_first_bad_update_is_remembered() -> None:
    agent = make_agent()
    agent.update(make_batch(64))
    assert agent.first_bad_update.item() == -1
    bad = make_batch(64)
    bad.reward[3] = torch.nan
    agent.update(bad)
    agent.update(make_batch(64))
    assert agent.first_bad_update.item() == 3


def test_metrics_are_finite_and_the_prior_term_is_its_constant() -> None:
    agent = make_agent()
    agent.update(make_batch(64))
    agent.update(make_batch(1024))
    values = metrics(agent)
    assert all(torch.isfinite(torch.tensor(value)) for value in values.values())
    assert values["temperature/prior_term"] == pytest.approx(-2.3352 * ACT, abs=0.3)
    assert 0 <= values["critic/clipped_mass"] <= 1
    narrow = make_agent(v_min=-0.01, v_max=0.01)
    narrow.update(make_batch(64))
    assert metrics(narrow)["critic/clipped_mass"] > 0.5


def test_a_state_from_another_kind_of_device_is_one_sentence() -> None:
    agent = make_agent()
    gpus = torch.zeros(16, dtype=torch.uint8)
    state = dataclasses.replace(agent.state_dict(), generator=gpus)
    with pytest.raises(InputError, match="another kind of device than cpu: resume it there"):
        agent.load_state_dict(state)
