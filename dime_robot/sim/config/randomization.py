"""Configuration of domain randomization and latencies."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from pydantic import Field, model_validator

from dime_robot.runtime.contract.policy_spec import StrictModel

Range: TypeAlias = tuple[float, float]
RandomKind = Literal[
    "friction",  # sliding friction of geoms
    "body_mass",  # of bodies, whose inertia grows with it
    "center_of_mass",  # of bodies: one draw for each of x, y, z of the body's frame
    "motor_strength",  # ratio of actual to computed effort of a joint's drive
    "stiffness",  # of a position drive
    "damping",  # of a drive of positions or velocities
    "armature",  # of joints: inertia of the rotor
    "joint_friction",  # of joints: effort needed to move them
    "joint_damping",  # of joints: passive damping of gears and bearings, without that of drives
    "encoder_bias",  # of joints: reading minus true position
    "observation_noise",  # on every number of an observation term, at every step
    # slope of the ground: angle between gravity and the world's down; its heading is uniform
    "gravity_direction",
    # mounting error of the imu: rotation against its body, about an axis in the body's horizontal
    # plane whose heading is uniform
    "imu_mounting",
    "push",  # change of a free base's horizontal velocity; its heading is uniform
]
Operation = Literal["set", "add", "scale"]
Mode = Literal["startup", "reset", "interval"]

MAX_SCALE = 10.0  # a larger factor is probably meant as an absolute value
MAX_DELAY = 0.5  # [s]: a larger value is probably in milliseconds
CUT = 4.0  # standard deviations at which a normal draw is clipped


class Kind(NamedTuple):
    """Properties of all terms of a kind."""

    unit: str  # of `set` and `add`; a scale has none
    target: Literal["geom", "body", "joint", "term", "none"]
    operations: tuple[Operation, ...]
    modes: tuple[Mode, ...]
    largest: float  # plausible magnitude of a set or added value [unit]
    never_negative: bool = True


ALL: tuple[Operation, ...] = ("set", "add", "scale")
ANY_TIME: tuple[Mode, ...] = ("startup", "reset", "interval")
AT_REST: tuple[Mode, ...] = ("startup", "reset")  # since MuJoCo's derived constants change with it
KINDS: dict[RandomKind, Kind] = {
    "friction": Kind("1", "geom", ALL, ANY_TIME, 5.0),
    "body_mass": Kind("kg", "body", ALL, AT_REST, 200.0),
    "center_of_mass": Kind("m", "body", ("add",), AT_REST, 0.5, never_negative=False),
    "motor_strength": Kind("1", "joint", ALL, ANY_TIME, 2.0),
    "stiffness": Kind("N m/rad or N/m", "joint", ALL, ANY_TIME, 100_000.0),
    "damping": Kind("N m s/rad or N s/m", "joint", ALL, ANY_TIME, 10_000.0),
    "armature": Kind("kg m^2 or kg", "joint", ALL, AT_REST, 10.0),
    "joint_friction": Kind("N m or N", "joint", ALL, ANY_TIME, 100.0),
    "joint_damping": Kind("N m s/rad or N s/m", "joint", ALL, ANY_TIME, 1000.0),
    "encoder_bias": Kind("rad or m", "joint", ("set", "add"), ANY_TIME, 0.5, never_negative=False),
    "observation_noise": Kind(
        "the term's unit", "term", ("add",), ("interval",), 20.0, never_negative=False
    ),
    "gravity_direction": Kind(
        "degrees", "none", ("set", "add"), ANY_TIME, 45.0, never_negative=False
    ),
    "imu_mounting": Kind("degrees", "none", ("set", "add"), ANY_TIME, 45.0, never_negative=False),
    "push": Kind("m/s", "none", ("add",), ("interval",), 5.0),
}


class RandomTerm(StrictModel):
    """One randomised quantity. `KINDS` lists the valid combinations."""

    kind: RandomKind
    """Randomised quantity; units: `KINDS`."""
    operation: Operation
    """The draw replaces the value, is added to it, or multiplies it; terms on the same quantity
    apply in the order listed, from the nominal value on."""
    distribution: Literal["uniform", "log_uniform", "normal"] = "uniform"
    range: Range
    """uniform, log_uniform: lower, upper; normal: mean, standard deviation, clipped at 4 of them
    [the kind's unit; 1 for scale]."""
    mode: Mode
    """Drawn once per simulation, at every reset, or repeatedly in an episode; an interval term has
    no effect before its first draw."""
    interval: Range | None = None
    """Time between two draws, uniform, for mode interval; (0, 0): every step [s]."""
    targets: tuple[str, ...] = ()
    """Names of geoms, bodies, joints or observation terms; none: all geoms, all bodies with a mass,
    all of the contract's joints (of a drive: those it moves), all observation terms that a sensor
    measures."""
    shared: bool = False
    """One draw for all targets instead of one for each."""

    @property
    def unit(self) -> str:
        """Unit of a draw."""
        return "1" if self.operation == "scale" else KINDS[self.kind].unit

    @property
    def bounds(self) -> Range:
        """The smallest and the largest possible draw [`unit`]."""
        return self.interval_of(CUT)

    def interval_of(self, deviations: float) -> Range:
        """Return the range of the values, in the term's unit.

        Args:
            deviations: half the width of a normal distribution's range, in standard deviations [1].
        """
        first, second = self.range
        if self.distribution == "normal":
            return first - deviations * second, first + deviations * second
        return first, second

    def _require(self, holds: bool, expected: str, got: object) -> None:
        if not holds:
            raise ValueError(f"{self.kind}: expected {expected}, got {got}")

    @model_validator(mode="after")
    def _is_known_combination(self) -> RandomTerm:
        kind, targets = KINDS[self.kind], list(self.targets)
        operations, modes = " or ".join(kind.operations), " or ".join(kind.modes)
        self._require(self.operation in kind.operations, f"operation {operations}", self.operation)
        self._require(self.mode in kind.modes, f"mode {modes}", self.mode)
        self._require(kind.target != "none" or not targets, "no targets", targets)
        can_share = kind.target not in ("none", "term")
        self._require(
            can_share or not self.shared, "shared only for geoms, bodies and joints", "true"
        )
        self._require(len(set(targets)) == len(targets), "each target once", targets)
        return self

    @model_validator(mode="after")
    def _interval_fits_mode(self) -> RandomTerm:
        if self.mode != "interval":
            self._require(
                self.interval is None,
                "an interval only with mode interval",
                f"{self.interval} with mode {self.mode}",
            )
            return self
        what = "an interval [lower, upper] in s"
        if self.interval is None:
            raise ValueError(f"{self.kind}: expected {what} for mode interval, got none")
        low, high = self.interval
        self._require(0 <= low <= high, f"{what} with 0 <= lower <= upper", [low, high])
        every_step = "interval [0, 0], since noise is drawn at every step"
        noise = self.kind == "observation_noise"
        self._require(not noise or (low, high) == (0, 0), every_step, [low, high])
        return self

    @model_validator(mode="after")
    def _range_is_sound(self) -> RandomTerm:
        first, second = got = list(self.range)
        if self.distribution == "normal":
            what = "range [mean, standard deviation] with a standard deviation of 0 or more"
            self._require(second >= 0, what, got)
        else:
            self._require(first <= second, "range [lower, upper] with lower <= upper", got)
        log = self.distribution == "log_uniform"
        self._require(not log or first > 0, "a log_uniform range above 0", got)
        self._require_physical_values(KINDS[self.kind])
        return self

    def _require_physical_values(self, kind: Kind) -> None:
        low, high = self.bounds
        got = f"[{low:g}, {high:g}]"
        if self.distribution == "normal":
            got += f" ({CUT:g} standard deviations around {self.range[0]:g})"
        what, unit, largest = f"values [{kind.unit}]", f"in {kind.unit}", kind.largest
        if self.operation == "scale":
            what, unit, largest = "factors", "a factor", MAX_SCALE
        # a value that is added may be negative, except a push, which is added to any velocity
        if self.operation != "add" or self.kind == "push":
            self._require(not kind.never_negative or low >= 0, f"{what} of 0 or more", got)
            self._require(self.kind != "body_mass" or low > 0, "values above 0", got)
        magnitude = max(abs(low), abs(high))
        doubt = f"{got}: is this really {unit}?"
        self._require(magnitude <= largest, f"{what} of magnitude {largest:g} or less", doubt)


class Delay(StrictModel):
    """Delay of messages in one direction between robot and policy."""

    range: Range | None = None
    """uniform: lower, upper [s]."""
    file: str | None = None
    """Instead of range: a measured distribution that latency_monitor wrote, relative to the
    configuration file."""
    redraw: Literal["episode", "step"] = "episode"
    """How often the delay is drawn: once per episode or control step."""
    hold: float = Field(0.0, ge=0, lt=1)
    """Probability per control step that the message is lost and the one before is used again."""

    @model_validator(mode="after")
    def _says_how_late(self) -> Delay:
        if (self.range is None) == (self.file is None):
            got = "neither" if self.range is None else "both"
            raise ValueError(f"delay: expected either range or file, got {got}")
        if self.range is not None:
            require_seconds(*self.range, "range [lower, upper]")
        return self


def require_seconds(lower: float, upper: float, what: str) -> None:
    """Refuse implausible delays.

    Args:
        lower: shortest delay [s].
        upper: longest delay [s].
        what: name of the delays, for the message.

    Raises:
        ValueError: they are negative, not ordered, or too long to be in seconds.
    """
    if not 0 <= lower <= upper:
        raise ValueError(
            f"delay: expected a {what} in s with 0 <= lower <= upper, got [{lower:g}, {upper:g}]"
        )
    if upper > MAX_DELAY:
        raise ValueError(
            f"delay: expected a {what} up to {MAX_DELAY:g} s, got [{lower:g}, {upper:g}]: is"
            " this really in seconds, not milliseconds?"
        )


class LatencyConfig(StrictModel):
    """Delays of readings and commands; none: no delay."""

    observation: Delay | None = None
    """From a measurement to the policy."""
    action: Delay | None = None
    """From the policy to the motors."""
