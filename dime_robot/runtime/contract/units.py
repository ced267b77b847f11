"""Upper bounds of magnitudes. A larger value is most often in another unit; bounds are generous."""

from __future__ import annotations

import math

from pydantic import AfterValidator

MAX_ANGLE = 4 * math.pi  # of a stop of a revolute joint [rad]
MAX_TORQUE = 1000.0  # of a revolute joint [N m]
MAX_FORCE = 1e6  # of any joint [N m or N]
MAX_DISTANCE = 1e3  # of a prismatic joint's positions [m]
MAX_STIFFNESS = 1e6  # [N m/rad or N/m]
MAX_DAMPING = 1e5  # [N m s/rad or N s/m]
MAX_RATE = 1e5  # of control and of readings [Hz]
MAX_FREE_SPEED = 1e4  # of a joint without stops: a spindle, a propeller [rad/s]
MAX_SPEED = 100.0  # of a joint that has stops, and of a base [rad/s or m/s]


def require_plausible(where: str, value: float, largest: float, unit: str, other: str) -> None:
    """Refuse a magnitude that is probably in another unit.

    Args:
        where: in front of the message.
        value: in [unit].
        largest: plausible magnitude [unit].
        unit: expected.
        other: unit that the value is probably in.

    Raises:
        ValueError: it is larger.
    """
    if abs(value) > largest:
        raise ValueError(
            f"{where}expected up to {largest:g} {unit}, got {value:g}: is this really in {unit},"
            f" not in {other}?"
        )


def require_limits(
    name: str, limits: tuple[float, float] | None, largest: float, unit: str, other: str
) -> None:
    """Refuse position limits of a joint that are not ordered, or in another unit.

    Args:
        name: of the joint.
        limits: lower, upper [unit]; None: unlimited.
        largest: see `require_plausible`, in [unit], as `unit` and `other`.
        unit: expected.
        other: unit that the limits are probably in.

    Raises:
        ValueError: they are.
    """
    if limits is not None and limits[0] >= limits[1]:
        raise ValueError(
            f"joint {name}: expected position_limits [lower, upper] with lower < upper, got"
            f" {list(limits)}"
        )
    for stop in limits or ():
        require_plausible(f"joint {name}: position_limits: ", stop, largest, unit, other)


def upper_bound(largest: float, unit: str, other: str) -> AfterValidator:
    """Return a validator that makes the same check for a field, whose name pydantic adds.

    Args:
        largest: plausible magnitude [unit].
        unit: of the field.
        other: the unit that a larger value is probably in.
    """

    def check(value: float) -> float:
        require_plausible("", value, largest, unit, other)
        return value

    return AfterValidator(check)


def lower_bound(smallest: float, unit: str, other: str) -> AfterValidator:
    """Return a validator that refuses a positive value too small to be in the field's unit.

    Args:
        smallest: plausible value [unit].
        unit: of the field.
        other: the unit that a smaller value is probably in.
    """

    def check(value: float) -> float:
        if 0 < value < smallest:
            raise ValueError(
                f"expected at least {smallest:g} {unit}, got {value:g}: is this really in {unit},"
                f" not in {other}?"
            )
        return value

    return AfterValidator(check)
