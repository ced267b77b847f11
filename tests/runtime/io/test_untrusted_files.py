"""Files from elsewhere: regular, bounded, text; and what their reader's message may contain."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dime_robot.runtime.contract.config_files import read_config
from dime_robot.runtime.control.flight_recorder import read_recording
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.untrusted_files import parse_json, read_bytes, read_text
from dime_robot.runtime.telemetry.latency import read_distribution
from dime_robot.sim.model.loading import compile_model
from ros_nodes.latency_record import read_record
from tests.malformed import within

READERS: dict[str, Callable[[Path], Any]] = {
    "configuration": read_config,
    "recording": read_recording,
    "latency record": read_record,
    "latency distribution": read_distribution,
    "model": compile_model,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "missing", "NUL", "empty"])
def test_what_is_no_file_is_refused_at_once(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "input"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "NUL":
            path = tmp_path / "in\0put"
        case "empty":
            path.write_bytes(b"")
    with within(2.0), pytest.raises(InputError) as raised:
        READERS[name](path)
    message = str(raised.value)
    assert message.isprintable()
    assert ("a pipe, a device" in message) == (kind in ("pipe", "device")), message


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_a_terabyte_is_refused_by_its_size(name: str, tmp_path: Path) -> None:
    path = tmp_path / "input"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: it takes no room
    with within(2.0), pytest.raises(InputError, match=r"of up to [\d,]+ bytes, got 1,099,511"):
        READERS[name](path)


def test_the_bound_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"12345")
    assert read_bytes(path, "something", 5) == b"12345"
    with pytest.raises(InputError, match="expected something of up to 4 bytes, got 5"):
        read_bytes(path, "something", 4)


def test_text_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_text("grüße", encoding="utf-8")
    assert read_text(path, "something", 100) == "grüße"
    path.write_text("grüße", encoding="latin-1")
    with pytest.raises(InputError, match="expected something in UTF-8"):
        read_text(path, "something", 100)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[1, NaN]", "{", '"\\ud800"'])
def test_json_is_bounded(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        parse_json(text)
    assert len(str(raised.value)) < 200


@settings(max_examples=50)
@given(st.text(max_size=20))
def test_a_message_is_printable_whatever_a_file_holds(text: str) -> None:
    message = str(InputError(f"x: {text}")).replace("\n", "")
    assert message.isprintable()
    message.encode("utf-8")
