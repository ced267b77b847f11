"""TaskFiles: the user's own files of an environment, as they travel to the nodes of a cluster.

Of a robot task these are its file, those that it extends, its model, measured delays and its own
terms; of MODULE:ID the file of the module. Shipped tasks and installed packages do not travel: they
are on every node.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dime_robot.runtime.contract.config_files import config_folder, read_config
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.untrusted_files import read_bytes
from dime_robot.runtime.policy.env_name import SIM
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task
from dime_robot.sim.config.trust import SUFFIXES
from dime_robot.sim.model.mjcf_bounds import files_of
from dime_robot.sim.tasks.digest import task_digest
from dime_robot.sim.tasks.lookup import own_files

MAX_BYTES = 256 * 2**20  # of all files of an environment


@dataclass(frozen=True)
class TaskFiles:
    """An environment's name, and its files by their names below one folder.

    Attributes:
        env: its name, with a path below that folder if it is a file.
        files: name -> content; empty: every node has it.
    """

    env: str
    files: dict[str, bytes]

    @classmethod
    def of(cls, env: str) -> TaskFiles:
        """Read the files of an environment on this machine.

        Args:
            env: its name.

        Raises:
            InputError: a file is missing, or they are larger than MAX_BYTES, or the environment is
                another one without what a node would not have.
        """
        if env.startswith(SIM) and env.endswith(SUFFIXES):
            return _of_task(absolute(env.removeprefix(SIM)))
        module = env.partition(":")[0]
        file = None if ":" not in env or env.startswith(SIM) else _own_module(module)
        return cls(env, {} if file is None else _contents([file], file.parent))

    def unpack(self, folder: Path) -> str:
        """Write the files into a folder, and return the environment's name there.

        A module's folder is put in front of those where this process looks for modules.

        Args:
            folder: an empty one.

        Raises:
            InputError: a name that leads out of the folder.
        """
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in name:
                raise InputError(f"{name!r:.200}: expected a file below the task's folder")
        for name, content in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if not self.files:
            return self.env
        if self.env.startswith(SIM):
            return f"{SIM}{folder / self.env.removeprefix(SIM)}"
        sys.path.insert(0, str(folder))
        return self.env


def _of_task(file: Path) -> TaskFiles:
    config, model = load_robot_task(file)
    root = Path(os.path.commonpath([each.parent for each in _files(config, model)]))
    found = TaskFiles(
        f"{SIM}{file.relative_to(root).as_posix()}", _contents(_files(config, model), root)
    )
    with tempfile.TemporaryDirectory(prefix="dime_robot-") as folder:
        # what a node would see: a file that is named by an absolute path is missing there
        moved = Path(found.unpack(Path(folder)).removeprefix(SIM))
        advice = (
            "name every file relative to the one that it is written in, and a shipped task that is"
            " extended as `extends: sim:NAME`"
        )
        try:
            copy = load_robot_task(moved)
            outside = [each for each in _files(*copy) if not each.is_relative_to(folder)]
            if not outside and task_digest(*copy) == task_digest(config, model):
                return found
        except InputError as error:
            raise InputError(
                f"--ray: {file}: its copy on another machine cannot be read ({error}); {advice}"
            ) from None
    where = f": {outside[0]}" if outside else ""
    raise InputError(
        f"--ray: {file}: expected a task that can be copied to other machines, got one whose files"
        f" are not found from its own folder{where}; {advice}"
    )


def _files(config: RobotTaskConfig, model: Path) -> list[Path]:
    """Return all files of a task that are not shipped, absolute and without links to folders."""
    chain: list[Path] = []

    def layer(content: dict[str, Any], path: Path) -> dict[str, Any]:
        chain.append(path)
        return content

    read_config(config.source, layer)
    delays = [config.latency.observation, config.latency.action]
    measured = [Path(each.file) for each in delays if each is not None and each.file is not None]
    entries = [] if config.task is None else config.task.entries()
    named = [*chain, *files_of(model), *measured, *own_files(entries, config.source)]
    shipped = config_folder().resolve()
    found = dict.fromkeys(absolute(each) for each in named)
    return [each for each in found if not each.resolve().is_relative_to(shipped)]


def absolute(path: str | Path) -> Path:
    """Return a path from the root and without `..`; links stay, since names are relative to them.

    Args:
        path: of a file.
    """
    return Path(os.path.normpath(Path.cwd() / path))


def _own_module(name: str) -> Path | None:
    """Return the file of a module that is one file outside the installed packages."""
    if "." in name or name in sys.builtin_module_names:
        return None
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if found is None or found.origin is None or found.submodule_search_locations is not None:
        return None
    file = Path(found.origin)
    installed = {
        sysconfig.get_path(each) for each in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    if file.suffix != ".py" or any(file.is_relative_to(folder) for folder in installed):
        return None
    return absolute(file)


def _contents(files: Iterable[Path], root: Path) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    left = MAX_BYTES
    for file in files:
        if file.is_file() and file.stat().st_size > left:
            raise InputError(
                f"--ray: expected files of up to {MAX_BYTES:,} bytes in all, which are sent to"
                f" every worker, got more with {file}"
            )
        content = read_bytes(file, "a file of the task", MAX_BYTES)
        left -= len(content)
        contents[file.relative_to(root).as_posix()] = content
    return contents
