"""MCAP files within bounds: the messages of some topics, and attachments.

The file's framing is read here, because the `mcap` library allocates what a length field requests
and unpacks what a chunk contains, however large that is. The library parses the records.
Definitions of messages in the file are not used.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.untrusted_files import open_regular

MAGIC = b"\x89MCAP0\r\n"
MAX_FILE = 64 * 2**30  # bytes; most of it are the images of other topics
MAX_RECORD = 256 * 2**20  # bytes of a record in the file, and of a chunk once it is unpacked
MAX_NAME = 256  # characters of a topic or a type
SCHEMA, CHANNEL, MESSAGE, CHUNK, ATTACHMENT, DATA_END = 0x03, 0x04, 0x05, 0x06, 0x09, 0x0F
_MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence, time of recording, of publishing
_EXPECTED = "an MCAP file"


class RawMessage(NamedTuple):
    """A message as it was recorded."""

    time: int  # of its recording [ns]
    topic: str
    type: str  # as sensor_msgs/msg/JointState
    data: bytes  # in CDR


def is_mcap(path: Path) -> bool:
    """Whether a file begins as an MCAP file does."""
    with open_regular(path, "a recording", MAX_FILE) as file:
        return file.read(len(MAGIC)) == MAGIC


def mcap_messages(
    path: Path, topics: Collection[str], types: dict[str, str]
) -> Iterator[RawMessage]:
    """Yield the messages of some topics, in the order of the file.

    Args:
        path: of the file.
        topics: whose messages are wanted.
        types: filled with the type of every topic in the file.

    Raises:
        InputError: no MCAP file, a damaged one, or a larger record than is allowed.
    """
    from mcap.records import Channel, Schema

    schemas: dict[int, str] = {}
    wanted: dict[int, tuple[str, str]] = {}
    for opcode, content in _all_records(path):
        try:
            if opcode == MESSAGE:
                channel, _, time, _ = _MESSAGE_HEAD.unpack_from(content)
                if (found := wanted.get(channel)) is None:
                    continue
                message = RawMessage(time, *found, bytes(content[_MESSAGE_HEAD.size :]))
            elif opcode == SCHEMA:
                schema = Schema.read(_stream(content))
                schemas[schema.id] = _short(schema.name)
                continue
            else:
                given = Channel.read(_stream(content))
                topic, kind = _short(given.topic), schemas.get(given.schema_id, "")
                if types.setdefault(topic, kind) != kind:
                    raise ValueError(f"its topic {topic} has two types, {types[topic]} and {kind}")
                if topic in topics and given.message_encoding != "cdr":
                    raise ValueError(
                        f"its topic {topic} is encoded as {given.message_encoding!r:.40}, not cdr"
                    )
                if topic in topics:
                    wanted[given.id] = (topic, kind)
                continue
        except Exception as error:  # of the library's parsers: any
            raise _refusal(path, error) from None
        yield message


def mcap_attachment(path: Path, name: str, max_bytes: int) -> bytes | None:
    """Return an attachment of an MCAP file; None: it has none of that name.

    Args:
        path: of the file.
        name: of the attachment.
        max_bytes: of the attachment.

    Raises:
        InputError: see `mcap_messages`.
    """
    for _, content in _records(path, {ATTACHMENT}, max_bytes + 4096):
        if (found := _attachment(path, content)).name == name:
            return bytes(found.data)
    return None


def _attachment(path: Path, content: memoryview) -> Any:
    from mcap.records import Attachment

    try:
        if int.from_bytes(content[-4:], "little") not in (0, zlib.crc32(content[:-4])):
            raise ValueError("an attachment of it was changed since it was written")
        return Attachment.read(_stream(content))
    except Exception as error:  # of the library's parser: any
        raise _refusal(path, error) from None


def _all_records(path: Path) -> Iterator[tuple[int, memoryview]]:
    """Yield schemas, channels and messages, those in chunks too."""
    for opcode, content in _records(path, {SCHEMA, CHANNEL, MESSAGE, CHUNK}, MAX_RECORD):
        if opcode != CHUNK:
            yield opcode, content
            continue
        try:
            inside = memoryview(_unpacked(content))
        except Exception as error:  # of the library and of the decompressors: any
            raise _refusal(path, error) from None
        place = 0
        while place < len(inside):
            if len(inside) - place < 9:
                raise _refusal(path, ValueError("a chunk of it is cut short"))
            kind, length = struct.unpack_from("<BQ", inside, place)
            place += 9
            if length > len(inside) - place:
                raise _refusal(path, ValueError("a chunk of it is cut short"))
            if kind in (SCHEMA, CHANNEL, MESSAGE):
                yield kind, inside[place : place + length]
            place += length


def _unpacked(content: memoryview) -> bytes:
    """Return the records in a chunk, whose size is checked before it is unpacked."""
    from mcap.records import Chunk

    chunk = Chunk.read(_stream(content))
    size, data = chunk.uncompressed_size, chunk.data
    if size > MAX_RECORD:
        raise ValueError(f"a chunk of it has {size:,} bytes, expected up to {MAX_RECORD:,}")
    if chunk.compression == "zstd":
        import zstandard

        # the frame's own size would be allocated, whatever the chunk says
        if zstandard.frame_content_size(data) not in (-1, size):
            raise ValueError("a chunk of it does not have the size that it says")
        data = zstandard.ZstdDecompressor().decompress(data, max_output_size=max(size, 1))
    elif chunk.compression == "lz4":
        import lz4.frame

        frame = lz4.frame.LZ4FrameDecompressor()
        data = frame.decompress(data, max_length=size)
        if not frame.eof:
            raise ValueError("a chunk of it does not have the size that it says")
    elif chunk.compression:
        raise ValueError(f"a chunk of it is packed as {chunk.compression!r:.40}")
    if len(data) != size:
        raise ValueError("a chunk of it does not have the size that it says")
    if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
        raise ValueError("a chunk of it was changed since it was written")
    return bytes(data)


def _records(path: Path, wanted: set[int], max_bytes: int) -> Iterator[tuple[int, memoryview]]:
    """Yield opcode and content of the wanted records of the file's data section."""
    with open_regular(path, _EXPECTED, MAX_FILE) as file:
        try:
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError("it does not begin as one")
            size = os.fstat(file.fileno()).st_size
            while True:
                head = file.read(9)
                opcode, length = struct.unpack("<BQ", head) if len(head) == 9 else (0, 1)
                if length > size - file.tell():
                    raise ValueError("it is cut short: `mcap recover` repairs it")
                if opcode == DATA_END:
                    return
                if opcode not in wanted:
                    file.seek(length, os.SEEK_CUR)
                    continue
                if length > max_bytes:
                    raise ValueError(
                        f"a record of it has {length:,} bytes, expected up to {max_bytes:,}"
                    )
                content = memoryview(file.read(length))
                if len(content) < length:
                    raise ValueError("it is cut short: `mcap recover` repairs it")
                yield opcode, content
        except (OSError, ValueError) as error:
            raise _refusal(path, error) from None


def _stream(content: memoryview) -> Any:
    """Return a record's content as the library reads it; a length beyond its end gives its end."""
    from mcap.data_stream import ReadDataStream

    return ReadDataStream(BytesIO(content))


def _short(name: str) -> str:
    if len(name) > MAX_NAME:
        raise ValueError(f"it has a name of {len(name):,} characters, expected up to {MAX_NAME}")
    return name


def _refusal(path: Path, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    if not isinstance(error, ValueError) or isinstance(error, UnicodeError):
        reason = f"a record of it cannot be parsed ({type(error).__name__})"
    return InputError(f"{path}: expected {_EXPECTED}, {reason:.300}")
