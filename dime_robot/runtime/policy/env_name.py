"""Environments that a file may name: a checkpoint or policy must not choose code to import."""

from __future__ import annotations

import re

from dime_robot.runtime.contract.config_files import shipped_config
from dime_robot.runtime.io.errors import InputError

_REGISTERED = re.compile(r"(dm_control/[a-z_]+-[a-z0-9_]+-v0|[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?)")
SIM = "sim:"  # begins the names of robot tasks: a shipped name, or the path of a file
PYTHON = "python:"  # begins the names of environments that a program made from its own code
_SHIPPED = re.compile(r"sim:([A-Za-z0-9_-]+)")


def file_may_name(env: str) -> bool:
    """Whether it is a registered id or a shipped task, not a module or another file."""
    shipped = _SHIPPED.fullmatch(env)
    if shipped is not None:
        return shipped_config(shipped[1]) is not None
    return _REGISTERED.fullmatch(env) is not None


def require_file_may_name(env: str, source: object) -> str:
    """Return the environment that a file names, if a file may name it.

    Args:
        env: the name.
        source: the file, for the message.

    Raises:
        InputError: it is code or a file, which only the user may name.
    """
    if file_may_name(env):
        return env
    if env.startswith(PYTHON):
        raise InputError(
            f"{source}: it was trained in {env!r:.100}, an environment that a Python program made"
            " and that no file can name; from Python evaluate_policy(path, env=factory) and"
            " train_policy(factory, resume=folder) work; to export it, register the environment"
            " with Gymnasium and train by its id"
        )
    what, option = "code to import", "--env"
    if env.startswith(SIM):
        what, option = "a file outside the shipped tasks", "--config FILE"
    raise InputError(
        f"{source}: it names the environment {env!r:.100}, which is {what}; a file may not"
        f" choose that: if you trust it, name it yourself with {option}"
    )


def env_options(env: str) -> list[str]:
    """Return the options that a command on a file of this environment needs."""
    if file_may_name(env):
        return []
    return ["--config", env.removeprefix(SIM)] if env.startswith(SIM) else ["--env", env]
