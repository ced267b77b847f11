"""The settings that a search tries: a YAML file, and draws from it that can be repeated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dime_robot.learning.config import SettingError, TrainConfig, option
from dime_robot.runtime.contract.config_files import read_yaml
from dime_robot.runtime.io.errors import InputError

MAX_SETTINGS = 100
MAX_CHOICES = 1000
MAX_SAMPLES = 10_000
DIGITS = 4  # significant ones of a drawn number: a search finds no more of it
# what one search keeps: the task, the run, and the steps that samples are compared at
_FIXED = ("env", "preset", "seed", "steps")
_FORMS = "{choice: [..]}, {uniform: [low, high]}, {loguniform: [low, high]} or {int: [low, high]}"


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw a value."""
        return self.values[int(rng.integers(len(self.values)))]

    def ends(self) -> tuple[Any, ...]:
        """Return the values that have to fit so that all do."""
        return self.values


@dataclass(frozen=True)
class Interval:
    """A number between two others, both included.

    Attributes:
        low: smallest value.
        high: largest value.
        form: `uniform`, `loguniform` (its logarithm is uniform) or `int`.
    """

    low: float
    high: float
    form: str

    def draw(self, rng: np.random.Generator) -> float:
        """Draw a value."""
        if self.form == "int":
            return int(rng.integers(int(self.low), int(self.high) + 1))
        share = rng.random()
        if self.form == "uniform":
            value = self.low + share * (self.high - self.low)
        else:
            value = math.exp(math.log(self.low) + share * math.log(self.high / self.low))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def ends(self) -> tuple[float, ...]:
        """Return the values that have to fit so that all do."""
        return self.low, self.high


@dataclass(frozen=True)
class Space:
    """Settings and how each is drawn."""

    settings: Mapping[str, Choice | Interval]

    def draw(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Draw settings; the first ones are the same for every count.

        Args:
            count: number of samples.
            seed: of the draws.
        """
        if count > MAX_SAMPLES:
            raise InputError(f"--samples {count}: expected at most {MAX_SAMPLES:,}")
        drawn = []
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            drawn.append({name: each.draw(rng) for name, each in self.settings.items()})
        return drawn


def read_space(path: Path, base: TrainConfig, options: Sequence[str] = ()) -> Space:
    """Read the settings to search.

    Args:
        path: of the file.
        base: settings that all samples have in common.
        options: with which these were given, and which the search may not change.

    Raises:
        InputError: not such a file, an unknown setting, or a value that does not fit.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: expected settings, each as {_FORMS}, got {content!r:.60}")
    if len(content) > MAX_SETTINGS:
        raise InputError(f"{path}: expected up to {MAX_SETTINGS} settings, got {len(content)}")
    given = {word.partition("=")[0].replace("_", "-") for word in options}
    settings = {}
    for name, form in content.items():
        where = f"{path}: {name!s:.60}"
        if name not in TrainConfig.model_fields:
            raise InputError(f"{where}: expected a setting of train, as in config.yaml")
        if name in _FIXED:
            raise InputError(
                f"{where}: expected a setting that can differ between samples, which"
                f" {', '.join(_FIXED)} cannot; give it on the command line"
            )
        if given & {option(name), option(f"no_{name}")}:
            raise InputError(f"{where}: expected no {option(name)} after -- as well; leave one out")
        settings[name] = _distribution(where, form)
        whole = TrainConfig.model_fields[name].annotation is int
        if whole and getattr(settings[name], "form", "int") != "int":
            raise InputError(f"{where}: expected whole numbers, {{int: [low, high]}}, got {form}")
        for value in settings[name].ends():
            _require_valid(where, name, value, base)
    return Space(settings)


def _distribution(where: str, form: object) -> Choice | Interval:
    if not isinstance(form, dict) or len(form) != 1:
        raise InputError(f"{where}: expected one of {_FORMS}, got {form!r:.60}")
    ((kind, values),) = form.items()
    if kind not in ("choice", "uniform", "loguniform", "int"):
        raise InputError(f"{where}: expected one of {_FORMS}, got {kind!r:.60}")
    if not isinstance(values, list) or not 0 < len(values) <= MAX_CHOICES:
        raise InputError(f"{where}.{kind}: expected a list of values, got {values!r:.60}")
    if kind == "choice":
        return Choice(tuple(values))
    wanted: tuple[type, ...] = (int,) if kind == "int" else (int, float)
    if len(values) != 2 or not all(type(value) in wanted for value in values):
        numbers = "whole numbers" if kind == "int" else "numbers"
        raise InputError(f"{where}.{kind}: expected two {numbers}, got {values!r:.60}")
    low, high = values
    # bounds: what a float represents, and what numpy draws
    if not (-1e15 <= low < high <= 1e15):
        raise InputError(f"{where}.{kind}: expected an ascending [low, high], got {values!r:.60}")
    if kind == "loguniform" and low <= 0:
        raise InputError(f"{where}.{kind}: expected numbers above 0, got {values!r:.60}")
    if kind == "int":
        return Interval(low, high, kind)
    return Interval(float(low), float(high), kind)


def _require_valid(where: str, name: str, value: object, base: TrainConfig) -> None:
    """Refuse a value that the setting cannot have."""
    try:
        TrainConfig(**{**base.model_dump(), name: value})
    except SettingError as error:
        if error.name == name:
            raise InputError(f"{where}: {error.problem}") from None
    except InputError:
        pass  # together with others: each sample is checked as it is drawn
