"""Critics that see more than the policy: their values depend on it, and no action does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dime_robot.learning.config import TrainConfig
from dime_robot.learning.dime import DIME
from dime_robot.learning.memory import memory_needed
from dime_robot.learning.replay_buffer import ReplayBuffer
from dime_robot.runtime.io.errors import InputError
from tests.learning.toy import flat_spec

CPU = torch.device("cpu")
OBS, MORE, ACT = 3, 2, 2


def agent(more: int, actor: str = "diffusion", n_step: int = 1) -> DIME:
    config = TrainConfig(
        actor=actor, actor_width=16, actor_depth=2, critic_width=16, diffusion_steps=4, atoms=11,
        batch_size=32, policy_delay=1, n_step=n_step, threads=1, num_envs=2,
    )  # fmt: skip
    return DIME(flat_spec(OBS, ACT), config, CPU, more)


def filled(more: int) -> ReplayBuffer:
    replay, random = ReplayBuffer(400, OBS + more, ACT, CPU, margin=0), np.random.default_rng(0)
    for _ in range(100):
        obs, following = random.normal(size=(2, 1, OBS + more))
        action, reward = random.uniform(-1, 1, (1, ACT)), random.normal(size=1)
        replay.add(obs, action, following, reward, np.array([False]))
    return replay


@pytest.mark.parametrize("actor", ["diffusion", "gaussian"])
@pytest.mark.parametrize("n_step", [1, 2])
def test_critics_see_it_and_the_policy_does_not(actor: str, n_step: int) -> None:
    plain, wide = agent(0, actor, n_step), agent(MORE, actor, n_step)
    for name, value in plain.actor.state_dict().items():  # no input for it, and the same draws
        assert torch.equal(value, wide.actor.state_dict()[name]), name
    replay = filled(MORE)
    for _ in range(20):
        wide.learn(replay, 2)
    assert wide.first_bad_parameter() is None
    for name, value in plain.actor.state_dict().items():
        assert value.shape == wide.actor.state_dict()[name].shape
    obs = replay.newest(40).obs
    changed = obs.clone()
    changed[:, OBS:] += 5.0
    action = replay.newest(40).action
    with torch.no_grad():
        assert (wide.q_values(obs, action) - wide.q_values(changed, action)).abs().min() > 1e-6
    state = wide.generator.get_state()
    first = wide.explore(obs[:2].numpy())
    wide.generator.set_state(state)
    assert np.array_equal(first, wide.explore(changed[:2].numpy()))


def test_a_policys_gradient_does_not_depend_on_it_but_through_the_critics() -> None:
    """With critics that ignore the privileged values, the actor's update is the same."""
    updated = []
    for shift in (0.0, 5.0):
        wide = agent(MORE)
        with torch.no_grad():
            wide.critic.norms[0].gain[:, :, OBS : OBS + MORE] = 0.0
        obs = filled(MORE).newest(32).obs.clone()
        obs[:, OBS:] += shift
        wide.actor_step(obs)
        updated.append(wide.actor.state_dict())
    for name, value in updated[0].items():
        assert torch.equal(value, updated[1][name]), name


def test_memory_is_counted_with_it() -> None:
    config = TrainConfig(buffer_size=1000)
    plain, wide = (memory_needed(config, OBS, ACT, more) for more in (0, MORE))
    assert wide["--buffer-size"] - plain["--buffer-size"] == 1000 * 2 * MORE * 4
    extra = 2 * MORE * config.critic_width * 16  # both critics; a weight, gradient and moments
    assert wide["--critic-width"] - plain["--critic-width"] == extra
    assert wide["--actor-width"] == plain["--actor-width"]


def test_weights_are_taken_without_critics_of_other_inputs() -> None:
    plain, wide = agent(0), agent(MORE)
    wide.learn(filled(MORE), 2)
    state, fresh = wide.state_dict(), plain.critic.state_dict()["weights.0"].clone()
    with pytest.raises(InputError, match=r"critic.* its networks are not those"):
        plain.load_weights(state)
    plain.load_weights(state, critics=False)
    assert torch.equal(plain.critic.state_dict()["weights.0"], fresh)
    for name, value in state.actor.items():
        assert torch.equal(plain.actor.state_dict()[name], value)
    assert torch.equal(plain.log_alpha, state.log_alpha)
