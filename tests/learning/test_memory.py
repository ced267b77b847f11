"""Sizes are bounded, and compared with the machine before anything is made."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dime_robot import train
from dime_robot.learning import memory
from dime_robot.learning.config import GROUPS, TrainConfig
from dime_robot.learning.memory import memory_needed, require_memory
from dime_robot.runtime.io.command_line import whole_number
from dime_robot.runtime.io.errors import InputError
from dime_robot.training.presets import preset_config

NUMBERS = [
    name for name, field in TrainConfig.model_fields.items() if field.annotation in (int, float)
]
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", NUMBERS)
@given(value=st.sampled_from([math.nan, math.inf, -math.inf, -1e300, 1e300, -(10**40), 10**40]))
def test_every_number_has_bounds(name: str, value: float) -> None:
    whole = TrainConfig.model_fields[name].annotation is int
    if whole and not math.isfinite(value):
        value = -1
    with pytest.raises(InputError, match=name) as error:
        TrainConfig(**{name: int(value) if whole else value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ["--threads", "1000000"],
        ["--critic-width", "1000000"],
        ["--buffer-size", "1e12"],
        ["--batch-size", "1000000000"],
        ["--eval-episodes", "-1"],
        ["--actor-lr", "nan"],
        ["--discount", "-1e9"],
    ],
)
def test_sizes_of_no_machine_are_one_sentence(words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        train.parse(words)
    assert str(error.value).startswith(f"{words[0]}: expected ")
    assert "\n" not in str(error.value)


@given(digits=st.integers(1, 999), power=st.integers(0, 6))
def test_whole_numbers_may_be_written_as_floats(digits: int, power: int) -> None:
    for text in (f"{digits}e{power}", f"{digits}.0e{power}", str(digits * 10**power)):
        assert whole_number(text) == digits * 10**power


def test_a_million_steps_may_be_written_short() -> None:
    steps = train.parse(["--steps", "1e6"]).config.steps
    assert (type(steps), steps) == (int, 1_000_000)


def test_a_fraction_is_no_number_of_steps() -> None:
    with pytest.raises(InputError, match=r"--steps: expected a whole number, got '1\.5e0'"):
        train.parse(["--steps", "1.5e0"])


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"buffer_size": 10**8}, "--buffer-size 100000000"),
        ({"critic_width": 30_000}, "--critic-width 30000"),
        ({"actor_width": 60_000}, "--actor-width 60000"),
        ({"batch_size": 10**6, "update_to_data": 100}, "--batch-size 1000000"),
    ],
)
def test_what_does_not_fit_names_the_option(
    changes: dict[str, Any], option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "memory_of", lambda device: 16 * 10**9)
    config = preset_config("tiny", "Some-v0")
    require_memory(config, 50, 10, CPU)
    with pytest.raises(InputError, match=option) as error:
        require_memory(TrainConfig(**{**config.model_dump(), **changes}), 50, 10, CPU)
    assert "this machine has 16.0 GB" in str(error.value)


def test_the_replay_of_pictures_says_how_much_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_of", lambda device: 16 * 10**9)
    config = preset_config("tiny", "Some-v0")
    with pytest.raises(InputError, match="--buffer-size 300000") as error:
        require_memory(config, 84 * 84 * 3, 2, CPU)
    fits = int(str(error.value).rsplit("expected ", 1)[1].split(" ")[0].replace(",", ""))
    changed = config.model_copy(update={"buffer_size": fits})
    require_memory(changed, 84 * 84 * 3, 2, CPU)
    assert fits > 90_000


def test_the_replay_is_counted_as_it_is_made() -> None:
    config = preset_config("tiny", "Some-v0")
    assert memory_needed(config, 5, 1)["--buffer-size"] == 300_000 * (5 + 1 + 5 + 1 + 1) * 4
    assert memory.memory_of(CPU) > 10**8


def test_every_group_begins_with_a_setting() -> None:
    assert [name for name in TrainConfig.model_fields if name in GROUPS] == list(GROUPS)
    assert next(iter(TrainConfig.model_fields)) == next(iter(GROUPS))
