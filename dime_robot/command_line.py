"""Reads a command line into a dataclass with tyro, the same way for every command.

Whole numbers may be written as 1e6. Of an option that holds one value the last one counts, as
usual; no part of a list is dropped.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TypeVar

import tyro

from dime_robot.runtime.io.errors import InputError

T = TypeVar("T")
# of the box that tyro draws where the terminal can show one: sides go, rulers stay
FRAME = str.maketrans({"\u2500": "-"} | dict.fromkeys("\u2502\u256d\u2570\u256f"))
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


def _sentence(text: str, prog: str) -> str:
    """A complaint of tyro's as one sentence.

    Args:
        text: parts between rulers: a title, what is wrong, options that look alike, where help is.
        prog: the program's name.
    """
    parts: list[list[str]] = [[]]
    text = text.replace("\u256e", "\n---").translate(FRAME)
    for line in filter(None, map(str.strip, text.splitlines())):
        if set(line) == {"-"}:
            parts.append([])
        else:
            parts[-1].append(line)
    wrong = " ".join(parts[1] if len(parts) > 1 else parts[0]).rstrip(".")
    alike = [
        line.split()[0]
        for part in parts[2:]
        if part and part[0].startswith(("Perhaps you meant", "Arguments similar to"))
        for line in part[1:]
        if line.startswith("--")
    ]
    meant = f"; perhaps {' or '.join(alike)}" if alike else ""
    return f"{wrong}{meant}; {prog} --help lists all options"


@contextmanager
def complaint_as_sentence(prog: str) -> Iterator[None]:
    """Raise what tyro prints before it exits as an InputError of one sentence.

    Args:
        prog: the program's name.
    """
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            yield
    except SystemExit as end:
        if end.code in (0, None):  # --help
            raise
        raise InputError(_sentence(complaint.getvalue(), prog)) from None


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
        InputError: a list given twice, an unknown option, or a value that is none.
    """
    refuse_repeated(words, lists)
    with _registry(), complaint_as_sentence(prog):
        if default is None:
            return tyro.cli(kind, args=words, prog=prog)
        return tyro.cli(kind, args=words, prog=prog, default=default)
