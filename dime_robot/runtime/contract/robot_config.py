"""RobotConfig: the facts of the hardware, and whether a policy may run on it.

The `robot:` section of a file in `sim_configs/`. The policy's contract owns what it was trained
with (gains, default pose, scales, rate); the robot owns what is true of the machine (names and
order on the wire, signs, limits, topics, time-outs). A robot may tighten a limit of the contract,
never loosen it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from dime_robot.runtime.contract.config_diff import differences
from dime_robot.runtime.contract.config_files import config_folder, read_config
from dime_robot.runtime.contract.names import MAX_NAME, Name
from dime_robot.runtime.contract.policy_spec import (
    IMU_TERMS,
    MAX_JOINTS,
    TWIST_AXES,
    PolicySpec,
    StrictModel,
)
from dime_robot.runtime.contract.robot_joint import RobotJoint, require_joint_fits
from dime_robot.runtime.contract.units import (
    FASTEST,
    FASTEST_FREE,
    HIGHEST_RATE,
    LARGEST_DISTANCE,
    at_least,
    at_most,
)
from dime_robot.runtime.io.errors import InputError, first_problem

Topic = Annotated[
    str,
    Field(max_length=MAX_NAME, pattern=r"^(~/|/)?[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*$"),
]
Age = Annotated[float, at_most(5, "s", "ms")]
Speed = Annotated[float, at_most(FASTEST, "m/s or rad/s", "mm/s or degrees/s")]
TwistType = Literal["Twist", "TwistStamped"]  # the stamped one is all that newer ROS releases have
RATE_TOLERANCE = 0.02  # relative difference of two rates that count as the same


class StateInput(StrictModel):
    """Where sensor_msgs/JointState comes from."""

    topic: Topic = "joint_states"
    rate: Annotated[float, at_least(1, "Hz", "s")] = Field(
        gt=0, le=HIGHEST_RATE, description="how often the robot publishes [Hz]"
    )
    max_age: Age = Field(gt=0, description="older readings are stale [s]")
    same_clock: bool = Field(
        True, description="its stamps and our clock agree; else only the stamps' progress counts"
    )
    resolution: float = Field(
        2 * math.pi / 4096,
        ge=0,
        le=1,
        description="smallest step of a joint's encoder [rad or m]; for the check of frozen values",
    )
    dead_band: float = Field(
        0.02,
        ge=0,
        le=10,
        description="how far a command may move before a joint has to follow: backlash, friction"
        " [rad or m]; for the check of frozen values",
    )
    frozen_after: Annotated[float, at_most(60, "s", "ms")] = Field(
        0.5,
        gt=0,
        description="values that stay the same to the last bit for so long, while commands moved,"
        " are frozen [s]",
    )


class ImuInput(StrictModel):
    """Where sensor_msgs/Imu comes from; its frame is the base's."""

    topic: Topic = "imu"
    max_age: Age = Field(gt=0, description="older readings are stale [s]")
    max_rate: Annotated[float, at_least(1, "rad/s", "rev/s")] = Field(
        35.0,
        gt=0,
        le=FASTEST_FREE,
        description="largest angular velocity that the gyro can show [rad/s]",
    )


class VelocityInput(StrictModel):
    """Where the operator's velocity comes from."""

    topic: Topic = "cmd_vel"
    type: TwistType = Field("Twist", description="of its messages, out of geometry_msgs")
    timeout: Annotated[float, at_most(60, "s", "ms")] = Field(
        gt=0, description="after it the policy is asked to stand still [s]"
    )
    second_publisher: Literal["warn", "refuse"] = Field(
        "warn",
        description="what two publishers of the velocity do: a warning, or activation is refused"
        " and while running the robot is asked to stand still",
    )
    limits: dict[str, Speed] = Field(description="axis -> largest magnitude [m/s, rad/s]")
    lowest: dict[str, float] = Field(
        default_factory=dict,
        description="axis -> least value where that is not -limit: 0 for a policy that was never"
        " asked to go backwards [m/s, rad/s]",
    )

    @property
    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Least and largest value of each of TWIST_AXES [m/s, m/s, rad/s]."""
        low = tuple(self.lowest.get(axis, -self.limits[axis]) for axis in TWIST_AXES)
        return low, tuple(self.limits[axis] for axis in TWIST_AXES)

    @model_validator(mode="after")
    def _axes_are_known(self) -> VelocityInput:
        for axis, low in self.lowest.items():
            if axis not in self.limits or not -self.limits[axis] <= low <= 0:
                raise ValueError(
                    f"lowest.{axis}: expected an axis out of {list(TWIST_AXES)} and a number"
                    f" between -limit and 0, got {low:g}"
                )
        if sorted(self.limits) != sorted(TWIST_AXES) or min(self.limits.values()) < 0:
            raise ValueError(
                f"limits: expected a number of 0 or more for each of {list(TWIST_AXES)}, got"
                f" {self.limits}"
            )
        return self


class CommandOutput(StrictModel):
    """Where commands go."""

    kind: Literal["forward", "trajectory", "twist"] = Field(
        description="forward: Float64MultiArray in the order of `joints`; trajectory:"
        " JointTrajectory of one point; twist: the message that `type` names"
    )
    type: TwistType = Field("Twist", description="twist only: of its messages")
    interface: Literal["effort", "position", "velocity"] = Field(
        description="what the robot does with the numbers"
    )
    topic: Topic
    timeout: Annotated[float, at_most(10, "s", "ms")] = Field(
        gt=0,
        description="after so long without a command the robot itself goes safe [s]: mandatory,"
        " since nothing here can act once this process or the network is gone",
    )
    listener: str | None = Field(
        None,
        max_length=MAX_NAME,
        pattern=r"^/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$",
        description="node that takes the commands, fully qualified or in the policy node's"
        " namespace; none: every subscriber that is no known tool counts",
    )
    limits: dict[str, Speed] = Field(
        default_factory=dict, description="twist only: axis -> largest speed [m/s, rad/s]"
    )
    acceleration: float = Field(
        1.0, gt=0, le=1_000, description="twist only: largest change of speed [m/s2, rad/s2]"
    )

    @model_validator(mode="after")
    def _kind_fits_interface(self) -> CommandOutput:
        possible = {
            "forward": ("effort", "position"),
            "trajectory": ("position",),
            "twist": ("velocity",),
        }[self.kind]
        if self.interface not in possible:
            raise ValueError(
                f"expected a {self.kind} command with interface {' or '.join(possible)}, got"
                f" {self.interface}"
            )
        if self.type != "Twist" and self.kind != "twist":
            raise ValueError(
                f"type: expected none with a {self.kind} command, whose message has one type, got"
                f" {self.type}: leave it out, or set kind: twist"
            )
        if unknown := sorted(set(self.limits) - set(TWIST_AXES)):
            raise ValueError(f"limits: expected axes out of {list(TWIST_AXES)}, got {unknown}")
        if any(limit < 0 for limit in self.limits.values()):
            raise ValueError(f"limits: expected speeds of 0 or more, got {self.limits}")
        return self


class SafetyConfig(StrictModel):
    """The ladder of answers: clamp, hold, damp, latched stop. All times in seconds."""

    soft_margin: float = Field(
        0.02, ge=0, lt=0.5, description="share of a joint's range kept free at each end"
    )
    hold: float = Field(ge=0, le=1, description="how long the last good command may stand")
    damp: float = Field(ge=0, le=60, description="how long to damp before the stop latches")
    recover: float = Field(
        0.2, gt=0, le=60, description="free of trouble for so long before going on"
    )
    ramp: float = Field(
        ge=0, le=60, description="from the measured pose to the policy's, at activation"
    )
    safe_speed: float = Field(
        0.1, gt=0, le=1, description="share of its velocity_limit a joint is led to safety with"
    )
    tilt_limit: Annotated[float, at_least(2, "degrees", "rad")] | None = Field(
        None, gt=0, lt=180, description="[degrees]; needs an imu"
    )
    consecutive_misses: int = Field(
        3, gt=0, le=1_000, description="late commands in a row that are too many"
    )
    consecutive_jumps: int = Field(
        3, gt=0, le=1_000, description="implausible readings in a row that are no glitch any more"
    )
    may_go_limp: bool | None = Field(
        None,
        description="effort interface, mandatory there: may its joints go without effort? false:"
        " it carries a load against gravity, and is never sent to 0",
    )
    rest_timeout: float = Field(
        5.0, gt=0, le=60, description="longest time the way to rest is commanded at the end [s]"
    )
    rest_speed: float = Field(
        0.05,
        gt=0,
        le=FASTEST,
        description="slower joints are at rest [rad/s or m/s]; effort interface",
    )
    rest_fade: float = Field(
        0.3,
        ge=0,
        le=10,
        description="time in which the damping fades out once the joints are slow [s]; effort"
        " interface that may go limp",
    )


class ActivationConfig(StrictModel):
    """What the robot has to look like before a policy may begin: near where training began."""

    position_error: float | None = Field(
        None,
        gt=0,
        le=LARGEST_DISTANCE,
        description="largest distance of a commanded joint from its default position, or of all"
        " from their safe positions [rad or m]; none: 0.3 rad (a tenth of a prismatic joint's"
        " range) for a position interface, anything for others",
    )
    tilt: Annotated[float, at_least(2, "degrees", "rad")] | None = Field(
        None, gt=0, lt=180, description="largest [degrees]; none: half of safety.tilt_limit"
    )
    speed: float | None = Field(
        None,
        gt=0,
        le=FASTEST_FREE,
        description="largest of any joint [rad/s or m/s]; none: 1 for a position interface, any"
        " for others",
    )
    listener_timeout: float = Field(
        2.0, gt=0, le=60, description="how long to wait until the listener is matched [s]"
    )


class RobotConfig(StrictModel):
    """One machine. `joints` in wire order: the order of a forward command's numbers."""

    name: Name
    joints: tuple[RobotJoint, ...] = Field(min_length=1, max_length=MAX_JOINTS)
    state: StateInput
    imu: ImuInput | None = None
    command_velocity: VelocityInput | None = None
    command: CommandOutput
    safety: SafetyConfig
    activation: ActivationConfig = ActivationConfig()

    @model_validator(mode="after")
    def _names_agree(self) -> RobotConfig:
        for what, names in (
            ("joint", [joint.name for joint in self.joints]),
            ("wire name", [joint.wire for joint in self.joints]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"expected each {what} once, got {twice} more than once")
        if self.state.max_age <= 1 / self.state.rate:
            raise ValueError(
                f"state.max_age: expected more than the time between two readings,"
                f" {1 / self.state.rate:g} s, got {self.state.max_age:g} s"
            )
        if self.safety.recover < 2 / self.state.rate:
            raise ValueError(
                f"safety.recover: expected at least two readings, {2 / self.state.rate:g} s, got"
                f" {self.safety.recover:g} s: a trouble in every second reading would never end"
            )
        for where, tilt in (
            ("safety.tilt_limit", self.safety.tilt_limit),
            ("activation.tilt", self.activation.tilt),
        ):
            if tilt is not None and self.imu is None:
                raise ValueError(f"{where}: expected an imu section that measures it")
        if self.command.interface == "effort" and self.safety.may_go_limp is None:
            raise ValueError(
                "safety.may_go_limp: expected true or false for an effort interface, got none: may"
                " the joints go without effort when the policy ends? false where they carry a load"
                " against gravity"
            )
        return self

    def joint(self, name: str) -> RobotJoint:
        """The joint of that name."""
        return next(joint for joint in self.joints if joint.name == name)


def load_robot(path: Path | None, spec: PolicySpec) -> RobotConfig:
    """Read the `robot:` section of a file; without one, that of the shipped `NAME.yaml`.

    Raises:
        InputError: no such file, no such section, a value that does not fit, or a contract of the
            policy's name that is not the policy's (code contract).
    """
    if path is None:
        path = config_folder() / f"{spec.name}.yaml"
        if not path.is_file():
            raise InputError(
                f"policy {spec.name}: no configuration of its name is shipped, say which robot"
                " this is: -p robot:=FILE"
            )
    content = read_config(path)
    if "robot" not in content:
        raise InputError(f"{path}: expected a section `robot:`")
    if "policy" in content:
        _require_same_contract(path, content["policy"], spec)
    try:
        return RobotConfig.model_validate(content["robot"])
    except ValidationError as error:
        raise InputError(f"{path}: robot.{first_problem(error)}") from None


def _require_same_contract(path: Path, section: object, spec: PolicySpec) -> None:
    """Refuse a file whose contract is not the policy's: whoever edits it expects an effect."""
    if isinstance(section, dict) and section.get("name") not in (None, spec.name):
        return  # that of another policy
    try:
        written = PolicySpec.model_validate(section)
    except ValidationError as error:
        raise InputError(f"{path}: policy.{first_problem(error)}", code="contract") from None
    found = differences(spec, written)
    if found:
        place, trained, got = found[0]
        more = f" ({len(found) - 1} more differ)" if len(found) > 1 else ""
        raise InputError(
            f"{path}: policy.{place}: expected {trained}, which policy {spec.name} was trained"
            f" with, got {got}{more}; the policy owns this section: train a new policy for another"
            " value, or put it back",
            code="contract",
        )


def require_compatible(spec: PolicySpec, robot: RobotConfig) -> None:
    """Refuse a policy that was not made for this machine.

    Raises:
        InputError: with a code; see docs/safety.md.
    """
    known = {joint.name for joint in robot.joints}
    needed = [*(joint.name for joint in spec.joints), *spec.held_joints]
    missing = [name for name in needed if name not in known]
    if missing:
        raise InputError(
            f"policy {spec.name} needs the joints {needed}, robot {robot.name} lacks {missing}",
            code="joints",
        )
    kind = "velocity" if spec.action.kind == "twist" else spec.action.kind
    if kind != robot.command.interface:
        raise InputError(
            f"policy {spec.name} commands {kind}, robot {robot.name} takes"
            f" {robot.command.interface}",
            code="command-kind",
        )
    if robot.state.rate < spec.rate * (1 - RATE_TOLERANCE):
        raise InputError(
            f"policy {spec.name} runs at {spec.rate:g} Hz, robot {robot.name} publishes its state"
            f" at {robot.state.rate:g} Hz: expected at least the policy's rate",
            code="rate",
        )
    if spec.needs(*IMU_TERMS) and robot.imu is None:
        raise InputError(
            f"policy {spec.name} observes an imu, robot {robot.name} has none", code="sensors"
        )
    if spec.needs("command_velocity") and robot.command_velocity is None:
        raise InputError(
            f"policy {spec.name} follows a velocity, robot {robot.name} has no command_velocity",
            code="sensors",
        )
    for joint in spec.joints:
        require_joint_fits(
            robot.joint(joint.name), robot.name, joint, spec.action, robot.safety.may_go_limp
        )
    for axis in spec.action_joints if spec.action.kind == "twist" else ():
        if axis not in robot.command.limits:
            raise InputError(
                f"robot {robot.name}: command.limits: expected a largest speed for {axis}, which"
                f" policy {spec.name} commands",
                code="limits",
            )
