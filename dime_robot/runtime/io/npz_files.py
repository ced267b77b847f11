"""`.npz` files: written with a checksum, read within bounds that are checked before unpacking.

numpy.load reads them too, but trusts the file: a few megabytes can unpack to gigabytes, and a
header of 80 bytes can request any amount of memory. Since version 2 a file has its `version` and
a seal (`sealed_files.py`); a file with neither is from an earlier release.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import write_atomically
from dime_robot.runtime.io.sealed_files import append_seal, check_seal
from dime_robot.runtime.io.untrusted_files import open_regular, parse_json

VERSION = 2
MAX_META = 4 * 2**20  # bytes of an array that holds text
MAX_ARCHIVE_EXTRA = 64 * 1024  # bytes of a file on top of its arrays
MAX_HEADER = 64 * 1024  # bytes in front of an array's numbers
_END, _END_SIZE = b"PK\x05\x06", 22  # end of a zip file without a comment
_LOCATOR, _LOCATOR_SIZE = b"PK\x06\x07", 20  # of the other kind of end, for files above 4 GB


def write_npz(
    path: Path, arrays: Mapping[str, Any], advice: str = "make room and run it again"
) -> None:
    """Write arrays as a sealed file that `read_npz` and numpy.load read.

    Args:
        path: of the file, replaced as a whole or not at all.
        arrays: by name.
        advice: what to do if it cannot be written.

    Raises:
        InputError: it cannot be written.
    """

    def content(file: BinaryIO) -> None:
        np.savez(file, version=np.array(VERSION), **arrays)
        append_seal(file)

    write_atomically(path, content, advice)


def read_npz(
    path: Path, max_bytes: Mapping[str, int], expected: str, content: bytes | None = None
) -> dict[str, Any]:
    """Read a file that `write_npz` wrote, or numpy.savez in an earlier release.

    Args:
        path: a regular file.
        max_bytes: name of each array that the file has to contain -> its largest size in memory.
        expected: what the file should be, for the message.
        content: of a file inside `path`; None: `path` itself is read.

    Returns:
        The arrays by name; they can be written to.

    Raises:
        InputError: another file, other arrays, larger ones, or a file that was changed.
    """
    limit = sum(max_bytes.values()) + MAX_ARCHIVE_EXTRA
    with open_regular(path, expected, limit) if content is None else BytesIO(content) as raw:
        try:
            found = check_seal(path, raw)
            if found.sealed:
                max_bytes = {**max_bytes, "version": np.array(VERSION).nbytes}
            _require_small_directory(raw, found.payload, len(max_bytes))
            with zipfile.ZipFile(raw) as archive:
                entries = {entry.filename: entry for entry in archive.infolist()}
                names = {f"{name}.npy" for name in max_bytes}
                if set(entries) != names or len(archive.infolist()) != len(names):
                    raise ValueError(
                        f"it holds {sorted(entries)!r:.100} instead of {sorted(names)}"
                    )
                arrays = {
                    name: _read_array(archive, entries[f"{name}.npy"], name, limit)
                    for name, limit in max_bytes.items()
                }
            if (version := arrays.pop("version", None)) is not None and version != VERSION:
                raise ValueError(
                    f"it is of version {version!s:.40}, this release reads up to {VERSION}"
                )
            return arrays
        except (
            OSError,
            ValueError,
            EOFError,
            RuntimeError,  # encrypted, or NotImplementedError: written by a newer zip
            zlib.error,
            zipfile.BadZipFile,
        ) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise InputError(f"{path}: expected {expected}, {reason:.300}") from None


def _require_small_directory(raw: BinaryIO, size: int, entries: int) -> None:
    """Refuse a zip that numpy did not write, before zipfile makes an object for each entry."""
    raw.seek(max(0, size - _LOCATOR_SIZE - _END_SIZE))
    tail = raw.read(size - raw.tell())
    end = tail[-_END_SIZE:]
    if len(end) < _END_SIZE or not end.startswith(_END) or _LOCATOR in tail[:-_END_SIZE]:
        raise ValueError("it is cut short or not a zip file")
    if int.from_bytes(end[10:12], "little") != entries:
        raise ValueError(f"it holds other than {entries} arrays")
    if int.from_bytes(end[12:16], "little") > MAX_HEADER:
        raise ValueError("its directory is too large")
    raw.seek(0)


def _read_array(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, max_bytes: int
) -> np.ndarray:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its array {name} is not packed as numpy does")
    if entry.file_size > max_bytes + MAX_HEADER:
        raise ValueError(
            f"its array {name} would take {entry.file_size:,} bytes, expected up to {max_bytes:,}"
        )
    with archive.open(entry) as member:
        dtype, shape = _header(member, name)
        count = math.prod(shape)
        size = count * dtype.itemsize
        if size > max_bytes or count > max_bytes:
            raise ValueError(
                f"its array {name} would take {size:,} bytes, expected up to {max_bytes:,}"
            )
        content = bytearray(member.read(size))
        if len(content) < size:
            raise ValueError(f"its array {name} is cut short")
        if member.read(1):
            raise ValueError(f"its array {name} is longer than it says")
    return np.frombuffer(content, dtype, count).reshape(shape)


def _header(member: Any, name: str) -> tuple[np.dtype, tuple[int, ...]]:
    """Read the header of an array: type and shape."""
    try:
        if np.lib.format.read_magic(member) != (1, 0):  # later versions allow headers of 4 GB
            raise ValueError("another version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    except (OSError, zlib.error, zipfile.BadZipFile):
        raise
    except Exception:  # numpy evaluates the header as Python text, which can raise anything
        raise ValueError(f"its array {name} has no numpy header") from None
    if dtype.hasobject or dtype.itemsize == 0 or (fortran and len(shape) > 1):
        raise ValueError(f"its array {name} is of type {str(dtype)!r:.60}, expected plain numbers")
    if any(length < 0 for length in shape):
        raise ValueError(f"its array {name} has the shape {shape}")
    return dtype, shape


def parse_text(array: np.ndarray) -> Any:
    """Parse the JSON in an array that holds one string.

    Args:
        array: of one text, shape ().

    Raises:
        ValueError: it is not a string, or not JSON.
    """
    if array.dtype.kind != "U" or array.shape != ():
        raise ValueError("its text is not a string")
    try:
        return parse_json(str(array))
    except UnicodeError:  # an invalid code point, or a surrogate
        raise ValueError("its text has invalid characters") from None
