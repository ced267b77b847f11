"""Replacing files as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from dime_robot.runtime.io.errors import InputError

RUN_AGAIN = "make room and run it again with --resume"  # of a training run


def home_or_temporary() -> Path:
    """Return the user's home; a temporary folder where the user id has none (containers)."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"dime_robot-{os.getuid()}"


def draft_of(path: Path) -> Path:
    """Return the temporary path under which a new `path` is written."""
    return path.with_name(path.name + ".tmp")


def write_atomically(
    path: Path,
    content: bytes | Callable[[BinaryIO], object],
    advice: str = "make room and run it again",
) -> None:
    """Replace a file: write it under a temporary name, sync it to disk, rename it.

    Args:
        path: of the file.
        content: the bytes, or a function that writes them to a file open for reading too.
        advice: what to do if it cannot be written.

    Raises:
        InputError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    draft = draft_of(path)
    try:
        with draft.open("w+b") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); what was there before is kept: {advice}"
        ) from None
