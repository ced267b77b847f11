"""LowCmd and LowState, byte by byte."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.unitree.crc import crc32
from dime_robot.runtime.unitree.low_level import (
    CDR_HEADER,
    LOW_CMD,
    LOW_CMD_LAYOUT,
    LOW_STATE,
    LOW_STATE_LAYOUT,
    Frame,
    MessageLayout,
    read_message,
)
from tests.paths import ROOT

LAYOUTS = (LOW_CMD_LAYOUT, LOW_STATE_LAYOUT)
PACKED_CMD = "<4B4IH2x" + "B3x5f3I" * 20 + "4B" + "55Bx2I"  # the struct as Unitree's SDK packs it


def bitwise_crc(words: bytes) -> int:
    """The same checksum, one bit after the other, as its definition is written."""
    crc = 0xFFFFFFFF
    for (word,) in struct.iter_unpack("<I", words):
        for i in range(31, -1, -1):
            high = crc >> 31 ^ (word >> i & 1)
            crc = (crc << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if high else 0)
    return crc


@given(st.integers(0, 60).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n)))
def test_the_checksum_is_that_of_its_definition(words: bytes) -> None:
    assert crc32(words) == bitwise_crc(words)


def test_the_checksum_is_that_of_another_implementation() -> None:
    """In C, over LowCmd as Unitree's struct in memory: see the file's own words."""
    vectors = json.loads((ROOT / "tests/data/unitree_crc_vectors.json").read_text())["vectors"]
    assert len(vectors) >= 10
    for vector in vectors:
        data = bytes.fromhex(vector["struct"])
        assert crc32(data[:-4]) == vector["crc"], vector["name"]
        found = np.frombuffer(data, LOW_CMD)[0]
        assert int(found["crc"]) == vector["crc"]
        assert LOW_CMD_LAYOUT.crc(data) == vector["crc"]
        sent = LOW_CMD_LAYOUT.serialize(data)
        assert read_message(LOW_CMD_LAYOUT, sent).tobytes() == data


def test_a_checksum_is_over_whole_words() -> None:
    with pytest.raises(ValueError, match="whole words"):
        crc32(b"abc")


def test_structs_have_the_sizes_of_unitrees() -> None:
    assert (LOW_CMD.itemsize, LOW_STATE.itemsize) == (812, 1180)
    assert struct.calcsize(PACKED_CMD) == LOW_CMD.itemsize


@given(st.data())
def test_the_struct_of_a_command_is_the_packed_one(data: st.DataObject) -> None:
    """Each field lies where Python's struct module puts it."""
    byte, word = st.integers(0, 255), st.integers(0, 2**32 - 1)
    head = [data.draw(byte) for _ in range(4)] + [data.draw(word) for _ in range(4)]
    bandwidth = data.draw(st.integers(0, 2**16 - 1))
    motor = [data.draw(byte), 1.5, -2.25, 3.0, 40.0, 1.0, *(data.draw(word) for _ in range(3))]
    tail = [data.draw(byte) for _ in range(59)] + [data.draw(word), 0]
    packed = struct.pack(PACKED_CMD, *head, bandwidth, *(motor * 20), *tail)
    record = np.frombuffer(packed, LOW_CMD)[0]
    assert [*record["head"], record["level_flag"], record["frame_reserve"]] == head[:4]
    assert [*record["sn"], *record["version"]] == head[4:8]
    assert record["bandwidth"] == bandwidth
    for each in record["motor_cmd"]:
        names = ("mode", "q", "dq", "tau", "kp", "kd")
        assert [each[name].item() for name in names] == motor[:6]
        assert each["reserve"].tolist() == motor[6:]
    assert [record["bms_cmd"]["off"], *record["bms_cmd"]["reserve"]] == tail[:4]
    assert [*record["wireless_remote"], *record["led"], *record["fan"], record["gpio"]] == tail[
        4:59
    ]
    assert record["reserve"] == tail[59]
    assert LOW_CMD_LAYOUT.crc(packed) == bitwise_crc(packed[:-4])


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_struct_comes_back(layout: MessageLayout, seed: int) -> None:
    random = np.random.default_rng(seed).integers(0, 256, layout.struct.itemsize, np.uint8)
    fields = layout.deserialize(layout.serialize(random.tobytes()))  # zeros between the fields
    assert layout.deserialize(layout.serialize(fields.tobytes())).tobytes() == fields.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_changed_byte_of_a_field_is_noticed(layout: MessageLayout) -> None:
    frame = Frame(layout)
    frame.fields["wireless_remote"] = range(40)
    message = frame.sealed()
    read_message(layout, message)
    unread = 0
    for i in range(len(CDR_HEADER), len(message)):
        changed = bytearray(message)
        changed[i] ^= 0x10
        try:
            read_message(layout, bytes(changed))
        except InputError:
            continue
        unread += 1
    # what lies between the fields is no part of the message
    fields = layout.deserialize(message)
    filler = layout.size - len(CDR_HEADER) - _bytes_of_fields(fields.dtype)
    assert unread == filler


def _bytes_of_fields(kind: np.dtype) -> int:  # type: ignore[type-arg]
    if kind.subdtype is not None:
        inner, shape = kind.subdtype
        return int(np.prod(shape)) * _bytes_of_fields(inner)
    if kind.fields is None:
        return kind.itemsize
    return sum(_bytes_of_fields(entry[0]) for entry in kind.fields.values())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize(
    "change",
    [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"", lambda data: b"\0" * 4,
     lambda data: b"\x00\x00" + data[2:], lambda data: b"\x00\x07" + data[2:]],
    ids=["shorter", "longer", "empty", "header only", "big endian", "another encoding"],
)  # fmt: skip
def test_another_encoding_is_one_sentence(layout: MessageLayout, change: object) -> None:
    assert callable(change)
    with pytest.raises(InputError, match=f"{layout.name}: expected {layout.size} bytes"):
        read_message(layout, change(Frame(layout).sealed()))


def test_a_wrong_checksum_can_be_ignored() -> None:
    frame = Frame(LOW_STATE_LAYOUT)
    message = frame.sealed()[:-4] + b"\0\0\0\0"
    with pytest.raises(InputError, match="checksum"):
        read_message(LOW_STATE_LAYOUT, message)
    assert read_message(LOW_STATE_LAYOUT, message, check_crc=False)["head"].tolist() == [0xFE, 0xEF]
