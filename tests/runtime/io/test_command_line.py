"""The commands' parser: words that it takes, and those that it refuses in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dime_robot.runtime.io.command_line import Parser, whole_number
from dime_robot.runtime.io.errors import InputError


def parsed(*words: str) -> dict[str, Any]:
    parser = Parser("program")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--eval-interval", type=int)
    parser.add_argument("--v-min", type=float)
    parser.add_argument("--envs", nargs="+")
    return vars(parser.parse_args(words))


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--eval_interval", "1e3"], "eval_interval", 1000),
        (["--eval_interval=7"], "eval_interval", 7),
        (["--v_min", "-1e9"], "v_min", -1e9),
        (["--v-min", "-inf"], "v_min", -float("inf")),
        (["--v-min", "-Infinity"], "v_min", -float("inf")),
        (["--out=--my_folder"], "out", Path("--my_folder")),
        (["--out", "--my folder_x"], "out", Path("--my folder_x")),
        (["--", "--v_min"], "files", ["--v_min"]),
    ],
)
def test_words_and_their_values(words: list[str], name: str, value: object) -> None:
    assert parsed(*words)[name] == value


def test_minus_nan_is_a_value() -> None:
    assert str(parsed("--v-min", "-nan")["v_min"]) == "nan"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out="], "--out: expected a value, got an empty one"),
        (["--out", ""], "--out: expected a value, got an empty one"),
        (["--envs", "a", ""], "--envs: expected a value, got an empty one"),
        (["--eval-interval="], "--eval-interval: expected a value, got an empty one"),
        ([""], "files: expected a value, got an empty one"),
        (["--v-min", "low"], "--v-min: expected a number, got 'low'"),
        (["--v-min", "-abc"], "--v-min: expected one argument"),
        (["--eval-interval", "1.5"], "--eval-interval: expected a whole number, got '1.5'"),
        (["--out", "bad\udcffname"], r"bad\udcffname: expected text"),
        (["--eval_intervl"], "unrecognized arguments: --eval_intervl; perhaps --eval-interval"),
        (["--vmin=3"], "unrecognized arguments: --vmin=3; perhaps --v-min"),
        (["-x", "--zzz", "--vmin=3", "--ot=a"],
         "unrecognized arguments: -x --zzz --vmin=3 --ot=a; perhaps --v-min, --out"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        parsed(*words)
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith("; program --help lists all options")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9007199254740993.0", 9007199254740993),
        ("9007199254740993", 9007199254740993),
        ("1_000", 1000),
        ("2.5e3", 2500),
        ("-12e0", -12),
        ("30e-1", 3),
    ],
)
def test_whole_numbers_are_exact(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("text", ["1.0000000000000000001", "1.5", "", "1e", "inf", "9" * 5000])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a whole number, got '") as error:
        whole_number(text)
    assert len(str(error.value)) < 100
