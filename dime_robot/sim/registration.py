"""Registers every robot task with Gymnasium on import, for tools that take an id.

    gymnasium.make("dime_robot.sim.registration:dime_robot/cartpole-v0")

Gymnasium imports the module before the colon itself.
"""

from __future__ import annotations

import gymnasium

from dime_robot.runtime.contract.config_files import shipped_names
from dime_robot.sim.config.robot_task import load_robot_task

for _name in shipped_names():
    _config, _ = load_robot_task(_name)
    if _config.task is not None:
        gymnasium.register(
            id=f"dime_robot/{_name}-v0",
            entry_point="dime_robot.sim.robot_env:RobotEnv",
            kwargs={"name": _name},
            max_episode_steps=_config.episode_steps,
        )
