"""One argument parser for the commands: errors are one sentence, and 1e6 is an integer.

If an option with one value is repeated, the last value is used; repeated lists are concatenated.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from dime_robot.runtime.io.errors import InputError

WHOLE = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")


def whole_number(text: str) -> int:
    """Parse an integer, such as 12, 1_000, 1e6 or 2.5e3.

    Raises:
        ValueError: not a number, or not an integer.
    """
    try:
        return int(text)
    except ValueError:
        if WHOLE.fullmatch(text) and (value := float(text)).is_integer():
            return int(value)
        raise ValueError(f"expected a whole number, got {text!r}") from None


def _whole_number(text: str) -> int:
    try:
        return whole_number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
        self._negative_number_matcher = re.compile(r"-\.?[0-9]")  # -1e9 as well

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Read a command line.

        Raises:
            InputError: an unknown option, or an invalid value.
        """
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            similar = get_close_matches(unknown[0], self._option_string_actions, n=1)
            meant = f"; perhaps {similar[0]}" if similar else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return found

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the known options; --eval_interval is accepted for --eval-interval."""
        words = [self._spelled(word) for word in args or ()]
        return super().parse_known_args(words, namespace)

    @staticmethod
    def _spelled(word: str) -> str:
        name, equals, value = word.partition("=")
        return name.replace("_", "-") + equals + value if word.startswith("--") else word

    def error(self, message: str) -> NoReturn:
        """Raise an InputError with the message as one sentence."""
        words = message.removeprefix("argument ")
        raise InputError(f"{words}; {self.prog} --help lists all options")
