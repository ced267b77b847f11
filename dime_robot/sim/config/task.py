"""TaskConfig: what is learned, as lists of named terms.

Each entry of a section names a term, a function or class of `sim/tasks` or of the user's own:

    rewards:
      track_yaw: {term: track_yaw_rate, weight: 1.0, width: 0.3}

`term` is by default the entry's name. Every key except `term`, `weight`, `largest` and `resample`
is a parameter of the term, which `sim/tasks/lookup.py` validates. A reward that is only a number
is its weight, an entry that is only a string is its term, and one that is null is left out (of a
file that this one extends).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from dime_robot.runtime.contract.names import Name
from dime_robot.runtime.contract.policy_spec import PolicySpec, StrictModel
from dime_robot.sim.config.quantities import Seconds

SECTIONS = (
    *("reset", "commands", "observations", "rewards", "terminations", "success", "metrics"),
    "privileged",
)
PRIVILEGED = "privileged"  # section of what only critics see: no part of a policy's task
VELOCITY = "velocity"  # name of the command that `command_velocity` terms observe
MAX_TERMS = 100  # in a section
GROUP = "dime_robot.terms"  # of entry points: terms of installed packages


class TermConfig(StrictModel):
    """One entry of a section: a term and its parameters."""

    term: Name
    """Of `sim/tasks`, or FILE.py:NAME beside this file, MODULE:NAME, or an entry point of the group
    dime_robot.terms."""
    weight: float = 1.0
    """Factor of a reward."""
    largest: float | None = Field(None, ge=0)
    """Largest value of a reward before its weight; none: what the term declares, else 1."""
    resample: Seconds | None = Field(None, gt=0)
    """Time between two draws of a command; none: one draw per episode [s]."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Of the term, by the names of its arguments; written beside the other keys."""

    @model_validator(mode="before")
    @classmethod
    def _collect_parameters(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "parameters" in given:
            return given
        own = cls.model_fields.keys() - {"parameters"}
        parameters = {str(key): value for key, value in given.items() if key not in own}
        return {**{k: v for k, v in given.items() if k in own}, "parameters": parameters}

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        parameters = content.pop("parameters")
        written = {k: v for k, v in content.items() if k == "term" or k in self.model_fields_set}
        return {**written, **parameters}


def with_weights(task: dict[str, Any]) -> dict[str, Any]:
    """Return a task's section with rewards that are only a number as entries with that weight.

    Merged over another file, a number then changes a term's weight and leaves the term as it is.

    Args:
        task: content of the section, of one file.
    """
    rewards = task.get("rewards")
    if not isinstance(rewards, dict):
        return task
    return {**task, "rewards": {name: _weighted(entry) for name, entry in rewards.items()}}


def _weighted(entry: Any) -> Any:
    number = isinstance(entry, int | float) and not isinstance(entry, bool)
    return {"weight": entry} if number else entry


def _entries(given: Any) -> Any:
    """Write out the short forms of a section's entries."""
    if not isinstance(given, dict):
        return given
    entries: dict[Any, Any] = {}
    for name, entry in given.items():
        if entry is None:
            continue
        if isinstance(entry, str):
            entry = {"term": entry}
        entry = _weighted(entry)
        entries[name] = {"term": name, **entry} if isinstance(entry, dict) else entry
    return entries


Section = Annotated[dict[Name, TermConfig], BeforeValidator(_entries), Field(max_length=MAX_TERMS)]


class TaskConfig(StrictModel):
    """The section `task:` of a robot's file. See the module's docstring."""

    episode_seconds: Seconds = Field(gt=0)
    """Time limit, a truncation [s]."""
    reset: Section = Field(default_factory=dict)
    """Where an episode starts: without terms in the default pose, at rest."""
    commands: Section = Field(default_factory=dict)
    """What is commanded during training; the name is that of the observation term's `signal`."""
    observations: Section = Field(default_factory=dict)
    """Values of `sensor` observation terms: what the robot measures with a sensor of its own."""
    rewards: Section = Field(min_length=1)
    """Of one control step."""
    terminations: Section = Field(default_factory=dict)
    """What ends an episode before its time limit."""
    success: Section = Field(default_factory=dict)
    """All of them hold in an episode that succeeds, and it was not terminated."""
    metrics: Section = Field(default_factory=dict)
    """Numbers about one control step, for evaluations."""
    privileged: Section = Field(default_factory=dict)
    """What the critics see and the policy does not, with --asymmetric-critic: true values of the
    simulation. They do not change the task: a policy knows nothing of them."""
    combine: Literal["sum", "product"] = "sum"
    """How the weighted rewards are combined."""
    minimum_reward: float | None = None
    """Smallest combined reward of a step; none: any."""

    @model_validator(mode="before")
    @classmethod
    def _is_a_section(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("rewards"):
            raise ValueError("expected a section `rewards:` with at least one term, got none")
        unknown = (
            sorted(str(k) for k in given if k not in cls.model_fields)
            if isinstance(given, dict)
            else []
        )
        if unknown:
            raise ValueError(
                f"{unknown[0]}: unknown, expected one of {', '.join(cls.model_fields)}"
            )
        return given

    @model_validator(mode="after")
    def _keys_fit_their_section(self) -> TaskConfig:
        for section in SECTIONS:
            for name, entry in getattr(self, section).items():
                for key, owner in (
                    ("weight", "rewards"),
                    ("largest", "rewards"),
                    ("resample", "commands"),
                ):
                    if key in entry.model_fields_set and section != owner:
                        raise ValueError(
                            f"{section}.{name}.{key}: expected it only in {owner}, got"
                            f" {getattr(entry, key)}"
                        )
                if self.combine == "product" and entry.weight != 1 and section == "rewards":
                    raise ValueError(
                        f"rewards.{name}.weight: expected 1 with combine: product, got"
                        f" {entry.weight:g}"
                    )
        return self

    def entries(self) -> list[tuple[str, str, TermConfig]]:
        """Return section, name and entry of every term, in the order they are written."""
        return [
            (section, name, entry)
            for section in SECTIONS
            for name, entry in getattr(self, section).items()
        ]

    def require_fit(self, spec: PolicySpec) -> None:
        """Refuse a contract that observes what the task does not give.

        Args:
            spec: the contract.

        Raises:
            ValueError: a command or a sensor is missing.
        """
        for term in spec.observation:
            if term.kind == "command_velocity" and VELOCITY not in self.commands:
                raise ValueError(
                    f"observation term {term.name}: expected a task with a commanded velocity"
                    f" (task.commands.{VELOCITY}), got commands {list(self.commands)}"
                )
        for name, signal in spec.signals.items():
            section = "commands" if signal.kind == "command" else "observations"
            given = getattr(self, section)
            if name not in given:
                raise ValueError(
                    f"{section}: expected a term {name}, which the policy observes as a"
                    f" {signal.kind}, got {list(given)}"
                )
