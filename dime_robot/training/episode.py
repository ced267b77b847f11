"""Episodes of training: what is counted in one, what is known at its end, what a checkpoint has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from dime_robot.runtime.contract.policy_spec import StrictModel


class OpenEpisode(StrictModel):
    """The episode that is under way in an environment, as a checkpoint records it."""

    number: int = Field(ge=0, lt=2**53, description="episodes of this environment before it")
    steps: int = Field(ge=0, lt=2**53, description="its steps so far")
    total: float = Field(description="its return so far, unscaled")
    level: int | None = Field(
        None, ge=0, lt=1000, description="of the curriculum, in which it began; none: of no level"
    )


@dataclass
class EndedEpisode:
    """An episode that ended in the last step."""

    environment: int
    steps: int
    total: float  # unscaled return
    terminated: bool
    success: bool | None  # None: the task states no criterion
    level: int | None  # of the curriculum, in which it began
    means: dict[str, float]  # of the task's metrics; none outside a curriculum


@dataclass
class RunningEpisode:
    """The episode under way in an environment.

    Attributes:
        number: episodes of this environment before it.
        steps: so far.
        total: its return so far, unscaled.
        level: of the curriculum, in which it began; None: of no level.
        success: whether the task's criterion held at the last step; None: it states none.
        sums: of the task's metrics over the steps; none outside a curriculum.
    """

    number: int = 0
    steps: int = 0
    total: float = 0.0
    level: int | None = None
    success: bool | None = None
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, reward: float, info: dict[str, Any]) -> None:
        """Add a step.

        Args:
            reward: unscaled [1].
            info: of the step, if `needs_info`, or if it is the last one.
        """
        self.steps += 1
        self.total += reward
        self.success = info.get("is_success")
        if self.needs_info(self.level):
            for name, value in info.get("measures", {}).items():
                self.sums[name] = self.sums.get(name, 0.0) + value

    @staticmethod
    def needs_info(level: int | None) -> bool:
        """Whether an episode of this level counts the infos of all steps, not only of its last."""
        return level is not None

    def ended(self, environment: int, terminated: bool) -> EndedEpisode:
        """Return what is known at its end."""
        means = {name: total / self.steps for name, total in self.sums.items()}
        known = self.steps, self.total, terminated, self.success, self.level
        return EndedEpisode(environment, *known, means)
