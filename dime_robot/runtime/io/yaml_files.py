"""A strict YAML loader: data only, within bounds, and unambiguous.

Bounds are checked before values are built: a few hundred bytes of aliases can expand to gigabytes.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.events import AliasEvent, Event, ScalarEvent
from yaml.nodes import MappingNode, Node, ScalarNode

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.untrusted_files import control_character

MAX_NODES = 10_000  # values and keys, with every alias expanded
MAX_DEPTH = 32  # levels of lists and mappings
MAX_TEXT = 4_000  # characters of one value
MAX_KEY = 200  # characters of a key
MAX_NUMBER = 64  # characters of a number


class _Loader(yaml.SafeLoader):
    """YAML without repeated keys and tags, in which 1e-3 is a number."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._composed = 0  # values and keys so far, aliases not expanded
        self._open: list[list[int]] = []  # for each open value: values in it, levels below it
        self._extents: dict[int, list[int]] = {}  # the same for finished values, by id of the node

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a value or key, and count it with its aliases expanded."""
        event: Event = self.peek_event()  # type: ignore[no-untyped-call]
        line = _line(event)
        self._require_room(event, line)
        self._open.append([1, 0])
        node = super().compose_node(parent, index)
        extent = self._open.pop()
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
        if size > MAX_NODES or len(self._open) + levels > MAX_DEPTH:
            raise InputError(
                f"line {line}: expected up to {MAX_NODES:,} values and {MAX_DEPTH} levels with"
                " every alias written out, got more"
            )
        if self._open:
            self._open[-1][0] += size
            self._open[-1][1] = max(self._open[-1][1], levels + 1)
        return node

    def _require_room(self, event: Event, line: int) -> None:
        """Check the bounds before a value is composed."""
        self._composed += 1
        if self._composed > MAX_NODES:
            raise InputError(f"line {line}: expected up to {MAX_NODES:,} values, got more")
        if len(self._open) > MAX_DEPTH:
            raise InputError(f"line {line}: expected up to {MAX_DEPTH} levels, got more")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise InputError(f"line {line}: expected a value without a tag, got {tag!r:.60}")
        if isinstance(event, ScalarEvent):
            _require_readable(event.value, line)

    def compose_scalar_node(self, anchor: dict[Any, Node]) -> ScalarNode:
        """Compose a scalar; refuse a number of thousands of digits, which could not be printed."""
        node = super().compose_scalar_node(anchor)
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_NUMBER:
            raise InputError(
                f"line {_line(node)}: expected a number of up to {MAX_NUMBER}"
                f" characters, got {len(node.value):,}"
            )
        return node

    def compose_mapping_node(self, anchor: dict[Any, Node]) -> MappingNode:
        """Refuse a repeated key, of which PyYAML silently takes the last value."""
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
    """Return the line in which an event or a node begins, counted from 1."""
    return where.start_mark.line + 1 if where.start_mark is not None else 0


def _require_readable(text: str, line: int) -> None:
    if len(text) > MAX_TEXT:
        raise InputError(
            f"line {line}: expected text of up to {MAX_TEXT:,} characters, got {len(text):,}"
        )
    found = control_character(text)
    if found is not None:
        raise InputError(f"line {line}: expected text without control characters, got {found!r}")


_Loader.add_implicit_resolver(  # in YAML 1.1, 1e-3 without a point and a sign is a string
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> object:
    """Parse a YAML document.

    Args:
        text: the document; bound its length first.

    Raises:
        InputError: a key twice, a tag, a control character, or beyond the bounds above.
        ValueError: an impossible value, such as the date 2026-13-45.
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, _Loader)
