"""Going through the levels of a curriculum: by success, and the same after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml

from dime_robot import train
from dime_robot.results.eval_csv import read_eval_csv
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.curriculum import LevelConfig
from dime_robot.training import checkpoint
from dime_robot.training.curriculum import Curriculum, CurriculumState, levels_of, passes
from dime_robot.training.episode import EndedEpisode
from tests.test_train import SMALL, assert_equal_weights
from tests.training.test_vector_env import stop_at

A = LevelConfig(name="a", episodes=4, passed=0.75, errors={"error": 0.1})
B = LevelConfig(name="b", episodes=2, passed=1.0, longest=100, learning_rate=0.5)
C = LevelConfig(name="c", episodes=1)


def episode(level: int | None = 0, **values: Any) -> EndedEpisode:
    shown = {"environment": 0, "steps": 10, "total": 0.0, "terminated": False, "success": True}
    return EndedEpisode(**{**shown, "means": {"error": 0.05}, "level": level, **values})


def test_an_episode_passes() -> None:
    assert passes(episode(success=False), A)  # by its errors alone
    assert not passes(episode(means={"error": 0.2}), A)
    assert not passes(episode(means={}), A)
    assert not passes(episode(terminated=True), A)
    assert passes(episode(means={}), C)  # by the criterion
    assert not passes(episode(success=False), C)
    assert not passes(episode(success=None), C)
    assert not passes(episode(terminated=True), C)


def test_a_level_ends_when_enough_of_the_latest_episodes_passed() -> None:
    curriculum = Curriculum([A, C])
    failed, good = episode(means={}), episode()
    for number in range(10):  # never three of four
        assert curriculum.advance([failed, good], number) is None
    assert curriculum.passed_share == 0.5
    assert curriculum.advance([good, good], 10) == (
        "level a: 75% of the latest 4 episodes passed after 10 steps; now c (2 of 3)"
    )
    assert curriculum.level is C
    assert curriculum.advance([episode(level=0), episode(level=None)], 11) is None  # of others
    assert curriculum.advance([episode(level=1)], 15) is not None
    assert curriculum.level is None
    assert curriculum.names[curriculum.number] == "the whole task"
    assert curriculum.advance([episode(level=None)] * 9, 99) is None


def test_a_level_can_end_by_time() -> None:
    curriculum = Curriculum([C, B, A])
    assert curriculum.advance([episode()], 50) is not None
    assert curriculum.advance([], 149) is None
    text = curriculum.advance([], 150)
    assert text == "level b: 0% of the latest 0 episodes passed after 100 steps; now a (3 of 4)"


def test_learning_rates_stay_until_a_level_changes_them() -> None:
    curriculum, rates = Curriculum([C, B, A]), []
    for step in (0, 100, 200, 300):
        rates.append(curriculum.learning_rate)
        curriculum.advance([episode(level=curriculum.number)] * 9, step)
    assert rates == [1.0, 0.5, 0.5, 0.5]
    assert curriculum.level is None


def test_a_restored_curriculum_goes_on_alike() -> None:
    one, other = Curriculum([A, B]), Curriculum([A, B])
    one.advance([episode(), episode(means={}), episode()], 7)
    other.load(CurriculumState.model_validate_json(one.state().model_dump_json()))
    for step in range(8, 12):
        ended = [episode(level=one.number)]
        assert one.advance(ended, step) == other.advance(ended, step)
        assert one.state() == other.state()
    with pytest.raises(InputError, match="expected the level 'b' that the run was in"):
        Curriculum([A, C]).load(CurriculumState(level="b", since=0, passed=()))


def test_a_decision_counts_all_environments_whose_episodes_end_together() -> None:
    """The last ones in their order would else decide alone."""
    failed, good = [episode(means={})] * 4, [episode()] * 4
    for order in ([*failed, *good], [*good, *failed]):
        curriculum = Curriculum([A, C], num_envs=8)
        assert curriculum.advance(order, 1) is None
        assert curriculum.passed_share == 0.5
    assert curriculum.advance([episode()] * 8, 2) is not None


def test_time_counts_from_where_a_curriculum_begins() -> None:
    curriculum = Curriculum([B, A])
    curriculum.begin(5_000)
    assert curriculum.advance([], 5_099) is None
    assert curriculum.advance([], 5_100) is not None


# -- in a run ------------------------------------------------------------------------------------

LEVELS = {
    "extends": "sim:cartpole",
    "task": {
        "episode_seconds": 0.8,
        "metrics": {"height": {"term": "reward_of", "rewards": "upright"}},
        "success": {"stands": {"window": 0.1}},
    },
    "curriculum": [
        {"name": "short", "randomization": 0.0, "episodes": 4, "errors": {"height": 1.0},
         "task": {"episode_seconds": 0.4}},
        {"name": "longer", "randomization": 0.5, "episodes": 3, "errors": {"height": 1.0},
         "learning_rate": 0.5, "task": {"episode_seconds": 0.6}},
        {"name": "never", "errors": {"height": 1.0e-9}, "task": {"episode_seconds": 0.5}},
    ],
    "randomization": [
        {"kind": "armature", "operation": "add", "range": [0.1, 0.9], "mode": "reset"}
    ],
}  # fmt: skip


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    path = tmp_path / "levels.yaml"
    path.write_text(yaml.safe_dump(LEVELS))
    parallel = ["--num-envs", "3", "--update-to-data", "0.5", "--steps", "330"]
    return [*SMALL, "--env", f"sim:{path}", *parallel, "--eval-interval", "1000"]


def test_a_run_goes_through_the_levels_and_says_so(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert train.main([*options, "--out", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "levels  short, longer, never, the whole task; now short" in lines
    changes = [line for line in lines if ": 100% of the latest" in line]
    # two rounds of three episodes of 20 steps; in the next ones some are of the first level still
    assert [line.split(";")[0] for line in changes] == [
        "step     120  level short: 100% of the latest 4 episodes passed after 120 steps",
        "step     270  level longer: 100% of the latest 3 episodes passed after 150 steps",
    ]
    record = checkpoint.load(folder / "ckpt.pt").record
    assert record.curriculum is not None
    assert (record.curriculum.level, record.curriculum.since) == ("never", 270)


@pytest.mark.parametrize("step", [119, 200, 300])
def test_stopped_and_resumed_equals_uninterrupted(
    step: int, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert train.main([*options, "--out", str(whole)]) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        assert train.main([*options, "--out", str(halved)]) == 0
    resumed = ["--resume", str(halved), "--env", options[options.index("--num-envs") - 1]]
    assert train.main([*resumed, "--no-video"]) == 0
    assert_equal_weights(whole, halved)
    ours, theirs = (checkpoint.load(each / "ckpt.pt").record for each in (whole, halved))
    assert ours.curriculum == theirs.curriculum
    assert ours.episodes == theirs.episodes
    assert ours.replay.digests == theirs.replay.digests


def test_without_its_curriculum_a_run_begins_with_the_whole_task(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert train.main([*options, "--no-curriculum", "--out", str(folder)]) == 0
    assert "levels " not in capsys.readouterr().out
    record = checkpoint.load(folder / "ckpt.pt").record
    assert record.curriculum is None
    assert {episode.level for episode in record.episodes} == {None}
    assert [row.step for row in read_eval_csv(folder / "eval.csv")] == [0, 330]


class Classroom(gymnasium.Wrapper):
    """Has something else of that name."""

    curriculum = True


def test_an_environments_own_attribute_is_none_of_ours() -> None:
    env = gymnasium.make("Pendulum-v1")
    assert levels_of(Classroom(env)) == ()
    env.unwrapped.curriculum = ("algebra",)  # type: ignore[attr-defined]
    assert levels_of(env) == ()
    env.close()


def test_a_file_whose_levels_were_taken_out_is_refused(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = tmp_path / "run", tmp_path / "levels.yaml"
    with monkeypatch.context() as patch:
        stop_at(patch, 200)
        assert train.main([*options, "--out", str(folder)]) == 0
    levels = LEVELS["curriculum"]
    assert isinstance(levels, list)
    resumed = ["--resume", str(folder), "--config", str(file), "--no-video"]
    file.write_text(yaml.safe_dump({k: v for k, v in LEVELS.items() if k != "curriculum"}))
    with pytest.raises(InputError, match="expected the levels with which the run began"):
        train.main(resumed)
    file.write_text(yaml.safe_dump({**LEVELS, "curriculum": levels[1:]}))  # the first one is gone
    assert train.main(resumed) == 0
