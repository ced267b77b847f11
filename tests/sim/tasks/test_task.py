"""The shipped tasks of terms against their equations, and files of the older form."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dime_robot import config as config_command
from dime_robot.runtime.contract.config_files import config_folder
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task, require_task
from dime_robot.sim.plant.plant import make_plant
from dime_robot.sim.robot_env import RobotEnv
from dime_robot.sim.tasks.task import Task, largest_reward, problems, training_settings
from dime_robot.training.presets import task_settings
from tests.paths import CONFIGS_OF_RELEASE_0_1, shipped_content
from tests.sim.tasks.reference_tasks import reference_of

NAMES = ("cartpole", "go2", "go2-walk", "go2-steer")
STEPS, EPISODE = 1000, 270  # an episode is longer than the window in which the pole has to stand
VELOCITY = "velocity"


def config_of(name: str, form: str) -> tuple[RobotTaskConfig, Path]:
    """A configuration as it is shipped, or as it was in release 0.1; models are those of today."""
    if form == "shipped":
        return load_robot_task(name)
    config = load_robot_task(CONFIGS_OF_RELEASE_0_1 / f"{name}.yaml")[0]
    return config, config_folder() / config.sim.model


def trace(env: RobotEnv, name: str) -> list[dict[str, Any]]:
    """All that an environment shows of its task: random episodes, and some in which it succeeds."""
    rng, rows, length, episode = np.random.default_rng(1), [], EPISODE, 0
    for _ in range(STEPS):
        if length == EPISODE:
            episode, length = episode + 1, 0
            calm = episode % 2 == 0
            if calm and name != "cartpole":
                env.task.set_command(VELOCITY, np.array([0.05, 0.0, 0.0]))
            observation = env.reset(seed=episode)[0]
            rows.append({"observation": observation})
            if calm and name == "cartpole":
                env.plant.reset({"slider": 0.1, "hinge": 0.0})
        action = rng.uniform(-1, 1, env.policy_spec.n_act).astype(np.float32)
        if name != "cartpole" and not calm and length == 200:
            env.plant.data.qpos[3:7] = [0, 1, 0, 0]  # on its back
        observation, reward, terminated, _, info = env.step(0 * action if calm else action)
        rows.append(
            {
                "observation": observation,
                "reward": reward,
                "terminated": terminated,
                "success": info["is_success"],
                "command": env.task.command_velocity,
                **info["measures"],
            }
        )
        length = EPISODE if terminated else length + 1
    return rows


@functools.cache
def expected(name: str) -> list[dict[str, Any]]:
    env = RobotEnv(name, variant=config_of(name, "shipped"))
    env.task = reference_of(name, env.policy_spec, env.plant)  # type: ignore[assignment]
    return trace(env, name)


@pytest.mark.parametrize("form", ["shipped", "release 0.1"])
@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_task_is_that_of_its_equations(name: str, form: str) -> None:
    got = trace(RobotEnv(name, variant=config_of(name, form)), name)
    for row, other in zip(got, expected(name), strict=True):
        assert row.keys() == other.keys()
        for key in row:
            if row[key] is None:
                assert other[key] is None
            else:
                np.testing.assert_allclose(row[key], other[key], rtol=0, atol=1e-9, err_msg=key)
    steps = [row for row in got if "reward" in row]
    assert len({row["reward"] for row in steps}) > 0.5 * STEPS
    assert {row["success"] for row in steps} == {True, False}
    assert {row["terminated"] for row in steps} == (
        {False} if name == "cartpole" else {True, False}
    )


@pytest.mark.parametrize("name", NAMES)
def test_contract_and_robot_are_those_of_release_0_1_to_the_bit(name: str) -> None:
    ours, old = config_of(name, "shipped")[0], config_of(name, "release 0.1")[0]
    assert ours.policy.model_dump_json() == old.policy.model_dump_json()
    later = {"phases"}  # of the Go2
    robots = [config.robot.model_dump_json(exclude=later) for config in (ours, old)]
    assert robots[0] == robots[1]
    for section in ("sim", "training", "randomization", "latency", "suite"):
        assert getattr(ours, section) == getattr(old, section), section
    assert largest_reward(ours) == largest_reward(old)
    assert ours.episode_steps == old.episode_steps


# ---- files of release 0.1 that extend others


def overlay(folder: Path, base: str, *layers: dict[str, Any], form: str = "release 0.1") -> Any:
    """The task of files that extend one another, the first a configuration of `form`."""
    source = config_folder() if form == "shipped" else CONFIGS_OF_RELEASE_0_1
    shutil.copytree(source, folder, dirs_exist_ok=True)
    name = f"{base}.yaml"
    for i, layer in enumerate(layers):
        (folder / f"layer{i}.yaml").write_text(yaml.safe_dump({"extends": name, "task": layer}))
        name = f"layer{i}.yaml"
    return require_task(load_robot_task(folder / name)[0])


@pytest.mark.parametrize("form", ["shipped", "release 0.1"])
@pytest.mark.parametrize("kind", [{}, {"kind": "velocity_tracking"}])
def test_an_old_overlay_changes_what_it_names(
    form: str, kind: dict[str, str], tmp_path: Path
) -> None:
    before = overlay(tmp_path / "a", "go2", form=form).model_dump()
    old = {
        "episode_seconds": 5.0,
        "start_noise": 0.1,
        "linear_width": 0.7,
        "lowest": 0.2,
        "hips": ["FL_hip_joint"],
        "commands": {"standing": 0.5, "resample": 2.0},
        "rewards": {"torque": -3e-4, "alive": 1.0},
    }
    after = overlay(tmp_path / "b", "go2", {**kind, **old}, form=form).model_dump()
    before["episode_seconds"] = 5.0
    before["reset"]["pose"]["noise"] = 0.1
    before["rewards"]["track_linear"]["width"] = 0.7
    before["terminations"]["sunk"]["height"] = 0.2
    before["rewards"]["hip_angle"]["joints"] = ["FL_hip_joint"]
    before["commands"]["velocity"] |= {"standing": 0.5, "resample": 2.0}
    before["rewards"]["torque"]["weight"], before["rewards"]["alive"]["weight"] = -3e-4, 1.0
    assert after == before


@pytest.mark.parametrize("form", ["shipped", "release 0.1"])
@pytest.mark.parametrize("kind", [{}, {"kind": "swing_up"}])
def test_an_old_overlay_of_the_swing_up(form: str, kind: dict[str, str], tmp_path: Path) -> None:
    before = overlay(tmp_path / "a", "cartpole", form=form).model_dump()
    old = {"position_width": 0.5, "success_angle": 20.0}
    after = overlay(tmp_path / "b", "cartpole", {**kind, **old}, form=form).model_dump()
    before["rewards"]["centred"]["width"] = 0.5
    before["success"]["stands"]["angle"] = 20.0
    assert after == before


def test_layers_of_both_forms_lie_over_one_another_in_order(tmp_path: Path) -> None:
    layers = [
        {"linear_width": 0.1, "rewards": {"torque": -1e-3}},
        {"rewards": {"track_linear": {"width": 0.2}, "torque": -2e-3}},
        {"yaw_width": 0.9, "linear_width": 0.3},
        {"rewards": {"tilt": None, "track_yaw": 2.0}},
    ]
    rewards = overlay(tmp_path, "go2", *layers).rewards
    assert rewards["track_linear"].parameters == {"width": 0.3}
    assert (rewards["track_yaw"].weight, rewards["track_yaw"].parameters) == (2.0, {"width": 0.9})
    assert (rewards["torque"].term, rewards["torque"].weight) == ("effort", -2e-3)
    assert "tilt" not in rewards


def test_a_suite_of_both_forms_is_laid_over_in_order(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS_OF_RELEASE_0_1, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "mine.yaml"
    for suite in ({"errors": {"velocity_error": 0.3}}, {"velocity_error": 0.3}):
        path.write_text(yaml.safe_dump({"extends": "go2.yaml", "suite": suite}))
        found = load_robot_task(path)[0].suite
        assert found is not None
        assert found.errors == {"velocity_error": 0.3, "yaw_rate_error": 0.2}


def test_no_hips_of_an_old_file_are_none(tmp_path: Path) -> None:
    assert "hip_angle" not in overlay(tmp_path, "go2", {"hips": []}).rewards


@pytest.mark.parametrize(
    ("base", "layer", "sentence"),
    [
        ("go2", {"kind": "swing_up", "success_angle": 5.0}, r"success\.stands|combine: product"),
        ("cartpole", {"kind": "velocity_tracking"}, r"task\.\w+\.\w+\.\w+: Field required"),
        ("cartpole", {"commands": {"linear_x": [0, 1]}}, r"commands\.velocity: expected one of"),
        ("go2", {"commands": 3}, r"task\.commands: .*, got 3"),
        ("go2", {"lowest": 0.2, "terminations": 3}, r"task\.terminations: expected a map.*, got 3"),
        ("go2", {"kind": "dance"}, "task.kind: expected a task of terms .*'dance'"),
        ("go2", {"kind": ["swing_up"]}, "task.kind: expected a task of terms"),
    ],
)
def test_an_overlay_of_another_task_is_refused(
    base: str, layer: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    try:
        found = problems(overlay(tmp_path, base, layer), Path())
    except InputError as error:
        found = [str(error)]
    assert re.search(sentence, found[0]), found


# ---- the terms of a task together


def task_of(name: str, tmp_path: Path, **changes: Any) -> Task:
    """The task of a shipped configuration with entries of its sections changed."""
    content = shipped_content(name)
    for section, entries in changes.items():
        if isinstance(entries, dict):
            content["task"].setdefault(section, {}).update(entries)
        else:
            content["task"][section] = entries
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    config, model = load_robot_task(path)
    return Task(config, make_plant(config, model))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rewards": {"alive": "nothing"}}, r"mine.yaml: task.rewards.alive: expected one of \["),
        ({"rewards": {"tilt": 1.0}}, "task.rewards.tilt.weight: expected up to 0, since it is a c"),
        ({"rewards": {"tilt": {}}}, "task.rewards.tilt.weight: .* got 1"),
        ({"rewards": {"track_yaw": {"term": "track_yaw_rate"}}}, "track_yaw.width: Field required"),
        ({"rewards": {"alive": {"colour": 1}}}, r"alive.colour: unknown, expected .* out of \[\]"),
        ({"rewards": {"alive": {"weight": "1"}}}, "rewards.alive: weight: expected a number, got"),
        ({"rewards": {"alive": True}}, "task.rewards.alive: .*valid dictionary.*, got True"),
        ({"rewards": {"alive": {"resample": 1.0}}}, "alive.resample: expected it only in commands"),
        ({"rewards": {"joint_speed": {"weight": -1, "joints": "*_w"}}}, r"speed.joints: .*_w$"),
        ({"metrics": {"m": {"term": "reward_of", "rewards": "x"}}}, r"metrics.m.rewards: .*'x'"),
        ({"terminations": {"sunk": {"height": 0.4}}}, "sunk: holds where an episode starts"),
        ({"success": {"tracked": {"term": "PointReached", "site": "imu", "command": "velocity",
                                  "distance": 1, "window": 21}}}, "window: .* = 20 s, got 21 s"),
        ({"commands": {"velocity": {"term": "uniform", "low": [0], "high": [1]}}},
         "a command of 3 numbers, velocity has 1|expected 3 numbers"),
        ({"reset": {"pose": {"term": "joint_positions", "noise": {"knee": 0.1}}}},
         "task.reset.pose.noise: expected some of .*'knee'"),
        ({"reset": {"pose": {"term": "joint_positions", "noise": True}}}, "pose.noise: .*True"),
        ({"combine": "product"}, r"rewards.\w+.weight: expected 1 with combine: product"),
    ],
)  # fmt: skip
def test_a_task_with_a_wrong_term_is_refused_with_its_place(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence) as refusal:
        task_of("go2", tmp_path, **changes)
    assert "mine.yaml: task" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_every_wrong_term_is_named() -> None:
    content = shipped_content("go2")["task"]
    content["rewards"]["tilt"]["weight"] = 3
    content["terminations"]["tilted"]["angle"] = 1
    content["metrics"]["velocity_error"] = {"colour": 1}
    found = problems(type(require_task(load_robot_task("go2")[0])).model_validate(content), Path())
    assert [text.split(":")[0] for text in found] == [
        "task.rewards.tilt.weight",
        "task.terminations.tilted.angle",
        "task.metrics.velocity_error.colour",
    ]


def test_a_command_is_fixed_and_drawn_again(tmp_path: Path) -> None:
    task = task_of("go2", tmp_path)
    rng = np.random.default_rng(0)
    wanted = np.array([0.1, 0.0, 0.2])
    task.set_command(VELOCITY, wanted)
    for _ in range(3):
        task.start(rng)
        assert task.command_velocity is task.commands[VELOCITY]
        assert task.commands[VELOCITY].tolist() == wanted.tolist()
    task.set_command(VELOCITY, None)
    drawn = []
    for _ in range(10):
        task.start(rng)
        drawn.append(tuple(task.commands[VELOCITY].tolist()))
    assert len(set(drawn)) > 5
    with pytest.raises(InputError, match=r"out of \['velocity'\], got 'goal'"):
        task.set_command("goal", wanted)
    with pytest.raises(InputError, match="command velocity: expected 3 numbers, got shape"):
        task.set_command(VELOCITY, np.zeros(2))


def test_a_cost_may_be_a_reward_that_states_its_largest_value(tmp_path: Path) -> None:
    task_of(
        "cartpole",
        tmp_path,
        combine="sum",
        rewards={"spin": {"term": "joint_speed", "largest": 9, "weight": 0.1}},
    )
    config = load_robot_task(tmp_path / "mine.yaml")[0]
    assert largest_reward(config) == pytest.approx(4 + 0.9)


def test_atoms_reach_down_to_the_lowest_reward(tmp_path: Path) -> None:
    task_of(
        "cartpole",
        tmp_path,
        combine="sum",
        rewards={"spin": {"term": "joint_speed", "weight": -0.1}},
        minimum_reward=-50.0,
    )
    config = load_robot_task(tmp_path / "mine.yaml")[0]
    returns = config.training.reward_scale / (1 - config.training.discount)
    derived = config.training.model_copy(update={"v_min": None, "v_max": None})
    settings = training_settings(config.model_copy(update={"training": derived}))
    assert settings["v_min"] == pytest.approx(-55 * returns)  # a tenth of the range beyond
    assert settings["v_max"] == pytest.approx((largest_reward(config) + 5) * returns)


def test_atoms_that_follow_from_no_reward_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    before = dict.fromkeys(require_task(load_robot_task("cartpole")[0]).rewards)  # left out
    costs = {**before, "spin": {"term": "joint_speed", "weight": -0.1}}
    content: dict[str, Any] = {
        "extends": "sim:cartpole",
        "task": {"combine": "sum", "rewards": costs},
        "training": {"v_min": None, "v_max": None},
    }
    path.write_text(yaml.safe_dump(content))
    words = r"mine.yaml: training: expected v_min and v_max, .* rewards between 0 and 0"
    with pytest.raises(InputError, match=words):
        task_settings(f"sim:{path}")
    with pytest.raises(InputError, match=words):
        config_command.check(str(path))
    content["training"] = {"v_min": 1.0, "v_max": -1.0}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"mine.yaml: training: expected v_min < v_max, got 1 and"):
        load_robot_task(path)


def test_a_written_task_is_read_back(tmp_path: Path) -> None:
    for name in NAMES:
        config = load_robot_task(name)[0]
        again = RobotTaskConfig.model_validate(json.loads(config.model_dump_json()))
        assert again.model_dump_json() == config.model_dump_json()


def test_a_mocap_body_shows_the_commanded_point() -> None:
    env = RobotEnv("reach")
    env.reset(seed=0)
    model, data = env.plant.model, env.plant.data
    number = model.body_mocapid[model.body("target").id]
    assert data.mocap_pos[number] == pytest.approx(
        env.task.commands["target"]
    )  # base at the origin
    env.task.set_command("target", np.array([0.3, -0.1, 0.4]))
    assert data.mocap_pos[number].tolist() == [0.3, -0.1, 0.4]
    env.reset(seed=1)
    assert data.mocap_pos[number].tolist() == [0.3, -0.1, 0.4]
