"""The section `curriculum:`: what a level changes, and what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dime_robot import config
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import load_robot_task, require_task
from dime_robot.sim.tasks.digest import task_digest

EASY: dict[str, Any] = {"name": "easy", "randomization": 0.0}


def written(folder: Path, *levels: dict[str, Any], extends: str = "sim:cartpole") -> Path:
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump({"extends": extends, "curriculum": list(levels)}))
    return path


@pytest.mark.parametrize(("level", "like"), [("walk", "go2-walk"), ("steer", "go2-steer")])
def test_the_first_levels_of_the_go2_are_the_tasks_of_their_own_files(
    level: str, like: str
) -> None:
    whole, _ = load_robot_task("go2-wide")
    number = [each.name for each in whole.curriculum].index(level)
    expected = load_robot_task(like)[0].task
    task = whole.at_level(number).task
    assert task is not None and task.privileged  # for critics alone, so no part of the task
    assert task.model_copy(update={"privileged": {}}) == expected
    assert whole.task is not None
    assert whole.task.model_copy(update={"privileged": {}}) != expected
    assert (whole.curriculum[number].randomization, whole.curriculum[number].latency) == (0, 0)


def test_a_level_changes_values_and_leaves_terms_out(tmp_path: Path) -> None:
    changed = {
        "episode_seconds": 4.0,
        "rewards": {"slow": None, "centred": {"width": 0.5}},
        "success": {"stands": {"window": 2.0}},
    }
    task, _ = load_robot_task(written(tmp_path, {**EASY, "task": changed}))
    whole, easy = require_task(task), require_task(task.at_level(0))
    assert easy.rewards.keys() == whole.rewards.keys() - {"slow"}
    assert easy.rewards["centred"].parameters == {"joint": "slider", "width": 0.5}
    assert whole.rewards["centred"].parameters == {"joint": "slider", "width": 1.0}
    assert (easy.episode_seconds, whole.episode_seconds) == (4.0, 10.0)


def test_the_levels_are_no_part_of_the_whole_task(tmp_path: Path) -> None:
    """A policy may be evaluated with a file whose way of training has changed."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = written(tmp_path / "a", EASY), written(tmp_path / "b")
    assert task_digest(*load_robot_task(one)) == task_digest(*load_robot_task(other))


def _with(**changes: Any) -> tuple[dict[str, Any], ...]:
    return ({**EASY, **changes},)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((EASY, EASY), r"curriculum: expected each name once, got \['easy', 'easy'\]"),
        (_with(name=""), "curriculum.0.name"),
        (_with(passed=1.5), "curriculum.0.passed"),
        (_with(randomization=-1), "curriculum.0.randomization"),
        (_with(learning_rate=0), "curriculum.0.learning_rate"),
        (_with(errors={"speed": 1.0}), r"easy.errors: expected metrics of the task, .*got speed"),
        (_with(task={"success": {"stands": None}}), "easy.errors: expected at least one"),
        (_with(task={"episode_seconds": 11.0}), "up to those of the whole task, 10 s, got 11 s"),
        (_with(task={"rewards": {"alive": 1.0}}), "rewards.alive: expected other values of one of"),
        (_with(task={"rewards": {"slow": "alive"}}), "rewards.slow: expected other values of one"),
        (_with(task={"rewards": {"slow": {"term": "own.py:f"}}}), "rewards.slow: expected other"),
        (_with(task={"rewards": [1]}), "rewards: expected a mapping of terms"),
        (_with(task={"weather": 3}), "easy.task.weather: unknown"),
    ],
)  # fmt: skip
def test_what_a_level_may_not_change(
    levels: tuple[dict[str, Any], ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_robot_task(written(tmp_path, *levels))
    assert "\n" not in str(error.value)


def test_the_check_builds_the_task_of_every_level(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert config.main(["check", str(written(tmp_path, EASY))]) == 0
    assert "ok  curriculum: easy, then the whole task" in capsys.readouterr().out
    path = written(tmp_path, EASY, {"name": "short", "task": {"episode_seconds": 2.0}})
    with pytest.raises(InputError, match=r"curriculum.short: .*window: expected up to") as error:
        config.main(["check", str(path)])
    assert "\n" not in str(error.value)


def test_levels_need_a_task(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("extends: sim:cartpole\ntask: null\ncurriculum: [{name: easy}]\n")
    with pytest.raises(InputError, match="curriculum: expected a section `task:`"):
        load_robot_task(path)
