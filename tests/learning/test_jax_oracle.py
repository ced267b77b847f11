"""An independent implementation in JAX: same weights and noise, same losses and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from dime_robot.learning.diffusion import cosine_weights
from dime_robot.learning.dime import DIME
from dime_robot.learning.replay_buffer import Batch
from dime_robot.training.presets import preset_config
from tests.learning.toy import flat_spec

jax = pytest.importorskip("jax", reason="needs the extra `bench`")
OBS, ACT, B = 5, 2, 64


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Both compute in float64, where a difference is a mistake and not a rounding."""
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(torch.float32)


def make_agent(**changes: Any) -> DIME:
    settings = {"v_min": -20.0, "v_max": 20.0, "diffusion_steps": 16, "alpha_init": 0.7, **changes}
    config = preset_config("tiny", "Some-v0").model_copy(update=settings)
    agent = DIME(flat_spec(OBS, ACT), config, torch.device("cpu"))
    agent.actor.double()
    agent.critic.double()
    generator = torch.Generator().manual_seed(3)
    agent.actor.weights.copy_(cosine_weights(agent.actor.steps))  # not those rounded to float32
    with torch.no_grad():  # away from the flat start, where a mistake could hide
        for module in (agent.actor, agent.critic):
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for norm in agent.critic.norms:
            norm.running_mean.normal_(generator=generator)
            norm.running_var.uniform_(0.5, 2.0, generator=generator)
    return agent


def make_batch() -> Batch:
    draw = np.random.default_rng(1)
    columns = (
        draw.normal(size=(B, OBS)),
        np.tanh(draw.normal(size=(B, ACT))),
        draw.normal(size=(B, OBS)),
        5 * draw.normal(size=B),
        (draw.uniform(size=B) < 0.2) * 1.0,
    )
    return Batch(*(torch.tensor(column) for column in columns))


def same(ours: torch.Tensor, theirs: Any) -> None:
    theirs = torch.tensor(np.asarray(theirs))
    assert theirs.dtype == torch.float64
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("warmup", [10, 0], ids=["batch statistics", "renormalised"])
def test_critic_loss_and_gradients(warmup: int) -> None:
    from benchmarks.jax_dime import JaxDIME, Transitions

    agent, batch = make_agent(renorm_warmup=warmup), make_batch()
    theirs = JaxDIME(agent.config, ACT)
    state = theirs.begin(agent)
    noise = agent.noise(B)
    with torch.no_grad():
        sample = agent.actor.sample(batch.next_obs, noise)
    action, path_cost, prior = theirs.sample(state.actor, batch.next_obs.numpy(), noise.numpy())
    same(sample.action, action)
    same(sample.path_cost, path_cost)
    same(sample.prior_term, prior)

    loss, _, statistics = agent.critic_loss(batch, sample.action, sample.bound)
    gradients = torch.autograd.grad(loss, list(agent.critic.parameters()))
    agent.critic.absorb(statistics)
    named = dict(zip((n for n, _ in agent.critic.named_parameters()), gradients, strict=True))
    columns = Transitions(*(column.numpy() for column in batch))
    (their_loss, stats), their = jax.value_and_grad(theirs.critic_loss, has_aux=True)(
        state.critic, state.stats, state.log_alpha, columns, action, path_cost + prior
    )
    same(loss.detach(), their_loss)
    for i in range(3):
        same(named[f"weights.{i}"], their["weights"][i])
        same(named[f"biases.{i}"], their["biases"][i])
        same(named[f"norms.{i}.gain"], their["gains"][i])
        same(named[f"norms.{i}.bias"], their["offsets"][i])
        same(agent.critic.norms[i].running_mean, stats["mean"][i])  # type: ignore[arg-type]
        same(agent.critic.norms[i].running_var, stats["var"][i])  # type: ignore[arg-type]


def test_actor_loss_and_gradients() -> None:
    from benchmarks.jax_dime import JaxDIME

    agent, batch = make_agent(), make_batch()
    theirs = JaxDIME(agent.config, ACT)
    state = theirs.begin(agent)
    noise = agent.noise(B)
    sample = agent.actor.sample(batch.obs, noise)
    loss, *_ = agent.actor_loss(batch.obs, sample)
    gradients = torch.autograd.grad(loss, agent.actor_parameters)
    named = dict(zip((n for n, _ in agent.actor.named_parameters()), gradients, strict=True))
    (their_loss, path_cost), their = jax.value_and_grad(theirs.actor_loss, has_aux=True)(
        state.actor, state.critic, state.stats, state.log_alpha, batch.obs.numpy(), noise.numpy()
    )
    same(loss.detach(), their_loss)
    same(sample.path_cost.detach().mean(), path_cost)
    for name in ("dt_raw", "friction_raw", "phase"):
        same(named[name], their[name])
    for name, layers in (("time_mlp", their["time"]), ("trunk", their["trunk"])):
        for i, (weight, bias) in enumerate(layers):
            same(named[f"{name}.{i}.weight"], np.asarray(weight).T)
            same(named[f"{name}.{i}.bias"], bias)
    same(named["output.weight"], np.asarray(their["output"][0]).T)
    same(named["output.bias"], their["output"][1])
