"""Parameters that were given and that no node declares: a slip that would have no effect.

`dry_rn:=true` must not command a live robot. rclpy takes any name in silence, so what was given is
looked up again where it came from: what names this node is refused, what a parameter file says to
every node (`/**`) may be meant for another one and is only warned about.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rclpy.node import Node

from dime_robot.runtime.contract.config_files import read_yaml
from dime_robot.runtime.io.errors import InputError

OF_ROS = ("use_sim_time", "start_type_description_service")
OF_ROS_PREFIX = "qos_overrides."
# launch_ros writes what a launch file gives to one node into such a file, below `/**`
OF_LAUNCH = "launch_params_"
PARAMETER_FLAGS, FILE_FLAG = ("-p", "--param"), "--params-file"


def unknown_parameters(
    node: Node, arguments: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """Sentences for what was given and is not declared: to be refused, and only to be warned about.

    Args:
        node: after it has declared all it knows.
        arguments: the command line; None: this process's.
    """
    words = sys.argv if arguments is None else arguments
    name, full = node.get_name(), node.get_fully_qualified_name()
    special: set[str] = set()  # names that were given to this very node
    general: set[str] = set()  # names that a file gives to any node
    refused: list[str] = []
    warned: list[str] = []
    for owner, key in _on_command_line(words):
        if owner and not _matches(owner, full):
            refused.append(f"parameter {owner}:{key}: this process holds only {full}")
    for path in _files(words):
        for owner, key in _of_file(path):
            if _matches(owner, full):
                named = owner.rpartition("/")[2] == name or path.name.startswith(OF_LAUNCH)
                (special if named else general).add(key)
    special.update(key for _, key in _on_command_line(words))
    known = sorted({str(key) for key in node._parameters} - set(OF_ROS))
    for key in node._parameter_overrides:
        if node.has_parameter(key) or key in OF_ROS or key.startswith(OF_ROS_PREFIX):
            continue
        only_general = key in general and key not in special
        (warned if only_general else refused).append(_sentence(key, known))
    return refused, warned


def require_known_parameters(node: Node) -> None:
    """Refuse what was given to this node and is unknown; warn about what was given to all.

    Raises:
        InputError: a sentence with all of them.
    """
    refused, warned = unknown_parameters(node)
    for sentence in warned:
        node.get_logger().warning(f"{sentence} (given to all nodes by a parameter file)")
    if refused:
        raise InputError("; ".join(refused), code="parameter")


def _sentence(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"parameter {key}: unknown, did you mean {close[0]}?"
    return f"parameter {key}: unknown, expected one of {', '.join(known)}"


def _matches(owner: str, full: str) -> bool:
    """Does a node's name, perhaps with wildcards, mean the node of this fully qualified name?"""
    wildcards = {"**": "(/[^/]+)*", "*": "/[^/]+"}
    tokens = owner.strip("/").split("/")
    pattern = "".join(wildcards.get(token, "/" + re.escape(token)) for token in tokens)
    return re.fullmatch(pattern, full) is not None


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each ROS argument that takes a value, with it."""
    inside = False
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in ("--ros-args", "--"):
            inside = word == "--ros-args"
        elif inside and word in (*PARAMETER_FLAGS, FILE_FLAG):
            yield word, following


def _on_command_line(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Of `-p NODE:NAME:=VALUE`: node, empty where none is said, and name."""
    for flag, word in _flags(words):
        if flag in PARAMETER_FLAGS:
            owner, _, key = word.partition(":=")[0].rpartition(":")
            yield owner, key


def _files(words: Sequence[str]) -> list[Path]:
    return [Path(word) for flag, word in _flags(words) if flag == FILE_FLAG]


def _of_file(path: Path) -> Iterator[tuple[str, str]]:
    """Node, perhaps with wildcards, and name of every parameter in a file."""
    try:
        content = read_yaml(path)
    except InputError:
        return  # rclpy has read it already, and said what is wrong with it
    yield from _sections(content, "")


def _sections(content: Any, owner: str) -> Iterator[tuple[str, str]]:
    if not isinstance(content, dict):
        return
    for key, inner in content.items():
        if key == "ros__parameters":
            yield from ((owner, name) for name in _flat(inner))
        else:
            yield from _sections(inner, f"{owner}/{str(key).strip('/')}")


def _flat(content: Any) -> Iterator[str]:
    """Names of parameters; those of a mapping inside another are joined by dots."""
    for key, inner in content.items() if isinstance(content, dict) else ():
        if isinstance(inner, dict):
            yield from (f"{key}.{name}" for name in _flat(inner))
        else:
            yield str(key)
