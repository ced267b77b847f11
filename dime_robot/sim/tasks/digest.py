"""The digest of a robot task: whether a file is still the task that a policy was trained in."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.untrusted_files import read_bytes
from dime_robot.runtime.policy.env_name import SIM
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task
from dime_robot.sim.config.task import PRIVILEGED
from dime_robot.sim.model.mjcf_bounds import MAX_ASSET_BYTES, files_of
from dime_robot.sim.tasks.lookup import own_files

# what changes neither the simulation nor the rewards of the whole task: settings of training, the
# levels before it, thresholds, the mirror image, topics and calibrations
PARTS = ("values", "model", "own terms")  # in this order
DIGITS = 21  # hexadecimal, of each part
LEFT_OUT = ("training", "curriculum", "suite", "symmetry", "robot")


def task_digest(config: RobotTaskConfig, model: Path) -> str:
    """Return digests of everything in a task that changes its episodes.

    That is the file's content without the sections above and what only critics see
    (`task.privileged`), of the robot only what is simulated, the model with all its files, measured
    delays, and the files with terms of the user's own. Of terms in installed packages only the
    names are in it. The order in which a file lists things counts, since resets, draws and patterns
    follow it. Folders do not, so that a task may be moved, nor do comments in the code.

    Args:
        config: of the task.
        model: its MJCF file.

    Returns:
        The start of a SHA-256 of each of PARTS, with dashes between them.

    Raises:
        InputError: a file is missing.
    """
    content: dict[str, Any] = config.model_dump(mode="json", exclude=set(LEFT_OUT))
    if content["task"] is not None:
        del content["task"][PRIVILEGED]
    robot, delays = config.robot, content["latency"]
    content["speeds"] = {joint.name: joint.velocity_limit for joint in robot.joints}
    content["contact"] = None if robot.contact is None else robot.contact.threshold
    if interpolation := robot.command.interpolated:  # else digests of earlier releases stay
        content["interpolation"] = interpolation.model_dump(mode="json")
    for name in ("model", "camera"):
        del content["sim"][name]
    for way in ("observation", "action"):
        if delays[way] is not None and delays[way]["file"] is not None:
            file = Path(delays[way]["file"])
            delays[way]["file"] = _digests([file], file.parent, "a record of latency")
    entries = [] if config.task is None else config.task.entries()
    own = own_files([each for each in entries if each[0] != PRIVILEGED], config.source)
    folder = config.source.resolve().parent
    code = {os.path.relpath(file, folder): _code_of(file) for file in own}
    parts = content, _digests(files_of(model), model.parent, "a file of a model"), code
    return "-".join(
        hashlib.sha256(json.dumps(part).encode()).hexdigest()[:DIGITS] for part in parts
    )


def _code_of(file: Path) -> str:
    """Return a file's code without comments and layout; with a syntax error its text."""
    content = read_bytes(file, "a file of terms", MAX_ASSET_BYTES)
    try:
        return ast.dump(ast.parse(content))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return content.hex()


def _digests(files: Iterable[Path], folder: Path, what: str) -> dict[str, str]:
    """Return the SHA-256 of each file's content, by its path relative to a folder."""
    return {
        os.path.relpath(file, folder): hashlib.sha256(
            read_bytes(file, what, MAX_ASSET_BYTES)
        ).hexdigest()
        for file in files
    }


def digest_of(env: str) -> str | None:
    """Return the digest of a robot task by the name of its environment; None: it is none.

    Args:
        env: name of the environment.

    Raises:
        InputError: the task cannot be read.
    """
    if not env.startswith(SIM):
        return None
    return task_digest(*load_robot_task(env.removeprefix(SIM)))


def require_recorded_task(file: Path, recorded: str | None, source: object) -> None:
    """Refuse a configuration that is not the task that a policy was trained in.

    Args:
        file: that the user typed with --config.
        recorded: digest in the policy's file; None: it has none, as before release 0.2.
        source: the policy's file, for the message.

    Raises:
        InputError: it is another task, or cannot be read.
    """
    if recorded is None:
        return
    got = task_digest(*load_robot_task(file))
    if got != recorded:
        before, now = recorded.split("-"), got.split("-")
        names = [name for name, a, b in zip(PARTS, before, now, strict=False) if a != b]
        changed = " and ".join(f"its {name}" for name in names) or "it"
        raise InputError(
            f"--config {file}: expected the task that {source} was trained in, got another one:"
            f" {changed} changed since; put that back, or name it as another environment: --env"
            f" sim:{file}"
        )
