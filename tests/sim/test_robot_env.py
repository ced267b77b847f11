"""RobotEnv: a simulation that has diverged, copies, and what it hands out."""

from __future__ import annotations

import copy

import mujoco
import numpy as np
import pytest

from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.model.loading import mujoco_warnings
from dime_robot.sim.robot_env import RobotEnv


@pytest.mark.parametrize("joint", [0, 1])
@pytest.mark.parametrize("speed", [1e7, 1e9, 1e11, 1e133, 1e200, np.inf, np.nan])
def test_a_simulation_that_diverged_is_one_sentence(joint: int, speed: float) -> None:
    env = RobotEnv("cartpole")
    env.reset(seed=0)
    action = np.zeros(1, np.float32)
    env.step(action)
    env.plant.data.qvel[joint] = speed
    expected = r"stays stable, got .* 2 control steps"
    with mujoco_warnings(), pytest.raises(InputError, match=expected):
        env.step(action)
    env.reset(seed=0)
    env.step(action)


def test_a_copy_sees_what_mujoco_warned_of_in_its_own_simulation() -> None:
    env = RobotEnv("cartpole")
    env.reset(seed=0)
    twin = copy.deepcopy(env)
    twin.plant.data.qvel[0] = 1e11
    with mujoco_warnings():
        mujoco.mj_step(twin.plant.model, twin.plant.data)
    twin.plant.data.qvel[:] = 0.0
    assert twin.plant.divergence() == "a state that MuJoCo warned of"
    assert env.plant.divergence() is None


def test_a_copy_steps_as_its_original_does() -> None:
    env = RobotEnv("go2")  # with randomization, noise and latency
    env.reset(seed=3)
    twin = copy.deepcopy(env)
    random = np.random.default_rng(0)
    for _ in range(20):
        action = random.uniform(-1, 1, 12).astype(np.float32)
        first, second = env.step(action), twin.step(action)
        assert first[0].tobytes() == second[0].tobytes()
        assert first[1:] == second[1:]


def test_what_a_step_hands_out_is_not_changed_by_the_next() -> None:
    env = RobotEnv("go2-walk")
    kept = [env.reset(seed=0)[0]]
    states, commands = [env._state], []
    for _ in range(3):
        kept.append(env.step(np.full(12, 0.3, np.float32))[0])
        states.append(env._state)
        commands.append(env._sent)
    assert len({each.tobytes() for each in kept}) == len(kept)
    for field in ("joint_position", "joint_velocity", "orientation", "angular_velocity"):
        assert len({getattr(state, field).tobytes() for state in states}) == len(states)
    assert len({command.tobytes() for command in commands}) == len(commands)


def test_indices_are_of_the_type_with_which_arrays_are_read_fast() -> None:
    """With MuJoCo's int32, reading the joints takes a fifth of the whole step."""
    plant = RobotEnv("go2-walk").plant
    found = [plant.qpos_indices, plant.dofs, *(plant._driven[0][2:])]
    assert all(indices.dtype == np.intp for indices in found)
