"""Fields of many joints in few lines: shell patterns of names, as `joint_defaults` has them."""

from __future__ import annotations

import glob
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

ALL = "*"
SEPARATORS = "_-./"  # at which parts of names begin
PLAIN = re.compile(r"(\.\.?/)*/?[A-Za-z_][A-Za-z0-9_./-]*")
WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # no text in YAML


class Cell(NamedTuple):
    """A value as YAML."""

    text: str
    why: str = ""  # it is only guessed


Fields = dict[str, Cell]  # name of a field -> value


def name_text(name: str) -> str:
    """Return a name as YAML: plain where it can be."""
    plain = PLAIN.fullmatch(name) and name.lower() not in WORDS
    return name if plain else json.dumps(name, ensure_ascii=False)


def number_text(value: float) -> str:
    """Return a number as YAML, with at most seven significant digits.

    Args:
        value: [its unit].
    """
    text = f"{value:.7g}"
    return text if any(sign in text for sign in ".e") else f"{text}.0"


def shared_fields(joints: Mapping[str, Fields]) -> dict[str, Fields]:
    """Return fields by pattern, in an order in which later patterns win.

    Args:
        joints: joint -> its fields; a joint may lack some.
    """
    names = list(joints)
    order = {name: i for i, name in enumerate(names)}
    escaped = {glob.escape(name): i for i, name in enumerate(names)}
    found: dict[str, Fields] = {}
    bases = {ALL}
    for field in dict.fromkeys(field for fields in joints.values() for field in fields):
        having = [name for name in names if field in joints[name]]
        counts = Counter(joints[name][field].text for name in having)
        usual, count = counts.most_common(1)[0]
        # the base of a field is a pattern of all joints that have it, over which others are written
        base = [ALL] if len(having) == len(names) else patterns_of(having, names)
        shared = usual if len(base) == 1 and (count > 1 or len(having) == 1) else None
        bases |= set(base) if shared is not None else set()
        for text in counts:
            group = [name for name in having if joints[name][field].text == text]
            cells = [joints[name][field] for name in group]
            cell = next((cell for cell in cells if cell.why), cells[0])
            for pattern in base if text == shared else patterns_of(group, names):
                found.setdefault(pattern, {})[field] = cell

    def place(pattern: str) -> tuple[int, int]:
        if pattern in escaped:
            return 3, escaped[pattern]
        rank = 0 if pattern == ALL else 1 if pattern in bases else 2
        return rank, min(order[name] for name in names if fnmatchcase(name, pattern))

    return {pattern: found[pattern] for pattern in sorted(found, key=place)}


def patterns_of(group: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return few patterns that together match these names and no others.

    Args:
        group: the names, in the order of all.
        names: all names.
    """
    left, chosen = list(group), []
    fitting: dict[str, list[str]] = {}
    for pattern in {pattern for name in group for pattern in _candidates(name)}:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        # what is the name of a joint means this joint alone
        if len(matched) > 1 and set(matched) <= set(group) and pattern not in names:
            fitting[pattern] = matched
    while len(left) > 1 and fitting:
        best = min(fitting, key=lambda p: _rank(p, fitting[p], left))
        if len(set(fitting[best]) & set(left)) < 2:
            break
        chosen.append(best)
        left = [name for name in left if name not in fitting[best]]
    return chosen + [glob.escape(name) for name in left]


def _rank(pattern: str, matched: Sequence[str], left: Sequence[str]) -> tuple[int, int, int, str]:
    """Return the order of preference: most names, then a pattern of one end, then a short one."""
    return -len(set(matched) & set(left)), pattern.count("*"), len(pattern), pattern


def _candidates(name: str) -> set[str]:
    """Return patterns of a name's beginning, its end, its middle, and of both ends."""
    cuts = [i for i, sign in enumerate(name) if sign in SEPARATORS]
    ends = {name[i:] for i in cuts} | {name[i + 1 :] for i in cuts} | {name[1:], name}
    starts = {name[: i + 1] for i in cuts} | {name[:i] for i in cuts} | {name[:1], name}
    inner = {name[i : j + 1] for i in cuts for j in cuts if i < j}
    mixed = {
        f"{glob.escape(start)}*{glob.escape(end)}"
        for start in starts
        for end in ends
        if len(start) + len(end) < len(name)
    }
    return {
        *(f"*{glob.escape(end)}" for end in ends if end),
        *(f"{glob.escape(start)}*" for start in starts if start),
        *(f"*{glob.escape(part)}*" for part in inner),
        *mixed,
    }
