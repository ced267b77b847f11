"""RobotEnv: what its step does with a simulation that has diverged."""

from __future__ import annotations

import numpy as np
import pytest

from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.model.loading import mujoco_warnings
from dime_robot.sim.robot_env import RobotEnv


@pytest.mark.parametrize("joint", [0, 1])
@pytest.mark.parametrize("speed", [1e7, 1e9, 1e11, 1e133, np.inf, np.nan])
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
