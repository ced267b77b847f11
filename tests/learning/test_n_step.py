"""Returns over several steps against a plain sum along each environment's episodes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dime_robot.learning.n_step import n_step_batch
from dime_robot.learning.replay_buffer import ReplayBuffer

DISCOUNT = 0.9
CPU = torch.device("cpu")


class Row(NamedTuple):
    """A transition; its observations are numbers that occur once, unless an episode goes on."""

    number: int
    next_obs: float
    reward: float
    terminated: bool
    ended: bool  # terminated, truncated or dropped


def filled(
    num_envs: int, steps: int, capacity: int, seed: int
) -> tuple[ReplayBuffer, dict[float, Row]]:
    """Return a buffer, and its rows by their observations."""
    rng = np.random.default_rng(seed)
    buffer = ReplayBuffer(capacity, 1, 1, CPU, margin=0, num_envs=num_envs)
    rows: dict[float, Row] = {}
    obs, fresh = np.arange(num_envs, dtype=float), num_envs
    for _ in range(steps):
        next_obs = np.arange(fresh, fresh + num_envs, dtype=float)
        fresh += num_envs
        rewards = rng.integers(-9, 9, num_envs).astype(float)
        kinds = rng.choice(["goes on", "terminated", "truncated"], num_envs, p=[0.7, 0.15, 0.15])
        for i in range(num_envs):
            row = Row(buffer.added + i, next_obs[i], rewards[i], False, kinds[i] != "goes on")
            rows[obs[i]] = row._replace(terminated=bool(kinds[i] == "terminated"))
        buffer.add(obs[:, None], obs[:, None], next_obs[:, None], rewards, kinds == "terminated")
        resets = np.arange(fresh, fresh + num_envs, dtype=float)
        obs = np.where(kinds == "goes on", next_obs, resets)
        fresh += num_envs
    return buffer, rows


@settings(max_examples=60, deadline=None)
@given(
    num_envs=st.integers(1, 4),
    steps=st.integers(1, 40),
    spare=st.integers(0, 60),
    n=st.integers(1, 5),
    seed=st.integers(0, 10_000),
)
def test_returns_stop_where_episodes_end(
    num_envs: int, steps: int, spare: int, n: int, seed: int
) -> None:
    """Also at the newest transition, and in rings of any size."""
    buffer, rows = filled(num_envs, steps, num_envs + spare, seed)
    batch = n_step_batch(buffer, 200, torch.Generator().manual_seed(seed), n, DISCOUNT)
    for obs, next_obs, reward, lost in zip(
        batch.obs[:, 0], batch.next_obs[:, 0], batch.reward, batch.terminated, strict=True
    ):
        row = rows[float(obs)]
        assert row.number >= buffer.added - len(buffer)
        total, weight = row.reward, 1.0
        for _ in range(n - 1):
            if row.ended or row.next_obs not in rows:
                break
            row, weight = rows[row.next_obs], weight * DISCOUNT
            total += weight * row.reward
        assert float(next_obs) == row.next_obs
        assert abs(float(reward) - total) < 1e-4
        assert abs(float(lost) - (1 - weight * (not row.terminated))) < 1e-6


def test_one_step_is_the_plain_batch() -> None:
    buffer, _ = filled(3, 50, 100, 1)
    plain = buffer.sample(64, torch.Generator().manual_seed(2))
    batch = n_step_batch(buffer, 64, torch.Generator().manual_seed(2), 1, DISCOUNT)
    for column, expected in zip(batch, plain, strict=True):
        assert torch.equal(column, expected)


@settings(max_examples=30, deadline=None)
@given(capacity=st.integers(2, 12), steps=st.integers(1, 30), terminal=st.integers(0, 40))
def test_a_return_ends_at_terminations_and_at_the_newest_where_all_observations_are_alike(
    capacity: int, steps: int, terminal: int
) -> None:
    buffer = ReplayBuffer(capacity, 1, 1, CPU, margin=0)
    for t in range(steps):
        zero = np.zeros((1, 1))
        buffer.add(zero, np.full((1, 1), t), zero, np.ones(1), np.array([t == terminal]))
    batch = n_step_batch(buffer, 100, torch.Generator().manual_seed(0), 4, 1.0)
    for t, reward in zip(batch.action[:, 0].tolist(), batch.reward.tolist(), strict=True):
        last = terminal if t <= terminal < steps else steps - 1
        assert reward == min(4, last - t + 1)
