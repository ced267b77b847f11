"""Mirrored transitions: the right rows, half of them, and a policy that is its own mirror image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dime_robot.learning.config import TrainConfig
from dime_robot.learning.dime import DIME
from dime_robot.learning.replay_buffer import Batch, ReplayBuffer
from dime_robot.learning.symmetry import BatchMirror
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.config.symmetry import Mirror, mirror
from tests.learning.toy import flat_spec

CPU = torch.device("cpu")
CONFIG, _ = load_robot_task("go2-wide")
assert CONFIG.symmetry is not None
GO2 = mirror(CONFIG.policy, CONFIG.symmetry)


def batch_mirror(image: Mirror) -> BatchMirror:
    return BatchMirror(
        image.observation_index, image.observation_sign, image.action_index, image.action_sign, CPU
    )


def go2_batch(size: int) -> Batch:
    random = torch.Generator().manual_seed(3)
    widths = (CONFIG.policy.n_obs, CONFIG.policy.n_act, CONFIG.policy.n_obs)
    columns = [torch.randn(size, width, generator=random) for width in widths]
    reward, terminated = torch.randn(2, size, generator=random)
    return Batch(*columns, reward, terminated)


def test_mirrored_rows_are_those_of_the_robots_mirror_image() -> None:
    batch, image = go2_batch(4000), batch_mirror(GO2)
    got = image(batch, torch.Generator().manual_seed(5))
    expected = (
        GO2.observation(batch.obs.numpy()),
        GO2.action(batch.action.numpy()),
        GO2.observation(batch.next_obs.numpy()),
    )
    changed = (got.obs != batch.obs).any(dim=1).numpy()
    for given, mine, its in zip(batch[:3], got[:3], expected, strict=True):
        np.testing.assert_array_equal(mine[changed], its[changed].astype(np.float32))
        np.testing.assert_array_equal(mine[~changed], given[~changed])
    assert torch.equal(got.reward, batch.reward)
    assert torch.equal(got.terminated, batch.terminated)
    assert changed.mean() == pytest.approx(0.5, abs=0.03)


def test_two_mirrors_are_none() -> None:
    """With the same draws the same rows are mirrored back."""
    batch, image = go2_batch(100), batch_mirror(GO2)
    once = image(batch, torch.Generator().manual_seed(5))
    twice = image(once, torch.Generator().manual_seed(5))
    assert not torch.equal(once.obs, batch.obs)
    for given, back in zip(batch, twice, strict=True):
        assert torch.equal(given, back)


LEFT_RIGHT = Mirror(np.array([0, 1]), np.array([-1.0, 1.0]), np.array([0]), np.array([-1.0]))


def one_sided_agent(mirrored: bool, n_step: int = 1) -> tuple[DIME, ReplayBuffer]:
    """Data of one side only: s[0] in [0.2, 1], where the best action is 0.6."""
    config = TrainConfig(
        actor="gaussian", actor_width=32, actor_depth=2, critic_width=32, atoms=21, batch_size=64,
        v_min=-3.0, v_max=1.0, actor_lr=1e-2, critic_lr=1e-2, renorm_warmup=10_000, threads=1,
        alpha_init=0.01, alpha_lr=0.0, update_to_data=1, policy_delay=1, n_step=n_step,
    )  # fmt: skip
    image = batch_mirror(LEFT_RIGHT) if mirrored else None
    agent = DIME(flat_spec(2, 1), config, CPU, mirror=image)
    replay, random = ReplayBuffer(2000, 2, 1, CPU, margin=0), np.random.default_rng(0)
    for _ in range(1000):
        obs, action = random.uniform([0.2, -1], 1, (1, 2)), random.uniform(-1, 1, (1, 1))
        reward = -((action[:, 0] - 0.6) ** 2)
        replay.add(obs, action, obs, reward, np.array([True]))
    return agent, replay


def test_a_policy_of_one_sided_data_acts_mirrored_on_the_other_side() -> None:
    other_side = torch.tensor([[-0.6, 0.0]]).expand(200, -1)
    means = {}
    for mirrored in (True, False):
        agent, replay = one_sided_agent(mirrored)
        for _ in range(100):
            agent.learn(replay, 1)
        means[mirrored] = float(agent.act(other_side).mean())
        assert float(agent.act(-other_side).mean()) == pytest.approx(0.6, abs=0.2)
    assert means[True] == pytest.approx(-0.6, abs=0.2)
    assert means[False] > -0.2  # it has never seen that side


@pytest.mark.parametrize("n_step", [1, 3])
def test_only_with_the_option_a_number_is_drawn_for_each_row(n_step: int) -> None:
    def drawn(mirrored: bool) -> torch.Generator:
        agent, replay = one_sided_agent(mirrored, n_step)
        agent._sample(replay, 2)
        return agent.generator

    expected = torch.Generator().manual_seed(0)
    torch.randint(2**32 - 1, (2 * 64,), generator=expected)  # slots
    assert torch.equal(drawn(False).get_state(), expected.get_state())
    torch.rand(2 * 64, 1, generator=expected)
    assert torch.equal(drawn(True).get_state(), expected.get_state())
