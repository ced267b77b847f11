"""One argument parser for the commands: errors are one sentence, and 1e6 is an integer.

If an option with one value is repeated, the last value is used; repeated lists are concatenated.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, NoReturn

from dime_robot.runtime.io.errors import InputError

WHOLE = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")
UNDECODABLE = re.compile("[\ud800-\udfff]")  # how Python represents such bytes
MAX_DIGITS = 100  # of a number as it is written
NEGATIVE = re.compile(r"-(\.?[0-9]|inf(inity)?$|nan$)", re.IGNORECASE)  # -1e9 as well


def whole_number(text: str) -> int:
    """Parse an integer, such as 12, 1_000, 1e6 or 2.5e3.

    Raises:
        ValueError: not a number, or not an integer.
    """
    if len(text) <= MAX_DIGITS:
        try:
            return int(text)
        except ValueError:
            # a float would round beyond 2^53
            if WHOLE.fullmatch(text) and (value := Decimal(text)) == int(value):
                return int(value)
    raise ValueError(f"expected a whole number, got {text!r:.60}")


def _whole_number(text: str) -> int:
    try:
        return whole_number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r:.60}") from None


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the type of a value, and every default except None."""

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        name = getattr(action.type, "__name__", "text")
        return "".join(c for c in name.upper() if c.isalpha())

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default in ("", []):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A command's options.

    Args:
        prog: the command, as it is typed.
        description: the help's first lines.
        **options: others of `argparse.ArgumentParser`.
    """

    def __init__(self, prog: str, description: str = "", **options: Any) -> None:
        options = {"formatter_class": _Help, "allow_abbrev": False, **options}
        super().__init__(prog=prog, description=description, **options)
        self.register("type", int, _whole_number)
        self.register("type", float, _number)
        self._negative_number_matcher = NEGATIVE

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Read a command line.

        Raises:
            InputError: an unknown option, or an invalid value.
        """
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self.suggestion(unknown)}")
        return found

    def suggestion(self, unknown: Sequence[str]) -> str:
        """Return the known options that unknown words resemble, as the end of a sentence."""
        names = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        known = list(self._option_string_actions)
        similar = [near for name in names for near in get_close_matches(name, known, n=1)]
        return f"; perhaps {', '.join(dict.fromkeys(similar))}" if similar else ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the known options; --eval_interval is accepted for --eval-interval.

        Raises:
            InputError: an invalid value, or a word that is not text.
        """
        words = list(sys.argv[1:] if args is None else args)
        for word in words:
            if UNDECODABLE.search(word):  # no report, checkpoint or terminal could have it
                self.error(f"{word:.60}: expected text, got bytes without meaning in this locale")
        end = words.index("--") if "--" in words else len(words)
        words[:end] = [self._spelled(word) for word in words[:end]]
        return super().parse_known_args(words, namespace)

    def _spelled(self, word: str) -> str:
        """Return a word with its option's name as it is known; other words stay as they are."""
        name, equals, value = word.partition("=")
        known = name.replace("_", "-")
        return known + equals + value if known in self._option_string_actions else word

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse an empty value: as a path it would be the current folder, as a name no name."""
        if "" in arg_strings:
            raise argparse.ArgumentError(action, "expected a value, got an empty one")
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        """Raise an InputError with the message as one sentence."""
        words = message.removeprefix("argument ")
        raise InputError(f"{words}; {self.prog} --help lists all options")
