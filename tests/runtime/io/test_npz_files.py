"""npz files from elsewhere: their sizes are judged before anything is unpacked."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dime_robot.runtime.control.flight_recorder import FlightRecorder, read_recording
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.npz_files import read_npz, write_npz
from dime_robot.runtime.io.sealed_files import append_seal
from dime_robot.runtime.telemetry import replay
from ros_nodes.latency_record import read_record, write_record
from tests.paths import ROOT
from tests.ros_nodes.records import record_of, some_samples
from tests.runtime.machines import ScriptedPolicy, make_robot, make_spec

UNPACKED = 2**28  # bytes of a bomb: more than either reader takes


def npy(header: str, content: bytes = b"") -> bytes:
    """An array as numpy writes it, with any header."""
    line = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + content


def header(descr: str, shape: str) -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


def packed(path: Path, compress: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def plain(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, dict[str, Any]]:
    """Records and meta of a recording."""
    recorder = FlightRecorder(ScriptedPolicy(make_spec()), make_robot(), 0.1)  # type: ignore[arg-type]
    recorder._count = 5
    dump = recorder.dump(tmp_path_factory.mktemp("flight"), "test")
    recorder.wait(10.0)
    recording = read_recording(dump.path)
    return recording.records, recording.meta


def written(path: Path, records: np.ndarray, meta: dict[str, Any]) -> Path:
    np.savez(path, records=records, meta=np.array(json.dumps(meta)))
    return path


BOMB = """
import sys, resource
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
from dime_robot.runtime.io.errors import InputError
from {module} import {reader} as read
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read(Path(sys.argv[1]))
except InputError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("module", "reader", "name"),
    [
        ("dime_robot.runtime.control.flight_recorder", "read_recording", "records"),
        ("ros_nodes.latency_record", "read_record", "samples"),
    ],
)
def test_a_small_file_that_unpacks_to_a_large_one_takes_no_memory(
    module: str, reader: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("meta.npy", plain(np.array("{}")))
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            member.write(npy(header("'<f8'", f"({UNPACKED // 8},)")))
            for _ in range(64):
                member.write(bytes(UNPACKED // 64))
    assert path.stat().st_size < 2 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", BOMB.format(module=module, reader=reader), str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    printed, megabytes = done.stdout.splitlines()
    assert f"its array {name} would take 268,435," in printed
    assert int(megabytes) < 30


HEADERS = {
    "more records than there are": header("'<f8'", "(1000000000000000,)"),
    "records of nothing": header("'|V0'", "(1000000000000000,)"),
    "a size below zero": header("'<f8'", "(-1, -1)"),
    "more dimensions": header("'<f8'", "(9999999999, 9999999999, 0)"),
    "Python objects": header("'|O'", "(1,)"),
    "objects inside": header("[('a', '|O')]", "(1,)"),
    "a text of gigabytes": header("'<U1000000000'", "()"),
    "no shape": "{'descr': '<f8'}",
    "no dictionary": "[1, 2]",
    "brackets": "(" * 5_000,
    "a type of no name": header("'<q99x'", "(1,)"),
    "a shape of words": header("'<f8'", "('a',)"),
    "a truth as size": header("'<f8'", "(True,)"),
    "empty": "",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_is_judged_before_it_is_believed(name: str, tmp_path: Path) -> None:
    path = packed(tmp_path / "x.npz", a=npy(HEADERS[name], bytes(64)))
    with pytest.raises(InputError, match=r"x\.npz: expected a thing, its array a ") as raised:
        read_npz(path, {"a": 1000}, "a thing")
    assert len(str(raised.value)) < 500


def cut(content: bytes) -> bytes:
    return content[:-10]


def many_entries(content: bytes) -> bytes:
    """A directory that says it has 60,000 entries."""
    return content[:-12] + struct.pack("<H", 60_000) + content[-10:]


def zip64(content: bytes) -> bytes:
    return content[:-22] + b"PK\x06\x07" + bytes(16) + content[-22:]


def comment(content: bytes) -> bytes:
    return content + b"more"


@pytest.mark.parametrize("change", [cut, many_entries, zip64, comment])
def test_another_zip_is_refused_before_its_directory_is_read(
    change: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = packed(tmp_path / "x.npz", a=plain(np.zeros(3)))
    assert read_npz(path, {"a": 24}, "a thing")["a"].tolist() == [0, 0, 0]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match="expected a thing, it "):
        read_npz(path, {"a": 24}, "a thing")


def test_the_bound_on_an_array_is_exact(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.npz", a=plain(np.zeros(3)))
    with pytest.raises(InputError, match="its array a would take 24 bytes, expected up to 23"):
        read_npz(path, {"a": 23}, "a thing")


@pytest.mark.parametrize(("extra", "words"), [(b"x", "longer than it says"), (b"", "cut short")])
def test_an_array_is_as_long_as_it_says(extra: bytes, words: str, tmp_path: Path) -> None:
    content = plain(np.zeros(3))
    path = packed(tmp_path / "x.npz", a=content + extra if extra else content[:-1])
    with pytest.raises(InputError, match=words):
        read_npz(path, {"a": 24}, "a thing")


def test_the_directory_is_judged_even_where_the_header_is_small(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.npz", zipfile.ZIP_DEFLATED, a=plain(np.zeros(3)) + bytes(2**20))
    with pytest.raises(InputError, match=r"its array a would take 1,048,\d+ bytes"):
        read_npz(path, {"a": 24}, "a thing")


def test_other_arrays_and_other_packing_are_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.npz", b=plain(np.zeros(3)))
    with pytest.raises(InputError, match=r"it holds \['b.npy'\] instead of \['a.npy'\]"):
        read_npz(path, {"a": 24}, "a thing")
    packed(path, zipfile.ZIP_LZMA, a=plain(np.zeros(3)))
    with pytest.raises(InputError, match="is not packed as numpy does"):
        read_npz(path, {"a": 24}, "a thing")


# ---- the seal


def test_a_written_file_is_read_by_numpy_too(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write_npz(path, {"a": np.arange(3.0)})
    assert read_npz(path, {"a": 24}, "a thing")["a"].tolist() == [0, 1, 2]
    with np.load(path) as loaded:
        assert loaded["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["recording", "latency record"])
def test_no_changed_byte_is_accepted(kind: str, tmp_path: Path) -> None:
    read: Callable[[Path], Any]
    if kind == "recording":
        recorder = FlightRecorder(ScriptedPolicy(make_spec()), make_robot(), 0.1)  # type: ignore[arg-type]
        recorder._count = 2
        path, read = recorder.dump(tmp_path, "test").path, read_recording
        recorder.wait(10.0)
    else:
        path, read = write_record(record_of(some_samples(5)), tmp_path / "latency.npz"), read_record
    whole = path.read_bytes()
    read(path)
    rng = np.random.default_rng(0)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(InputError):
            read(path)
    for size in rng.integers(len(whole), size=50).tolist():
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            read(path)


def test_a_forged_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for version, words in ((1, "version 1"), (3, "version 3, this release reads up to 2")):
        packed(path, a=plain(np.zeros(3)), version=plain(np.array(version)))
        with pytest.raises(InputError, match="it holds other than 1 arrays"):
            read_npz(path, {"a": 24}, "a thing")  # of a version, and without a seal
        with path.open("r+b") as file:
            append_seal(file)
        with pytest.raises(InputError, match=words):
            read_npz(path, {"a": 24}, "a thing")
    packed(path, a=plain(np.zeros(3)))
    with path.open("r+b") as file:
        append_seal(file)
    with pytest.raises(InputError, match="it holds other than 2 arrays"):
        read_npz(path, {"a": 24}, "a thing")  # sealed, and of none


# ---- values of a recording


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rung", 255, "its field rung holds 255, expected 0 to 4"),
        ("rung", 5, "its field rung holds 5, expected 0 to 4"),
        ("reasons", 2**63, "its field reasons names more than the"),
        ("time", np.nan, "its field time holds a number that is not finite"),
    ],
)
def test_values_out_of_range_are_refused(
    field: str,
    value: Any,
    words: str,
    good: tuple[np.ndarray, dict[str, Any]],
    tmp_path: Path,
) -> None:
    records = good[0].copy()
    records[field][2] = value
    path = written(tmp_path / "x.npz", records, good[1])
    with pytest.raises(InputError, match=f"expected a recording of the flight recorder, {words}"):
        read_recording(path)
    with pytest.raises(InputError, match=words):
        replay.main([str(path), "none.onnx"])


def test_a_truth_is_0_or_1(good: tuple[np.ndarray, dict[str, Any]], tmp_path: Path) -> None:
    records = good[0].copy()
    records["inferred"].view(np.uint8)[0] = 2
    with pytest.raises(InputError, match="its field inferred holds another value"):
        read_recording(written(tmp_path / "x.npz", records, good[1]))


def test_missing_and_other_fields_are_named(
    good: tuple[np.ndarray, dict[str, Any]], tmp_path: Path
) -> None:
    records, meta = good
    path = tmp_path / "x.npz"
    fewer = records[[name for name in records.dtype.names or () if name != "rung"]].copy()
    with pytest.raises(InputError, match=r"its records lack the fields \['rung'\]"):
        read_recording(written(path, fewer, meta))
    types = [
        (name, "f4" if name == "time" else records.dtype[name])
        for name in records.dtype.names or ()
    ]
    with pytest.raises(InputError, match="fields of other types or sizes"):
        read_recording(written(path, records.astype(types), meta))
    with pytest.raises(InputError, match="it holds no record"):
        read_recording(written(path, records[:0], meta))


@pytest.mark.parametrize("key", ["spec", "robot", "policy_digest", "reasons", "why"])
def test_what_meta_has_to_say(
    key: str, good: tuple[np.ndarray, dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "x.npz"
    rest = {name: value for name, value in good[1].items() if name != key}
    with pytest.raises(InputError, match=f"meta: {key}: Field required"):
        read_recording(written(path, good[0], rest))
    with pytest.raises(InputError, match=f"meta: {key}: "):
        read_recording(written(path, good[0], {**rest, key: 5}))


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "null", "{", ""])
def test_meta_of_any_depth_is_one_sentence(
    text: str, good: tuple[np.ndarray, dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, records=good[0], meta=np.array(text))
    with pytest.raises(InputError, match="expected a recording"):
        read_recording(path)
