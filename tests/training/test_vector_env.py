"""Environments side by side: Gymnasium's semantics, seeds, and bit-exact resuming."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from dime_robot import train
from dime_robot.envs import Env, make_env
from dime_robot.learning.config import TrainConfig
from dime_robot.results.eval_csv import read_eval_csv
from dime_robot.runtime.io.errors import InputError
from dime_robot.training import checkpoint
from dime_robot.training.run import TrainingRun
from dime_robot.training.vector_env import NotFiniteError, SeededVectorEnv
from tests.test_train import SMALL, assert_equal_weights

COUNT = 3
PARALLEL = ["--num-envs", str(COUNT), "--update-to-data", "0.5"]


class Wander(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point that is pushed about; beyond 1 the episode terminates."""

    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.place = np.zeros(2)

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-0.5, 0.5, 2)
        return self.place.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = self.place + 0.2 * action + self.np_random.normal(0.0, 0.1, 2)
        far = bool(np.abs(self.place).max() > 1)
        return self.place.astype(np.float32), float(-self.place @ self.place), far, False, {}


gymnasium.register("Wander-v0", Wander, max_episode_steps=12)


def seed_of_episode(number: int) -> int:
    return 1000 + number


class OwnSeeds(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Resets with the seeds that `SeededVectorEnv` uses, for Gymnasium's own vector environment."""

    def __init__(self, env: Env, first: int) -> None:
        super().__init__(env)
        self._number = first

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        number, self._number = self._number, self._number + COUNT
        return self.env.reset(seed=seed_of_episode(number))


def made(name: str, limit: int) -> Env:
    return TimeLimit(make_env(name), limit)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("Wander-v0", 12), ("Pendulum-v1", 7), ("dm_control/pendulum-swingup-v0", 9),
     ("sim:go2-walk", 10)],
)  # fmt: skip
def test_the_same_as_gymnasiums_vector_environment(name: str, limit: int) -> None:
    """Same-step resets, the final observation, terminations apart from truncations."""
    ours = SeededVectorEnv(lambda _: made(name, limit), COUNT, seed_of_episode)
    theirs = SyncVectorEnv(
        [lambda i=i: OwnSeeds(made(name, limit), i) for i in range(COUNT)],  # type: ignore[misc]
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert ours.observation_space == theirs.observation_space
    np.testing.assert_array_equal(ours.reset()[0], theirs.reset()[0])
    rng, ended = np.random.default_rng(0), 0
    for _ in range(30):
        actions = rng.uniform(-1, 1, ours.action_space.shape).astype(np.float32)  # type: ignore[arg-type]
        got, expected = ours.step(actions), theirs.step(actions)
        for mine, other in zip(got[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(mine, other)
        assert ("final_obs" in got[4]) == ("final_obs" in expected[4])
        if "final_obs" in got[4]:
            np.testing.assert_array_equal(got[4]["_final_obs"], expected[4]["_final_obs"])
            for i in np.flatnonzero(got[4]["_final_obs"]):
                np.testing.assert_array_equal(got[4]["final_obs"][i], expected[4]["final_obs"][i])
        assert [e.environment for e in ours.ended] == list(np.flatnonzero(got[2] | got[3]))
        ended += len(ours.ended)
    assert ended >= 3
    ours.close()
    theirs.close()


def test_no_two_episodes_begin_alike() -> None:
    seeds: list[int] = []

    def seed(number: int) -> int:
        seeds.append(number)
        return number

    envs = SeededVectorEnv(lambda _: make_env("Wander-v0"), COUNT, seed)
    envs.reset()
    for _ in range(60):
        envs.step(np.ones((COUNT, 1), dtype=np.float32))
    assert len(set(seeds)) == len(seeds) > 10


def test_a_value_that_is_not_finite_is_found_in_its_environment() -> None:
    class Broken(Wander):
        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            return self.place.astype(np.float32), np.nan, False, False, {}

    def make(i: int) -> Env:
        return make_env(Broken if i == 1 else Wander)

    envs = SeededVectorEnv(make, COUNT, seed_of_episode)
    envs.reset()
    with pytest.raises(NotFiniteError, match=r"reward \(environment 1, episode 0, its step 0\)"):
        envs.step(np.zeros((COUNT, 1), dtype=np.float32))


# -- in a run ------------------------------------------------------------------------------------


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A SIGTERM at the first step from this one on."""
    original = TrainingRun._environment_step

    def environment_step(self: TrainingRun, logger: Any) -> None:
        original(self, logger)
        if step <= self.step < step + COUNT:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingRun, "_environment_step", environment_step)


def run(env: str, folder: Path, *options: str) -> None:
    words = [*SMALL, "--env", env, *PARALLEL, "--steps", "160", "--n-step", "2", *options]
    assert train.main([*words, "--out", str(folder)]) == 0


@pytest.mark.parametrize(("env", "step"), [("Wander-v0", 50), ("Wander-v0", 77), ("Wander-v0", 151),
    ("dm_control/pendulum-swingup-v0", 99), ("sim:cartpole", 99)])  # fmt: skip
def test_stopped_and_resumed_equals_uninterrupted(
    env: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    options = ["--eval-interval", "80", "--buffer-size", "100" if env == "Wander-v0" else "1000"]
    run(env, whole, *options)
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        run(env, halved, *options)
    assert step <= checkpoint.load(halved / "ckpt.pt").record.step < step + COUNT
    assert train.main(["--resume", str(halved), "--no-video"]) == 0
    assert_equal_weights(whole, halved)
    ours, theirs = (checkpoint.load(each / "ckpt.pt").record for each in (whole, halved))
    assert ours.episodes == theirs.episodes
    assert ours.replay.digests == theirs.replay.digests
    ours_rows, theirs_rows = (read_eval_csv(each / "eval.csv") for each in (whole, halved))
    assert [(r.step, r.return_mean) for r in ours_rows] == [
        (r.step, r.return_mean) for r in theirs_rows
    ]


def test_steps_and_updates_are_those_of_all_environments(tmp_path: Path) -> None:
    """What is due at a step comes at the first one that all environments have made."""
    run("Wander-v0", tmp_path / "run", "--eval-interval", "80")
    record = checkpoint.load(tmp_path / "run" / "ckpt.pt").record
    assert (record.step, record.replay.added) == (162, 162)
    assert record.updates == (162 - 50) // 2
    assert len(record.episodes) == COUNT
    assert [row.step for row in read_eval_csv(tmp_path / "run" / "eval.csv")] == [0, 81, 162]


def test_the_replay_has_the_observations_that_episodes_ended_with(tmp_path: Path) -> None:
    """Not those of the next episodes, which begin within 0.5."""
    run("Wander-v0", tmp_path / "run")
    replay = checkpoint.load(tmp_path / "run" / "ckpt.pt").record.replay
    rows = np.concatenate([rows for _, rows in replay.checked_rows(tmp_path / "run")])
    beyond, terminated = np.abs(rows[:, 3:5]).max(axis=1) > 1, rows[:, 6] == 1
    assert terminated.sum() > 3
    np.testing.assert_array_equal(beyond, terminated)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(2, [0, 0, 2, 4]), (0.125, [0, 0, 0, 0]), (1 / 3, [0, 0, 0, 0]), (0.5, [0, 0, 0, 1])],
)
def test_updates_that_are_due(ratio: float, expected: list[int]) -> None:
    config = TrainConfig(update_to_data=ratio, random_steps=10)
    assert [config.updates_at(step) for step in (0, 10, 11, 12)] == expected
    assert config.updates_at(10 + 3 * 10**6) == round(3 * 10**6 * ratio)


def test_environments_that_do_not_repeat_themselves_lose_their_episodes_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 70)
        run("Forgetful-v0", folder)
    before = checkpoint.load(folder / "ckpt.pt").record.episodes
    capsys.readouterr()
    assert train.main(["--resume", str(folder), "--no-video"]) == 0
    expected = f"the interrupted episodes of {COUNT} of {COUNT} environments are dropped"
    assert expected in capsys.readouterr().out
    after = checkpoint.load(folder / "ckpt.pt").record.episodes
    assert all(b.number > a.number for a, b in zip(before, after, strict=True))


def test_the_replay_must_hold_a_step_of_all() -> None:
    with pytest.raises(InputError, match="at least num_envs = 8, got 4"):
        TrainConfig(num_envs=8, buffer_size=4)
