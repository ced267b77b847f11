"""PolicySpec: the contract between a policy and everything that runs it.

It is written by hand (the `policy:` section of a file in `sim_configs/`), defines the training
environment's spaces, and is stored in every checkpoint. Quantities that belong to a joint are
stored as name -> value or on the joint itself, never in parallel lists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from dime_robot.runtime.contract.names import Name, Unit, require_unique
from dime_robot.runtime.contract.units import (
    MAX_ANGLE,
    MAX_DAMPING,
    MAX_DISTANCE,
    MAX_FORCE,
    MAX_FREE_SPEED,
    MAX_RATE,
    MAX_SPEED,
    MAX_STIFFNESS,
    MAX_TORQUE,
    require_limits,
    require_plausible,
)
from dime_robot.runtime.io.errors import InputError, first_problem

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

MAX_JOINTS = 256  # of a robot, and of what one contract or one term names
MAX_NUMBERS = 10_000_000  # in an observation, and in an action
MAX_HISTORY = 1_000  # readings in one term
FloatArray = npt.NDArray[np.floating]
Float32Array = npt.NDArray[np.float32]  # as policies take and return it


class StrictModel(BaseModel):
    """Base of every model that is read from a file: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @model_validator(mode="wrap")
    @classmethod
    def _numbers_are_numbers(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        parsed = handler(given)
        if isinstance(given, dict):
            for name in parsed.model_fields_set & given.keys():
                _require_numbers(name, given[name], getattr(parsed, name))
        return parsed


def _require_numbers(path: str, given: Any, parsed: Any) -> None:
    """Refuse a string or boolean that was parsed as a number, which pydantic does by default.

    pydantic's strict mode is no alternative: it refuses the lists of YAML for tuples.
    """
    if isinstance(parsed, dict) and isinstance(given, dict):
        for name in parsed.keys() & given.keys():  # a validator may have left entries out
            _require_numbers(f"{path}.{name}", given[name], parsed[name])
    elif isinstance(parsed, tuple) and isinstance(given, list | tuple):
        for i, (one, other) in enumerate(zip(given, parsed, strict=True)):
            _require_numbers(f"{path}.{i}", one, other)
    elif isinstance(given, str | bool) and type(parsed) in (int, float):
        raise ValueError(f"{path}: expected a number, got {given!r:.60}")


class Joint(StrictModel):
    """One joint as the policy was trained with it."""

    name: Name
    type: Literal["revolute", "prismatic"]
    position_limits: tuple[float, float] | None = None
    """Lower and upper stop [rad or m]; none means unlimited."""
    effort_limit: float | None = Field(None, gt=0, le=MAX_FORCE)
    """Largest effort the actuator gives [N m or N]; none: not actuated."""
    default_position: float = 0.0
    """Position at action 0 [rad or m]."""
    stiffness: float | None = Field(None, gt=0, le=MAX_STIFFNESS)
    """Gain on the position error [N m/rad or N/m]; for position actions."""
    damping: float | None = Field(None, ge=0, le=MAX_DAMPING)
    """Gain on the velocity, for velocity actions on the velocity error [N m s/rad or N s/m]; for
    position and velocity actions."""

    @model_validator(mode="after")
    def _limits_are_plausible(self) -> Joint:
        revolute = self.type == "revolute"
        bound = (MAX_ANGLE, "rad", "degrees") if revolute else (MAX_DISTANCE, "m", "mm")
        require_limits(self.name, self.position_limits, *bound)
        where = f"joint {self.name}: default_position: "
        require_plausible(where, self.default_position, *bound)
        if revolute:
            where = f"joint {self.name}: effort_limit: "
            require_plausible(where, self.effort_limit or 0.0, MAX_TORQUE, "N m", "mN m")
        return self


def _require_velocity(where: str, scale: float, joint: Joint) -> None:
    """Refuse a velocity action of a joint without a servo, or in another unit.

    Args:
        where: in front of the message.
        scale: velocity at action 1 [rad/s or m/s].
        joint: that is commanded.

    Raises:
        ValueError: it is refused.
    """
    largest = MAX_FREE_SPEED if joint.position_limits is None else MAX_SPEED
    require_plausible(where, scale, largest, "rad/s or m/s", "degrees/s or mm/s")
    for field, value in (("damping", joint.damping), ("effort_limit", joint.effort_limit)):
        if not value:
            raise ValueError(
                f"joint {joint.name}: expected a {field} above 0, since the servo of a velocity"
                " action, effort = damping * (target - velocity) within effort_limit, was trained"
                f" with one, got {'none' if value is None else value}"
            )


TermKind = Literal[
    "joint_position",  # [rad or m]
    "joint_position_relative",  # minus the joint's default_position [rad or m]
    "joint_position_cos",  # cosine of a revolute joint's position, for joints that turn freely
    "joint_position_sin",
    "joint_velocity",  # [rad/s or m/s]
    "joint_effort",  # as it is measured [N m or N]
    "foot_contact",  # of each foot: 1 if it is in contact, else 0
    "angular_velocity",  # of the base, in the base's frame [rad/s]
    "projected_gravity",  # unit vector of gravity in the base's frame: (0, 0, -1) when upright
    "command_velocity",  # commanded to the base: forward, left [m/s], yaw [rad/s]
    "command",  # any other value that an operator or a planner commands: a target, a phase
    "sensor",  # a value that a sensor other than joints and imu measures, or computes
    # previous action in [-1, 1], after the low-pass and before any limit; 0 at reset
    "last_action",
    "flat",  # a whole vector from an environment without named terms (Gymnasium, dm_control)
]
VECTOR_TERMS = ("angular_velocity", "projected_gravity", "command_velocity")
MIN_RATE = 1.0  # of a robot's policy [Hz]
IMU_TERMS = ("angular_velocity", "projected_gravity")
SIGNAL_TERMS = ("command", "sensor")  # values of any size that come as messages of their own
TWIST_AXES = ("linear_x", "linear_y", "angular_z")  # what a twist action commands, in this order
Reference = Literal["default", "measured", "commanded"]  # what a position action is relative to


class Signal(NamedTuple):
    """A task command or a sensor that a policy observes."""

    kind: Literal["command", "sensor"]
    width: int  # numbers in one value

    @property
    def section(self) -> str:
        """Section of a robot's file that says where its values come from."""
        return "task_commands" if self.kind == "command" else "sensors"


class ObservationTerm(StrictModel):
    """A block of the observation vector, in raw SI units.

    The score network's first operation is `scale * clamp(raw, -clip, clip)`. Nothing else scales an
    observation. In a policy of `--normalize-observations`, mean and standard deviation of the
    clipped values in training take the place of the scale, which then only bounds the gain
    (`learning/observation_normalization.py`).
    """

    name: Name
    kind: TermKind
    unit: Unit
    """Unit of the raw values, e.g. rad/s; 1 for none."""
    size: int = Field(gt=0, le=MAX_NUMBERS)
    """How many numbers."""
    joints: tuple[Name, ...] = Field((), max_length=MAX_JOINTS)
    """Joints in order, for joint terms."""
    scale: float = Field(1.0, gt=0, le=1e9)
    """Factor applied inside the network."""
    clip: float | None = Field(None, gt=0, le=1e9)
    """Bound on the raw magnitude [unit]."""
    history: int = Field(1, gt=0, le=MAX_HISTORY)
    """Readings stacked, oldest first; one per step."""
    history_fill: Literal["first", "zero"] = "first"
    """Fills the history before the first reading: that reading, or zeros."""
    feet: tuple[Name, ...] = Field((), max_length=MAX_JOINTS)
    """Feet in order, for `foot_contact`."""
    signal: Name | None = None
    """Name of the task command or sensor, for `command` and `sensor`; none: the term's name."""

    @model_serializer(mode="wrap")
    def _omit_what_is_not_stated(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keep the digest of contracts from releases that had neither signals nor feet."""
        content: dict[str, Any] = handler(self)
        if self.signal is None:
            content.pop("signal", None)
        if not self.feet:
            content.pop("feet", None)
        return content

    @property
    def width(self) -> int:
        """Number of values in one reading."""
        return self.size // self.history

    @property
    def signal_name(self) -> str:
        """Name of the signal that a `command` or `sensor` term shows."""
        return self.signal or self.name

    @model_validator(mode="after")
    def _size_matches(self) -> ObservationTerm:
        require_unique("joint", self.joints, f"observation term {self.name}: ")
        require_unique("foot", self.feet, f"observation term {self.name}: ")
        if bool(self.feet) != (self.kind == "foot_contact"):
            expected_feet = "no feet" if self.feet else "the names of its feet"
            raise ValueError(
                f"observation term {self.name}: expected {expected_feet} in `feet` of a {self.kind}"
                f" term, got {list(self.feet)}"
            )
        if self.signal is not None and self.kind not in SIGNAL_TERMS:
            raise ValueError(
                f"observation term {self.name}: expected no signal of a {self.kind} term, got"
                f" {self.signal}: only {' and '.join(SIGNAL_TERMS)} terms show one"
            )
        if self.kind.startswith("joint"):
            expected, why = len(self.joints) * self.history, f"its joints: {list(self.joints)}"
        elif self.joints:
            raise ValueError(f"observation term {self.name}: a {self.kind} term names no joints")
        elif self.kind == "foot_contact":
            expected, why = len(self.feet) * self.history, f"its feet: {list(self.feet)}"
        elif self.kind in VECTOR_TERMS:
            expected, why = 3 * self.history, "a vector of 3"
        else:
            expected, why = self.size - self.size % self.history, "a multiple of its history"
        if self.size != expected:
            times = f" times a history of {self.history}" if self.history > 1 else ""
            raise ValueError(
                f"observation term {self.name}: expected size {expected} ({why}{times}), got"
                f" {self.size}"
            )
        return self


class Action(StrictModel):
    """How the policy's output in [-1, 1] becomes a command."""

    kind: Literal["effort", "position", "velocity", "twist", "flat"]
    """effort: scale * a [N m or N]; position: reference + scale * a [rad or m]; velocity: scale * a
    of joints [rad/s or m/s]; twist: scale * a, a velocity of the base [m/s, rad/s]; flat: mapped
    linearly onto the action space."""
    size: int = Field(gt=0, le=MAX_NUMBERS)
    """How many numbers."""
    scale: dict[Name, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, max_length=MAX_JOINTS
    )
    """Joint (twist: one of linear_x, linear_y, angular_z) -> change at a = 1."""
    low_pass: float = Field(1.0, gt=0, le=1)
    """Low-pass filter: y = low_pass * a + (1 - low_pass) * previous y, which is 0 at reset; 1: no
    filter."""
    within_limits: bool = False
    """Position only, relative to the default: targets are kept within the joints' position_limits,
    in training and on the robot; without, a target may lie beyond a stop."""
    reference: Reference = "default"
    """Position only. default: the joint's default_position; measured: the measured position;
    commanded: the last target that was sent, after all limits, or the measured position where none
    was sent in the step before."""

    @model_serializer(mode="wrap")
    def _omit_what_is_not_stated(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keep the digest of contracts from releases that had neither references nor limits."""
        content: dict[str, Any] = handler(self)
        if self.reference == "default":
            content.pop("reference", None)
        if not self.within_limits:
            content.pop("within_limits", None)
        return content

    @model_validator(mode="after")
    def _limits_are_of_a_position(self) -> Action:
        if self.within_limits and (self.kind != "position" or self.reference != "default"):
            raise ValueError(
                "within_limits: expected true only with an action of kind position relative to the"
                f" default, got kind {self.kind}, reference {self.reference}: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _reference_is_of_a_position(self) -> Action:
        if self.reference != "default" and self.kind != "position":
            raise ValueError(
                f"reference: expected none with an action of kind {self.kind}, which is relative to"
                f" 0, got {self.reference}: leave it out, or set kind: position"
            )
        return self


class PolicySpec(StrictModel):
    """What a policy observes, what it commands, and how often. See the module's docstring."""

    version: Literal[1] = 1
    name: Name
    rate: float = Field(gt=0, le=MAX_RATE)
    """Control rate [Hz]."""
    joints: tuple[Joint, ...] = Field((), max_length=MAX_JOINTS)
    observation: tuple[ObservationTerm, ...] = Field(min_length=1, max_length=MAX_JOINTS)
    action: Action
    held_joints: dict[Name, float] = Field(default_factory=dict, max_length=MAX_JOINTS)
    """Joints of the robot that the policy neither moves nor observes, and the position at which
    each was held in training [rad or m]; the robot has to hold it there."""

    @model_serializer(mode="wrap")
    def _omit_empty_held_joints(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keep the digest of contracts from releases that had no held joints."""
        content: dict[str, Any] = handler(self)
        if not self.held_joints:
            content.pop("held_joints", None)
        return content

    @model_validator(mode="after")
    def _held_joints_are_others(self) -> PolicySpec:
        known = {joint.name for joint in self.joints}
        for name, position in self.held_joints.items():
            if name in known:
                raise ValueError(
                    f"held_joints: expected joints that are not among the policy's own, got {name}"
                )
            require_plausible(
                f"held_joints.{name}: ", position, MAX_ANGLE, "rad or m", "degrees or mm"
            )
        if self.held_joints and self.action.kind == "flat":
            raise ValueError("held_joints: expected none of a flat action, whose robot has no name")
        return self

    @model_validator(mode="after")
    def _names_agree(self) -> PolicySpec:
        require_unique("joint", [joint.name for joint in self.joints])
        require_unique("observation term", [term.name for term in self.observation])
        known = {joint.name: joint for joint in self.joints}
        if self.n_obs > MAX_NUMBERS:
            raise ValueError(
                f"observation: expected up to {MAX_NUMBERS:,} numbers, got {self.n_obs:,}"
            )
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
            if term.kind == "last_action" and term.width != self.action.size:
                raise ValueError(
                    f"observation term {term.name}: expected {self.action.size} numbers a reading"
                    f" (the action's size), got {term.width}"
                )
        self._require_same_signals()
        self._require_action(known)
        self._require_poses()
        return self

    def _require_same_signals(self) -> None:
        """Refuse two terms that disagree about one signal."""
        for term in self.observation:
            if term.kind not in SIGNAL_TERMS:
                continue
            first = self.signals[term.signal_name]
            if (term.kind, term.width) != first:
                raise ValueError(
                    f"observation term {term.name}: expected signal {term.signal_name} to be a"
                    f" {first.kind} of {first.width} numbers, as in the term before it, got a"
                    f" {term.kind} of {term.width}"
                )

    def _require_poses(self) -> None:
        if self.action.kind != "flat" and self.rate < MIN_RATE:
            raise ValueError(
                f"rate: expected at least {MIN_RATE:g} Hz, got {self.rate:g}: is this really in"
                " Hz, not a period in s?"
            )
        for joint in self.joints:
            commanded = self.action.kind == "position" and joint.name in self.action.scale
            if joint.position_limits is None or not (commanded or joint.default_position):
                continue
            low, high = joint.position_limits
            if not low <= joint.default_position <= high:
                raise ValueError(
                    f"joint {joint.name}: expected a default_position in {[low, high]}, its"
                    f" position_limits, got {joint.default_position:g}"
                )
            if commanded and joint.type == "revolute":
                scale = self.action.scale[joint.name]
                require_plausible(
                    f"action.scale.{joint.name}: ", scale, MAX_ANGLE, "rad", "degrees"
                )

    def _require_action(self, known: dict[str, Joint]) -> None:
        action = self.action
        if action.kind == "flat":
            if action.scale:
                raise ValueError("action.scale: a flat action has no scale per joint")
            if action.low_pass < 1:
                raise ValueError("action.low_pass: a flat action goes to its environment as it is")
            return
        if action.size != len(action.scale):
            raise ValueError(
                f"action.size: expected {len(action.scale)} (joints in action.scale), got"
                f" {action.size}"
            )
        names, what = (TWIST_AXES, "axes") if action.kind == "twist" else (sorted(known), "joints")
        for name, scale in action.scale.items():
            if name not in names:
                raise ValueError(
                    f"action.scale: expected one of the {what} {list(names)}, got {name!r}"
                )
            where = f"action.scale.{name}: "
            if action.kind == "twist":
                require_plausible(where, scale, MAX_SPEED, "m/s or rad/s", "mm/s or degrees/s")
            elif action.kind == "position":
                require_plausible(where, scale, MAX_DISTANCE, "rad or m", "degrees or mm")
                if known[name].stiffness is None:
                    raise ValueError(
                        f"joint {name}: expected a stiffness, since a position action was trained"
                        " with one"
                    )
            elif action.kind == "velocity":
                _require_velocity(where, scale, known[name])
            elif (limit := known[name].effort_limit) is None or scale > limit:
                raise ValueError(
                    f"{where}expected a scale in (0, effort_limit = {limit}], got {scale}"
                )

    @classmethod
    def flat(cls, name: str, n_obs: int, n_act: int, rate: float = 50.0) -> PolicySpec:
        """Return the contract of an environment whose vectors have no named parts.

        Args:
            name: of the environment.
            n_obs: numbers in an observation.
            n_act: numbers in an action.
            rate: of control [Hz].

        Raises:
            InputError: beyond the bounds of a contract.
        """
        term = {"name": "observation", "kind": "flat", "unit": "1", "size": n_obs}
        action = {"kind": "flat", "size": n_act}
        try:
            return cls.model_validate(
                {"name": name, "rate": rate, "observation": (term,), "action": action}
            )
        except ValidationError as error:
            raise InputError(f"environment {name:.100}: {first_problem(error)}") from None

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
        """Commanded joints or axes, in policy order: that of `joints` or of TWIST_AXES."""
        order = [joint.name for joint in self.joints]
        if self.action.kind == "twist":
            order = list(TWIST_AXES)
        return tuple(name for name in order if name in self.action.scale)

    @property
    def period(self) -> float:
        """Time between two actions [s]."""
        return 1.0 / self.rate

    def joint(self, name: str) -> Joint:
        """Return the joint of that name."""
        return next(joint for joint in self.joints if joint.name == name)

    @property
    def signals(self) -> dict[str, Signal]:
        """Task commands and sensors that it observes, by name, in the order of its terms."""
        found: dict[str, Signal] = {}
        for term in self.observation:
            if term.kind == "command" or term.kind == "sensor":
                found.setdefault(term.signal_name, Signal(term.kind, term.width))
        return found

    def needs(self, *kinds: str) -> bool:
        """Whether it observes a term of any of these kinds."""
        return any(term.kind in kinds for term in self.observation)

    @property
    def feet(self) -> tuple[str, ...]:
        """Feet whose contacts it observes, in the order of its terms."""
        return tuple(dict.fromkeys(foot for term in self.observation for foot in term.feet))

    def observation_scale(self) -> FloatArray:
        """Return the factor of each observation entry, shape (n_obs,)."""
        return np.concatenate([np.full(term.size, term.scale) for term in self.observation])

    def observation_clip(self) -> FloatArray:
        """Return the bound on each raw entry's magnitude, inf for none, shape (n_obs,)."""
        bounds = [np.inf if term.clip is None else term.clip for term in self.observation]
        return np.repeat(bounds, [term.size for term in self.observation])
