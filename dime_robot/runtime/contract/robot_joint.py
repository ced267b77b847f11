"""RobotJoint: one joint of the machine, and whether a policy may command it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from dime_robot.runtime.contract.names import Name
from dime_robot.runtime.contract.policy_spec import Action, Joint, StrictModel
from dime_robot.runtime.contract.units import (
    MAX_ANGLE,
    MAX_DAMPING,
    MAX_DISTANCE,
    MAX_FORCE,
    MAX_FREE_SPEED,
    MAX_SPEED,
    require_limits,
    require_plausible,
)

SPEED_UP = 0.25  # [s] from standing to the velocity limit, where no acceleration limit is given
MAX_OFFSET = 1e6  # of an encoder that counts many turns [rad or m]


class RobotJoint(StrictModel):
    """One joint of the machine. In policy terms: position = sign * (hardware reading - offset)."""

    name: Name
    """Name in the policy's contract."""
    wire_name: Name | None = None
    """Hardware name, in the robot's messages; none: the same."""
    sign: Literal[1, -1] = 1
    offset: float = Field(0.0, ge=-MAX_OFFSET, le=MAX_OFFSET)
    """Hardware reading where the policy's position is 0 [rad or m]."""
    position_limits: tuple[float, float] | None = None
    """Hard stops in the policy's terms [rad or m]; none: turns freely."""
    velocity_limit: float = Field(gt=0, le=MAX_FREE_SPEED)
    """Largest speed [rad/s or m/s]; bounds how fast a position target moves."""
    effort_limit: float | None = Field(None, gt=0, le=MAX_FORCE)
    """Largest effort [N m or N]; none: not actuated."""
    effort_rate_limit: float | None = Field(None, gt=0, le=1e3 * MAX_FORCE)
    """Largest change of the effort [N m/s or N/s]; none: any."""
    acceleration_limit: float | None = Field(None, gt=0, le=1e3 * MAX_SPEED)
    """For a velocity interface: largest change of the commanded velocity [rad/s2 or m/s2], and the
    deceleration with which the joint stops before its stops; none: that reaches the velocity_limit
    in 0.25 s."""
    damping: float | None = Field(None, ge=0, le=MAX_DAMPING)
    """For an effort interface: the safe command is -damping * velocity [N m s/rad or N s/m]; 0 lets
    the joint coast."""
    holding_effort: float | None = None
    """Effort that approximately carries the load, sent while no velocity is trusted [N m or N];
    needed where safety.may_go_limp is false."""
    safe_position: float | None = Field(None, ge=-MAX_DISTANCE, le=MAX_DISTANCE)
    """For a position interface: the safe command moves here [rad or m]."""

    @property
    def acceleration(self) -> float:
        """Acceleration limit, or its default [rad/s2 or m/s2]."""
        return self.acceleration_limit or self.velocity_limit / SPEED_UP

    @property
    def hardware_name(self) -> str:
        """Its name in the robot's messages."""
        return self.wire_name or self.name

    @model_validator(mode="after")
    def _limits_are_ordered(self) -> RobotJoint:
        effort, holding = self.effort_limit, self.holding_effort
        if holding is not None and (effort is None or abs(holding) > effort):
            raise ValueError(
                f"joint {self.name}: expected holding_effort within effort_limit = {effort}, got"
                f" {holding:g}"
            )
        # a revolute joint's (the type is only in the contract) are checked against the policy
        limits = self.position_limits
        require_limits(self.name, limits, MAX_DISTANCE, "rad or m", "degrees or mm")
        if limits is None:
            return self
        low, high = limits
        if self.safe_position is not None and not low <= self.safe_position <= high:
            raise ValueError(
                f"joint {self.name}: expected safe_position in {[low, high]}, got"
                f" {self.safe_position}"
            )
        where = f"joint {self.name}: velocity_limit of a joint with stops: "
        require_plausible(
            where, self.velocity_limit, MAX_SPEED, "rad/s or m/s", "degrees/s or mm/s"
        )
        return self


def joint_problems(
    ours: RobotJoint, robot: str, joint: Joint, action: Action, may_go_limp: bool | None
) -> Iterator[str]:
    """Yield the reasons why a policy must not command a joint, a sentence each.

    Args:
        ours: the machine's joint.
        robot: name of the machine.
        joint: the contract's.
        action: the contract's.
        may_go_limp: of the robot's safety section.
    """
    where, limits = f"joint {joint.name}: ", ours.position_limits
    if joint.type == "revolute" and limits is not None and max(map(abs, limits)) > MAX_ANGLE:
        yield (
            f"{where}expected position_limits of robot {robot} up to {MAX_ANGLE:g} rad, got"
            f" {list(limits)}: is this really in rad, not in degrees?"
        )
    if joint.position_limits is not None:
        low, high = joint.position_limits
        if limits is None or limits[0] < low or limits[1] > high:
            yield (
                f"{where}the policy was trained within {[low, high]}, robot {robot} allows"
                f" {'anything' if limits is None else list(limits)}; a limit may be tightened, not"
                " loosened"
            )
    if action.kind == "twist" or joint.name not in action.scale:
        return
    effort, limit = ours.effort_limit, joint.effort_limit
    if limit is not None and (effort is None or effort > limit):
        yield (
            f"{where}the policy was trained with an effort up to {limit:g}, robot {robot} allows"
            f" {'anything' if effort is None else f'{effort:g}'}; a limit may be tightened, not"
            " loosened"
        )
    if action.kind == "position" and action.reference == "default" and limits is not None:
        scale = action.scale[joint.name]
        low, high = joint.default_position - scale, joint.default_position + scale
        if high < limits[0] or low > limits[1]:
            yield (
                f"{where}expected position_limits of robot {robot} that meet the policy's range,"
                f" [{low:g}, {high:g}], got {list(limits)}"
            )
    if action.kind == "effort" and ours.damping is None:
        yield (
            f"{where}expected a damping of robot {robot}, the response to most faults (0 lets the"
            " joint coast)"
        )
    if action.kind == "effort" and may_go_limp is False and ours.holding_effort is None:
        yield (
            f"{where}expected a holding_effort of robot {robot}, since safety.may_go_limp is false:"
            " it carries the load while no velocity can be trusted"
        )
    if action.kind == "position" and ours.safe_position is None:
        yield (
            f"{where}expected a safe_position of robot {robot}, to which a position interface moves"
            " after a fault"
        )
