"""Episodes in the levels of a curriculum."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import yaml

from dime_robot.envs import make_env
from dime_robot.sim.robot_env import RobotEnv

LEVELS = {
    "extends": "sim:go2-wide",
    "curriculum": [
        {"name": "slow", "randomization": 0.0, "latency": 0.0,
         "task": {"episode_seconds": 0.2, "commands": {"velocity": {"linear_x": [0.2, 0.2],
                  "angular_z": [0.0, 0.0], "standing": 0.0, "turning": 0.0}}}},
        {"name": "half", "randomization": 0.5, "latency": 0.5,
         "task": {"rewards": {"alive": 7.0}}},
    ],
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "levels.yaml"
    file.write_text(yaml.safe_dump(LEVELS))
    return file


def episode(env: RobotEnv, level: int | None, steps: int = 15) -> list[object]:
    """Everything that the learner sees of an episode."""
    options = None if level is None else {"level": level}
    seen: list[object] = [env.reset(seed=3, options=options)[0].tolist()]
    rng = np.random.default_rng(1)
    for _ in range(steps):
        obs, *rest = env.step(rng.uniform(-1, 1, 12).astype(np.float32))
        seen += [obs.tolist(), *rest]
    return seen


def test_an_episode_is_the_same_whatever_was_before_it(path: Path) -> None:
    """So that a resumed run can repeat it in a new environment."""
    fresh = {level: episode(RobotEnv(str(path)), level) for level in (None, 0, 1)}
    assert fresh[None] != fresh[0] != fresh[1] != fresh[None]
    env = RobotEnv(str(path))
    for level in (*itertools.permutations((None, 0, 1)), (0, 0, 1, 1, None, None)):
        for one in level:
            assert episode(env, one) == fresh[one]


def test_without_a_level_it_is_the_whole_task(path: Path) -> None:
    assert episode(RobotEnv(str(path)), None) == episode(RobotEnv("go2-wide"), None)


def test_a_level_has_its_own_task_randomization_and_latency(path: Path) -> None:
    env = RobotEnv(str(path))
    env.reset(seed=0, options={"level": 0})
    command = env.task.command_velocity
    assert command is not None
    assert command.tolist() == [0.2, 0.0, 0.0]
    assert env.plant.model.dof_damping[6:].tolist() == [0.1] * 12
    assert env._delayed.action_delay == env._delayed.observation_delay == 0.0
    env.reset(seed=0, options={"level": 1})
    env.step(np.zeros(12, dtype=np.float32))
    assert env.task.rewards["alive"] == 7.0
    half = env.plant.model.dof_damping[6], env._delayed.action_delay
    env.reset(seed=0)
    env.step(np.zeros(12, dtype=np.float32))
    assert env.task.rewards["alive"] == 0.25
    whole = env.plant.model.dof_damping[6], env._delayed.action_delay
    assert half[0] == pytest.approx(0.1 + 0.5 * (whole[0] - 0.1))
    assert half[1] == pytest.approx(0.5 * whole[1])


def test_a_level_may_have_shorter_episodes(path: Path) -> None:
    env = make_env(f"sim:{path}")
    for level, length in ((0, 10), (None, None)):
        env.reset(seed=0, options=None if level is None else {"level": level})
        ends = [env.step(np.zeros(12, dtype=np.float32))[2:4] for _ in range(20)]
        late = [number for number, (_, truncated) in enumerate(ends, start=1) if truncated]
        assert late == ([] if length is None else list(range(length, 21)))
