"""Configurations that the user typed, whose own terms may be imported.

A task may name code of the user's own. Importing it runs it, so it is imported only for a file that
he typed on a command line, or gave to a function of this package in his own program. Nothing that a
policy, a checkpoint, a recording or a run folder contains is ever allowed here.
"""

from __future__ import annotations

from pathlib import Path

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.env_name import SIM

SUFFIXES = (".yaml", ".yml")  # of configurations
_allowed: set[Path] = set()


def allow(config: Path) -> None:
    """Permit the import of a configuration's own terms.

    Args:
        config: path that the user typed.
    """
    _allowed.add(config.resolve())


def is_allowed(config: Path) -> bool:
    """Whether the own terms of a configuration may be imported.

    Args:
        config: path of the file.
    """
    return config.resolve() in _allowed


def typed_env(env: str | None, config: Path | None = None) -> str | None:
    """Return the environment that the user typed, and permit its own terms if it is a file.

    Args:
        env: of `--env`, if given.
        config: of `--config`, if given: the file of a robot task.

    Raises:
        InputError: both are given, or `config` is not a YAML file.
    """
    if config is not None:
        if env is not None:
            raise InputError(f"--env {env} and --config {config}: expected one of both")
        if config.suffix not in SUFFIXES or not config.is_file():
            raise InputError(
                f"--config {config}: expected the .yaml file of a robot task, got none"
            )
        env = f"{SIM}{config}"
    if env is not None and env.startswith(SIM) and env.endswith(SUFFIXES):
        allow(Path(env.removeprefix(SIM)))
    return env
