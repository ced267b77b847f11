"""Locating and reading configuration files, before their content is validated."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from dime_robot.runtime.contract.shorthand import written_out
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.untrusted_files import read_text
from dime_robot.runtime.io.yaml_files import parse_yaml

MAX_BYTES = 256 * 1024  # of one file; a humanoid's has 30 kB
MAX_CHAIN = 8  # files that extend one another
# fields that name other files, relative to the file they are written in
FILE_NAMES = (("sim", "model"), ("latency", "observation", "file"), ("latency", "action", "file"))

SHIPPED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # of a shipped configuration: no path
Layer: TypeAlias = Callable[[dict[str, Any], Path], dict[str, Any]]


def config_folder() -> Path:
    """Return the folder of the shipped configurations."""
    return Path(str(resources.files("sim_configs")))


def shipped_config(name: str) -> Path | None:
    """Return the path of a shipped configuration; None: there is none of this name."""
    path = config_folder() / f"{name}.yaml"
    return path if SHIPPED_NAME.fullmatch(name) and path.is_file() else None


def shipped_names() -> list[str]:
    """Return the names of all shipped configurations, sorted."""
    return sorted(file.stem for file in config_folder().glob("*.yaml"))


def read_yaml(path: Path) -> object:
    """Read a YAML file.

    Args:
        path: of a regular file of up to MAX_BYTES.

    Raises:
        InputError: no such file, not YAML, a repeated key, or beyond the bounds of `parse_yaml`.
    """
    text = read_text(path, "a configuration", MAX_BYTES)
    try:
        return parse_yaml(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # 2026-13-45 is a ValueError
        message = " ".join(str(error).split())
        raise InputError(f"{path}: expected YAML, got {message:.300}") from None


def _unchanged(content: dict[str, Any], path: Path) -> dict[str, Any]:
    return content


def read_config(path: Path, layer: Layer = _unchanged) -> dict[str, Any]:
    """Read a configuration, merged over the file that its `extends` names, without shorthand.

    `extends: FILE` names a file relative to this one, `extends: sim:NAME` a shipped configuration.
    That file may extend a third one, up to MAX_CHAIN files. Names of files are relative to the file
    that they are written in; those of a file in another folder than `path` are made absolute.

    Args:
        path: of the configuration.
        layer: is given each file's own content, with its `extends`, and its path before the files
            are merged, and returns the content to merge; by default it is left as it is.

    Raises:
        InputError: a file is missing, not YAML, not a mapping, or extends itself, or a pattern of
            joint names matches none.
    """
    content = _read(path, path.parent.resolve(), [path], layer)
    try:
        return written_out(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read(path: Path, base: Path, chain: list[Path], layer: Layer) -> dict[str, Any]:
    """Read a file and those that it extends.

    Args:
        path: of the file.
        base: folder to which names of files are relative in the result.
        chain: the files read so far, `path` the last.
        layer: see `read_config`.
    """
    content = _mapping(path)
    folder = path.parent.resolve()
    if folder != base:
        _make_absolute(content, folder)
    content = layer(content, path)
    if "extends" not in content:
        return content
    other = _extended(path, content.pop("extends"), chain)
    return overlaid(_read(other, base, [*chain, other], layer), content)


def _mapping(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: expected a mapping, such as a section `robot:`, got {content!r:.40}"
        )
    return content


def _extended(path: Path, name: object, chain: list[Path]) -> Path:
    """Return the file that `path` extends.

    Args:
        path: the file with the key `extends`.
        name: its value.
        chain: the files read so far, `path` the last.

    Raises:
        InputError: there is no such file, it is in the chain already, or the chain is too long.
    """
    other = None
    if isinstance(name, str) and name.startswith("sim:"):
        other = shipped_config(name.removeprefix("sim:"))
    elif isinstance(name, str) and _is_file(path.parent / name):
        other = path.parent / name
    if other is None or not isinstance(name, str):
        raise InputError(
            f"{path}: extends: expected a file (relative to this one), or one of"
            f" {', '.join(f'sim:{known}' for known in shipped_names())}, got {name!r:.60}"
        )
    if any(other.samefile(seen) for seen in chain):
        names = " -> ".join([*(seen.name for seen in chain), name])
        raise InputError(
            f"{path}: extends: expected a file that does not extend itself, got {names:.300}"
        )
    if len(chain) >= MAX_CHAIN:
        raise InputError(
            f"{path}: extends: expected up to {MAX_CHAIN} files that extend one another, got more:"
            " write them into one"
        )
    return other


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _make_absolute(content: dict[str, Any], folder: Path) -> None:
    """Make the names of other files absolute, in place."""
    for *parents, last in FILE_NAMES:
        node: Any = content
        for key in parents:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(last), str):
            node[last] = str(folder / node[last])


def overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping over another: nested ones are merged, and null leaves one out.

    Args:
        below: is changed by
        above: which wins.
    """
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        if isinstance(under, dict) and isinstance(value, dict):
            result[key] = overlaid(under, value)
        elif isinstance(under, dict) and value is None:
            del result[key]  # a section or an entry that the other file has, left out
        else:
            result[key] = value
    return result
