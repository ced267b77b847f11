"""Curriculum: through the levels of a task's file, as episodes pass."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

import gymnasium
from pydantic import Field

from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.curriculum import LevelConfig
from dime_robot.training.episode import EndedEpisode

WHOLE = "the whole task"


class CurriculumState(StrictModel):
    """Where a run is in its curriculum, as a checkpoint records it."""

    level: str = Field(max_length=200, description="name of the level; empty: the whole task")
    since: int = Field(ge=0, lt=2**53, description="step of the run at which it began")
    passed: tuple[bool, ...] = Field(
        max_length=10_000, description="whether its latest episodes passed, oldest first"
    )


class Curriculum:
    """The levels of a task, and the one that new episodes are begun in.

    Args:
        levels: in their order; after them comes the whole task.
        num_envs: environments, whose episodes may all end in one step: a decision counts them all.

    Attributes:
        number: of the current level; as many as there are levels: the whole task.
    """

    def __init__(self, levels: Sequence[LevelConfig], num_envs: int = 1) -> None:
        self._levels, self._num_envs = tuple(levels), num_envs
        self._begin(0, 0)

    def begin(self, step: int) -> None:
        """Begin with the first level.

        Args:
            step: of the run.
        """
        self._begin(0, step)

    @property
    def count(self) -> int:
        """Number of levels, without the whole task."""
        return len(self._levels)

    def _begin(self, number: int, step: int) -> None:
        self.number, self._since = number, step
        count = 0 if self.level is None else max(self.level.episodes, self._num_envs)
        self._passed: deque[bool] = deque(maxlen=count)

    @property
    def level(self) -> LevelConfig | None:
        """The current level; None: the whole task."""
        return self._levels[self.number] if self.number < len(self._levels) else None

    @property
    def names(self) -> tuple[str, ...]:
        """Of all levels, the whole task last."""
        return (*(level.name for level in self._levels), WHOLE)

    @property
    def passed_share(self) -> float:
        """Share of the latest episodes of this level that passed; 0 in the whole task."""
        return sum(self._passed) / len(self._passed) if self._passed else 0.0

    @property
    def learning_rate(self) -> float:
        """Factor on the learning rates at this level [1]."""
        rates = [each.learning_rate for each in islice(self._levels, self.number + 1)]
        return next((rate for rate in reversed(rates) if rate is not None), 1.0)

    def advance(self, ended: Sequence[EndedEpisode], step: int) -> str | None:
        """Count ended episodes, and go to the next level if this one is passed.

        Args:
            ended: episodes of any level; those of another one do not count.
            step: of the run.

        Returns:
            A sentence if the level has changed.
        """
        level = self.level
        if level is None:
            return None
        for episode in ended:
            if episode.level == self.number:
                self._passed.append(passes(episode, level))
        enough = len(self._passed) == self._passed.maxlen and self.passed_share >= level.passed
        if not enough and (level.longest is None or step - self._since < level.longest):
            return None
        share, count, steps = self.passed_share, len(self._passed), step - self._since
        self._begin(self.number + 1, step)
        return (
            f"level {level.name}: {share:.0%} of the latest {count} episodes passed after"
            f" {steps:,} steps; now {self.names[self.number]}"
            f" ({self.number + 1} of {len(self.names)})"
        )

    def state(self) -> CurriculumState:
        """Return the state for a checkpoint."""
        name = "" if self.level is None else self.level.name
        return CurriculumState(level=name, since=self._since, passed=tuple(self._passed))

    def load(self, state: CurriculumState) -> None:
        """Continue from a checkpoint.

        Raises:
            InputError: there is no level of this name any more.
        """
        names = [*(level.name for level in self._levels), ""]
        if state.level not in names:
            raise InputError(
                f"curriculum: expected the level {state.level!r:.60} that the run was in, got"
                f" {names[:-1]}: put it back, or go on with --no-curriculum in a new run (--init)"
            )
        self._begin(names.index(state.level), state.since)
        self._passed.extend(state.passed)


def levels_of(env: gymnasium.Env[Any, Any]) -> tuple[LevelConfig, ...]:
    """Return the levels of an environment's task; empty: it has none.

    Args:
        env: any; an attribute of that name may mean something else to a user's own.
    """
    found = getattr(env.unwrapped, "curriculum", ())
    levels = found if isinstance(found, tuple) else ()
    return levels if all(isinstance(each, LevelConfig) for each in levels) else ()


def passes(episode: EndedEpisode, level: LevelConfig) -> bool:
    """Return whether an episode counts for going on from a level."""
    if episode.terminated:
        return False
    if not level.errors:
        return episode.success is True
    means = episode.means
    return all(means.get(name, math.inf) <= limit for name, limit in level.errors.items())
