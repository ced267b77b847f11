"""Registers every robot task with Gymnasium on import, for tools that take an id.

    gymnasium.make("dime_robot.sim.registration:dime_robot/cartpole-v0")

Gymnasium imports the module before the colon itself.
"""

from __future__ import annotations

import gymnasium

from dime_robot.runtime.contract.config_files import config_folder
from dime_robot.sim.config.robot_task import load_robot_task

for _name in sorted(path.stem for path in config_folder().glob("*.yaml")):
    gymnasium.register(
        id=f"dime_robot/{_name}-v0",
        entry_point="dime_robot.sim.robot_env:RobotEnv",
        kwargs={"name": _name},
        max_episode_steps=load_robot_task(_name)[0].episode_steps,
    )
