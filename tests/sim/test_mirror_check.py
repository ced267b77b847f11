"""Whether a task is its own mirror image, and what the check names if it is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dime_robot import config as config_command
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.config.trust import allow
from dime_robot.sim.mirror_check import mirror_problem
from dime_robot.sim.robot_env import RobotEnv

TERMS = """
from dime_robot.sim.tasks.view import TaskView

def leans(view: TaskView) -> float:
    return float(view.base.velocity[1])

def sideways(view: TaskView):
    return view.base.velocity[1:2]
"""


def task(folder: Path, **sections: Any) -> Path:
    """A file beside terms of the user's own."""
    (folder / "terms.py").write_text(TERMS)
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump({"extends": "sim:go2-wide", **sections}))
    allow(path)
    return path


def problem(path: Path, privileged: bool = False) -> str:
    found = mirror_problem(*load_robot_task(path), privileged)
    assert found is not None and "\n" not in found
    return found


@pytest.mark.parametrize("name", ["go2-wide", "hexapod-walk"])
def test_the_shipped_walkers_are_symmetric(name: str) -> None:
    config, model = load_robot_task(name)
    assert config.task is not None
    assert mirror_problem(config, model, bool(config.task.privileged)) is None


def test_a_reward_that_tells_left_from_right_is_named(tmp_path: Path) -> None:
    rewards = {"leans": {"term": "terms.py:leans", "weight": 0.5}}
    found = problem(task(tmp_path, task={"rewards": rewards}))
    assert re.search(r"robot.yaml: task.rewards.leans: expected -?0\.\d+ for the mirror", found)


@pytest.mark.parametrize(
    ("sections", "place"),
    [
        ({"task": {"commands": {"velocity": {"linear_y": [0.0, 0.3]}}}}, "task"),
        ({"curriculum": [{"name": "left", "task": {"commands": {"velocity": {
            "angular_z": [0.0, 0.5]}}}}]}, "curriculum.left.task"),
    ],
)  # fmt: skip
def test_one_sided_commands_are_named(sections: dict[str, Any], place: str, tmp_path: Path) -> None:
    assert f": {place}.commands.velocity." in problem(task(tmp_path, **sections))


def test_a_wrong_sign_of_a_term_of_the_users_own_is_named(tmp_path: Path) -> None:
    own = {"sideways": "terms.py:sideways"}
    path = task(tmp_path, task={"privileged": own}, symmetry={"terms": {"sideways": [1]}})
    assert "task.privileged.sideways, number 0: expected" in problem(path, privileged=True)
    path = task(tmp_path, task={"privileged": own}, symmetry={"terms": {"sideways": [-1]}})
    assert mirror_problem(*load_robot_task(path), True) is None


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"task": {"privileged": {"sideways": "terms.py:sideways"}}},
         "task.privileged.sideways: expected 1 signs in symmetry.terms.sideways"),
        ({"task": {"privileged": {"friction": {"feet": ["FL_foot"]}}}},
         "task.privileged.friction.feet: expected the partner of each of them .*FR_foot, which is"),
        ({"task": {"privileged": {"mass": {"body": "FL_calf"}}}},
         "task.privileged.mass.body: expected the base, base, .* got FL_calf"),
        ({"symmetry": None}, "expected a section `symmetry:`.* got none"),
    ],
)  # fmt: skip
def test_what_has_no_mirror_image_is_refused(
    sections: dict[str, Any], message: str, tmp_path: Path
) -> None:
    env = RobotEnv(str(task(tmp_path, **sections)), privileged=True)
    with pytest.raises(InputError, match=message) as error:
        env.mirror()
    assert "\n" not in str(error.value)


def test_what_only_critics_see_has_the_mirror_image_of_its_kind() -> None:
    env = RobotEnv("go2-wide", privileged=True)
    image, names = env.mirror(), [joint.name for joint in env.policy_spec.joints]
    numbers = np.arange(1.0, 1.0 + env.observation_space.shape[0])
    got, first = image.observation(numbers), env.policy_spec.n_obs
    assert image.observation(got) == pytest.approx(numbers)
    parts = {}
    for name, size in env.privileged_sizes.items():
        parts[name] = got[first : first + size], numbers[first : first + size]
        first += size
    assert parts["velocity"][0] == pytest.approx(parts["velocity"][1] * [1, -1, 1])
    assert parts["height"][0] == pytest.approx(parts["height"][1])
    for name in ("foot_forces", "friction"):  # FL FR RL RR
        assert parts[name][0] == pytest.approx(parts[name][1][[1, 0, 3, 2]])
    side = {"L": "R", "R": "L"}
    partner = [names.index(name[0] + side[name[1]] + name[2:]) for name in names]
    turned = np.array([-1 if "hip" in name else 1 for name in names])
    assert parts["joint_position"][0] == pytest.approx(parts["joint_position"][1][partner] * turned)
    assert parts["strength"][0] == pytest.approx(parts["strength"][1][partner])


def test_the_check_says_whether_a_file_can_be_mirrored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert config_command.main(["check", "go2-wide"]) == 0
    assert "ok  mirror image: for training with --symmetry" in capsys.readouterr().out
    path = task(tmp_path, task={"commands": {"velocity": {"linear_y": [0.0, 0.3]}}}, curriculum=[])
    content = yaml.safe_load(path.read_text())
    content["robot"] = {"command_velocity": {"limits": {"linear_y": 0.3}}}
    path.write_text(yaml.safe_dump(content))
    assert config_command.main(["check", str(path)]) == 0  # it can be trained without
    assert "no  training with --symmetry: " in capsys.readouterr().out
