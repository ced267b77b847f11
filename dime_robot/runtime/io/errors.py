"""InputError, the exception for wrong input: users read its message, not a traceback."""

from __future__ import annotations

from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


MAX_PHRASE = 500  # characters of the message about one value


class InputError(Exception):
    """An input (option, file, environment) cannot be used.

    The message is one sentence: what was expected, what was found, what to do. Every command of
    this project prints it and exits with code 2. `code` is the kind of error for programs, where
    docs/safety.md lists the kinds.
    """

    def __init__(self, message: str, code: str = "input") -> None:
        super().__init__(_printable(message))
        self.code = code


def _printable(text: str) -> str:
    """Escape characters that a terminal would interpret, or cannot print."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def first_problem(error: ValidationError) -> str:
    """Describe the first error of a validation: field, what was expected, what was found."""
    return all_problems(error)[0]


def all_problems(error: ValidationError) -> list[str]:
    """Describe all errors of a validation, one phrase each."""
    return [_shortened(_describe(problem)) for problem in error.errors(include_url=False)]


def _shortened(text: str) -> str:
    """Limit a message: names and lists in it come from the input and may be of any length."""
    return text if len(text) <= MAX_PHRASE else f"{text[: MAX_PHRASE - 3]}..."


def _describe(problem: ErrorDetails) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"].startswith("union_tag"):  # pydantic's own message speaks of tags
        context = problem["ctx"]
        where = f"{where}.{context['discriminator'].strip(chr(39))}"
        if problem["type"] == "union_tag_not_found":
            return f"{where}: Field required"
        return f"{where}: expected one of {context['expected_tags']}, got {context['tag']!r:.60}"
    message = problem["msg"].removeprefix("Value error, ")
    text = f"{where}: {message}" if where else message
    if problem["type"] in ("value_error", "missing"):  # the message has the value, or there is none
        return text
    return f"{text}, got {problem['input']!r:.60}"


def in_one_line(error: BaseException) -> str:
    """Return an exception's message, and the file and line where it was raised."""
    try:
        words = str(error)
    except Exception:  # PyOpenGL's exceptions have no message where there is no display
        words = "(no message)"
    text = " ".join(f"{type(error).__name__}: {words}".split())[:200]
    frames = extract_tb(error.__traceback__)
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text
