"""`python -m dime_robot.train`: what a run writes, how it is resumed, what it refuses."""

from __future__ import annotations

import csv
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import yaml

from dime_robot import evaluate, train
from dime_robot.evaluation.rollout import Episode, Evaluation
from dime_robot.learning.config import TrainConfig
from dime_robot.results.eval_csv import read_eval_csv
from dime_robot.runtime.io.errors import InputError
from dime_robot.training import checkpoint
from dime_robot.training.presets import preset_config
from dime_robot.training.run import TrainingRun
from export import onnx

SMALL = [
    *("--env", "Pendulum-v1", "--preset", "tiny", "--no-video"),
    *("--random-steps", "50", "--eval-interval", "100", "--eval-episodes", "2"),
    *("--checkpoint-interval", "50", "--log-interval", "20", "--batch-size", "16"),
    *("--actor-width", "16", "--critic-width", "16"),
]


def run(*arguments: str, steps: int = 130) -> int:
    return train.main([*SMALL, "--steps", str(steps), *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run("--out", str(folder), "--seed", "4") == 0
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    learner = checkpoint.load(folder / "ckpt.pt").learner
    parts = {"actor": learner.actor, "critic": learner.critic}
    return {f"{part}.{k}": v for part, tensors in parts.items() for k, v in tensors.items()}


def assert_equal_weights(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


# -- what a run writes ---------------------------------------------------------------------------


def test_run_folder_holds_everything(finished: Path) -> None:
    names = {path.name.split(".out.")[0] for path in finished.iterdir()}
    files = {"ckpt.pt", "best.pt", "replay.bin", "config.yaml", "eval.csv", "events"}
    assert names == {*files, "report.html"}


def test_eval_csv_has_each_step_once_and_ends_with_the_final_evaluation(finished: Path) -> None:
    with (finished / "eval.csv").open() as file:
        lines = list(csv.reader(file))
    assert ",".join(lines[0]) == "step,seed,return_mean,return_std,episodes,wall_seconds"
    rows = read_eval_csv(finished / "eval.csv")
    assert [row.step for row in rows] == [0, 100, 130]
    assert [row.episodes for row in rows] == [2, 2, 20]
    assert {row.seed for row in rows} == {4}
    assert all(a.wall_seconds <= b.wall_seconds for a, b in pairwise(rows))
    assert rows[0].return_mean < -300  # unscaled: a random Pendulum policy


def test_the_best_evaluated_policy_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    returns = {0: 9.0, 20: 1.0, 40: 3.0, 60: 2.0, 80: 0.0}  # untrained ones do not count

    def evaluate(self: TrainingRun, episodes: int, mode: str) -> Evaluation:
        episode = Episode(total=returns.get(self.step, 0.0), length=1)
        return Evaluation((episode,) * episodes)

    monkeypatch.setattr(TrainingRun, "_evaluate", evaluate)
    folder = tmp_path / "run"
    run("--out", str(folder), "--eval-interval", "20", steps=50)
    assert checkpoint.load(folder / "best.pt").record.step == 40
    run("--resume", str(folder), "--eval-interval", "20", steps=90)
    assert checkpoint.load(folder / "best.pt").record.step == 40
    assert checkpoint.load(folder / "ckpt.pt").record.step == 90


def test_config_yaml_is_the_whole_configuration(finished: Path) -> None:
    config = TrainConfig.model_validate(yaml.safe_load((finished / "config.yaml").read_text()))
    assert config.seed == 4
    assert config.reward_scale == 0.1
    assert (config.v_min, config.v_max) == (-100, 20)


def test_a_checkpoint_names_what_made_it(finished: Path) -> None:
    record = checkpoint.load(finished / "ckpt.pt").record
    assert record.provenance["torch"] == torch.__version__
    (stage,) = record.lineage
    assert (stage.begins, stage.since, stage.until) == ("new", 0, 130)
    assert stage.config.seed == 4


def test_report_is_small_and_needs_no_network(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    assert len(text) < 1_000_000
    assert "<svg" in text
    assert "actor_width" in text  # differs from the preset
    for outside in ('src="http', 'href="http', "@import", "url(http"):
        assert outside not in text
    assert "Final evaluation" in text
    assert "--env Pendulum-v1 --preset tiny --steps 130 --seed 4" in text


def test_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert run("--out", str(folder), steps=60) == 0
    lines = capsys.readouterr().out.splitlines()
    first_eval = next(i for i, line in enumerate(lines) if line.startswith("eval"))
    assert first_eval <= 8  # the header
    assert "reward_scale 0.1  v_min -100  v_max 20" in "\n".join(lines)
    assert sum(line.startswith("eval") for line in lines) == 2
    assert str(folder / "ckpt.pt") in lines[-4]
    assert str(folder / "report.html") in lines[-3]
    assert str(folder / "best.pt") in lines[-2]
    assert lines[-1].endswith(f"python -m dime_robot.evaluate {folder / 'ckpt.pt'}")


# -- resuming ------------------------------------------------------------------------------------


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A SIGTERM at this step."""
    original = TrainingRun._environment_step

    def environment_step(self: TrainingRun, logger: Any) -> None:
        original(self, logger)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingRun, "_environment_step", environment_step)


@pytest.mark.parametrize("step", [1, 49, 50, 77, 100, 129])
def test_stopped_and_resumed_equals_uninterrupted(
    step: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        assert run("--out", str(folder), "--seed", "4") == 0
    assert checkpoint.load(folder / "ckpt.pt").record.step == step
    assert train.main(["--resume", str(folder), "--no-video"]) == 0
    assert_equal_weights(folder, finished)
    ours, theirs = read_eval_csv(folder / "eval.csv"), read_eval_csv(finished / "eval.csv")
    assert [(r.step, r.return_mean) for r in ours] == [(r.step, r.return_mean) for r in theirs]


class Forgetful(gymnasium.Env[np.ndarray, np.ndarray]):
    """Ignores its seed."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.rng = np.random.default_rng()

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return self.rng.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.reset()[0], 0.0, False, False, {}


gymnasium.register("Forgetful-v0", Forgetful, max_episode_steps=40)


def test_an_environment_that_does_not_repeat_itself_loses_an_episode_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 70)
        train.main([*SMALL, "--env", "Forgetful-v0", "--steps", "130", "--out", str(folder)])
    capsys.readouterr()
    assert train.main(["--resume", str(folder), "--no-video"]) == 0
    assert "does not repeat itself" in capsys.readouterr().out
    assert checkpoint.load(folder / "ckpt.pt").record.step == 130


def test_extended_run_equals_a_longer_one(tmp_path: Path) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    run("--out", str(short), steps=90)
    assert train.main(["--resume", str(short), "--steps", "150", "--no-video"]) == 0
    run("--out", str(long), steps=150)
    assert_equal_weights(short, long)
    assert [row.step for row in read_eval_csv(short / "eval.csv")] == [0, 90, 100, 150]
    assert yaml.safe_load((short / "config.yaml").read_text())["steps"] == 150


def test_a_run_without_an_update_says_so_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for steps, warned in ((50, True), (51, False)):
        assert run("--out", str(tmp_path / f"{steps}"), steps=steps) == 0
        before, _, _ = capsys.readouterr().out.partition("\neval ")
        assert ("warning: no update happens" in before) is warned


def test_finished_run_says_so(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "ckpt.pt").read_bytes()
    assert train.main(["--resume", str(finished)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert (finished / "ckpt.pt").read_bytes() == before


def test_equal_options_are_accepted_and_different_ones_refused_by_name(finished: Path) -> None:
    resume = ["--resume", str(finished)]
    assert train.main([*resume, *SMALL[:4], "--seed", "4", "--steps", "130"]) == 0
    for option, value in (
        ("--seed", "5"),
        ("--preset", "laptop"),
        ("--actor-lr", "0.1"),
        ("--steps", "100"),
    ):
        with pytest.raises(InputError, match=f"^{option} {value}: the resumed run has"):
            train.main([*resume, option, value])
    with pytest.raises(InputError, match=r"its contract \(Pendulum-v1\) is not that of Hopper-v5"):
        train.main([*resume, "--env", "Hopper-v5"])
    with pytest.raises(InputError, match="leave out --out"):
        train.main([*resume, "--out", "elsewhere"])


def test_a_run_goes_on_in_another_environment_of_the_same_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run("--env", "sim:go2-walk", "--v-max", "140", "--out", str(folder), steps=60)
    resumed = ["--resume", str(folder), "--no-video"]
    monkeypatch.setattr(
        TrainingRun,
        "_evaluate",
        lambda self, episodes, mode: Evaluation((Episode(total=-1.0, length=1),) * episodes),
    )
    train.main([*resumed, "--env", "sim:go2-steer", "--steps", "120"])
    record = checkpoint.load(folder / "ckpt.pt").record
    assert (record.config.env, record.step, record.replay.added) == ("sim:go2-steer", 120, 120)
    assert checkpoint.load(folder / "best.pt").record.step == 100  # of this environment
    train.main([*resumed, "--steps", "130"])
    assert checkpoint.load(folder / "ckpt.pt").record.config.env == "sim:go2-steer"
    with pytest.raises(InputError, match="expected an environment of the same contract"):
        train.main([*resumed, "--env", "sim:cartpole", "--steps", "140"])


def test_init_starts_from_trained_networks(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 1)
        run("--out", str(folder), "--init", str(finished / "ckpt.pt"), "--seed", "9")
    assert_equal_weights(folder, finished)
    init = str(finished / "ckpt.pt")
    with pytest.raises(InputError, match="--diffusion-steps 8, this run has 4"):
        run("--out", str(tmp_path / "b"), "--init", init, "--diffusion-steps", "4")
    with pytest.raises(InputError, match="observation terms differ"):
        train.main(["--init", str(finished / "ckpt.pt"), "--out", str(tmp_path / "b")])
    with pytest.raises(InputError, match="its networks are not those"):
        run("--out", str(tmp_path / "b"), "--init", str(finished / "ckpt.pt"), "--actor-depth", "3")
    assert not (tmp_path / "b").exists()


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "huge"], "expected one of official, laptop, tiny"),
        (["--env", "Hoper-v5"], "Hopper"),
        (["--v-min", "30"], "v_min < v_max"),
        (["--batch-size", "0"], "^--batch-size: expected at least 2, got 0"),
        (["--seed", "99999999999999999999"], "^--seed: expected less than 9223372036854775808"),
        (["--final-episodes", "2"], "^--final-episodes: expected at least 20, got 2$"),
        (["--v-min", "-inf"], "^--v-min: expected a finite number, got -inf$"),
        (["--device", "cuda:99"], "--device cuda:99"),
        *((["--device", name], f"--device {name}: expected auto, cpu, cuda or cuda:N")
          for name in ("meta", "mps", "cpu:5", "cuda:", "cuda:-1", "cuda:9999", "CPU")),
        *(([f"--{name}="], f"^--{name}: expected a value, got an empty one")
          for name in ("out", "resume", "init", "env", "preset", "device", "steps", "actor")),
        (["--env", "Pendulum"], "^Pendulum: expected an id with its version: Pendulum-v1$"),
        (["--init", "bad\udcff"], r"^bad\\udcff: expected text"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_sentence(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as error:
        train.main([*SMALL, *arguments, "--out", str(tmp_path / "x")])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x").exists()


def test_a_used_folder_is_refused(finished: Path) -> None:
    with pytest.raises(InputError, match=f"--resume {finished}"):
        run("--out", str(finished))


def test_unknown_options_are_one_sentence(tmp_path: Path) -> None:
    for words, message in (
        (["--wings", "2"], "unrecognized arguments: --wings 2"),
        (["--stpes", "2"], "unrecognized arguments: --stpes 2; perhaps --steps"),
        (["--steps"], "--steps: expected one argument"),
        (["--env"], "--env: expected one argument"),
    ):
        with pytest.raises(InputError, match=f"^{message}") as error:
            train.main(["--out", str(tmp_path / "x"), *words])
        assert str(error.value).endswith("; python -m dime_robot.train --help lists all options")
        assert "\n" not in str(error.value)


def test_a_gaussian_is_trained_resumed_and_evaluated_but_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run("--out", str(folder), "--actor", "gaussian") == 0
    assert "parameters, a Gaussian; critics" in capsys.readouterr().out
    assert train.main(["--resume", str(folder), "--steps", "150", "--no-video"]) == 0
    arguments = [str(folder / "ckpt.pt"), "--episodes", "2", "--noise", "zero"]
    assert evaluate.main(arguments) == 0
    with pytest.raises(InputError, match="expected a diffusion policy, got --actor gaussian"):
        onnx.main([str(folder / "ckpt.pt")])
    assert not (folder / "policy.onnx").exists()


def test_overlap_learns_as_often_and_resumes_exactly(tmp_path: Path) -> None:
    """The update comes before the step it belongs to; a run repeats itself with it too."""
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert run("--out", str(whole), "--overlap") == 0
    assert run("--out", str(halved), "--overlap", steps=80) == 0
    assert train.main(["--resume", str(halved), "--steps", "130", "--no-video"]) == 0
    assert checkpoint.load(whole / "ckpt.pt").record.updates == 2 * (130 - 50)
    assert_equal_weights(whole, halved)


def test_missing_compiler_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="no-such-compiler"):
        run("--out", str(tmp_path / "x"), "--compile")


def test_unknown_keys_and_presets_are_refused_by_the_configuration() -> None:
    with pytest.raises(InputError, match=r"^final_episodes: expected at least 20, got 2$"):
        TrainConfig(final_episodes=2)
    with pytest.raises(InputError, match="wings: Extra inputs"):
        TrainConfig.model_validate({"wings": 2})
    with pytest.raises(ValueError, match="frozen"):
        TrainConfig().steps = 3  # type: ignore[misc]


def test_every_field_says_what_it_is() -> None:
    for name, field in TrainConfig.model_fields.items():
        assert field.description, name


def test_steps_of_a_task_count_eightfold_with_many_environments() -> None:
    one, many = (preset_config(name, "sim:go2-walk") for name in ("tiny", "parallel"))
    assert (one.num_envs, many.num_envs) == (1, 16)
    assert (many.steps, many.eval_interval) == (8 * one.steps, 8 * one.eval_interval)
    assert many.updates_at(many.random_steps + 160) == 20
    gpu = preset_config("parallel-gpu", "sim:go2-walk")
    assert gpu.updates_at(gpu.random_steps + 1024) == 2 and gpu.steps == 256 * one.steps
    before = preset_config("parallel", "Pendulum-v1")
    assert preset_config("parallel", "Pendulum-v1") == before  # nothing is scaled twice


def test_tasks_bring_their_atoms() -> None:
    assert preset_config("official", "dm_control/dog-run-v0").v_max == 200
    assert preset_config("official", "Ant-v5").v_min == -1600
    assert preset_config("tiny", "Pendulum-v1").reward_scale == 0.1
    official = preset_config("official", "dm_control/dog-run-v0")
    assert official == TrainConfig(env="dm_control/dog-run-v0", preset="official")
