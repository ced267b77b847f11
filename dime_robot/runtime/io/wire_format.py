"""A strict parser of the protobuf wire format, without a protobuf package.

It refuses what a lenient parser would repair or skip, so that no other parser can understand the
same bytes differently: unknown fields, repeated singular fields, lengths beyond the message,
groups, integers of more than 64 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
MAX_FIELDS = 1_000_000  # of one message
FieldKind = Literal["int", "ints", "bytes", "repeated", "float"]
# number: (name, kind). `int`, `float` and `bytes` come once at most; `ints`, packed or not, and
# `repeated` bytes any number of times
Schema = Mapping[int, tuple[str, FieldKind]]
_WIRE_TYPES: dict[FieldKind, tuple[int, ...]] = {
    "int": (VARINT,),
    "ints": (VARINT, BYTES),
    "float": (FIXED32,),
    "bytes": (BYTES,),
    "repeated": (BYTES,),
}


class WireFormatError(ValueError):
    """The bytes are not a message of the expected kind. The message is one phrase."""


class Message:
    """The fields present in one message, by name."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._fields: dict[str, list[int | memoryview]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def add(self, name: str, kind: FieldKind, value: int | memoryview) -> None:
        """Store one occurrence of a field.

        Raises:
            WireFormatError: a singular field comes twice.
        """
        values = self._fields.setdefault(name, [])
        if values and kind in ("int", "float", "bytes"):
            raise WireFormatError(f"{self._what}: expected {name} once, got it twice")
        if kind == "ints" and isinstance(value, memoryview):
            position = 0
            while position < len(value):
                number, position = read_varint(value, position)
                values.append(number)
        else:
            values.append(value)

    def integer(self, name: str) -> int:
        """Return a singular integer, as unsigned 64 bits; 0 where it is missing."""
        (value,) = self._fields.get(name, [0])
        assert isinstance(value, int)
        return value

    def integers(self, name: str) -> list[int]:
        """Return repeated integers, as unsigned 64 bits."""
        return [value for value in self._fields.get(name, []) if isinstance(value, int)]

    def content(self, name: str) -> memoryview:
        """Return a singular bytes field; empty where it is missing."""
        return next(iter(self.repeated(name)), memoryview(b""))

    def repeated(self, name: str) -> list[memoryview]:
        """Return every occurrence of a bytes field."""
        return [value for value in self._fields.get(name, []) if isinstance(value, memoryview)]

    def text(self, name: str) -> str:
        """Return a singular string.

        Raises:
            WireFormatError: it is not UTF-8.
        """
        return as_text(self.content(name), f"{self._what}: {name}")

    def texts(self, name: str) -> list[str]:
        """Return repeated strings.

        Raises:
            WireFormatError: one is not UTF-8.
        """
        return [as_text(value, f"{self._what}: {name}") for value in self.repeated(name)]


def as_text(value: memoryview, what: str) -> str:
    """Decode UTF-8.

    Raises:
        WireFormatError: it is not UTF-8.
    """
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise WireFormatError(f"{what}: expected UTF-8 text") from None


def read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """Read the integer at `position`; return it and the position after it.

    Raises:
        WireFormatError: it does not end in time or has more than 64 bits.
    """
    result = 0
    for i in range(10):
        if position + i >= len(data):
            raise WireFormatError("ends inside an integer")
        byte = data[position + i]
        result |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if result >= 1 << 64:
                break
            return result, position + i + 1
    raise WireFormatError("has an integer of more than 64 bits")


def parse(data: memoryview, schema: Schema, what: str) -> Message:
    """Parse one message; messages inside it stay bytes.

    Args:
        data: exactly the message.
        schema: the fields that it may have.
        what: name of the message, for errors.

    Raises:
        WireFormatError: the bytes are not such a message.
    """
    message, position, count = Message(what), 0, 0
    while position < len(data):
        count += 1
        if count > MAX_FIELDS:
            raise WireFormatError(f"{what}: expected at most {MAX_FIELDS} fields")
        tag, position = read_varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if number not in schema:
            raise WireFormatError(f"{what}: field {number} is not allowed")
        name, kind = schema[number]
        if wire_type not in _WIRE_TYPES[kind]:
            raise WireFormatError(f"{what}: {name} has wire type {wire_type}")
        if wire_type == VARINT:
            value, position = read_varint(data, position)
            message.add(name, kind, value)
            continue
        if wire_type == BYTES:
            size, position = read_varint(data, position)
        else:
            size = FIXED_SIZES[wire_type]
        if size > len(data) - position:
            raise WireFormatError(f"{what}: {name} is longer than what is left")
        message.add(name, kind, data[position : position + size])
        position += size
    return message
