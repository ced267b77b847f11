"""How files are read and replaced: regular files only, and as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from dime_robot.runtime.io.errors import InputError

RUN_AGAIN = "make room and run it again with --resume"  # of a training run


def home_or_temporary() -> Path:
    """The user's home; a folder for temporary files where the user id has none (containers)."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"dime_robot-{os.getuid()}"


def draft_of(path: Path) -> Path:
    """Where a new `path` is written before it replaces the old one."""
    return path.with_name(path.name + ".tmp")


def write_atomically(
    path: Path,
    content: bytes | Callable[[BinaryIO], object],
    advice: str = "make room and run it again",
) -> None:
    """Replace `path`: under a temporary name, on disk, then renamed.

    Args:
        path: of the file.
        content: what it shall hold, or a function that writes it to a file open for both.
        advice: what to do where it fails.

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
