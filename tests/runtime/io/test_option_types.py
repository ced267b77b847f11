"""Types of option values: numbers in a range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dime_robot.runtime.io import option_types
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError

SMALL_INT, SMALL_FLOAT = option_types.int_in(1, 2000), option_types.float_in(0.5, 2000)


def parse(kind: Callable[[str], Any], given: str) -> Any:
    parser = Parser("command")
    parser.add_argument("--value", type=kind)
    return parser.parse_args(["--value", given]).value


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (SMALL_INT, "1", 1),
        (SMALL_INT, "2e3", 2000),
        (SMALL_FLOAT, "0.5", 0.5),
        (SMALL_FLOAT, "2e3", 2000.0),
    ],
)
def test_values(kind: Callable[[str], Any], given: str, expected: Any) -> None:
    value = parse(kind, given)
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (SMALL_INT, "0", "--value: expected a whole number from 1 to 2,000, got '0'; "),
        (SMALL_INT, "2001", "--value: expected a whole number from 1 to 2,000, got '2001'; "),
        (SMALL_INT, "1.5", "--value: expected a whole number from 1 to 2,000, got '1.5'; "),
        (SMALL_FLOAT, "abc", "--value: expected a number from 0.5 to 2,000, got 'abc'; "),
        (SMALL_FLOAT, "nan", "--value: expected a number from 0.5 to 2,000, got 'nan'; "),
        (SMALL_FLOAT, "inf", "--value: expected a number from 0.5 to 2,000, got 'inf'; "),
        (SMALL_FLOAT, "-1", "--value: expected a number from 0.5 to 2,000, got '-1'; "),
    ],
)
def test_others_are_one_sentence(kind: Callable[[str], Any], given: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(kind, given)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
