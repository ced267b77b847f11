"""A worker without Ray: seeds, the layout of its messages, and what it answers to a wrong start."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dime_robot.cluster.connection import own_version
from dime_robot.cluster.remote_rollouts import LONGEST_PAUSE, pause_after
from dime_robot.cluster.rollout_worker import (
    Job,
    Message,
    Place,
    RolloutWorker,
    Weights,
    episode_key,
)
from dime_robot.cluster.task_files import TaskFiles
from dime_robot.learning.config import MESSAGE, TrainConfig
from dime_robot.learning.n_step import n_step_batch
from dime_robot.learning.networks import make_actor
from dime_robot.learning.replay_buffer import ReplayBuffer
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.io.errors import InputError
from dime_robot.training.env_facts import facts_of
from dime_robot.training.env_maker import EnvMaker
from dime_robot.training.presets import preset_config
from dime_robot.training.rollouts import NotFiniteActionError
from dime_robot.training.vector_env import NotFiniteError
from dime_robot.training.worker_process import Failure
from tests.paths import ROOT

RAMBLE = "tests.training.worker_envs:Ramble-v0"
CPU = torch.device("cpu")
places = st.tuples(*(st.integers(0, 2**40) for _ in range(3)))


def settings(**changed: Any) -> TrainConfig:
    given = {"ray": True, "workers": 2, "num_envs": 6, "random_steps": 5, **changed}
    return TrainConfig.model_validate({**preset_config("tiny", RAMBLE).model_dump(), **given})


def job(config: TrainConfig) -> Job:
    maker = EnvMaker.of(config.env, config.seed)
    env = maker(0)
    facts = facts_of(env, config.env)
    env.close()
    steps = math.ceil(MESSAGE / (config.num_envs // config.workers))
    return Job(config, maker, TaskFiles.of(config.env), facts.spec, facts.task_digest, steps)


def begun(config: TrainConfig, worker: int = 0, restart: int = 0) -> RolloutWorker:
    made = RolloutWorker(own_version(), pickle.dumps(job(config)), worker, restart)
    assert isinstance(made.start(), Place)
    return made


def weights(config: TrainConfig) -> Weights:
    torch.manual_seed(1)
    actor = make_actor(job(config).spec, config)
    return {name: value.numpy() for name, value in actor.state_dict().items()}


def message(worker: RolloutWorker, config: TrainConfig, **changed: Any) -> Message:
    given = {"version": 3, "weights": weights(config), "level": None, "random": False, **changed}
    found = worker.rollout(**given)
    assert isinstance(found, Message), found
    return found


@given(places, places, st.integers(0, 2**40))
def test_no_two_episodes_of_a_run_share_a_seeds_key(
    one: tuple[int, int, int], other: tuple[int, int, int], seed: int
) -> None:
    assert (episode_key(seed, *one) == episode_key(seed, *other)) == (one == other)


def test_episodes_begin_alike_only_for_the_same_worker_and_restart() -> None:
    config = settings()
    firsts = [
        message(begun(config, worker, restart), config).obs[:3]
        for worker, restart in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert np.array_equal(firsts[0], firsts[3])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not (firsts[i][:, None] == firsts[j][None]).all(axis=2).any(), (i, j)


def test_a_message_is_whole_steps_of_the_environments_in_turn() -> None:
    config = settings()
    worker = begun(config, worker=1)
    first, second = message(worker, config), message(worker, config)
    rows = 86 * 3  # the first multiple of 3 that is no less than MESSAGE
    assert first.version == 3 and len(first.obs) == rows
    assert first.rewards.dtype == np.float64 and first.actions.shape == (rows, 1)
    ended = [*first.ended, *second.ended]
    terminated = first.terminations.sum() + second.terminations.sum()
    assert sum(each.terminated for each in ended) == terminated > 0
    assert {each.environment for each in first.ended} <= {3, 4, 5}
    obs = np.concatenate([first.obs, second.obs])
    next_obs = np.concatenate([first.next_obs, second.next_obs])
    over = np.concatenate([first.terminations, second.terminations])
    goes_on = (obs[3:] == next_obs[:-3]).all(axis=1)
    assert not goes_on[over[:-3]].any()
    cut = (~goes_on & ~over[:-3]).sum()  # by their time limit; no more where messages meet
    assert cut <= sum(not each.terminated for each in ended)


def test_returns_of_several_steps_end_where_another_workers_message_begins() -> None:
    config = settings(n_step=3)
    workers = [begun(config, worker) for worker in range(2)]
    found = [message(workers[i], config) for i in (0, 1, 0)]
    rows = len(found[0].obs)
    buffer = ReplayBuffer(10_000, 2, 1, CPU, margin=10_000, num_envs=3, at_once=rows)
    for each in found:
        buffer.add(each.obs, each.actions, each.next_obs, each.rewards, each.terminations)
    assert buffer.added == 3 * rows
    for at, each in enumerate(found):
        held = buffer.at(torch.arange(at * rows, (at + 1) * rows))
        assert np.array_equal(held.obs.numpy(), each.obs)
        assert np.array_equal(held.reward.numpy(), each.rewards.astype(np.float32))
    ends = {tuple(row) for each in found for row in each.next_obs[-3:].tolist()}
    batch = n_step_batch(buffer, 20_000, torch.Generator().manual_seed(0), 3, 0.9)
    held = buffer.at(torch.arange(buffer.added))
    place = {tuple(row): i for i, row in enumerate(held.obs.tolist())}
    crossed = 0
    for obs, next_obs in zip(batch.obs.tolist(), batch.next_obs.tolist(), strict=True):
        start = place[tuple(obs)]
        last_step = start % rows >= rows - 3
        crossed += last_step
        if last_step:  # of a message: the next one is another worker's
            assert tuple(next_obs) in ends
    assert crossed > 50


def test_messages_use_the_newest_weights_random_actions_and_the_level() -> None:
    config = settings()
    worker, zero = begun(config), weights(config)
    same = message(worker, config, version=1).actions
    louder = {name: value.copy() for name, value in zero.items()}
    louder["output.bias"] += 50
    assert abs(same).mean() < 0.9
    assert (message(worker, config, version=2, weights=louder).actions > 0.99).all()
    # the same version is not read again
    assert (message(worker, config, version=2).actions > 0.99).all()
    uniform = message(worker, config, version=2, random=True).actions
    assert abs(uniform.mean()) < 0.2 and 0.5 < uniform.std() < 0.65
    ended = message(worker, config, version=1, level=2).ended
    assert ended[-1].level == 2 and ended[-1].means["error"] > 0


def test_what_goes_wrong_is_the_answer() -> None:
    config = settings()
    other = RolloutWorker("9.9", b"", 0, 0).start()
    assert isinstance(other, Failure) and isinstance(other.error, InputError)
    assert str(other.error).startswith("--ray: expected dime_robot 9.9, as in the learner's")
    changed = pickle.dumps(replace(job(config), spec=PolicySpec.flat("x", 2, 1)))
    response = RolloutWorker(own_version(), changed, 0, 0).start()
    assert isinstance(response, Failure)
    assert "another environment than in the learner's process" in str(response.error)
    nan = {name: np.full_like(value, np.nan) for name, value in weights(config).items()}
    response = begun(config).rollout(1, nan, None, False)
    assert isinstance(response, Failure) and isinstance(response.error, NotFiniteActionError)
    error = pickle.loads(pickle.dumps(NotFiniteError("reward", "episode 3")))
    assert (error.what, error.where) == ("reward", "episode 3")


def test_a_place_that_fails_again_and_again_rests_longer() -> None:
    pauses = [pause_after(failures) for failures in range(20)]
    assert pauses[:3] == [0.0, 0.0, 4.0] and pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"workers": 0}, "workers: expected with --ray at least 1"),
        ({"workers": 4}, "num_envs = 6 to be a multiple of it, got 4"),
        ({"overlap": True}, "overlap: expected none with --ray"),
        ({"buffer_size": 261}, "buffer_size: expected room for a message, 262, got 261"),
    ],
)
def test_settings_that_do_not_go_together(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        settings(**changed)


def test_training_here_loads_no_ray() -> None:
    code = (
        "import sys, tempfile, dime_robot\n"
        "from dime_robot import train_policy\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    train_policy('Pendulum-v1', preset='tiny', steps=20, random_steps=10, batch_size=4,\n"
        "        eval_episodes=1, final_episodes=20, out=folder + '/run', quiet=True,\n"
        "        callback=lambda event: False)\n"
        "import dime_robot.train\n"
        "print('ray' in sys.modules, 'dime_robot.cluster' in sys.modules)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == ["False", "False"]
