"""Magnitudes that no robot has, and that are most often another unit. Generous on purpose."""

from __future__ import annotations

import math

from pydantic import AfterValidator

LARGEST_ANGLE = 4 * math.pi  # of a stop of a revolute joint [rad]
LARGEST_TORQUE = 1000.0  # of a revolute joint [N m]
LARGEST_FORCE = 1e6  # of any joint [N m or N]
LARGEST_DISTANCE = 1e3  # of a prismatic joint's positions [m]
LARGEST_STIFFNESS = 1e6  # [N m/rad or N/m]
LARGEST_DAMPING = 1e5  # [N m s/rad or N s/m]
HIGHEST_RATE = 1e5  # of control and of readings [Hz]
FASTEST_FREE = 1e4  # of a joint without stops: a spindle, a propeller [rad/s]
FASTEST = 100.0  # of a joint that has stops, and of a base [rad/s or m/s]


def require_at_most(what: str, value: float, largest: float, unit: str, other: str) -> None:
    """Refuse a magnitude that is no doubt in another unit.

    Args:
        what: whose value it is, for the message.
        value: in [unit].
        largest: magnitude that can be, in [unit].
        unit: expected.
        other: the unit that it is probably in.

    Raises:
        ValueError: it is.
    """
    if abs(value) > largest:
        raise ValueError(
            f"{what}expected up to {largest:g} {unit}, got {value:g}: is this really in {unit}, not"
            f" in {other}?"
        )


def at_most(largest: float, unit: str, other: str) -> AfterValidator:
    """The same for a field, whose name pydantic adds.

    Args:
        largest: magnitude that can be, in [unit].
        unit: of the field.
        other: the unit that a larger value is probably in.
    """

    def check(value: float) -> float:
        require_at_most("", value, largest, unit, other)
        return value

    return AfterValidator(check)


def at_least(smallest: float, unit: str, other: str) -> AfterValidator:
    """For a positive field that is too small to be in its unit.

    Args:
        smallest: value that can be, in [unit].
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
