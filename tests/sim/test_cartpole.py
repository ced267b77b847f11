"""The shipped robot task: Gymnasium's own checks, physics, contract against model."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env

from dime_robot.runtime.contract.config_files import config_folder
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.plant.plant import Plant
from dime_robot.sim.robot_env import RobotEnv


def variant(folder: Path, *changes: tuple[str, str]) -> Path:
    """A copy of the configuration and its model with some text replaced."""
    source = config_folder()
    (folder / "models").mkdir()
    texts = {name: (source / name).read_text() for name in ("cartpole.yaml", "models/cartpole.xml")}
    for old, new in changes:
        hits = [name for name, text in texts.items() if old in text]
        assert hits, old
        for name in hits:
            texts[name] = texts[name].replace(old, new)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder / "cartpole.yaml"


def test_gymnasiums_own_checker_accepts_it() -> None:
    with pytest.warns(UserWarning, match="infinity"):  # velocities have no bound
        check_env(RobotEnv("cartpole"), skip_render_check=True)


def test_it_is_registered() -> None:
    env = gymnasium.make("dime_robot.sim.registration:dime_robot/cartpole-v0")
    assert env.spec is not None
    assert env.spec.max_episode_steps == 500
    env.close()


def test_spaces_come_from_the_contract() -> None:
    env = RobotEnv("cartpole")
    assert env.observation_space.shape == (env.policy_spec.n_obs,)
    assert env.action_space.shape == (env.policy_spec.n_act,)
    assert env.policy_spec.rate == 50


def test_one_step_is_one_control_period() -> None:
    env = RobotEnv("cartpole")
    env.reset(seed=0)
    before = env.plant.state().stamp
    env.step(np.zeros(1, np.float32))
    assert env.plant.state().stamp - before == pytest.approx(1 / 50)


def test_it_starts_hanging_and_stays_so_without_effort() -> None:
    env = RobotEnv("cartpole")
    for seed in range(20):
        obs, _ = env.reset(seed=seed)
        assert obs[1] < math.cos(math.radians(170))
    rewards = [env.step(np.zeros(1, np.float32))[1] for _ in range(500)]
    assert max(rewards) < 0.05


def test_full_action_is_the_effort_limit() -> None:
    env = RobotEnv("cartpole")
    env.reset(seed=0)
    env.step(np.ones(1, np.float32))
    assert env.plant.data.actuator("slider").force.item() == pytest.approx(8.0)


def reward_at(env: RobotEnv, slider: float, hinge: float, effort: float = 0.0) -> float:
    """The reward of a step that ends in a pose, at rest."""
    env.plant.reset({"slider": slider, "hinge": hinge})
    command = JointCommand(("slider",), np.array([effort]))
    return env.task.step(command, np.random.default_rng(0))


def test_reward_is_one_only_upright_centred_and_still() -> None:
    env = RobotEnv("cartpole")
    env.reset(seed=0)
    assert reward_at(env, 0.0, 0.0) == pytest.approx(1.0)
    assert max(reward_at(env, 1.0, 0.0), reward_at(env, 0.0, 0.5)) < 0.95
    assert reward_at(env, 0.0, 0.0, effort=8.0) == pytest.approx(0.8)


def test_success_needs_four_of_the_last_five_seconds() -> None:
    env = RobotEnv("cartpole")
    env.reset(seed=0)
    up, down = math.radians(11.9), math.radians(12.1)
    for _ in range(199):
        reward_at(env, 0.0, up)
    assert not env.task.is_success()  # not a full window yet
    for _ in range(51):
        reward_at(env, 0.0, down)
    assert not env.task.is_success()  # 199 of 250
    env.reset(seed=0)
    for angle, count in ((down, 50), (up, 200)):
        for _ in range(count):
            reward_at(env, 0.0, angle)
    assert env.task.is_success()
    env.reset(seed=0)
    assert not env.task.is_success()


def test_same_seed_same_trajectory() -> None:
    ends = []
    for _ in range(2):
        env = RobotEnv("cartpole")
        env.reset(seed=7)
        rng = np.random.default_rng(0)
        for _ in range(100):
            obs = env.step(rng.uniform(-1, 1, 1).astype(np.float32))[0]
        ends.append(obs)
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("timestep: 0.005,", "timestep: 0.004,"), "1 / policy.rate"),
        (("decimation: 4", "decimation: 5"), "1 / policy.rate"),
        (
            ("episode_seconds: 10.0", "episode_seconds: 10.0\n  wings: 2"),
            "wings: unknown, expected",
        ),
        (("episode_seconds: 10.0", "episode_seconds: -1"), "episode_seconds"),
        (("policy:", "policy: ["), "expected YAML"),
    ],
)
def test_a_wrong_file_is_one_sentence(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    path = variant(tmp_path, change)
    with pytest.raises(InputError, match=message) as error:
        load_robot_task(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('name="hinge" type="hinge"', 'name="pivot" type="hinge"'), "expected a joint hinge"),
        (('range="-1.2 1.2"', 'range="-1.5 1.5"'), "position limits"),
        (('ctrlrange="-8 8"', 'ctrlrange="-9 9"'), "ctrlrange"),
        (('motor name="slider" joint="slider"', 'motor name="m" joint="hinge"'), "motor on joint"),
        (("</mujoco>", ""), "cannot load"),
    ],
)  # fmt: skip
def test_a_model_that_differs_from_the_contract_is_refused(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    config, model = load_robot_task(variant(tmp_path, change))
    with pytest.raises(InputError, match=message):
        Plant(config.policy, config.sim, model)


def test_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="sim:cartpole"):
        load_robot_task("hovercraft")


def test_configuration_is_plain_yaml() -> None:
    assert set(yaml.safe_load((config_folder() / "cartpole.yaml").read_text())) == {
        "policy",
        "robot",
        "sim",
        "task",
        "training",
    }
