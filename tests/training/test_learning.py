"""Real training runs: does it learn, and does a killed run end like one left alone?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.kill_and_resume import compare
from dime_robot import evaluate, train
from dime_robot.results.eval_csv import read_eval_csv
from dime_robot.training import checkpoint

pytestmark = pytest.mark.slow


COMPILED = pytest.mark.filterwarnings("default")  # the compiler has warnings of its own


@pytest.mark.parametrize(
    ("seed", "update"),
    [(0, "eager"), (1, "eager"), pytest.param(2, "compiled", marks=COMPILED)],
)
def test_pendulum_is_solved_in_3000_steps(seed: int, update: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ["--env", "Pendulum-v1", "--preset", "tiny", "--steps", "3000", "--seed", str(seed)]
    options += ["--compile"] * (update == "compiled")
    train.main([*options, "--no-video", "--out", str(folder)])
    last = read_eval_csv(folder / "eval.csv")[-1]
    assert (last.step, last.episodes) == (3000, 20)
    assert last.return_mean > -250


@pytest.mark.timeout(2400)
def test_default_command_makes_the_pole_stand(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train.main(["--no-video", "--out", str(folder)])
    final = checkpoint.load(folder / "ckpt.pt").record.final
    assert (final["fresh"].success_rate or 0) >= 0.9


@pytest.mark.timeout(2400)
@COMPILED
def test_a_go2_learns_to_walk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    train.main(["--env", "sim:go2-walk", "--compile", "--no-video", "--out", str(folder)])
    capsys.readouterr()
    evaluate.main([str(folder / "best.pt"), "--noise", "fresh", "--seed", "7", "--json"])
    best = json.loads(capsys.readouterr().out)["noise"]["fresh"]
    # another CPU rounds otherwise and learns another walk: 20 of 20 on one, 19 on another
    assert best["survival"] >= 0.9
    assert best["success_rate"] >= 0.9  # half a metre per second, within 0.1


@pytest.mark.parametrize(
    ("env", "steps", "num_envs", "workers"),
    [("Pendulum-v1", 800, 1, 0), ("sim:cartpole", 8000, 8, 2), ("Humanoid-v5", 650, 1, 0)],
)
def test_killed_runs_end_like_one_left_alone(
    env: str, steps: int, num_envs: int, workers: int, tmp_path: Path
) -> None:
    differing, kills = compare(
        env, steps, 3, tmp_path, longest=9.0, num_envs=num_envs, workers=workers
    )
    assert not differing
    assert kills[-1].step > 0
    assert not any(kill.left for kill in kills)
    if workers:
        assert any(kill.workers == workers for kill in kills)
