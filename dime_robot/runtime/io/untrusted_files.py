"""Reading untrusted files within bounds: regular files only, up to a size, valid text.

A FIFO or a device would block or never end, and a file may be gigabytes. All readers of
configurations, recordings and records use this.
"""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from dime_robot.runtime.io.errors import InputError

_FOUND = {  # what there is in place of the expected file, by the error of the operating system
    errno.ENOENT: "none",
    errno.ENOTDIR: "none",
    errno.EISDIR: "a folder",
    errno.ENXIO: "a socket",
    errno.EACCES: "a file that may not be read",
}


def _not_read(path: Path, expected: str, error: OSError | ValueError) -> InputError:
    """Return the refusal of a file that cannot be opened or read."""
    if not isinstance(error, OSError):  # a NUL or a surrogate in the name
        return InputError(f"{str(path)!r}: expected {expected}, got such a name ({error})")
    found = _FOUND.get(error.errno or 0, "one that cannot be read")
    return InputError(f"{path}: expected {expected}, got {found} ({error.strerror})")


def open_regular(path: Path, expected: str, max_bytes: int) -> BinaryIO:
    """Open a regular file for reading, without waiting for another process.

    Args:
        path: of the file.
        expected: what the file should be, for the message: "a configuration".
        max_bytes: of the file.

    Returns:
        The open file, at its beginning.

    Raises:
        InputError: there is no such file, it is not a regular file, or it is larger.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _not_read(path, expected, error) from None
    try:
        _require_regular(path, expected, max_bytes, os.fstat(number))
    except InputError:
        os.close(number)
        raise
    return os.fdopen(number, "rb")


def require_regular(path: Path, expected: str, max_bytes: int) -> int:
    """Check a file as `open_regular` does, for a library that opens it by name.

    Returns:
        The file's size in bytes.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise _not_read(path, expected, error) from None
    _require_regular(path, expected, max_bytes, found)
    return found.st_size


def _require_regular(path: Path, expected: str, max_bytes: int, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path}: expected {expected}, got a folder (Is a directory)")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(
            f"{path}: expected {expected}, got a pipe, a device or a socket; name a regular file"
        )
    if found.st_size > max_bytes:
        raise InputError(
            f"{path}: expected {expected} of up to {max_bytes:,} bytes, got {found.st_size:,}"
        )


def read_bytes(path: Path, expected: str, max_bytes: int) -> bytes:
    """Read a file.

    Args:
        path: of the file.
        expected: what the file should be, for the message.
        max_bytes: of the file.

    Raises:
        InputError: see `open_regular`, or the file grew while it was read.
    """
    with open_regular(path, expected, max_bytes) as file:
        try:
            content = file.read(max_bytes + 1)
        except OSError as error:
            raise _not_read(path, expected, error) from None
    if len(content) > max_bytes:
        raise InputError(f"{path}: expected {expected} of up to {max_bytes:,} bytes, got more")
    return content


def read_text(path: Path, expected: str, max_bytes: int) -> str:
    """Read a text file in UTF-8.

    Args:
        path: of the file.
        expected: what the file should be, for the message.
        max_bytes: of the file.

    Raises:
        InputError: see `read_bytes`, or the content is not UTF-8.
    """
    try:
        return read_bytes(path, expected, max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected {expected} in UTF-8, got {error}") from None


def parse_json(text: str | bytes) -> Any:
    """Parse JSON of up to 200 levels; bound the length of the text first.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    return from_json(text, allow_inf_nan=False)


def control_character(text: str) -> str | None:
    """Return the first control character or surrogate of a text; None: it has none.

    Line feeds and tabs are allowed. The others end a C string early, or cannot be printed.
    """
    return next(
        (c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs")), None
    )
