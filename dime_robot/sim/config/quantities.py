"""Types of quantities in configurations and in the parameters of terms, with plausible bounds."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from dime_robot.runtime.contract.units import lower_bound, upper_bound


def _ordered(given: tuple[float, float]) -> tuple[float, float]:
    if given[0] > given[1]:
        raise ValueError(f"expected [lower, upper], got {list(given)}")
    return given


def _listed(given: object) -> object:
    return (given,) if isinstance(given, str) else given


Seconds = Annotated[float, upper_bound(3600, "s", "ms")]
Metres = Annotated[float, upper_bound(5, "m", "cm")]
Radians = Annotated[float, upper_bound(12.6, "rad", "degrees")]
Tilt = Annotated[float, lower_bound(2, "degrees", "rad")]
Speed = Annotated[float, upper_bound(10, "m/s", "mm/s")]
YawRate = Annotated[float, upper_bound(10, "rad/s", "degrees/s")]
Share = Annotated[float, Field(ge=0, le=1)]
SpeedRange = Annotated[tuple[Speed, Speed], AfterValidator(_ordered)]
YawRateRange = Annotated[tuple[YawRate, YawRate], AfterValidator(_ordered)]
Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One name, or a list of names; of joints they may be shell patterns."""
