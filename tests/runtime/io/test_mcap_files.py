"""MCAP files that no recorder writes: refused in a sentence, within bounds, before unpacking."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dime_robot.runtime.io import mcap_files
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.mcap_files import (
    MAGIC,
    MAX_RECORD,
    RawMessage,
    is_mcap,
    mcap_attachment,
    mcap_messages,
)

pytest.importorskip("mcap", reason="MCAP files: pip install '.[recordings]'")
lz4 = pytest.importorskip("lz4.frame")
zstandard = pytest.importorskip("zstandard")

PACK = {"": bytes, "zstd": zstandard.compress, "lz4": lz4.compress}
NOTHING = 2**64 - 1


def text(value: str) -> bytes:
    return struct.pack("<I", len(value.encode())) + value.encode()


def record(opcode: int, content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<BQ", opcode, len(content) if length is None else length) + content


def schema(number: int = 1, name: str = "std_msgs/msg/String") -> bytes:
    return record(3, struct.pack("<H", number) + text(name) + text("ros2msg") + text("string data"))


def channel(number: int = 1, topic: str = "/a", encoding: str = "cdr", of: int = 1) -> bytes:
    head = struct.pack("<HH", number, of)
    return record(4, head + text(topic) + text(encoding) + struct.pack("<I", 0))


def message(data: bytes = b"hello", number: int = 1, time: int = 7) -> bytes:
    return record(5, struct.pack("<HIQQ", number, 0, time, 0) + data)


def chunk(
    inside: bytes, packing: str = "", size: int | None = None, crc: int | None = None
) -> bytes:
    size = len(inside) if size is None else size
    crc = zlib.crc32(inside) if crc is None else crc
    packed = PACK.get(packing, bytes)(inside)
    head = struct.pack("<QQQI", 0, 0, size, crc) + text(packing)
    return record(6, head + struct.pack("<Q", len(packed)) + packed)


def attachment(name: str = "x", data: bytes = b"data", crc: int | None = None) -> bytes:
    content = struct.pack("<QQ", 0, 0) + text(name) + text("") + struct.pack("<Q", len(data)) + data
    return record(9, content + struct.pack("<I", zlib.crc32(content) if crc is None else crc))


END = record(15, bytes(4))
DEFINED = schema() + channel()


def written(path: Path, *records: bytes) -> Path:
    path.write_bytes(MAGIC + b"".join(records))
    return path


def read(path: Path, *topics: str) -> list[RawMessage]:
    return list(mcap_messages(path, topics or ("/a",), {}))


@pytest.mark.parametrize("packing", PACK)
def test_messages_come_from_chunks_of_every_packing(packing: str, tmp_path: Path) -> None:
    other = channel(2, "/b") + message(b"other", 2)
    inside = DEFINED + message(b"one") + other + message(b"two", time=3)
    path = written(tmp_path / "a", chunk(inside, packing), END)
    types: dict[str, str] = {}
    found = list(mcap_messages(path, {"/a"}, types))
    kind = "std_msgs/msg/String"
    assert found == [RawMessage(7, "/a", kind, b"one"), RawMessage(3, "/a", kind, b"two")]
    assert types == {"/a": kind, "/b": kind}
    assert read(written(tmp_path / "b", inside, END)) == found  # without a chunk
    assert is_mcap(path)


def test_an_attachment_comes_back(tmp_path: Path) -> None:
    path = written(tmp_path / "a", attachment("y", b"no"), attachment(), DEFINED, END)
    assert mcap_attachment(path, "x", 100) == b"data"
    assert mcap_attachment(path, "z", 100) is None
    with pytest.raises(InputError, match="of it was changed since"):
        mcap_attachment(written(tmp_path / "b", attachment(crc=1), END), "x", 100)
    with pytest.raises(InputError, match=r"a record of it has .* expected up to 4,106"):
        mcap_attachment(written(tmp_path / "c", attachment(data=bytes(5000)), END), "x", 10)


BOMB = zstandard.compress(bytes(2**27))
LZ4_BOMB = lz4.compress(bytes(2**27), store_size=False)


def packed_bomb(packing: str, packed: bytes, size: int) -> bytes:
    head = struct.pack("<QQQI", 0, 0, size, 0) + text(packing)
    return record(6, head + struct.pack("<Q", len(packed)) + packed)


@pytest.mark.parametrize(
    ("records", "error"),
    [
        ((), "cut short"),
        ((DEFINED,), "cut short"),
        ((b"\x05\x01",), "cut short"),
        ((record(5, b"", length=2**63),), "cut short"),
        ((chunk(DEFINED)[:-4],), "cut short"),
        ((chunk(DEFINED + b"\x05"), END), "a chunk of it is cut short"),
        ((chunk(DEFINED + record(5, b"", length=2**63)), END), "a chunk of it is cut short"),
        ((chunk(DEFINED, "zip"), END), "packed as 'zip'"),
        ((chunk(DEFINED, crc=1), END), "changed since it was written"),
        ((chunk(DEFINED, size=1), END), "does not have the size that it says"),
        ((chunk(DEFINED, "zstd", size=1), END), "does not have the size that it says"),
        ((chunk(DEFINED, "lz4", size=1), END), "does not have the size that it says"),
        ((chunk(DEFINED, "zstd", size=MAX_RECORD + 1), END), "expected up to 268,435,456"),
        ((packed_bomb("zstd", BOMB, 2**20), END), "does not have the size that it says"),
        ((packed_bomb("lz4", LZ4_BOMB, 2**20), END), "changed|does not have|cannot be parsed"),
        ((packed_bomb("zstd", b"nothing", 9), END), "cannot be parsed|does not have"),
        ((packed_bomb("lz4", b"nothing", 9), END), "cannot be parsed"),
        ((record(6, b"short"), END), "cannot be parsed"),
        ((record(3, b"\xff" * 9), END), "cannot be parsed"),
        ((schema(name="é" * 300), END), "a name of 300 characters"),
        ((schema(), channel(topic="/" + 999 * "a"), END), "a name of 1,000 characters"),
        ((DEFINED, channel(encoding="json"), END), "encoded as 'json', not cdr"),
        ((DEFINED, schema(2, "b"), channel(2, of=2), END), "/a has two types"),
        ((DEFINED, record(5, b"short"), END), "cannot be parsed"),
    ],
)
def test_what_no_recorder_writes_is_one_sentence(
    records: tuple[bytes, ...], error: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.mcap", *records)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=error) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_other_files_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"PK\x03\x04")
    assert not is_mcap(path)
    for call in (lambda: read(path), lambda: mcap_attachment(path, "x", 10)):
        with pytest.raises(InputError, match="does not begin as one"):
            call()
    with pytest.raises(InputError, match="got none"):
        read(tmp_path / "b")


def test_a_message_of_a_topic_that_nobody_wants_is_not_kept(tmp_path: Path) -> None:
    image = channel(2, "/image") + message(bytes(2**20), 2)
    path = written(tmp_path / "a", chunk(DEFINED + message() + image, "zstd"), END)
    assert [found.data for found in read(path)] == [b"hello"]


GOOD = MAGIC + chunk(DEFINED + message() + message(), "zstd") + DEFINED + message() + END
PARTS = st.one_of(
    st.sampled_from([DEFINED, message(), chunk(message()), attachment(), END, MAGIC]),
    st.builds(record, st.integers(0, 20), st.binary(max_size=40)),
    st.builds(record, st.sampled_from([3, 4, 5, 6, 9]), st.binary(max_size=60),
              st.one_of(st.none(), st.integers(0, NOTHING))),
    st.builds(chunk, st.binary(max_size=60), st.sampled_from(list(PACK)),
              st.one_of(st.none(), st.integers(0, NOTHING)), st.sampled_from([None, 0])),
    st.binary(max_size=20),
)  # fmt: skip


def accepted_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with suppress(InputError):
        read(path)
    with suppress(InputError):
        mcap_attachment(path, "x", 1000)


@given(parts=st.lists(PARTS, max_size=8))
def test_any_records_are_read_or_refused(
    parts: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "parts.mcap"
    accepted_or_refused(path, MAGIC + b"".join(parts))


@given(data=st.data())
def test_any_changed_bytes_are_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(8, len(content)))
    path = tmp_path_factory.getbasetemp() / "changed.mcap"
    accepted_or_refused(path, bytes(content[: cut if data.draw(st.booleans()) else None]))


def test_the_good_file_of_these_tests_is_good() -> None:
    from mcap.reader import make_reader

    assert mcap_files.MAGIC == b"\x89MCAP0\r\n"
    content = MAGIC + DEFINED + message() + END + record(2, bytes(20)) + MAGIC
    found = list(make_reader(io.BytesIO(content)).iter_messages())
    assert [one.data for _, _, one in found] == [b"hello"]
