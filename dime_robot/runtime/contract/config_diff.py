"""Differences between two configurations, each at its path, `a.b.c`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from pydantic import BaseModel

Value: TypeAlias = str | float | int | bool | None


def flatten(value: object, path: str = "") -> Iterator[tuple[str, Value]]:
    """Yield every number and string with its path; named list items are identified by name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            key = item["name"] if isinstance(item, dict) and "name" in item else i
            yield from flatten(item, f"{path}.{key}")
        names = [item["name"] for item in value if isinstance(item, dict) and "name" in item]
        if names:  # the order may differ as well
            yield f"{path}.order", ", ".join(map(str, names))
    else:
        yield path, value  # type: ignore[misc]


def differences(ours: BaseModel, theirs: BaseModel) -> list[tuple[str, Value, Value]]:
    """List the paths at which two models differ, with both values; None: missing."""
    first, second = dict(flatten(ours.model_dump())), dict(flatten(theirs.model_dump()))
    return [
        (path, first.get(path), second.get(path))
        for path in dict.fromkeys([*first, *second])
        if first.get(path) != second.get(path)
    ]
