"""The mirror image of a run's transitions (`--symmetry`), from the file of its robot."""

from __future__ import annotations

from typing import Any

import gymnasium

from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.symmetry import Mirror


def mirror_of(env: gymnasium.Env[Any, Any], name: str) -> Mirror:
    """Return the mirror image of an environment's transitions, after a check that it is right.

    Args:
        env: of training, with what only critics see if they do.
        name: of the environment, for messages.

    Raises:
        InputError: the environment states no mirror image, or is not its own.
    """
    from dime_robot.sim.mirror_check import mirror_problem
    from dime_robot.sim.robot_env import RobotEnv

    robot = env.unwrapped
    if not isinstance(robot, RobotEnv):
        raise InputError(
            f"--symmetry: expected a robot task whose file has a section `symmetry:`, got {name}"
        )
    try:
        found = robot.mirror()
    except InputError as error:
        raise InputError(f"--symmetry: {error}") from None
    problem = mirror_problem(robot.config, robot.model_path, bool(robot.privileged_sizes))
    if problem is not None:
        raise InputError(f"--symmetry: {problem}")
    return found
