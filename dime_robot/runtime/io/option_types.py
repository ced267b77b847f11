"""Types of option values, for `add_argument(type=...)`: numbers in a range.

Each refuses a value with one sentence that has what was expected and what was given. Its name is
that of the value in the help.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from dime_robot.runtime.io.command_line import whole_number


def int_in(low: int, high: int) -> Callable[[str], int]:
    """Make the type of an integer.

    Args:
        low: smallest value.
        high: largest value.
    """
    return _in_range(whole_number, "int", f"a whole number from {low:,} to {high:,}", low, high)


def float_in(low: float, high: float) -> Callable[[str], float]:
    """Make the type of a number, which NaN is not.

    Args:
        low: smallest value [unit of the option].
        high: largest value [unit of the option].
    """
    return _in_range(float, "float", f"a number from {low:,g} to {high:,g}", low, high)


def _in_range(
    parse: Callable[[str], float], name: str, expected: str, low: float, high: float
) -> Callable[[str], Any]:
    def read(text: str) -> float:
        try:
            value = parse(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r:.60}")
        return value

    read.__name__ = name
    return read
