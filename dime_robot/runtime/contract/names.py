"""Names and units in a contract or a robot configuration: short, printable, on one line."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated

from pydantic import AfterValidator, Field

MAX_NAME = 256  # characters; the longest are those of environments that are files


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"expected printable characters on one line, got {text!r:.60}")
    return text


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_printable)]
Topic = Annotated[
    str,
    Field(max_length=MAX_NAME, pattern=r"^(~/|/)?[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*$"),
]


def require_unique(what: str, names: Collection[str], where: str = "") -> None:
    """Refuse a name that comes more than once.

    Args:
        what: kind of thing that is named.
        names: all names.
        where: in front of the message.

    Raises:
        ValueError: with the names that come more than once.
    """
    if repeated := sorted({name for name in names if list(names).count(name) > 1}):
        raise ValueError(f"{where}expected each {what} once, got {repeated} more than once")


_SYMBOL = r"(rad|kg|Hz|Pa|m|s|N|J|W|A|V|K|T|1)(\^?-?[1-4]|²)?"
_UNIT = rf"{_SYMBOL}([ *]{_SYMBOL})*(/{_SYMBOL}([ *]{_SYMBOL})*)?"
_UNITS = re.compile(rf"(mixed|{_UNIT}((, | or | and ){_UNIT})*)")


def _of_si(text: str) -> str:
    if not _UNITS.fullmatch(text):
        raise ValueError(
            "expected units of SI without prefixes (rad, m, s, kg, N, Hz, ...), such as rad/s or"
            f" 'm/s, rad/s', 1 for none or mixed, got {text!r:.60}"
        )
    return text


Unit = Annotated[
    str,
    Field(
        max_length=64,
        description="of SI, such as rad/s or m/s, rad/s; 1 for none; mixed where entries differ",
    ),
    AfterValidator(_of_si),
]
