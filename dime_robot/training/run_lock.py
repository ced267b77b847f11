"""One process at a time writes a run folder."""

from __future__ import annotations

import fcntl
import os
from typing import TextIO

from dime_robot.runtime.io.errors import InputError
from dime_robot.training.run_folder import RunFolder


class RunLock:
    """A lock on a run folder that the system releases when the process ends in any way.

    Args:
        files: of the run; their folder is made if it is missing.

    Raises:
        InputError: another process holds it, or the folder cannot be written.
    """

    def __init__(self, files: RunFolder) -> None:
        self.files, self._path = files, files.lock
        self._made_folder = not files.path.exists()
        files.path.mkdir(parents=True, exist_ok=True)
        while True:
            self._file = self._open()
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = self._file.read().strip() or "another process"
                self._file.close()
                raise InputError(
                    f"{files.path}: {holder} is training in this folder; wait for its end, or train"
                    " into another folder (--out)"
                ) from None
            if self._is_current():
                break
            self._file.close()  # its holder removed the file after it was opened here
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        self._file.flush()

    def _open(self) -> TextIO:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        return os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace")

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock; remove a folder that it made and that contains nothing else."""
        if self._file.closed:
            return
        self._path.unlink(missing_ok=True)
        self._file.close()
        if self._made_folder and not any(self._path.parent.iterdir()):
            self._path.parent.rmdir()


def remove_unfinished_start(files: RunFolder) -> None:
    """Empty a folder whose run was killed before its first checkpoint, unless one uses it now."""
    if not files.unfinished_start() and not files.lock.exists():
        return
    try:
        lock = RunLock(files)
    except InputError:
        return
    for path in files.unfinished_start():
        path.unlink()
    lock.release()
