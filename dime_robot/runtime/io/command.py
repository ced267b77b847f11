"""The exit of every command of this project: code 0, or one sentence on stderr and code 2."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper

from dime_robot.runtime.io.errors import InputError

READABLE = {  # characters in the output -> substitutes for encodings without them
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
UNFINISHED = 1  # a part of the work was not done
INTERRUPTED = 130  # as a shell reports SIGINT


class ReaderGoneError(BrokenPipeError):
    """The reader of the output ended before the work was done."""


def _readable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(READABLE.get(character, "?") for character in part), error.end


def print_in_any_encoding() -> None:
    """Let stdout and stderr substitute characters that their encoding does not have."""
    codecs.register_error("readable", _readable)
    # a stream that was closed when the process started: the next file would take its number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="readable")


@contextmanager
def interruption_as_itself() -> Iterator[None]:
    """Raise KeyboardInterrupt if it is the cause of another error.

    For example, a C extension that is interrupted during its import raises ImportError.
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
    """Run `main` and exit with its code; an InputError is one sentence and exit code 2.

    `main` does the slow imports, so that an interruption during them is handled here as well.
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
    except BrokenPipeError as error:  # the reader of the output has ended (| head)
        # buffered output cannot be written; without this Python reports an error at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = UNFINISHED if isinstance(error, ReaderGoneError) else 0
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        print(f"error: {error.filename or 'input/output'}: {reason}", file=sys.stderr)
        code = 2
    sys.exit(code)
