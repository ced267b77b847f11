"""Gymnasium ids of the robot tasks: `gymnasium.make("dime_robot/cartpole-v0")`."""

from __future__ import annotations

import gymnasium


def register_envs() -> None:
    """Called by Gymnasium through the entry-point group `gymnasium.envs`."""
    gymnasium.register(
        id="cartpole-v0",
        entry_point="dime_robot.sim.env:RobotEnv",
        kwargs={"name": "cartpole"},
        max_episode_steps=500,
    )
