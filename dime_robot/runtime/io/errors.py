"""The one exception for input that is wrong: what a user reads instead of a traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


MAX_PHRASE = 500  # characters of what is said about one value


class InputError(Exception):
    """Something handed to us (option, file, environment) cannot be used.

    The message is one sentence for the screen: what was expected, what came, what to do.
    Every command line of this project prints it and exits with code 2. `code` names the kind for
    machines, where there is a list of them (docs/safety.md).
    """

    def __init__(self, message: str, code: str = "input") -> None:
        super().__init__(_printable(message))
        self.code = code


def _printable(text: str) -> str:
    """Escape what a file smuggles into a message: a terminal would obey it, or cannot print it."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def first_problem(error: ValidationError) -> str:
    """What pydantic found first, as one phrase: field, what was expected, what came."""
    return all_problems(error)[0]


def all_problems(error: ValidationError) -> list[str]:
    """Everything pydantic found, one phrase each: field, what was expected, what came."""
    return [_shortened(_in_words(problem)) for problem in error.errors(include_url=False)]


def _shortened(text: str) -> str:
    """Names and lists in a message come from the input, which may be of any length."""
    return text if len(text) <= MAX_PHRASE else f"{text[: MAX_PHRASE - 3]}..."


def _in_words(problem: ErrorDetails) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"].startswith("union_tag"):  # pydantic's own words speak of tags
        about = problem["ctx"]
        where = f"{where}.{about['discriminator'].strip(chr(39))}"
        if problem["type"] == "union_tag_not_found":
            return f"{where}: Field required"
        return f"{where}: expected one of {about['expected_tags']}, got {about['tag']!r:.60}"
    message = problem["msg"].removeprefix("Value error, ")
    text = f"{where}: {message}" if where else message
    if problem["type"] in ("value_error", "missing"):  # the message holds it, or nothing came
        return text
    return f"{text}, got {problem['input']!r:.60}"
