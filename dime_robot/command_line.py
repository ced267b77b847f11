"""Reads a command line into a dataclass with tyro, the same way for every command.

Whole numbers may be written as 1e6. Of an option that holds one value the last one counts, as
usual; no part of a list is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

from dime_robot.runtime.errors import InputError

T = TypeVar("T")
WHOLE = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")


def whole_number(text: str) -> int:
    """12, 1_000, 1e6 and 2.5e3 as the whole numbers that they are.

    Raises:
        ValueError: no number, or one with a fraction.
    """
    try:
        return int(text)
    except ValueError:
        if WHOLE.fullmatch(text) and (value := float(text)).is_integer():
            return int(value)
        raise ValueError(f"expected a whole number, got {text!r}") from None


def _registry() -> tyro.constructors.ConstructorRegistry:
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def _(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[int] | None:
        if info.type is not int:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="INT",
            instance_from_str=lambda words: whole_number(words[0]),
            is_instance=lambda value: isinstance(value, int),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def refuse_repeated(words: Sequence[str], lists: Sequence[str]) -> None:
    """Refuse a list that is given in two parts, up to `--`: the first part would be dropped.

    Args:
        words: the command line.
        lists: options that take several values at once, such as --envs.

    Raises:
        InputError: with the option.
    """
    names = [word.partition("=")[0].replace("_", "-") for word in words]
    names = names[: names.index("--")] if "--" in names else names
    for option in lists:
        times = names.count(option)
        if times > 1:
            raise InputError(
                f"{option}: expected it once with all its values, got it {times} times"
            )


def parse(
    kind: type[T],
    words: Sequence[str],
    prog: str,
    default: T | None = None,
    lists: Sequence[str] = (),
) -> T:
    """A dataclass of what was typed.

    Args:
        kind: the dataclass; its docstrings are the help.
        words: the command line without the program's name.
        prog: the program's name for the help.
        default: values of what is not given; None: those of the class.
        lists: options that take several values at once; given twice, one list would be dropped.

    Raises:
        InputError: a list given twice, or a value outside its bounds.
    """
    refuse_repeated(words, lists)
    with _registry():
        if default is None:
            return tyro.cli(kind, args=words, prog=prog)
        return tyro.cli(kind, args=words, prog=prog, default=default)
