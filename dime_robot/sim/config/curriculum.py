"""The section `curriculum:`: easier forms of a task, in which training begins.

    curriculum:
      - name: walk
        randomization: 0.0
        task: {commands: {velocity: {linear_x: [0.5, 0.5], angular_z: [0.0, 0.0]}}}
        errors: {velocity_error: 0.15}

Training goes through the levels in their order, and ends in the whole task, the file without this
section. It leaves a level when enough of the latest episodes that were begun there have passed.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError

from dime_robot.runtime.contract.config_files import overlaid
from dime_robot.runtime.contract.names import Name
from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.io.errors import first_problem
from dime_robot.sim.config.quantities import Share
from dime_robot.sim.config.task import PRIVILEGED, SECTIONS, TaskConfig, with_weights

MAX_LEVELS = 50
Limit = Annotated[float, Field(gt=0)]


class LevelConfig(StrictModel):
    """One level: what is easier than in the whole task, and what has to be reached."""

    name: Name
    """Of the level, once in a file."""
    task: dict[str, Any] = Field(default_factory=dict)
    """Values that differ from the section `task:`, in the same places. The terms are the same: a
    level changes their parameters, or leaves one out (null)."""
    randomization: Share = 1.0
    """How far each random value goes from the nominal one towards its draw [1]."""
    latency: Share = 1.0
    """Factor on drawn delays [1]."""
    errors: dict[Name, Limit] = Field(default_factory=dict)
    """Metric of the task -> largest mean over an episode that passes, in the metric's unit; none:
    an episode passes if the task's success criterion holds at its end. One that was terminated
    never passes."""
    passed: Share = 0.8
    """Share of the latest episodes that have to pass."""
    episodes: int = Field(32, gt=0, le=10_000)
    """How many episodes these are; only such that were begun in this level count."""
    longest: int | None = Field(None, gt=0, le=10**12)
    """Steps after which the level ends even so; none: it ends only by passing [steps]."""
    learning_rate: float | None = Field(None, gt=0, le=10)
    """Factor on the learning rates of actor and critics from here on; none: as in the level
    before, at first 1 [1]."""


def task_at(level: LevelConfig, task: TaskConfig) -> TaskConfig:
    """Return the task of a level.

    Args:
        level: of the curriculum.
        task: the whole one.

    Raises:
        ValueError: the level changes more than values, or a value is invalid.
    """
    _require_same_terms(level, task)
    content = overlaid(task.model_dump(), with_weights(level.task))
    try:
        changed = TaskConfig.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"task.{first_problem(error)}") from None
    if changed.episode_seconds > task.episode_seconds:
        raise ValueError(
            f"task.episode_seconds: expected up to those of the whole task,"
            f" {task.episode_seconds:g} s, got {changed.episode_seconds:g} s"
        )
    unknown = sorted(level.errors.keys() - changed.metrics.keys())
    if unknown:
        raise ValueError(
            f"errors: expected metrics of the task, {sorted(changed.metrics)}, got {unknown[0]}"
        )
    if not level.errors and not changed.success:
        raise ValueError(
            "errors: expected at least one, since the task has no section `success:` by which an"
            " episode could pass"
        )
    return changed


def _require_same_terms(level: LevelConfig, task: TaskConfig) -> None:
    """Refuse other terms than the task's: a level must not choose code, nor another interface."""
    for section, entries in level.task.items():
        if section not in SECTIONS:
            continue
        if section == PRIVILEGED:
            raise ValueError(
                f"task.{section}: expected it only in the whole task, since the critics see the"
                f" same values in every level, got {entries!r:.60}"
            )
        known = getattr(task, section)
        if not isinstance(entries, dict):
            raise ValueError(f"task.{section}: expected a mapping of terms, got {entries!r:.60}")
        for name, entry in entries.items():
            number = isinstance(entry, int | float) and section == "rewards"
            same = entry is None or number or (isinstance(entry, dict) and "term" not in entry)
            if name not in known or not same:
                raise ValueError(
                    f"task.{section}.{name}: expected other values of one of the task's terms,"
                    f" {list(known)}, got {entry!r:.60}"
                )
