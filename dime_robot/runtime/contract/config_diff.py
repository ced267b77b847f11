"""Where two records differ: every number and word of a configuration has a place, `a.b.c`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from pydantic import BaseModel

Value: TypeAlias = str | float | int | bool | None


def flat(value: object, path: str = "") -> Iterator[tuple[str, Value]]:
    """Every number and word with its place; parts that have a name go by it, not by position."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            key = item["name"] if isinstance(item, dict) and "name" in item else i
            yield from flat(item, f"{path}.{key}")
        names = [item["name"] for item in value if isinstance(item, dict) and "name" in item]
        if names:  # the order is a fact of its own
            yield f"{path}.order", ", ".join(map(str, names))
    else:
        yield path, value  # type: ignore[misc]


def differences(ours: BaseModel, theirs: BaseModel) -> list[tuple[str, Value, Value]]:
    """Places where two records differ, with both values; None: it is not there."""
    first, second = dict(flat(ours.model_dump())), dict(flat(theirs.model_dump()))
    places = [*first, *(place for place in second if place not in first)]
    return [
        (place, first.get(place), second.get(place))
        for place in places
        if first.get(place) != second.get(place)
    ]
