"""PolicySpec: the contract between a policy and everything that runs it.

Written once by hand (the `policy:` section of a file in `sim_configs/`), it builds the training
environment's spaces and travels inside every checkpoint. Quantities that belong to a joint are
stored as name -> value or on the joint itself, never in parallel lists.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

FloatArray = npt.NDArray[np.floating]


class Frozen(BaseModel):
    """Base of every record that crosses a border: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class Joint(Frozen):
    """One joint as the policy was trained with it."""

    name: str
    type: Literal["revolute", "prismatic"]
    position_limits: tuple[float, float] | None = Field(
        None, description="lower and upper stop [rad or m]; none means unlimited"
    )
    effort_limit: float | None = Field(
        None, gt=0, description="largest effort the actuator gives [N m or N]; none: not actuated"
    )

    @model_validator(mode="after")
    def _limits_are_ordered(self) -> Joint:
        if self.position_limits is not None and self.position_limits[0] >= self.position_limits[1]:
            raise ValueError(
                f"joint {self.name}: expected position_limits [lower, upper] with lower < upper,"
                f" got {list(self.position_limits)}"
            )
        return self


TermKind = Literal[
    "joint_position",  # [rad or m]
    "joint_position_cos",  # cosine of a revolute joint's position, for joints that turn freely
    "joint_position_sin",
    "joint_velocity",  # [rad/s or m/s]
    "flat",  # a whole vector from an environment without named terms (Gymnasium, dm_control)
]


class ObservationTerm(Frozen):
    """A block of the observation vector, in raw SI units.

    The score network's first operation is `scale * clamp(raw, -clip, clip)`; nothing else scales
    an observation.
    """

    name: str
    kind: TermKind
    unit: str = Field(description="unit of the raw values, e.g. rad/s; 1 for none")
    size: int = Field(gt=0, description="how many numbers")
    joints: tuple[str, ...] = Field((), description="joints in order, for joint terms")
    scale: float = Field(1.0, gt=0, description="factor applied inside the network")
    clip: float | None = Field(None, gt=0, description="bound on the raw magnitude [unit]")

    @model_validator(mode="after")
    def _size_matches_joints(self) -> ObservationTerm:
        if self.kind != "flat" and self.size != len(self.joints):
            raise ValueError(
                f"observation term {self.name}: expected size {len(self.joints)} (its joints:"
                f" {list(self.joints)}), got {self.size}"
            )
        if self.kind == "flat" and self.joints:
            raise ValueError(f"observation term {self.name}: a flat term names no joints")
        return self


class Action(Frozen):
    """What the policy's output in [-1, 1] means."""

    kind: Literal["effort", "flat"] = Field(
        description="effort: scale * a [N m or N]; flat: mapped linearly onto the action space"
    )
    size: int = Field(gt=0, description="how many numbers")
    scale: dict[str, float] = Field(
        default_factory=dict, description="joint name -> command at a = 1 [N m or N]"
    )


class PolicySpec(Frozen):
    """What a policy sees, what it commands, and how often. See the module's docstring."""

    version: Literal[1] = 1
    name: str
    rate: float = Field(gt=0, description="control rate [Hz]")
    joints: tuple[Joint, ...] = ()
    observation: tuple[ObservationTerm, ...] = Field(min_length=1)
    action: Action

    @model_validator(mode="after")
    def _names_agree(self) -> PolicySpec:
        for what, names in (
            ("joint", [joint.name for joint in self.joints]),
            ("observation term", [term.name for term in self.observation]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"expected each {what} once, got {twice} more than once")
        known = {joint.name: joint for joint in self.joints}
        for term in self.observation:
            for name in term.joints:
                if name not in known:
                    raise ValueError(
                        f"observation term {term.name}: expected one of the joints"
                        f" {sorted(known)}, got {name!r}"
                    )
                if term.kind.endswith(("cos", "sin")) and known[name].type != "revolute":
                    raise ValueError(
                        f"observation term {term.name}: expected a revolute joint, {name} is"
                        f" {known[name].type}"
                    )
        self._action_fits(known)
        return self

    def _action_fits(self, known: dict[str, Joint]) -> None:
        if self.action.kind == "flat":
            if self.action.scale:
                raise ValueError("action.scale: a flat action has no scale per joint")
            return
        if self.action.size != len(self.action.scale):
            raise ValueError(
                f"action.size: expected {len(self.action.scale)} (joints in action.scale),"
                f" got {self.action.size}"
            )
        for name, scale in self.action.scale.items():
            if name not in known:
                raise ValueError(
                    f"action.scale: expected one of the joints {sorted(known)}, got {name!r}"
                )
            limit = known[name].effort_limit
            if limit is None or not 0 < scale <= limit:
                raise ValueError(
                    f"action.scale.{name}: expected a scale in (0, effort_limit = {limit}],"
                    f" got {scale}"
                )

    @classmethod
    def flat(cls, name: str, n_obs: int, n_act: int, rate: float = 50.0) -> PolicySpec:
        """The contract of an environment that names nothing: one vector in, one vector out."""
        return cls(
            name=name,
            rate=rate,
            observation=(ObservationTerm(name="observation", kind="flat", unit="1", size=n_obs),),
            action=Action(kind="flat", size=n_act),
        )

    @property
    def n_obs(self) -> int:
        """Length of the observation vector."""
        return sum(term.size for term in self.observation)

    @property
    def n_act(self) -> int:
        """Length of the action vector."""
        return self.action.size

    @property
    def action_joints(self) -> tuple[str, ...]:
        """Commanded joints in policy order (the order of `joints`, whatever the scale's order)."""
        return tuple(joint.name for joint in self.joints if joint.name in self.action.scale)

    def observation_scale(self) -> FloatArray:
        """Factor of each observation entry. Shape (n_obs,)."""
        return np.concatenate([np.full(term.size, term.scale) for term in self.observation])

    def observation_clip(self) -> FloatArray:
        """Bound on each raw entry's magnitude, inf for none. Shape (n_obs,), [the term's unit]."""
        bounds = [np.inf if term.clip is None else term.clip for term in self.observation]
        return np.repeat(bounds, [term.size for term in self.observation])
