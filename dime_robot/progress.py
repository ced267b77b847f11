"""ProgressLine: shows progress in one line, which is redrawn in place on a terminal."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

REDRAW, REPEAT = 0.25, 15.0  # [s] between two lines on a terminal, and elsewhere
CLEAR = "\r\x1b[K"  # to the first column, and clear the line


class ProgressLine:
    """A line that is redrawn in place on a terminal; elsewhere one is printed every REPEAT [s].

    Args:
        stream: the output stream.
        quiet: print nothing.
    """

    def __init__(self, stream: TextIO, quiet: bool = False) -> None:
        self._stream, self._quiet = stream, quiet
        self._redraws = stream.isatty()
        self._drawn = time.monotonic()
        self._visible = False

    def due(self) -> bool:
        """Whether it is time for a new line; cheap enough for every step."""
        now = time.monotonic()
        if self._quiet or now - self._drawn < (REDRAW if self._redraws else REPEAT):
            return False
        self._drawn = now
        return True

    def draw(self, text: str) -> None:
        """Show the progress."""
        if not self._redraws:
            self.line(text)
            return
        width = shutil.get_terminal_size().columns - 1
        print(f"{CLEAR}{text[:width]}", end="", file=self._stream, flush=True)
        self._visible = True

    def line(self, text: str) -> None:
        """Print a permanent line, above the progress."""
        if not self._quiet:
            self.clear()
            print(text, file=self._stream, flush=True)

    def clear(self) -> None:
        """Remove the progress from the terminal."""
        if self._visible:
            print(CLEAR, end="", file=self._stream, flush=True)
            self._visible = False
