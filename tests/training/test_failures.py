"""Runs that cannot go on: NaN, a full disk, a signal. Nothing is lost and it is said why."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from dime_robot import train
from dime_robot.learning.dime import DIME
from dime_robot.results.eval_csv import read_eval_csv
from dime_robot.training import checkpoint
from dime_robot.training.run import NonFiniteError, TrainingRun
from tests.test_train import SMALL, run


class Poisoned(gymnasium.Env[np.ndarray, np.ndarray]):
    """Gives NaN in one place after some steps."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, where: str, render_mode: str | None = None) -> None:
        self.where, self.count = where, 0

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return np.full(2, np.nan if self.where == "reset" else 0, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        bad = self.count >= 120
        obs = np.full(2, np.nan if bad and self.where == "observation" else 0.1, np.float32)
        reward = np.inf if bad and self.where == "reward" else 0.0
        return obs, reward, False, self.count % 10 == 0, {}


for _where in ("observation", "reward", "reset"):
    gymnasium.register(f"Poisoned-{_where}-v0", Poisoned, kwargs={"where": _where})


@pytest.mark.parametrize("where", ["observation", "reward"])
def test_nan_from_the_environment_stops_the_run(where: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [*SMALL, "--env", f"Poisoned-{where}-v0", "--steps", "200", "--out", str(folder)]
    with pytest.raises(NonFiniteError, match=f"infinite {where} at step 119"):
        train.main(arguments)
    post_mortem = checkpoint.load(folder / "nan.pt")
    assert post_mortem.record.post_mortem is not None
    assert where in post_mortem.record.post_mortem.reason
    assert checkpoint.load(folder / "ckpt.pt").record.step == 100


def test_nan_in_a_loss_stops_the_run_with_the_first_bad_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    original = TrainingRun._environment_step

    def environment_step(self: TrainingRun, logger: Any) -> None:
        if self.step == 105:  # 55 steps with updates, 2 each: the next is number 111
            self.agent.critic.biases[-1].data[0, 0, 0] = torch.nan
        original(self, logger)

    monkeypatch.setattr(TrainingRun, "_environment_step", environment_step)
    with pytest.raises(NonFiniteError, match="update 111"):
        run("--out", str(folder), steps=200)
    post_mortem = checkpoint.load(folder / "nan.pt").record.post_mortem
    assert post_mortem is not None
    assert np.isnan(post_mortem.metrics["critic/loss"])
    good = checkpoint.load(folder / "ckpt.pt")
    assert good.record.step == 100
    assert all(torch.isfinite(value).all() for value in good.learner.critic.values())


def test_nan_in_a_parameter_never_reaches_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient can be NaN where the loss was finite; then the next save comes first."""
    folder = tmp_path / "run"
    original = TrainingRun._environment_step

    def environment_step(self: TrainingRun, logger: Any) -> None:
        original(self, logger)
        if self.step == 150:
            self.agent.actor.trunk[0].weight.data[0, 0] = torch.inf  # type: ignore[index,union-attr,operator]

    monkeypatch.setattr(TrainingRun, "_environment_step", environment_step)
    with pytest.raises(NonFiniteError, match=r"actor\.trunk\.0\.weight was NaN or infinite"):
        run("--out", str(folder), "--log-interval", "1000", steps=200)
    assert checkpoint.load(folder / "ckpt.pt").record.step == 100


@pytest.mark.parametrize(("every", "stops"), [(2, True), (40, False)])
def test_nan_in_too_many_gradients_stops_the_run(
    every: int, stops: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rare ones are set to 0 and logged; from a share on, there is little left to learn from."""
    folder, count = tmp_path / "run", [0]
    step, original = DIME.actor_step, torch.autograd.grad

    def actor_step(self: DIME, obs: torch.Tensor) -> None:
        def one_nan(*args: Any, **kwargs: Any) -> Any:
            gradients = original(*args, **kwargs)
            gradients[0].view(-1)[0] = torch.nan
            torch.autograd.grad = original  # the temperature's stays
            return gradients

        count[0] += 1
        if count[0] % every == 0:
            torch.autograd.grad = one_nan
        step(self, obs)

    monkeypatch.setattr(torch.autograd, "grad", original)
    monkeypatch.setattr(DIME, "actor_step", actor_step)
    if stops:
        with pytest.raises(NonFiniteError, match=r"gradient held NaN in [45].% of the last"):
            run("--out", str(folder))
        assert checkpoint.load(folder / "nan.pt").record.step > 50
    else:
        assert run("--out", str(folder)) == 0
    assert count[0] >= 20


def test_nan_at_the_first_reset_is_one_sentence(tmp_path: Path) -> None:
    options = ["--env", "Poisoned-reset-v0", "--steps", "200", "--out", str(tmp_path / "run")]
    with pytest.raises(NonFiniteError, match="observation after reset at step 0") as error:
        train.main([*SMALL, *options])
    assert "ckpt" not in str(error.value)


def test_clipped_mass_gives_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--out", str(tmp_path / "run"), "--v-min", "-1", "--v-max", "1")
    out = capsys.readouterr().out
    assert out.count("of the target's mass is clipped") == 1


def test_atoms_far_wider_than_the_returns_give_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--out", str(tmp_path / "wide"), "--v-min", "-1600", "--v-max", "1600", steps=200)
    assert capsys.readouterr().out.count("times wider than the returns") == 1
    run("--out", str(tmp_path / "own"), steps=200)
    assert "times wider" not in capsys.readouterr().out


# -- as a process --------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dime_robot.train", *SMALL, *arguments]


def test_terminate_leaves_a_resumable_checkpoint_and_the_last_lines(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    child = subprocess.Popen(
        command("--steps", "100000", "--out", str(folder)), stdout=subprocess.PIPE, text=True
    )
    for _ in range(600):
        if (folder / "eval.csv").exists() and len(read_eval_csv(folder / "eval.csv")) > 1:
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert f"--resume {folder}" in out.splitlines()[-1]
    record = checkpoint.load(folder / "ckpt.pt").record
    assert record.step >= 100
    assert record.replay.added == record.step


def test_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the same error path of the system.

    The child sets it for itself: whatever other tests have loaded here, nothing is forked.
    """
    folder = tmp_path / "run"
    subprocess.run(command("--steps", "60", "--out", str(folder)), check=True, capture_output=True)
    before = (folder / "ckpt.pt").read_bytes()
    limited = (
        "import os, resource, sys;"
        " resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        " os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    resume = ["-m", "dime_robot.train", "--resume", str(folder), "--steps", "120"]
    failed = subprocess.run(
        [sys.executable, "-c", limited, *resume], capture_output=True, text=True
    )
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    assert "--resume" in failed.stderr
    assert (folder / "ckpt.pt").read_bytes() == before
    assert train.main(["--resume", str(folder), "--steps", "70", "--no-video"]) == 0
