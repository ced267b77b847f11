"""SignalInput: where the values of a task command or of a user's own sensor come from.

A signal is a value of any size that comes as a message of its own, beside the joint states, the imu
and the operator's velocity: `robot.task_commands` and `robot.sensors`, name -> input. The contract
says how many numbers a policy expects of it (`PolicySpec.signals`).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from dime_robot.runtime.contract.names import Name, Topic, require_unique
from dime_robot.runtime.contract.policy_spec import MAX_JOINTS, MAX_NUMBERS, StrictModel
from dime_robot.runtime.contract.units import (
    MAX_DISTANCE,
    MAX_SPEED,
    require_plausible,
    upper_bound,
)

SignalType = Literal[
    "Twist", "TwistStamped", "PointStamped", "PoseStamped", "Float64MultiArray", "JointState"
]
FRAMED = ("TwistStamped", "PointStamped", "PoseStamped")  # whose numbers are in a stated frame
STAMPED = (*FRAMED, "JointState")  # whose header says when a value was measured
VELOCITIES = ("Twist", "TwistStamped")
# a position of 0 is a place like any other: for an arm, its own base
NO_NEUTRAL = ("PointStamped", "PoseStamped", "JointState")
# how many numbers a message of a type gives: (linear_x, linear_y, angular_z) or linear and angular
# x, y, z; x, y, z; x, y, z and the quaternion w, x, y, z
WIDTHS: dict[str, tuple[int, ...]] = {
    "Twist": (3, 6),
    "TwistStamped": (3, 6),
    "PointStamped": (3,),
    "PoseStamped": (7,),
}
# largest magnitude of a limit, its unit, and the unit that a larger one is probably in
_SPEED = (MAX_SPEED, "m/s or rad/s", "mm/s or degrees/s")
PLAUSIBLE: dict[str, tuple[float, str, str]] = {
    "Twist": _SPEED,
    "TwistStamped": _SPEED,
    "PointStamped": (MAX_DISTANCE, "m", "mm"),
    "PoseStamped": (MAX_DISTANCE, "m", "mm"),
    "JointState": (MAX_DISTANCE, "rad or m", "degrees or mm"),
}
POSITION_SIZE = 3  # of a pose; its limits are those of the position
Pair: TypeAlias = tuple[float, float]


class SignalInput(StrictModel):
    """What task commands and sensors have in common."""

    topic: Topic
    type: SignalType
    """Type of its messages, in geometry_msgs, std_msgs or sensor_msgs."""
    frame: Name | None = None
    """frame_id that its messages must have, for TwistStamped, PointStamped and PoseStamped: no
    frames are transformed here."""
    joints: tuple[Name, ...] = Field((), max_length=MAX_JOINTS)
    """JointState only: the joints whose positions are the value, in this order, by their names in
    the message."""
    limits: Pair | Annotated[tuple[Pair, ...], Field(max_length=MAX_NUMBERS)] | None = None
    """Lower and upper bound of each number, or one pair for all; of a pose: of its position [SI
    units]."""
    second_publisher: Literal["warn", "refuse"] = "warn"
    """Response to two publishers: a warning; or activation is refused, and while running the
    messages of both are ignored."""

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The limits as pairs; one pair counts for every number, none: there are none."""
        given = self.limits or ()
        if len(given) == 2 and isinstance(given[0], float):
            return (given,)
        return given

    def bounds(self, width: int) -> tuple[list[float], list[float]]:
        """Return the lower and upper bound of each of `width` numbers; infinite: there is none."""
        bounded = POSITION_SIZE if self.type == "PoseStamped" else width
        pairs = self.pairs or ((-math.inf, math.inf),)
        pairs = pairs * bounded if len(pairs) == 1 else pairs
        free = [math.inf] * (width - bounded)
        return [low for low, _ in pairs] + [-x for x in free], [high for _, high in pairs] + free

    def size_problem(self, width: int) -> str:
        """Return why its messages cannot give a value of `width` numbers; empty: they can."""
        widths = (len(self.joints),) if self.joints else WIDTHS.get(self.type, (width,))
        if width not in widths:
            return f"a {self.type} gives {' or '.join(map(str, widths))} numbers"
        bounded = POSITION_SIZE if self.type == "PoseStamped" else width
        if len(self.pairs) not in (0, 1, bounded):
            return f"its limits are of {len(self.pairs)} numbers, expected 1 or {bounded}"
        return ""

    @model_validator(mode="after")
    def _fields_fit_type(self) -> SignalInput:
        if self.type in FRAMED and self.frame is None:
            raise ValueError(
                f"frame: expected the frame_id of its {self.type} messages, got none: numbers of"
                " another frame would be used as if they were in this one"
            )
        if self.type not in FRAMED and self.frame is not None:
            raise ValueError(
                f"frame: expected none of a {self.type}, which names no frame, got {self.frame}"
            )
        if (self.type == "JointState") != bool(self.joints):
            expected = "the names of joints" if self.type == "JointState" else "none"
            raise ValueError(
                f"joints: expected {expected} with type {self.type}, got {list(self.joints)}"
            )
        require_unique("joint", self.joints, "joints: ")
        for low, high in self.pairs:
            if low > high:
                raise ValueError(f"limits: expected lower <= upper, got {[low, high]}")
            for bound in (low, high) if self.type in PLAUSIBLE else ():
                require_plausible("limits: ", bound, *PLAUSIBLE[self.type])
        widths = (len(self.joints),) if self.joints else WIDTHS.get(self.type, ())
        if widths and all(self.size_problem(width) for width in widths):
            raise ValueError(f"limits: {self.size_problem(widths[-1])}")
        return self


class TaskCommandInput(SignalInput):
    """A value that an operator or a planner commands."""

    timeout: Annotated[float, upper_bound(3600, "s", "ms")] | None = Field(None, gt=0)
    """After this long without a message it is lost [s]; none, for `when_lost: hold` only: a target
    stands until another one comes."""
    when_lost: Literal["hold", "zero", "stop"]
    """The last value is held; it becomes 0; or the robot stops until an operator re-arms it."""

    @model_validator(mode="after")
    def _loss_fits_type(self) -> TaskCommandInput:
        if self.timeout is None and self.when_lost != "hold":
            raise ValueError(
                f"timeout: expected one with when_lost: {self.when_lost}, got none: only a value"
                " that is held can stand without being repeated"
            )
        if self.when_lost == "hold" and self.type in VELOCITIES:
            raise ValueError(
                f"when_lost: expected zero or stop of a {self.type}, got hold: a velocity that is"
                " held moves the robot on after its sender is gone"
            )
        if self.when_lost != "zero":
            return self
        if self.type in NO_NEUTRAL:
            raise ValueError(
                f"when_lost: expected hold or stop of a {self.type}, got zero: 0 is a place like"
                " any other, to which the robot would move"
            )
        for low, high in self.pairs:
            if not low <= 0 <= high:
                raise ValueError(
                    f"when_lost: expected hold or stop with the limits {[low, high]}, got zero,"
                    " which is beyond them"
                )
        return self


class SensorInput(SignalInput):
    """A value that a node of the user's own measures or computes."""

    timeout: Annotated[float, upper_bound(60, "s", "ms")] = Field(gt=0)
    """Older values are stale [s]."""
    when_lost: Literal["escalate", "stop"] = "escalate"
    """hold, damp, stop, as after other stale readings; or stop at once."""
