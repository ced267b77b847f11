"""What may differ from one simulated robot to the next: randomised quantities and latencies."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from pydantic import Field, model_validator

from dime_robot.runtime.contract.policy_spec import StrictModel

Range: TypeAlias = tuple[float, float]
RandomKind = Literal[
    "friction",  # sliding friction of geoms
    "body_mass",  # of bodies, whose inertia grows with it
    "center_of_mass",  # of bodies: one draw for each of x, y, z of the body's frame
    "motor_strength",  # share of a position drive's effort that really comes
    "stiffness",  # of a position drive
    "damping",  # of a position drive
    "armature",  # of joints: inertia of the rotor
    "joint_friction",  # of joints: effort that it takes to move them
    "joint_damping",  # of joints: passive damping of gears and bearings, beside any drive's
    "encoder_bias",  # of joints: reading minus truth
    "observation_noise",  # on every number of an observation term, at every step
    # slope of the ground: angle between gravity and the world's down; its heading is uniform
    "gravity_direction",
    # mounting error of the imu: angle by which its readings are turned against its body, about an
    # axis in the body's horizontal plane whose heading is uniform
    "imu_mounting",
    "push",  # change of a free base's horizontal velocity; its heading is uniform
]
Operation = Literal["set", "add", "scale"]
Mode = Literal["startup", "reset", "interval"]

LARGEST_SCALE = 10.0  # a factor above it is an absolute value in the wrong place
LARGEST_DELAY = 0.5  # [s]: above it, milliseconds are meant
CUT = 4.0  # standard deviations at which a normal draw is cut off, so that a mass stays a mass


class Kind(NamedTuple):
    """What holds for all terms of a kind."""

    unit: str  # of `set` and `add`; a scale has none
    target: Literal["geom", "body", "joint", "term", "none"]
    operations: tuple[Operation, ...]
    modes: tuple[Mode, ...]
    largest: float  # magnitude of a set or added value; above it the unit is wrong [unit]
    never_negative: bool = True


ALL: tuple[Operation, ...] = ("set", "add", "scale")
ANY_TIME: tuple[Mode, ...] = ("startup", "reset", "interval")
AT_REST: tuple[Mode, ...] = ("startup", "reset")  # MuJoCo's derived constants change with it
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
    """One randomised quantity. `KINDS` says what goes together."""

    kind: RandomKind = Field(description="what is randomised; units: `KINDS`")
    operation: Operation = Field(
        description="the draw replaces the value, is added to it, or multiplies it; terms on the"
        " same quantity apply in the order listed, from the nominal value on"
    )
    distribution: Literal["uniform", "log_uniform", "normal"] = "uniform"
    range: Range = Field(
        description="uniform, log_uniform: lower, upper; normal: mean, standard deviation, cut off"
        " at 4 of them [the kind's unit; 1 for scale]"
    )
    mode: Mode = Field(
        description="drawn once per simulation, at every reset, or again and again in an episode;"
        " before its first draw an interval term has no effect"
    )
    interval: Range | None = Field(
        None,
        description="time between two draws, uniform, for mode interval; (0, 0): every step [s]",
    )
    targets: tuple[str, ...] = Field(
        (),
        description="names of geoms, bodies, joints or observation terms; none: all geoms, all"
        " bodies with a mass, all of the contract's joints (of a drive: those it moves), all"
        " observation terms that a sensor measures",
    )
    shared: bool = Field(False, description="one draw for all targets instead of one for each")

    @property
    def unit(self) -> str:
        """Of a draw."""
        return "1" if self.operation == "scale" else KINDS[self.kind].unit

    @property
    def bounds(self) -> Range:
        """The smallest and the largest possible draw [`unit`]."""
        first, second = self.range
        if self.distribution == "normal":
            return first - CUT * second, first + CUT * second
        return first, second

    @model_validator(mode="after")
    def _is_known_combination(self) -> RandomTerm:
        kind = KINDS[self.kind]
        if self.operation not in kind.operations:
            raise ValueError(
                f"{self.kind}: expected operation {' or '.join(kind.operations)}, got"
                f" {self.operation}"
            )
        if self.mode not in kind.modes:
            raise ValueError(
                f"{self.kind}: expected mode {' or '.join(kind.modes)}, got {self.mode}"
            )
        if kind.target == "none" and self.targets:
            raise ValueError(f"{self.kind}: expected no targets, got {list(self.targets)}")
        if self.shared and kind.target in ("none", "term"):
            raise ValueError(
                f"{self.kind}: expected shared only for geoms, bodies and joints, got true"
            )
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"{self.kind}: expected each target once, got {list(self.targets)}")
        return self

    @model_validator(mode="after")
    def _interval_fits_mode(self) -> RandomTerm:
        if self.mode != "interval":
            if self.interval is not None:
                raise ValueError(
                    f"{self.kind}: expected an interval only with mode interval, got"
                    f" {list(self.interval)} with mode {self.mode}"
                )
            return self
        if self.interval is None:
            raise ValueError(
                f"{self.kind}: expected an interval [lower, upper] in s for mode interval, got none"
            )
        if not 0 <= self.interval[0] <= self.interval[1]:
            raise ValueError(
                f"{self.kind}: expected an interval [lower, upper] in s with 0 <= lower <= upper,"
                f" got {list(self.interval)}"
            )
        if self.kind == "observation_noise" and self.interval != (0, 0):
            raise ValueError(
                f"{self.kind}: expected interval [0, 0], noise is drawn at every step, got"
                f" {list(self.interval)}"
            )
        return self

    @model_validator(mode="after")
    def _range_is_sound(self) -> RandomTerm:
        first, second = self.range
        got = f"got {list(self.range)}"
        if self.distribution == "normal":
            if second < 0:
                raise ValueError(
                    f"{self.kind}: expected range [mean, standard deviation] with a standard"
                    f" deviation of 0 or more, {got}"
                )
        elif first > second:
            raise ValueError(
                f"{self.kind}: expected range [lower, upper] with lower <= upper, {got}"
            )
        if self.distribution == "log_uniform" and first <= 0:
            raise ValueError(f"{self.kind}: expected a log_uniform range above 0, {got}")
        self._values_are_physical(KINDS[self.kind])
        return self

    def _values_are_physical(self, kind: Kind) -> None:
        low, high = self.bounds
        reach = f"[{low:g}, {high:g}]"
        if self.distribution == "normal":
            reach += f" ({CUT:g} standard deviations around {self.range[0]:g})"
        # what is added to a mass may be negative; what is added to a speed is all there is
        absolute = self.operation != "add" or self.kind == "push"
        if absolute and kind.never_negative and low < 0:
            what = "factors" if self.operation == "scale" else f"values [{kind.unit}]"
            raise ValueError(f"{self.kind}: expected {what} of 0 or more, got {reach}")
        if absolute and self.kind == "body_mass" and low == 0:
            raise ValueError(f"{self.kind}: expected values above 0, got {reach}")
        largest = LARGEST_SCALE if self.operation == "scale" else kind.largest
        if max(abs(low), abs(high)) > largest:
            what = "factors" if self.operation == "scale" else f"values [{kind.unit}]"
            doubt = "a factor" if self.operation == "scale" else f"in {kind.unit}"
            raise ValueError(
                f"{self.kind}: expected {what} of magnitude {largest:g} or less, got {reach}: is"
                f" this really {doubt}?"
            )


class Delay(StrictModel):
    """How late messages arrive on one way between robot and policy."""

    range: Range | None = Field(None, description="uniform: lower, upper [s]")
    file: str | None = Field(
        None,
        description="instead: a measured distribution, as latency_monitor writes it, relative to"
        " the configuration file",
    )
    redraw: Literal["episode", "step"] = Field(
        "episode", description="how often the delay is drawn: once per episode or control step"
    )
    hold: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="probability per control step that the message is lost: the one before stands"
        " for one step longer",
    )

    @model_validator(mode="after")
    def _says_how_late(self) -> Delay:
        if (self.range is None) == (self.file is None):
            got = "neither" if self.range is None else "both"
            raise ValueError(f"delay: expected either range or file, got {got}")
        if self.range is not None:
            require_seconds(*self.range, "range [lower, upper]")
        return self


def require_seconds(lower: float, upper: float, what: str) -> None:
    """Refuse delays that cannot be.

    Args:
        lower: shortest delay [s].
        upper: longest delay [s].
        what: is expected, for the message.

    Raises:
        ValueError: negative, in the wrong order, or too long to be seconds.
    """
    if not 0 <= lower <= upper:
        raise ValueError(
            f"delay: expected a {what} in s with 0 <= lower <= upper, got [{lower:g}, {upper:g}]"
        )
    if upper > LARGEST_DELAY:
        raise ValueError(
            f"delay: expected a {what} up to {LARGEST_DELAY:g} s, got [{lower:g}, {upper:g}]: is"
            " this really in seconds, not milliseconds?"
        )


class LatencyConfig(StrictModel):
    """How late readings and commands arrive; none: at once."""

    observation: Delay | None = Field(None, description="from a measurement to the policy")
    action: Delay | None = Field(None, description="from the policy to the motors")
