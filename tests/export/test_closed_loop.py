"""The closed-loop proof can fail, and does not fail a graph for its environment's chaos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from dime_robot.evaluation.rollout import Episode, Evaluation, FloatArray, Policy
from dime_robot.runtime.io.errors import InputError
from export import closed_loop
from export.closed_loop import CertificateError, Loop, free_run, judge, random_policy
from export.proofs import closed_loop_certificate
from tests.export.actors import redrawn_actor
from tests.learning.toy import flat_spec

SHAPE = (3, 1)
LENGTH = 40


class Chaos(gymnasium.Env[FloatArray, FloatArray]):
    """A logistic map that the action disturbs: loops that differ by one rounding part in 30 steps.

    The reward is 1 for an action of 1, plus or minus up to `spread` for the chaotic state.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    spread = 1.0
    seeded = True

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        super().reset(seed=seed)
        generator = self.np_random if self.seeded else np.random.default_rng()
        self.x, self.count = generator.uniform(0.1, 0.9), 0
        return np.array([self.x], np.float32), {}

    def step(self, action: FloatArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        self.x = 3.99 * self.x * (1 - self.x)
        self.x = min(0.99, max(0.01, self.x + 1e-2 * float(action[0])))
        reward = float(action[0]) + self.spread * (2 * self.x - 1)
        return np.array([self.x], np.float32), reward, False, self.count >= LENGTH, {}


class Unseeded(Chaos):
    seeded = False


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    for kind in (Chaos, Unseeded):
        gymnasium.register(f"{kind.__name__}-v0", kind)
    yield
    for kind in (Chaos, Unseeded):
        gymnasium.registry.pop(f"{kind.__name__}-v0")


def trained(obs: FloatArray, noise: FloatArray) -> FloatArray:
    """Earns about 0.8 per step; reacts to what it sees, as a trained policy does."""
    return (0.8 + 0.1 * np.sin(7 * obs)).astype(np.float32)


def scaled(factor: float) -> Policy:
    """A graph that asks for another share of the trained action."""
    return lambda obs, noise: trained(obs, noise) * np.float32(factor)


def offset(policy: Policy, by: float) -> Policy:
    return lambda obs, noise: policy(obs, noise) + np.float32(by)


def test_a_graph_that_earns_22_percent_less_fails_with_numbers() -> None:
    loop = free_run("Chaos-v0", trained, scaled(0.78), SHAPE)
    verdict = judge(loop)
    assert verdict.failed
    assert not verdict.passed
    actor = redrawn_actor(flat_spec(1, 1), width=8, depth=1, steps=2)
    with pytest.raises(CertificateError, match=r"expected inside \+-.*5% of the") as error:
        closed_loop_certificate(actor, trained, loop, 1e-4)
    assert "95 % interval" in str(error.value)
    assert "\n" not in str(error.value)


def test_rounding_passes_though_the_loops_diverge() -> None:
    loop = free_run("Chaos-v0", trained, offset(trained, 1e-7), SHAPE)
    assert loop.first_divergence is not None
    verdict = judge(loop)
    assert verdict.passed
    assert abs(verdict.interval[0]) < verdict.allowed


def test_the_same_function_passes_at_the_first_look() -> None:
    loop = free_run("Chaos-v0", trained, trained, SHAPE)
    assert loop.first_divergence is None
    assert len(loop.returns_torch) == closed_loop.STAGES[0]
    assert judge(loop).interval == (0, 0)
    assert judge(loop).passed
    assert loop.visited.shape == (closed_loop.STAGES[0] * LENGTH, 1)
    assert loop.noise.shape == (closed_loop.STAGES[0] * LENGTH, *SHAPE)


def test_an_environment_that_ignores_its_seed_is_named() -> None:
    with pytest.raises(InputError, match="Unseeded-v0 does not repeat itself under a seed"):
        free_run("Unseeded-v0", trained, trained, SHAPE)


def test_an_untrained_policy_passes_in_a_chaotic_environment_unless_its_graph_is_wrong() -> None:
    def useless(obs: FloatArray, noise: FloatArray) -> FloatArray:
        moves: FloatArray = 0.01 * np.sin(7 * obs).astype(np.float32)
        return moves - random_policy(obs, noise)

    loop = free_run("Chaos-v0", useless, offset(useless, 1e-7), SHAPE)
    assert len(loop.returns_torch) == closed_loop.STAGES[-1]
    assert judge(loop).passed, judge(loop).reason
    assert "standard deviation" in judge(loop).reason
    assert judge(free_run("Chaos-v0", useless, offset(useless, -0.5), SHAPE)).failed


def test_free_run_says_where_policies_diverge() -> None:
    def rests(obs: FloatArray, noise: FloatArray) -> FloatArray:
        return np.zeros((len(obs), 1), np.float32)

    calls = iter(range(10_000))

    def pushes_later(obs: FloatArray, noise: FloatArray) -> FloatArray:
        return np.full((len(obs), 1), 0.01 * (next(calls) >= 6), np.float32)

    assert free_run("Chaos-v0", rests, pushes_later, SHAPE).first_divergence in (1, 7)


# -- statistics ----------------------------------------------------------------------------------


def loop_of(torch: np.ndarray, onnx: np.ndarray, random: np.ndarray) -> Loop:
    nothing = np.zeros((1, 1), np.float32)
    return Loop(torch, onnx, random, nothing, nothing, first_divergence=1)


def decided(rng: np.random.Generator, mean: float, spread: float, worse: float) -> bool:
    """Does a graph pass whose returns are independent of torch's and lower by `worse`?"""
    returns = []
    for stage in closed_loop.STAGES:
        count = stage - len(returns[0][0]) if returns else stage
        values = rng.normal(mean, spread, (3, count))
        values[1] -= worse
        values[2] = rng.normal(0, spread, count)
        returns.append(values)
        verdict = judge(loop_of(*np.concatenate(returns, axis=1)))
        if verdict.passed or verdict.failed:
            break
    assert verdict.passed or verdict.failed  # the last stage decides
    return verdict.passed


@pytest.mark.parametrize(
    ("spread", "worse", "min_share", "max_share"),
    [
        (10.0, 0.0, 0.97, 1.0),  # a chaotic environment, returns 100 +- 10: a fair chance
        (10.0, 5.0, 0.0, 0.06),  # on the bound: 2.5 % by construction
        (10.0, 22.0, 0.0, 0.001),
        (30.0, 22.0, 0.0, 0.001),  # cannot be shown either way: fails
    ],
)
def test_error_rates(spread: float, worse: float, min_share: float, max_share: float) -> None:
    rng = np.random.default_rng(0)
    share = np.mean([decided(rng, 100.0, spread, worse) for _ in range(200)])
    assert min_share <= share <= max_share


@settings(deadline=None)
@given(
    returns=st.lists(st.floats(-1e4, 1e4), min_size=20, max_size=20),
    offset=st.floats(-1e6, 1e6),
    loss=st.floats(0.06, 1.0),
)
def test_a_constant_in_the_reward_changes_no_verdict(
    returns: list[float], offset: float, loss: float
) -> None:
    """A graph that loses a share of the gain fails, whatever every episode earns for free."""
    random = np.array(returns) + offset
    torch = random + 100.0
    verdict = judge(loop_of(torch, torch - 100 * loss, random))
    assert not verdict.passed
    assert verdict.failed
    assert verdict.gain == pytest.approx(100, rel=1e-3)


def test_random_actions_are_uniform_and_repeat() -> None:
    noise = np.random.default_rng(0).standard_normal((20_000, 3, 2), dtype=np.float32)
    actions = random_policy(noise[:, 0], noise)
    assert actions.shape == (20_000, 2)
    assert np.array_equal(actions, random_policy(noise[:, 0], noise))
    counts, _ = np.histogram(actions, bins=10, range=(-1, 1))
    assert counts.sum() == actions.size
    np.testing.assert_allclose(counts, actions.size / 10, rtol=0.05)


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=7), side_by_side=st.integers(1, 4))
def test_actions_are_sorted_by_episode(lengths: list[int], side_by_side: int) -> None:
    calls = []
    for first in range(0, len(lengths), side_by_side):
        chunk = range(first, min(first + side_by_side, len(lengths)))
        for step in range(max(lengths[i] for i in chunk)):
            rows = [[i, step] for i in chunk if lengths[i] > step]
            calls.append(np.array(rows, np.float32))
    evaluation = Evaluation(tuple(Episode(length=length) for length in lengths))
    found = closed_loop.actions_by_episode(calls, evaluation)
    for i, (length, actions) in enumerate(zip(lengths, found, strict=True)):
        assert actions.tolist() == [[i, step] for step in range(length)]
