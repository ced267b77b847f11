"""YAML as this project reads it: data only, within bounds, and nothing that reads otherwise.

Bounds hold before anything is built: a few hundred bytes of aliases can stand for gigabytes.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.events import AliasEvent, Event, ScalarEvent
from yaml.nodes import MappingNode, Node, ScalarNode

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.untrusted_files import control_character

MAX_NODES = 10_000  # values and keys, those behind an alias counted each time it is used
MAX_DEPTH = 32  # levels of lists and mappings
MAX_TEXT = 4_000  # characters of one value
MAX_KEY = 200  # characters of a key
MAX_NUMBER = 64  # characters of a number: longer ones cannot even be printed


class _Loader(yaml.SafeLoader):
    """YAML that says what it seems to say: no key twice, 1e-3 is a number, no tags."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._composed = 0  # values and keys so far, aliases not followed
        self._inside: list[list[int]] = []  # of each open value: values in it, levels below it
        self._extents: dict[int, list[int]] = {}  # the same of each finished one, by id of its node

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a value or key, and count it with all that it stands for."""
        event: Event = self.peek_event()  # type: ignore[no-untyped-call]
        line = _line(event)
        self._require_room(event, line)
        self._inside.append([1, 0])
        node = super().compose_node(parent, index)
        extent = self._inside.pop()
        if node is None:
            return None
        if isinstance(event, AliasEvent):
            if id(node) not in self._extents:
                raise InputError(
                    f"line {line}: expected a value, got an alias of {event.anchor!r:.60}, which"
                    " would contain itself"
                )
            extent = self._extents[id(node)]
        self._extents[id(node)] = extent
        size, levels = extent
        if size > MAX_NODES or len(self._inside) + levels > MAX_DEPTH:
            raise InputError(
                f"line {line}: expected up to {MAX_NODES:,} values and {MAX_DEPTH} levels with"
                " every alias written out, got more"
            )
        if self._inside:
            self._inside[-1][0] += size
            self._inside[-1][1] = max(self._inside[-1][1], levels + 1)
        return node

    def _require_room(self, event: Event, line: int) -> None:
        """Refuse what is beyond the bounds before it is composed."""
        self._composed += 1
        if self._composed > MAX_NODES:
            raise InputError(f"line {line}: expected up to {MAX_NODES:,} values, got more")
        if len(self._inside) > MAX_DEPTH:
            raise InputError(f"line {line}: expected up to {MAX_DEPTH} levels, got more")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise InputError(f"line {line}: expected a value without a tag, got {tag!r:.60}")
        if isinstance(event, ScalarEvent):
            _require_readable(event.value, line)

    def compose_scalar_node(self, anchor: dict[Any, Node]) -> ScalarNode:
        """Compose a scalar; a number of thousands of digits could not even be shown."""
        node = super().compose_scalar_node(anchor)
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_NUMBER:
            raise InputError(
                f"line {_line(node)}: expected a number of up to {MAX_NUMBER}"
                f" characters, got {len(node.value):,}"
            )
        return node

    def compose_mapping_node(self, anchor: dict[Any, Node]) -> MappingNode:
        """Refuse what PyYAML takes without a word: of a key that comes twice, the last."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            line = _line(key)
            if not isinstance(key, ScalarNode) or not key.tag.endswith((":str", ":merge")):
                got = key.value if isinstance(key, ScalarNode) else "a list or a mapping"
                raise InputError(f"line {line}: expected a word as a key, got {got!r:.60}")
            if len(key.value) > MAX_KEY:
                raise InputError(
                    f"line {line}: expected a key of up to {MAX_KEY} characters, got"
                    f" {len(key.value):,}"
                )
            if key.value in seen:
                raise InputError(f"line {line}: expected the key {key.value} once, got it twice")
            seen.add(key.value)
        return node


def _line(where: Event | Node) -> int:
    """The line that an event or a node begins in, as editors count."""
    return where.start_mark.line + 1 if where.start_mark is not None else 0


def _require_readable(text: str, line: int) -> None:
    if len(text) > MAX_TEXT:
        raise InputError(
            f"line {line}: expected text of up to {MAX_TEXT:,} characters, got {len(text):,}"
        )
    found = control_character(text)
    if found is not None:
        raise InputError(f"line {line}: expected text without control characters, got {found!r}")


_Loader.add_implicit_resolver(  # YAML 1.1 wants a point and a sign, else 1e-3 is a word
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> object:
    """The content of a YAML document.

    Args:
        text: the document; its length bounds the time, so bound it first.

    Raises:
        InputError: a key twice, a tag, a control character, or beyond the bounds above.
        ValueError: a value that cannot be, such as the date 2026-13-45.
        yaml.YAMLError: no YAML.
    """
    return yaml.load(text, _Loader)
