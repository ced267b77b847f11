"""Environments of others: what they return becomes plain, or is refused by name."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from dime_robot import evaluate, train
from dime_robot.envs import PlainEnv, make_env, plain_number, spec_of, time_limit
from dime_robot.evaluation import rollout
from dime_robot.evaluation.rollout import Evaluator, FloatArray
from dime_robot.runtime.io.errors import InputError
from dime_robot.training import checkpoint
from tests.foreign import Foreign, Lonely, register, write_module
from tests.paths import ROOT
from tests.test_train import SMALL

NUMBERS = itertools.count()


def make(**options: Any) -> Any:
    return make_env(register(f"Foreign{next(NUMBERS)}-v0", **options))


def zero(obs: FloatArray, noise: FloatArray) -> FloatArray:
    return np.zeros_like(noise[:, 0])


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(each) for key, each in value.items())
    return type(value) in (bool, int, float, str, type(None))


forms: list[Callable[[Any], Any]] = [
    float,
    np.float32,
    np.float64,
    np.float16,
    np.asarray,
    lambda v: np.array([v]),
    lambda v: np.array([[v]], np.float32),
    lambda v: [v],
    torch.tensor,
]


@given(
    value=st.floats(-1e3, 1e3, width=16),
    form=st.sampled_from(forms),
    truth=st.sampled_from([bool, np.bool_, int, np.asarray, np.float32, lambda v: np.array([v])]),
    name=st.text(max_size=5),
)
def test_numbers_in_any_form_become_plain(
    value: float, form: Callable[[Any], Any], truth: Callable[[Any], Any], name: str
) -> None:
    info = {
        "is_success": truth(True),
        "measures": {name: form(value), "text": "no number", 3: 1.0},
        "effort_peak": form(value),
        "foreign": object(),
    }
    env = PlainEnv(Foreign(reward=lambda _: form(value), end=truth, info=info, length=1), "x")
    _, got = env.reset(seed=0)
    assert is_plain(got) and "foreign" not in got
    _, reward, terminated, truncated, got = env.step(np.zeros(2, np.float32))
    assert (type(reward), reward) == (float, value)
    assert terminated is True and truncated is False
    assert is_plain(got)
    assert got["is_success"] is True
    assert got["measures"] == {name: value}
    assert got["effort_peak"] == value


@pytest.mark.parametrize("info", [None, 3, "text", {"measures": 3}, {"measures": None}, {"a": {}}])
def test_information_that_is_not_ours_is_left_alone(info: Any) -> None:
    assert make(info=info).step.__self__.reset(seed=0)[1] == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reward": lambda _: np.zeros(2)}, "reward: expected one number"),
        ({"reward": lambda _: None}, "reward: expected one number, got None"),
        ({"reward": lambda _: "1"}, "reward: expected one number"),
        ({"reward": lambda _: 1j}, "reward: expected one number"),
        ({"end": lambda _: None}, "terminated: expected true or false"),
        ({"end": lambda _: np.nan}, "terminated: expected true or false"),
        ({"info": {"is_success": "yes"}}, "is_success.*expected true or false"),
        ({"observe": lambda o: o[:2]}, "observation: expected 3 numbers.*got 2"),
        ({"observe": lambda _: ["a", "b", "c"]}, "observation: expected"),
        ({"observe": lambda _: None}, "observation: expected"),
        ({"reward": lambda _: 1 / 0}, r"step failed: ZeroDivisionError.*test_foreign_envs\.py:"),
    ],
)
def test_what_cannot_be_understood_is_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:  # noqa: PT012
        env = make(**options)
        env.reset(seed=0)
        env.step(np.zeros(2, np.float32))
    assert "\n" not in str(error.value)


def test_observations_are_copies_of_float32() -> None:
    same = np.zeros(3)

    def observe(plain: np.ndarray) -> Any:
        same[:] = plain
        return same

    env = make(observe=observe)
    first, _ = env.reset(seed=0)
    second = env.step(np.zeros(2, np.float32))[0]
    assert first[0] == 0 and second[0] == np.float32(0.1)
    assert make(observe=list).reset(seed=0)[0].dtype == np.float32


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        ([-1, 0.5], [1, 0.5], np.float32),
        ([-1, 0.5], [1, 0.5], np.float64),
        ([-1, -3], [1, 7], np.float16),
        ([-2, 0], [-1, 1e6], np.float32),
    ],
)
def test_every_action_stays_within_the_environments_bounds(low: Any, high: Any, dtype: Any) -> None:
    box = spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)
    env = make(actions=box)
    env.reset(seed=0)
    assert env.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)
    for action in ([-1, -1], [0, 0], [1, 1], [0.3, -0.7]):
        env.step(np.array(action, np.float32))
        taken = np.asarray(Foreign.actions_taken[-1])
        wanted = box.low + (np.array(action) + 1) / 2 * (box.high.astype(float) - box.low)
        np.testing.assert_allclose(taken, wanted, rtol=2e-3)
        if box.low[1] == box.high[1]:
            assert taken.dtype == dtype
            assert taken[1] == box.low[1]


class Bounds(spaces.Box):
    """A Box whose bounds were changed after it was checked."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__(-1, 1, (2,), np.float32)
        self.low, self.high = np.full(2, low, np.float32), np.full(2, high, np.float32)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Box(0, 9, (2,), np.int64), "Box of int64"),
        (spaces.Box(0, 9, (2,), np.uint8), "Box of uint8"),
        (spaces.Box(-1, 1, (0,), np.float32), "at least one action"),
        (spaces.Box(0.5, 0.5, (2,), np.float32), "low = high for all"),
        (spaces.Box(-np.inf, 1, (2,), np.float32), "finite bounds"),
        (Bounds(1, -1), "low < high"),
        (Bounds(np.nan, 1), "finite bounds"),
        (spaces.Box(-1, 1, (2, 2), np.float32), "action vector"),
        (spaces.Box(-1, 1, (), np.float32), "action vector"),
    ],
)
def test_actions_a_policy_cannot_give_are_refused(space: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        make(actions=space)
    assert str(error.value).startswith("Foreign")


BOX = spaces.Box(-1, 1, (3,), np.float32)


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (spaces.Box(0, 255, (4, 4, 3), np.uint8), 48),
        (spaces.Box(0, 9, (3,), np.int32), 3),
        (spaces.Box(-1, 1, (), np.float32), 1),
        (spaces.Discrete(4), 4),
        (spaces.Dict(a=BOX, b=spaces.Discrete(2)), 5),
        (spaces.Tuple([BOX, spaces.MultiBinary(2)]), 5),
        (Bounds(np.nan, np.nan), 2),
    ],
)
def test_every_numeric_observation_is_flattened(space: Any, size: int) -> None:
    def observe(_: Any) -> Any:
        space.seed(0)
        return np.zeros(2) if isinstance(space, Bounds) else space.sample()

    env = make(observations=space, observe=observe)
    obs, _ = env.reset(seed=0)
    assert (obs.shape, obs.dtype) == ((size,), np.float32)
    assert spec_of(env, "x").n_obs == size


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Text(5), "Text"),
        (spaces.Dict(a=BOX, b=spaces.Dict(c=spaces.Text(5))), r"Text.* in b\.c"),
        (spaces.Tuple([BOX, spaces.Sequence(BOX)]), "Sequence.* in 1"),
        (spaces.Box(-1, 1, (0,), np.float32), "at least one observation"),
        (spaces.Dict(), "at least one observation"),
    ],
)
def test_observations_without_numbers_are_refused(space: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(observations=space)


@pytest.mark.parametrize(
    ("dt", "rate"),
    [
        (0.02, 50),
        (np.float32(0.5), 2),
        (np.array([0.1]), 10),
        *((dt, 50) for dt in (0, -1, None, "0.1", np.nan, np.inf, lambda: 0.1, [1, 2])),
    ],
)
def test_a_rate_that_is_no_number_is_the_default(dt: Any, rate: float) -> None:
    assert spec_of(make(dt=dt), "x").rate == pytest.approx(rate)


def test_plain_number_takes_numbers_only() -> None:
    assert [plain_number(v) for v in (None, "3", b"3", {}, object(), [1, 2], 1j)] == [None] * 7
    assert plain_number(True) == 1.0


# -- whole runs ----------------------------------------------------------------------------------


def small(env: str, folder: Path, *more: str) -> list[str]:
    return [*SMALL, "--env", env, "--steps", "60", "--out", str(folder), *more]


def test_a_run_on_foreign_values_can_be_read_back(tmp_path: Path) -> None:
    info = {"is_success": np.float32(1), "measures": {"return_mean": np.float32(7), "a": [1]}}
    env = register(
        "ForeignRun-v0",
        reward=lambda v: np.array([v], np.float32),
        observe=list,
        end=np.bool_,
        info=info,
    )
    assert train.main(small(env, tmp_path / "run")) == 0
    final = checkpoint.load(tmp_path / "run/ckpt.pt").record.final
    fresh = final["fresh"].model_dump()
    assert is_plain(fresh | {"interval_95": None})
    assert fresh["return_mean"] == pytest.approx(5.0)
    assert fresh["success_rate"] == 1.0
    assert fresh["a"] == 1.0
    json.dumps(fresh)


@pytest.mark.parametrize("max_living", [1, 3])
def test_a_simulator_with_few_instances_still_trains(
    max_living: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    env = f"Lonely{max_living}-v0"
    register(env, Lonely)
    monkeypatch.setattr(Lonely, "max_living", max_living)
    monkeypatch.setattr(Lonely, "living", 0)
    assert train.main(small(env, tmp_path / "run")) == 0
    out = capsys.readouterr().out
    printed = "only one" if max_living == 1 else "evaluations run 2 episodes at a time, not 20"
    assert out.count(printed) == 1
    assert len(checkpoint.load(tmp_path / "run/ckpt.pt").record.final) == 3


def test_an_endless_episode_is_cut_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollout, "MAX_EPISODE_STEPS", 30)
    evaluator = Evaluator(register("Endless-v0", length=0), (1, 2), parallel=2)
    result = evaluator.run(zero, 3, (0,))
    assert [episode.length for episode in result.episodes] == [30] * 3
    assert result.survival == 1.0
    assert "3 cut at 30 steps" in str(result)
    limited = make_env("Pendulum-v1")
    assert time_limit(limited) == 200


def test_an_observation_or_an_action_of_nan_is_named() -> None:
    sick = register("Sick-v0", observe=lambda o: o * np.nan)
    with pytest.raises(InputError, match=r"Sick-v0: .*NaN or infinite observation"):
        Evaluator(sick, (1, 2)).run(zero, 1, (0,))
    policy = rollout.require_finite_actions(lambda o, n: n[:, 0] * np.nan, "a.onnx")
    with pytest.raises(InputError, match=r"a\.onnx: expected actions"):
        policy(np.zeros((1, 3), np.float32), np.zeros((1, 1, 2), np.float32))


def test_a_policy_with_nan_weights_is_refused(tmp_path: Path) -> None:
    assert train.main(small(register("Plain-v0"), tmp_path / "run")) == 0
    path = tmp_path / "run/ckpt.pt"
    state = checkpoint.load(path)
    name, value = next((k, v) for k, v in state.learner.actor.items() if v.numel() > 9)
    value.view(-1)[3] = torch.nan
    checkpoint.save(tmp_path / "nan.pt", state.record, state.learner)
    with pytest.raises(InputError, match=rf"nan\.pt: actor\.{name} holds NaN"):
        evaluate.main([str(tmp_path / "nan.pt"), "--episodes", "1"])


def test_a_warning_where_no_time_limit_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(small("Plain-v0", tmp_path / "run"))
    assert "Plain-v0 states no time limit" in capsys.readouterr().out
    train.main(small("Pendulum-v1", tmp_path / "other"))
    assert "time limit" not in capsys.readouterr().out


def start(module: str, *words: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"dime_robot.{module}", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_an_own_environment_works_from_the_command_line(tmp_path: Path) -> None:
    write_module(tmp_path)
    child = start("train", *small("owns:Own-v0", tmp_path / "run"), cwd=tmp_path)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    for words, code in (([], 2), (["--env", "owns:Own-v0"], 0)):
        child = start("evaluate", "run", "--episodes", "1", *words, cwd=tmp_path)
        _, err = child.communicate(timeout=300)
        assert child.returncode == code, err
        # a file does not choose what is imported: the user does
        assert ("code to import" in err) == (code == 2)
    child = start("train", "--resume", "run/ckpt.pt", cwd=tmp_path)
    assert "code to import" in child.communicate(timeout=300)[1]


@pytest.mark.slow
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("env", ["Endless-v0", "Stuck-v0"])
def test_a_signal_is_answered_inside_an_evaluation(env: str, sig: int, tmp_path: Path) -> None:
    write_module(tmp_path)
    words = [*SMALL, "--env", f"owns:{env}", "--steps", "60", "--out", "run"]
    child = start("train", *words, cwd=tmp_path)
    assert child.stdout is not None
    while "states no time limit" not in child.stdout.readline():
        assert child.poll() is None
    time.sleep(0.3)
    child.send_signal(sig)
    began = time.monotonic()
    out, err = child.communicate(timeout=60)
    # a step that hangs is left after 2 s; the rest is the report and Python's own end
    assert time.monotonic() - began < 8
    assert "--resume run" in out + err
    assert "Traceback" not in err
    assert checkpoint.load(tmp_path / "run/ckpt.pt").record.step == 0
