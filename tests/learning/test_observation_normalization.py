"""Running statistics of observations: against NumPy, and what the actor does with them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from dime_robot.learning.cuda_graphs import WARM_UP
from dime_robot.learning.networks import Actor, GaussianActor, ScoreNetwork
from dime_robot.learning.observation_normalization import (
    BOUND,
    LAST_SAMPLE,
    MIN_STD,
    ObservationNormalization,
)
from dime_robot.runtime.contract.policy_spec import Action, ObservationTerm, PolicySpec
from dime_robot.runtime.io.errors import InputError
from tests.learning.test_cuda_graphs import NoWaiting, make_agent, make_replay, needs_gpu

SPEC = PolicySpec(
    name="scaled",
    rate=50,
    observation=(
        ObservationTerm(name="a", kind="flat", unit="rad/s", size=2, scale=0.1, clip=40.0),
        ObservationTerm(name="b", kind="flat", unit="1", size=1, scale=2.0),
    ),
    action=Action(kind="flat", size=2),
)


def network(**changes: Any) -> ScoreNetwork:
    settings = {"width": 8, "depth": 1, "steps": 2, "dt": 0.1, "normalize": True, **changes}
    return ScoreNetwork(SPEC, **settings)


def absorbed(actor: Actor, *batches: np.ndarray) -> ObservationNormalization:
    for batch in batches:
        actor.absorb(torch.as_tensor(batch))
    assert actor.normalization is not None
    return actor.normalization


def drawn(rows: int, seed: int = 0) -> np.ndarray:
    """Values whose deviations are far smaller than their means, as float32 can hold them."""
    rng = np.random.default_rng(seed)
    values = np.array([3.0, -30.0, 1e4]) + np.array([5.0, 0.5, 0.5]) * rng.standard_normal(
        (rows, 3)
    )
    return values.astype(np.float32)


@pytest.mark.parametrize("environments", [1, 4, 16])
def test_statistics_are_those_of_all_observations_however_many_come_at_once(
    environments: int,
) -> None:
    values = drawn(480)
    found = absorbed(network(), *values.reshape(-1, environments, 3))
    expected = values.astype(np.float64)
    assert int(found.samples) == 480
    np.testing.assert_allclose(found.running_mean, expected.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.running_var, expected.var(axis=0), rtol=1e-9)


def test_the_contracts_clip_comes_before_statistics_and_operation() -> None:
    actor = network()
    values = drawn(50)
    values[7, 0] = -1e30  # one wrong reading
    found = absorbed(actor, values)
    clipped = values.astype(np.float64)
    clipped[:, :2] = clipped[:, :2].clip(-40, 40)
    np.testing.assert_allclose(found.running_mean, clipped.mean(axis=0), rtol=1e-12)
    std = np.maximum(clipped.std(axis=0), [1.0, 1.0, 0.05])
    expected = ((clipped - clipped.mean(axis=0)) / std).clip(-10, 10)
    got = actor.scaled_observation(torch.as_tensor(values))
    assert got.dtype == torch.float32
    # the rounded mean of 1e4 is 5e-4 off at most
    np.testing.assert_allclose(got, expected, atol=2e-3)
    # a float64 proof computes with the same rounded constants
    double = actor.in_float64().scaled_observation(torch.as_tensor(values).double())
    np.testing.assert_allclose(got, double, atol=1e-5)


def test_before_the_first_observation_it_is_the_contracts_scale() -> None:
    obs = torch.tensor([[3.0, 50.0, 0.7]])
    ours, plain = network(), network(normalize=False)
    assert torch.equal(ours.scaled_observation(obs), plain.scaled_observation(obs))


def test_an_entry_that_never_moved_in_training_has_a_bounded_gain() -> None:
    """On the robot it may move: the input then changes by ten times the scaled change at most."""
    actor = network()
    constant = np.array([[2.0, 2.0, 0.5]], dtype=np.float32)
    found = absorbed(actor, *[constant] * 30)
    assert found.running_var.tolist() == [0, 0, 0]
    _, gain = found.constants()
    assert gain.tolist() == pytest.approx([1.0, 1.0, 20.0])  # scale / MIN_STD
    moved = torch.tensor(constant) + torch.tensor([0.3, -0.3, 0.1])
    assert actor.scaled_observation(moved).tolist()[0] == pytest.approx([0.3, -0.3, 2.0])
    assert actor.scaled_observation(torch.tensor(constant)).abs().max() == 0
    far = torch.tensor([[30.0, -30.0, 1e30]])
    assert actor.scaled_observation(far).tolist() == [[BOUND, -BOUND, BOUND]]


def test_a_small_deviation_is_bounded_and_a_large_one_is_not() -> None:
    rng = np.random.default_rng(1)
    values = (np.array([0.01, 7.0, 7.0]) * rng.standard_normal((4000, 3))).astype(np.float32)
    _, gain = absorbed(network(), values).constants()
    std = values.std(axis=0, dtype=np.float64)
    assert gain.tolist() == pytest.approx([0.1 / MIN_STD, 1 / std[1], 1 / std[2]], rel=1e-6)


def test_statistics_stay_as_they_are_from_the_last_sample_on() -> None:
    actor = network()
    found = absorbed(actor, drawn(8))
    found.samples.fill_(LAST_SAMPLE - 8)
    absorbed(actor, drawn(8, seed=1))
    assert int(found.samples) == LAST_SAMPLE
    before = copy.deepcopy(found.state_dict())
    absorbed(actor, np.zeros((8, 3), dtype=np.float32))
    assert all(torch.equal(value, before[name]) for name, value in found.state_dict().items())


def test_only_training_observations_change_them() -> None:
    for actor in (network(), GaussianActor(SPEC, width=8, depth=1, normalize=True)):
        found = absorbed(actor, drawn(20))
        before = copy.deepcopy(found.state_dict())
        noise = np.zeros((5, actor.steps + 1, 2), dtype=np.float32)
        actor.act_numpy(drawn(5, seed=2) + 3, noise)
        actor.sample(torch.as_tensor(drawn(5)), torch.as_tensor(noise).transpose(0, 1))
        assert all(torch.equal(value, before[name]) for name, value in found.state_dict().items())


def test_without_the_option_the_state_is_as_it_was() -> None:
    plain = network(normalize=False)
    plain.absorb(torch.as_tensor(drawn(3)))
    new = network().state_dict().keys() - plain.state_dict().keys()
    assert new == {f"normalization.{name}" for name in ("samples", "running_mean", "running_var")}


def test_the_learners_state_has_the_statistics() -> None:
    agent, other = (make_agent(normalize_observations=True, seed=seed) for seed in (0, 1))
    obs = make_replay().sample(1, agent.generator).obs.numpy()
    agent.observe(obs)
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    obs += 1.0
    for each in (agent, other):
        each.observe(obs)
    states = agent.actor.state_dict(), other.actor.state_dict()
    assert int(states[0]["normalization.samples"]) == 2
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    plain = make_agent()
    with pytest.raises(InputError, match=r"^actor: its networks .* unknown \['normalization\."):
        plain.load_state_dict(agent.state_dict())
    with pytest.raises(InputError, match=r"^actor: its networks .* missing \['normalization\."):
        agent.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("name", ["samples", "running_var", "running_mean"])
def test_damaged_statistics_of_a_file_are_refused(name: str) -> None:
    agent = make_agent(normalize_observations=True)
    state = copy.deepcopy(agent.state_dict())
    value = state.actor[f"normalization.{name}"]
    value.fill_(torch.nan if name == "running_mean" else -1)
    with pytest.raises(InputError, match=f"actor.normalization.{name}.*(NaN|no negative value)"):
        agent.load_state_dict(state)


def test_an_update_of_them_never_waits_and_moves_nothing() -> None:
    agent, replay = make_agent(normalize_observations=True), make_replay()
    places = {name: value.data_ptr() for name, value in agent.actor.state_dict().items()}
    obs = replay.sample(1, agent.generator).obs
    with NoWaiting():
        for _ in range(3):
            agent.actor.absorb(obs)
            agent.learn(replay, 2)
    after = agent.actor.state_dict()
    assert {name: value.data_ptr() for name, value in after.items()} == places
    assert int(after["normalization.samples"]) == 3


@needs_gpu
def test_graphs_give_the_statistics_of_eager_code() -> None:
    device = torch.device("cuda")
    eager, graphs = (
        make_agent(device, normalize_observations=True, graphs=graphs) for graphs in (False, True)
    )
    replay, rng = make_replay(device), np.random.default_rng(0)
    for _ in range(3 * (WARM_UP + 3)):
        obs = rng.normal(3.0, 2.0, (1, 5)).astype(np.float32)
        for agent in (eager, graphs):
            agent.observe(obs)
            agent.explore(obs)
            agent.learn(replay, 2)
    ours, theirs = graphs.actor.normalization, eager.actor.normalization
    assert ours is not None and theirs is not None
    assert int(ours.samples) == 3 * (WARM_UP + 3)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-12, atol=0)
