"""Find parameters that were given and that the node does not declare, such as a misspelt name.

A mistyped `dry_rn:=true` must not command a robot. rclpy accepts any name, so command line and
parameter files are read again: an unknown name that is given to this node is refused; one that a
file gives to every node (`/**`) may be meant for another node and is only logged as a warning.
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
# launch_ros writes one node's parameters of a launch file into such a file, below `/**`
OF_LAUNCH = "launch_params_"
PARAMETER_FLAGS, FILE_FLAG = ("-p", "--param"), "--params-file"


def unknown_parameters(
    node: Node, arguments: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """Return sentences about undeclared parameters: those to refuse, and those to warn of.

    Args:
        node: it must have declared all its parameters.
        arguments: the command line; None: this process's.
    """
    words = sys.argv if arguments is None else arguments
    name, full = node.get_name(), node.get_fully_qualified_name()
    special: set[str] = set()  # names that are given to this node by its name
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
    """Refuse unknown parameters that are given to this node; warn about those given to all.

    Raises:
        InputError: with all of them in one sentence.
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
    """Whether a name, possibly with wildcards, matches a node's fully qualified name."""
    wildcards = {"**": "(/[^/]+)*", "*": "/[^/]+"}
    tokens = owner.strip("/").split("/")
    pattern = "".join(wildcards.get(token, "/" + re.escape(token)) for token in tokens)
    return re.fullmatch(pattern, full) is not None


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each ROS argument for parameters, with its value."""
    inside = False
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in ("--ros-args", "--"):
            inside = word == "--ros-args"
        elif inside and word in (*PARAMETER_FLAGS, FILE_FLAG):
            yield word, following


def _on_command_line(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield node (empty: none is given) and name of each `-p NODE:NAME:=VALUE`."""
    for flag, word in _flags(words):
        if flag in PARAMETER_FLAGS:
            owner, _, key = word.partition(":=")[0].rpartition(":")
            yield owner, key


def _files(words: Sequence[str]) -> list[Path]:
    return [Path(word) for flag, word in _flags(words) if flag == FILE_FLAG]


def _of_file(path: Path) -> Iterator[tuple[str, str]]:
    """Yield node, possibly with wildcards, and name of every parameter in a file."""
    try:
        content = read_yaml(path)
    except InputError:
        return  # rclpy has read it already, and reported what is wrong with it
    for keys in _key_paths(content):
        if "ros__parameters" in keys:
            place = keys.index("ros__parameters")
            yield "/".join(key.strip("/") for key in keys[:place]), ".".join(keys[place + 1 :])


def _key_paths(content: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the sequence of keys of each value in nested mappings."""
    if not isinstance(content, dict):
        yield above
        return
    for key, inner in content.items():
        yield from _key_paths(inner, (*above, str(key)))
