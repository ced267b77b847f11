"""Interpolation: whether a robot gets commands between two steps of its policy, and which.

The section `robot.command` of a file states it. A policy is trained with the delay that it causes,
so it is recorded with the policy, and a robot with another one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from dime_robot.runtime.contract.policy_spec import PolicySpec, StrictModel
from dime_robot.runtime.contract.units import MAX_RATE
from dime_robot.runtime.io.errors import InputError

InterpolationKind = Literal["none", "linear", "cubic"]
KIND, RATE = "interpolation", "command_rate"  # keys in a checkpoint's provenance
_WHOLE = 1e-6  # by which the ratio of two rates may differ from a whole number


class Interpolation(StrictModel):
    """How the commands between two steps of a policy are computed."""

    kind: InterpolationKind = "none"
    """none: there are none; linear and cubic: see `runtime/control/interpolation.py`."""
    rate: float | None = Field(None, gt=0, le=MAX_RATE)
    """How often commands are sent [Hz]; none: at the policy's rate."""

    @model_validator(mode="after")
    def _rate_is_stated(self) -> Interpolation:
        if self.kind != "none" and self.rate is None:
            raise ValueError(
                f"rate: expected the rate at which commands are sent [Hz] with interpolation:"
                f" {self.kind}, got none"
            )
        if self.kind == "none" and self.rate is not None:
            raise ValueError(
                f"rate: expected none without an interpolation, since commands are then sent at the"
                f" policy's rate, got {self.rate:g}: leave it out, or set interpolation: linear"
            )
        return self

    def __str__(self) -> str:
        return self.kind if self.rate is None else f"{self.kind} at {self.rate:g} Hz"

    def __bool__(self) -> bool:
        """Whether commands are sent between two steps."""
        return self.kind != "none"

    def per_step(self, spec: PolicySpec) -> int:
        """Return how many commands are sent in a period of the policy.

        Raises:
            ValueError: the rate is no whole multiple, or not at least twice the policy's.
        """
        if self.rate is None:
            return 1
        ratio = self.rate / spec.rate
        count = round(ratio)
        if count < 2 or abs(ratio - count) > _WHOLE * count:
            raise ValueError(
                f"expected a whole multiple of the policy's rate of {spec.rate:g} Hz, at least"
                f" {2 * spec.rate:g} Hz, got {self.rate:g} Hz"
            )
        return count

    def delay(self, spec: PolicySpec) -> float:
        """Return after which time the command of a step is reached [s]: a period; none: 0."""
        return spec.period if self else 0.0

    def describe(self, spec: PolicySpec) -> str:
        """Return its delay as a phrase, for a table of latencies."""
        if not self:
            return "none, the command of a step is sent at once"
        return f"{self}, the command of a step is reached {1e3 * self.delay(spec):g} ms later"


NO_INTERPOLATION = Interpolation()


def recorded(provenance: Mapping[str, str]) -> Interpolation:
    """Return what a checkpoint was trained with; one without an entry: no interpolation.

    Args:
        provenance: of the checkpoint.

    Raises:
        InputError: an entry is invalid.
    """
    if KIND not in provenance:
        return NO_INTERPOLATION
    kind, rate = provenance[KIND], provenance.get(RATE)
    try:
        content = {"kind": kind, "rate": None if rate is None else float(rate)}
        return Interpolation.model_validate(content)
    except ValueError:  # pydantic's errors are some, too
        raise InputError(
            f"provenance: expected an interpolation and its rate [Hz], got {kind!r:.40} and"
            f" {rate!r:.40}"
        ) from None


def record_of(interpolation: Interpolation) -> dict[str, str]:
    """Return the entries of a checkpoint's provenance; empty: no interpolation."""
    if not interpolation:
        return {}
    return {KIND: interpolation.kind, RATE: repr(interpolation.rate)}


def require_trained(trained: Interpolation, got: Interpolation, policy: str, where: str) -> None:
    """Refuse another interpolation than the one that a policy was trained with.

    Args:
        trained: recorded with the policy.
        got: of the robot.
        policy: its name, for the message.
        where: the robot, or its file, for the message.

    Raises:
        InputError: they differ (code interpolation).
    """
    if trained == got:
        return
    lines = f"interpolation: {trained.kind}"
    lines += "" if trained.rate is None else f" and rate: {trained.rate:g}"
    raise InputError(
        f"{where}: robot.command: expected interpolation {trained}, which policy {policy} was"
        f" trained with, got {got}: set {lines}, or train a policy with this file",
        code="interpolation",
    )
