"""InputLines: what is typed or piped into a process, line by line, without waiting for it."""

from __future__ import annotations

import os
import select
import sys

READ_SIZE = 4096  # bytes at once
MAX_LINE = 10_000  # bytes


class InputLines:
    """Standard input, until it ends."""

    def __init__(self) -> None:
        self._rest = b""
        self._fd: int | None = None
        try:
            self._fd = sys.stdin.fileno()
        except (AttributeError, ValueError, OSError):  # there is none
            return

    def read(self) -> list[str]:
        """Return the lines that have come since the last call."""
        if self._fd is None or not _may_read(self._fd):
            return []
        try:
            if not select.select([self._fd], [], [], 0)[0]:
                return []
            data = os.read(self._fd, READ_SIZE)
        except (OSError, ValueError):
            data = b""
        if not data:
            self._fd = None
            return []
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:MAX_LINE]
        return [line.decode(errors="replace").strip() for line in lines]


def _may_read(fd: int) -> bool:
    """Whether reading would not stop this process: a terminal is read in the foreground only."""
    if not os.isatty(fd):
        return True
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False
