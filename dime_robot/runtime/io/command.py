"""How every command of this project begins and ends: 0, or one sentence on stderr and 2."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper

from dime_robot.runtime.io.errors import InputError

READABLE = {  # what we print, for terminals and files that cannot hold it
    "±": "+-",
    "–": "-",
    "—": "-",
    "…": "...",
    "·": "-",
    "×": "x",
    "°": "deg",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "²": "2",
}
INTERRUPTED = 130  # as a shell reports SIGINT


def _readable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    words = "".join(READABLE.get(character, "?") for character in part)
    return words, error.end


def print_in_any_encoding() -> None:
    """Let stdout and stderr stand in for characters that their encoding does not have."""
    codecs.register_error("readable", _readable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="readable")


@contextmanager
def interruption_as_itself() -> Iterator[None]:
    """Raise KeyboardInterrupt where it arrives as the cause of another error.

    A module in C that is interrupted while it is imported fails with an ImportError.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise KeyboardInterrupt from error


def run_command(main: Callable[[], int]) -> None:
    """Run `main` and exit with its code; wrong input is one sentence and exit code 2.

    `main` imports what is slow to import, so that an interruption meanwhile ends here as well.
    """
    print_in_any_encoding()
    try:
        with interruption_as_itself():
            code = main()
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away (| head)
        # what is still buffered has nowhere to go; without this Python complains at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        print(f"error: {error.filename or 'input/output'}: {error.strerror}", file=sys.stderr)
        code = 2
    sys.exit(code)
