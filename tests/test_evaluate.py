"""Evaluation: statistics, noise modes, reproducibility, command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dime_robot import evaluate, train
from dime_robot.evaluation.rollout import (
    Episode,
    Evaluation,
    Evaluator,
    FloatArray,
    episode_noise,
    seed_of,
)
from dime_robot.evaluation.video import record_in_child
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.noise import NOISE_MODES, NoiseMode
from tests.paths import SHIPPED_CARTPOLE


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "cartpole"
    options = ["--steps", "60", "--random-steps", "50", "--eval-episodes", "1", "--no-video"]
    train.main([*options, "--out", str(folder)])
    return folder / "ckpt.pt"


def test_statistics() -> None:
    result = Evaluation(tuple(Episode(float(i), 1, i <= 15) for i in range(1, 21)))
    assert result.mean == pytest.approx(10.5)
    assert result.std == pytest.approx(np.std(range(20)))
    assert result.iqm == pytest.approx(10.5)
    outlier = Evaluation(tuple(Episode(float(i), 1) for i in (*range(1, 20), 1000)))
    assert outlier.success_rate is None
    assert outlier.iqm == pytest.approx(10.5)
    low, high = result.interval()
    # normal approximation of the mean: 10.5 +- 1.96 * 5.77 / sqrt(20)
    assert (low, high) == (pytest.approx(7.97, abs=0.4), pytest.approx(13.03, abs=0.4))
    assert result.summary()["success_rate"] == 0.75
    assert Evaluation((Episode(3.0, 1), Episode(3.0, 1))).interval() == (3.0, 3.0)


def test_action_rate_is_the_mean_change_per_step() -> None:
    calls = iter(range(1000))

    def policy(obs: FloatArray, noise: FloatArray) -> FloatArray:
        return np.full((len(obs), 1), 0.5 * (next(calls) % 2), np.float32)

    evaluator = Evaluator("Pendulum-v1", (2, 1))
    assert evaluator.run(policy, 2, (0,)).action_rate == pytest.approx(0.5)
    evaluator.close()


def still(obs: FloatArray, noise: FloatArray) -> FloatArray:
    return np.zeros((len(obs), 1), np.float32)


def record_noises(mode: NoiseMode, episodes: int = 3) -> list[FloatArray]:
    """Noise of every call, shape (B, N+1, d) each."""
    seen: list[FloatArray] = []

    def policy(obs: FloatArray, noise: FloatArray) -> FloatArray:
        seen.append(noise)
        return still(obs, noise)

    evaluator = Evaluator("Pendulum-v1", (9, 1), parallel=2)
    evaluator.run(policy, episodes, (0,), mode)
    evaluator.close()
    return seen


def test_fresh_noise_is_new_each_step_and_unit_normal() -> None:
    noises = np.concatenate([n.ravel() for n in record_noises("fresh")])
    assert len(np.unique(noises)) > 0.99 * len(noises)
    assert noises.mean() == pytest.approx(0, abs=0.06)
    assert noises.std() == pytest.approx(1, abs=0.05)


def test_held_noise_is_one_draw_per_episode() -> None:
    noises = record_noises("held")
    first = [n for n in noises if len(n) == 2]
    assert all(np.array_equal(n, first[0]) for n in first)
    assert not np.array_equal(first[0][0], first[0][1])
    assert np.abs(first[0]).min() > 0
    assert not np.array_equal(noises[-1][0], first[0][0])


def test_noise_and_start_are_independent() -> None:
    """Both follow from one seed, but not through the same random stream."""
    starts, draws = [], []
    for number in range(300):
        seed = seed_of(0, number)
        starts.append(np.random.default_rng(seed).uniform(-1, 1, 4))
        draws.append(np.abs(episode_noise((9, 1), seed, "held").values[:4, 0]))
    both = np.corrcoef(np.hstack([starts, draws]).T)[:4, 4:]
    assert np.abs(both).max() < 0.25  # 0.7 where the stream is shared


def test_seeds_of_keys_of_different_lengths_differ() -> None:
    assert len({seed_of(3), seed_of(3, 0), seed_of(3, 0, 0), seed_of(0, 3)}) == 4


def test_zero_noise_is_zero() -> None:
    assert not any(n.any() for n in record_noises("zero"))


def test_episodes_do_not_depend_on_how_many_run_side_by_side() -> None:
    def policy(obs: FloatArray, noise: FloatArray) -> FloatArray:
        return np.tanh(obs[:, 2:] + noise[:, 0])

    results = []
    for parallel in (1, 4):
        evaluator = Evaluator("Pendulum-v1", (2, 1), parallel=parallel)
        results.append(evaluator.run(policy, 6, (3,)).returns)
        evaluator.close()
    assert results[0] == pytest.approx(results[1])
    assert len(set(results[0])) == 6


def test_episodes_that_end_early_leave_the_others_alone() -> None:
    evaluator = Evaluator("InvertedPendulum-v5", (2, 1), parallel=5)
    result = evaluator.run(still, 5, (0,))
    evaluator.close()
    lengths = [episode.length for episode in result.episodes]
    assert len(set(lengths)) > 1
    assert list(result.returns) == [n - 1 for n in lengths]  # 1 a step but the last


def test_table_names_all_noise_modes(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(trained), "--episodes", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(NOISE_MODES)
    assert all("95% of mean" in line and "success 0/2" in line for line in lines)


def test_json_repeats_with_the_seed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for seed in ("1", "1", "2"):
        evaluate.main(
            [str(trained), "--episodes", "3", "--noise", "zero", "--seed", seed, "--json"]
        )
        outputs.append(json.loads(capsys.readouterr().out))
    assert outputs[0] == outputs[1]
    assert outputs[0]["noise"] != outputs[2]["noise"]
    assert set(outputs[0]["noise"]) == {"zero"}
    expected = {"return_mean", "return_std", "return_iqm", "interval_95", "episodes"}
    assert expected <= set(outputs[0]["noise"]["zero"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episodes", "0"], "--episodes"),
        (["--seed", "-1"], "--seed"),
        (["--env", "Pendulum-v1"], "5 observations and 1 actions, the environment has 3 and 1"),
    ],
)
def test_wrong_options_are_one_sentence(arguments: list[str], message: str, trained: Path) -> None:
    with pytest.raises(InputError, match=message):
        evaluate.main([str(trained), *arguments])


def test_missing_file_exits_with_2() -> None:
    command = [sys.executable, "-m", "dime_robot.evaluate", "nowhere.pt"]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr == "error: nowhere.pt: expected a checkpoint (ckpt.pt), got no such file\n"


@pytest.mark.parametrize("name", ["video", "video.txt", "folder.mp4"])
def test_a_video_is_an_mp4_file_and_nothing_else_is_touched(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    path = tmp_path / name
    if not path.is_dir():
        path.write_text("precious")
    words = ["--policy", "zero", "--env", "sim:cartpole", "--episodes", "0", "--video", str(path)]
    with pytest.raises(InputError, match=r"--video .*: expected a file"):
        evaluate.main(words)
    assert path.is_dir() or path.read_text() == "precious"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_without_streams_still_works(closed: str) -> None:
    words = "--policy zero --env Pendulum-v1 --episodes 1"
    command = f"{sys.executable} -m dime_robot.evaluate {words} {closed}"
    assert subprocess.run(["sh", "-c", command]).returncode == 0


# imageio leaves its pipe to ffmpeg to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_video_or_a_plain_sentence(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    reason = record_in_child(trained, path, seed=0)
    if reason is None:
        import imageio.v2 as imageio

        with imageio.get_reader(path) as reader:
            frames = np.stack([reader.get_data(i) for i in range(0, 251, 25)])
            assert reader.count_frames() == 251
        assert frames.std(axis=0).max() > 10  # something moves
    else:
        assert reason.startswith("no video: ")
        assert "\n" not in reason


def test_no_renderer_is_a_plain_sentence(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disable")
    reason = record_in_child(trained, tmp_path / "video.mp4", seed=0)
    assert reason is not None
    assert reason.startswith("no video: rendering does not work here")
    assert "apt install" in reason


def test_the_published_policy_still_loads_and_stands(capsys: pytest.CaptureFixture[str]) -> None:
    path = SHIPPED_CARTPOLE
    assert evaluate.main([str(path), "--episodes", "5", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["noise"]
    assert results["fresh"]["success_rate"] == results["zero"]["success_rate"] == 1
    assert results["zero"]["action_rate"] < 0.1 * results["fresh"]["action_rate"]
