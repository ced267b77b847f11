"""The simulated robot gets the commands that a robot gets between two steps of its policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from dime_robot.envs import make_env
from dime_robot.evaluate import main as evaluate
from dime_robot.loaded_policy import evaluate_policy, load_policy, require_fitting_env
from dime_robot.runtime.contract.interpolation import Interpolation
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.randomization import Delay, LatencyConfig
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task
from dime_robot.sim.config.trust import typed_env
from dime_robot.sim.examination import examine
from dime_robot.sim.plant.delays import DelayedPlant
from dime_robot.sim.plant.plant import make_plant
from dime_robot.sim.robot_env import RobotEnv
from dime_robot.sim.tasks.digest import task_digest
from tests.paths import SHIPPED_GO2, shipped_content

RATE, PER_STEP = 200.0, 4  # [Hz], commands in a period


def content(kind: str, name: str = "go2-nominal", rate: float | None = RATE) -> dict[str, Any]:
    config = shipped_content(name)
    config["robot"]["command"] |= {"interpolation": kind}
    if kind != "none":
        config["robot"]["command"]["rate"] = rate
    return config


def written(folder: Path, kind: str, name: str = "go2-nominal") -> Path:
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(content(kind, name)))
    return path


def expected(kind: str, commands: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The commands of all simulation steps, without the code under test."""
    found, before, tangent, last = [], start, np.zeros_like(start), np.zeros_like(start)
    for command in commands:
        change = command - before
        end = np.where(change * last > 0, np.sign(change), 0.0)
        end = end * np.minimum(np.abs(change), np.abs(last))
        for i in range(PER_STEP):
            s = i / PER_STEP
            value = before + s * change
            if kind == "cubic":  # the four Hermite polynomials
                value = (2 * s**3 - 3 * s**2 + 1) * before + (-2 * s**3 + 3 * s**2) * command
                value = value + (s**3 - 2 * s**2 + s) * tangent + (s**3 - s**2) * end
            found.append(value)
        before, tangent, last = command, end, change
    return np.array(found)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
@pytest.mark.parametrize("delayed", [False, True])
def test_a_plant_follows_the_commands_in_between(kind: str, delayed: bool) -> None:
    config = RobotTaskConfig.model_validate(content(kind))
    _, model = load_robot_task("go2-nominal")
    plant = make_plant(config, model)
    robot = make_plant(config, model, interpolates=False)
    names, rng = config.policy.action_joints, np.random.default_rng(0)
    for each in (plant, robot):  # twice: nothing is left from the episode before
        each.reset(each.default_pose)
        each.step(JointCommand(names, np.full(12, 0.3), "position"))
        each.reset(each.default_pose)
    start = robot.positions(list(names))
    commands = start + 0.2 * rng.standard_normal((20, 12))
    late = LatencyConfig(action=Delay(range=(0.0, 0.0))) if delayed else LatencyConfig()
    line = DelayedPlant(plant, late)  # it simulates step by step
    line.reset(rng)
    of_steps = expected(kind, commands, start).reshape(20, PER_STEP, 12)
    for command, between in zip(commands, of_steps, strict=True):
        line.step(JointCommand(names, command, "position"), rng)
        for value in between:
            robot.command(JointCommand(names, value, "position"))
            robot.advance(1)
        np.testing.assert_allclose(plant.data.qpos, robot.data.qpos, atol=1e-9)


def test_a_constant_command_is_the_same_with_and_without() -> None:
    config, model = load_robot_task("go2-nominal")
    ours = RobotTaskConfig.model_validate(content("cubic"))
    plants = [make_plant(config, model), make_plant(ours, model)]
    for plant in plants:
        plant.reset(plant.default_pose)
        pose = plant.positions(list(config.policy.action_joints))
        for _ in range(10):
            plant.step(JointCommand(config.policy.action_joints, pose, "position"))
    np.testing.assert_array_equal(plants[0].data.qpos, plants[1].data.qpos)


def test_an_environment_simulates_what_its_file_states(tmp_path: Path) -> None:
    ends = {}
    for kind in ("none", "linear", "cubic"):
        path = written(tmp_path, kind)
        env, rng = make_env(f"sim:{path}"), np.random.default_rng(1)
        assert isinstance(env.unwrapped, RobotEnv)
        assert str(env.unwrapped.interpolation).startswith(kind)
        env.reset(seed=0)
        for _ in range(5):
            obs, *_ = env.step(rng.uniform(-1, 1, 12).astype(np.float32))
        ends[kind] = obs
        env.close()
    shipped, rng = make_env("sim:go2-nominal"), np.random.default_rng(1)
    shipped.reset(seed=0)
    for _ in range(5):
        obs, *_ = shipped.step(rng.uniform(-1, 1, 12).astype(np.float32))
    np.testing.assert_array_equal(obs, ends["none"])
    assert not np.array_equal(ends["linear"], ends["none"])
    assert not np.array_equal(ends["linear"], ends["cubic"])


def test_the_digest_of_a_task_has_it_and_stays_without(tmp_path: Path) -> None:
    digests = {
        kind: task_digest(*load_robot_task(written(tmp_path, kind, "go2")))
        for kind in ("none", "linear", "cubic")
    }
    assert len(set(digests.values())) == 3
    path = tmp_path / "of_an_earlier_release.yaml"
    path.write_text(yaml.safe_dump(shipped_content("go2")))
    assert digests["none"] == task_digest(*load_robot_task(path))


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (100.0, ""),
        (150.0, "a whole number of simulation steps between two commands, got 150 Hz"),
        (120.0, "a whole multiple of the policy's rate of 50 Hz"),
        (50.0, "at least 100 Hz"),
    ],
)
def test_a_rate_that_cannot_be_simulated_is_refused(rate: float, words: str) -> None:
    given = content("linear", rate=rate)
    if not words:
        RobotTaskConfig.model_validate(given)
        return
    with pytest.raises(ValidationError, match=words):
        RobotTaskConfig.model_validate(given)


def test_the_check_reports_it_among_the_other_problems(tmp_path: Path) -> None:
    given = content("linear", "go2", rate=120.0)
    given["robot"]["joints"][0]["velocity_limit"] = -1.0
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(given))
    assert "velocity_limit" in " ".join(examine(str(path)).problems)
    given["robot"]["joints"][0]["velocity_limit"] = 30.1
    path.write_text(yaml.safe_dump(given))
    assert any("command.rate: expected a whole" in text for text in examine(str(path)).problems)


def test_a_policy_is_not_evaluated_with_another_interpolation(tmp_path: Path) -> None:
    path = written(tmp_path, "linear")
    typed_env(f"sim:{path}")
    words = "expected interpolation none, which policy go2 was trained with, got linear at 200 Hz"
    with pytest.raises(InputError, match=words) as caught:
        evaluate_policy(SHIPPED_GO2, env=f"sim:{path}", episodes=1)
    assert caught.value.code == "interpolation"
    with pytest.raises(InputError, match=words):
        evaluate([str(SHIPPED_GO2), "--env", f"sim:{path}"])
    loaded = load_policy(SHIPPED_GO2)
    require_fitting_env(f"sim:{path}", loaded.spec, Interpolation(kind="linear", rate=RATE))
    with pytest.raises(InputError, match="set interpolation: cubic and rate: 200, or train"):
        require_fitting_env(f"sim:{path}", loaded.spec, Interpolation(kind="cubic", rate=RATE))
