"""RobotJoint: the facts of one joint of the machine, and whether a policy may move it."""

from __future__ import annotations

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
    require_plausible,
)
from dime_robot.runtime.io.errors import InputError

MAX_OFFSET = 1e6  # of an encoder that counts many turns [rad or m]


class RobotJoint(StrictModel):
    """One joint of the machine. In policy terms: joint = sign * (wire - offset)."""

    name: Name = Field(description="as the policy's contract calls it")
    wire_name: Name | None = Field(
        None, description="as the robot's topics call it; none: the same"
    )
    sign: Literal[1, -1] = 1
    offset: float = Field(
        0.0,
        ge=-MAX_OFFSET,
        le=MAX_OFFSET,
        description="wire reading where the policy's position is 0 [rad, m]",
    )
    position_limits: tuple[float, float] | None = Field(
        None, description="hard stops in the policy's terms [rad or m]; none: turns freely"
    )
    velocity_limit: float = Field(
        gt=0,
        le=MAX_FREE_SPEED,
        description="largest speed [rad/s or m/s]; bounds how fast a position target moves",
    )
    effort_limit: float | None = Field(
        None, gt=0, le=MAX_FORCE, description="[N m or N]; none: not actuated"
    )
    effort_rate_limit: float | None = Field(
        None, gt=0, le=1e3 * MAX_FORCE, description="[N m/s or N/s]; none: any"
    )
    damping: float | None = Field(
        None,
        ge=0,
        le=MAX_DAMPING,
        description="damp of an effort interface: -damping * velocity [N m s/rad or N s/m]; 0"
        " lets the joint coast",
    )
    holding_effort: float | None = Field(
        None,
        description="effort that about carries the load, for the time without a velocity to damp"
        " [N m or N]; needed where safety.may_go_limp is false",
    )
    safe_position: float | None = Field(
        None,
        ge=-MAX_DISTANCE,
        le=MAX_DISTANCE,
        description="damp of a position interface goes here [rad or m]",
    )

    @property
    def wire(self) -> str:
        """Its name on the wire."""
        return self.wire_name or self.name

    @model_validator(mode="after")
    def _limits_are_ordered(self) -> RobotJoint:
        effort, holding = self.effort_limit, self.holding_effort
        if holding is not None and (effort is None or abs(holding) > effort):
            raise ValueError(
                f"joint {self.name}: expected holding_effort within effort_limit = {effort}, got"
                f" {holding:g}"
            )
        if self.position_limits is None:
            return self
        low, high = self.position_limits
        for stop in (low, high):  # of a revolute joint, which the contract knows, they are smaller
            what = f"joint {self.name}: position_limits: "
            require_plausible(what, stop, MAX_DISTANCE, "rad or m", "degrees or mm")
        if low >= high:
            raise ValueError(
                f"joint {self.name}: expected position_limits [lower, upper] with lower < upper,"
                f" got {[low, high]}"
            )
        if self.safe_position is not None and not low <= self.safe_position <= high:
            raise ValueError(
                f"joint {self.name}: expected safe_position in {[low, high]}, got"
                f" {self.safe_position}"
            )
        what = f"joint {self.name}: velocity_limit of a joint with stops: "
        require_plausible(what, self.velocity_limit, MAX_SPEED, "rad/s or m/s", "degrees/s or mm/s")
        return self


def require_joint_fits(
    ours: RobotJoint, robot: str, joint: Joint, action: Action, may_go_limp: bool | None
) -> None:
    """Refuse what a policy was not made for.

    Args:
        ours: the machine's joint.
        robot: whose it is.
        joint: the contract's.
        action: what the policy commands.
        may_go_limp: of the robot's safety section.

    Raises:
        InputError: with code limits.
    """
    got = ours.position_limits
    if joint.type == "revolute" and got is not None and max(map(abs, got)) > MAX_ANGLE:
        raise InputError(
            f"joint {joint.name}: expected position_limits of robot {robot} up to"
            f" {MAX_ANGLE:g} rad, got {list(got)}: is this really in rad, not in degrees?",
            code="limits",
        )
    if joint.position_limits is not None:
        low, high = joint.position_limits
        if got is None or got[0] < low or got[1] > high:
            raise InputError(
                f"joint {joint.name}: the policy was trained within {[low, high]}, robot"
                f" {robot} allows {'anything' if got is None else list(got)}; a limit may"
                " be tightened, not loosened",
                code="limits",
            )
    if action.kind == "twist" or joint.name not in action.scale:
        return
    effort, limit = ours.effort_limit, joint.effort_limit
    if limit is not None and (effort is None or effort > limit):
        raise InputError(
            f"joint {joint.name}: the policy was trained with an effort up to {limit:g}, robot"
            f" {robot} allows {'anything' if effort is None else f'{effort:g}'}; a limit"
            " may be tightened, not loosened",
            code="limits",
        )
    if action.kind == "position" and got is not None:
        default, scale = joint.default_position, action.scale[joint.name]
        if default + scale < got[0] or default - scale > got[1]:
            raise InputError(
                f"joint {joint.name}: expected position_limits of robot {robot} that meet what the"
                f" policy asks for, [{default - scale:g}, {default + scale:g}], got {list(got)}",
                code="limits",
            )
    if action.kind == "effort" and ours.damping is None:
        raise InputError(
            f"joint {joint.name}: expected a damping of robot {robot}, the answer to most"
            " faults (0 lets the joint coast)",
            code="limits",
        )
    if action.kind == "effort" and may_go_limp is False and ours.holding_effort is None:
        raise InputError(
            f"joint {joint.name}: expected a holding_effort of robot {robot}, since"
            " safety.may_go_limp is false: what carries the load where no velocity can be trusted",
            code="limits",
        )
    if action.kind == "position" and ours.safe_position is None:
        raise InputError(
            f"joint {joint.name}: expected a safe_position of robot {robot}, where a"
            " position interface is led when something is wrong",
            code="limits",
        )
