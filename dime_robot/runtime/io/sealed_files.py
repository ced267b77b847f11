"""Sealed files: a payload followed by its SHA-256, so that every change of a byte is detected.

The seal is the last 81 bytes: "dime_robot sha256", then 64 hex digits. Readers of zip and torch
files read sealed ones too. It detects damage, but not an edit with a new seal.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dime_robot.runtime.io.errors import InputError

_MARK = b"dime_robot sha256"
_DIGITS = 64
_SIZE = len(_MARK) + _DIGITS
_CHUNK = 2**20


class Content(NamedTuple):
    """Size and digest of a file."""

    payload: int  # bytes in front of the seal; all bytes where there is none
    sealed: bool
    digest: str  # SHA-256 of the whole file, as sha256sum prints it


def seal_of(digest: str) -> bytes:
    """Return the seal of a payload with this SHA-256 (hex digits)."""
    return _MARK + digest.encode()


def append_seal(file: BinaryIO) -> None:
    """Append the seal to a file, which has to be open for reading too."""
    file.write(seal_of(_hashed(file, file.seek(0, io.SEEK_END)).hexdigest()))


def check_seal(path: Path, file: BinaryIO) -> Content:
    """Compare a file with its seal. Whether a file may lack one depends on its version.

    Args:
        path: for the message.
        file: open for reading.

    Raises:
        InputError: the seal does not match.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _SIZE))
    seal = file.read(_SIZE)
    if len(seal) < _SIZE or not seal.startswith(_MARK):
        return Content(size, False, _hashed(file, size).hexdigest())
    hashed = _hashed(file, size - _SIZE)
    digest = hashed.hexdigest()
    if seal != seal_of(digest):
        raise InputError(
            f"{path}: its bytes were changed since it was written (digest {digest[:12]}, expected"
            f" {seal[len(_MARK) :][:12].decode('ascii', 'replace')}); copy it again or use another"
        )
    hashed.update(seal)
    return Content(size - _SIZE, True, hashed.hexdigest())


def _hashed(file: BinaryIO, size: int) -> hashlib._Hash:
    """Return the SHA-256 of the first bytes of a file."""
    hashed = hashlib.sha256()
    file.seek(0)
    while size > 0 and (chunk := file.read(min(size, _CHUNK))):
        hashed.update(chunk)
        size -= len(chunk)
    return hashed
