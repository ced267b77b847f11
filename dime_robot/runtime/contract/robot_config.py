"""RobotConfig: the properties of one machine, and the check whether a policy may run on it.

The `robot:` section of a file in `sim_configs/`. The contract contains what the policy was trained
with (gains, default pose, scales, rate); this contains properties of the machine (hardware names
and their order, signs, limits, topics, time-outs). A robot may tighten a limit of the contract,
never loosen it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from dime_robot.runtime.contract.config_diff import differences
from dime_robot.runtime.contract.config_files import read_config, shipped_config
from dime_robot.runtime.contract.interpolation import (
    Interpolation,
    InterpolationKind,
    require_trained,
)
from dime_robot.runtime.contract.joystick_input import JoystickInput
from dime_robot.runtime.contract.names import MAX_NAME, Name, Topic, require_unique
from dime_robot.runtime.contract.phases import PhasesConfig, phase_problems
from dime_robot.runtime.contract.policy_spec import (
    IMU_TERMS,
    MAX_JOINTS,
    TWIST_AXES,
    PolicySpec,
    StrictModel,
)
from dime_robot.runtime.contract.robot_joint import RobotJoint, joint_problems
from dime_robot.runtime.contract.signal_input import SensorInput, SignalInput, TaskCommandInput
from dime_robot.runtime.contract.units import (
    MAX_DISTANCE,
    MAX_FORCE,
    MAX_FREE_SPEED,
    MAX_RATE,
    MAX_SPEED,
    lower_bound,
    upper_bound,
)
from dime_robot.runtime.io.errors import InputError, first_problem

Age = Annotated[float, upper_bound(5, "s", "ms")]
Speed = Annotated[float, Field(ge=0), upper_bound(MAX_SPEED, "m/s or rad/s", "mm/s or degrees/s")]
TwistType = Literal["Twist", "TwistStamped"]  # newer ROS releases only use TwistStamped
MAX_SIGNALS = 256  # of one robot
RATE_TOLERANCE = 0.02  # relative difference of two rates that count as the same


class StateInput(StrictModel):
    """The robot's sensor_msgs/JointState messages."""

    topic: Topic = "joint_states"
    rate: Annotated[float, lower_bound(1, "Hz", "s")] = Field(gt=0, le=MAX_RATE)
    """How often the robot publishes [Hz]."""
    max_age: Age = Field(gt=0)
    """Older readings are stale [s]."""
    effort: bool = False
    """Whether `effort` in its messages is measured, not missing or a copy of the command."""
    same_clock: bool = True
    """Its stamps are on this machine's clock; else ages come from arrivals."""
    resolution: float = Field(2 * math.pi / 4096, ge=0, le=1)
    """Smallest step of a joint's encoder [rad or m]; for the check of frozen values."""
    dead_band: float = Field(0.02, ge=0, le=10)
    """How far a command may move before a joint has to follow: backlash, friction [rad or m]; for
    the check of frozen values."""
    frozen_after: Annotated[float, upper_bound(60, "s", "ms")] = Field(0.5, gt=0)
    """Values that stay equal to the last bit for this long, while commands moved, are frozen
    [s]."""


class ImuInput(StrictModel):
    """The robot's sensor_msgs/Imu messages, in the frame of the base."""

    topic: Topic = "imu"
    max_age: Age = Field(gt=0)
    """Older readings are stale [s]."""
    max_rate: Annotated[float, lower_bound(1, "rad/s", "rev/s")] = Field(
        35.0, gt=0, le=MAX_FREE_SPEED
    )
    """Largest angular velocity that the gyro can show [rad/s]."""


class ContactInput(StrictModel):
    """The forces on the robot's feet, in one message without a stamp."""

    topic: Topic = "foot_forces"
    type: Literal["Float64MultiArray"] = "Float64MultiArray"
    """Type of its messages, in std_msgs."""
    feet: tuple[Name, ...] = Field(min_length=1, max_length=MAX_JOINTS)
    """Names in the contract, in the order of the message's numbers [N]."""
    threshold: float = Field(gt=0, le=MAX_FORCE)
    """Force from which on a foot counts as in contact [N]."""
    max_age: Age = Field(gt=0)
    """Older readings are stale, by the time of their arrival [s]."""

    @model_validator(mode="after")
    def _feet_are_unique(self) -> ContactInput:
        require_unique("foot", self.feet)
        return self


class VelocityInput(StrictModel):
    """The operator's velocity commands."""

    topic: Topic = "cmd_vel"
    type: TwistType = "Twist"
    """Type of its messages, in geometry_msgs."""
    timeout: Annotated[float, upper_bound(60, "s", "ms")] = Field(gt=0)
    """After this long without a command it becomes 0 [s]."""
    second_publisher: Literal["warn", "refuse"] = "warn"
    """Response to two publishers of the velocity: a warning; or activation is refused, and while
    running the command becomes 0."""
    limits: dict[str, Speed]
    """Axis -> largest magnitude [m/s, rad/s]."""
    lowest: dict[str, float] = Field(default_factory=dict)
    """Axis -> smallest value, where that is not -limit: 0 for a policy that was not trained to go
    backwards [m/s, rad/s]."""

    @property
    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Smallest and largest value of each of TWIST_AXES [m/s, m/s, rad/s]."""
        low = tuple(self.lowest.get(axis, -self.limits[axis]) for axis in TWIST_AXES)
        return low, tuple(self.limits[axis] for axis in TWIST_AXES)

    @model_validator(mode="after")
    def _axes_are_known(self) -> VelocityInput:
        if sorted(self.limits) != sorted(TWIST_AXES):
            raise ValueError(
                f"limits: expected one for each of {list(TWIST_AXES)}, got {self.limits}"
            )
        for axis, low in self.lowest.items():
            if axis not in self.limits or not -self.limits[axis] <= low <= 0:
                raise ValueError(
                    f"lowest.{axis}: expected an axis out of {list(TWIST_AXES)} and a number"
                    f" between -limit and 0, got {low:g}"
                )
        return self


class CommandOutput(StrictModel):
    """The commands that the robot takes."""

    kind: Literal["forward", "trajectory", "twist"]
    """forward: Float64MultiArray in the order of `joints`; trajectory: JointTrajectory of one
    point; twist: the message that `type` names."""
    type: TwistType = "Twist"
    """Twist only: of its messages."""
    interface: Literal["effort", "position", "velocity"]
    """What the numbers mean to the robot."""
    topic: Topic
    timeout: Annotated[float, upper_bound(10, "s", "ms")] = Field(gt=0)
    """After this long without a command the robot itself goes to a safe state [s]: mandatory, since
    this process cannot act once it or the network has failed."""
    listener: str | None = Field(
        None, max_length=MAX_NAME, pattern=r"^/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$"
    )
    """Node that takes the commands, fully qualified or in the policy node's namespace; none: any
    subscriber that is not a known tool."""
    limits: dict[str, Speed] = Field(default_factory=dict)
    """Twist only: axis -> largest speed [m/s, rad/s]."""
    acceleration: float = Field(1.0, gt=0, le=1_000)
    """Twist only: largest change of speed [m/s2, rad/s2]."""
    interpolation: InterpolationKind = "none"
    """Of positions and velocities of joints: whether commands are sent between two steps of the
    policy, and along which curve. The policy has to be trained with it."""
    rate: Annotated[float, lower_bound(1, "Hz", "s")] | None = Field(None, gt=0, le=MAX_RATE)
    """With an interpolation, and mandatory there: how often commands are sent [Hz], a whole
    multiple of the policy's rate."""

    @property
    def interpolated(self) -> Interpolation:
        """The interpolation, with its rate."""
        return Interpolation(kind=self.interpolation, rate=self.rate)

    @model_validator(mode="after")
    def _interpolation_fits(self) -> CommandOutput:
        if self.interpolation == "none" and self.rate is None:
            return self
        why = {
            "trajectory": "whose controller itself interpolates between the points: leave it out,"
            " or use kind: forward",
            "twist": "since a base's own controller limits its acceleration: leave it out",
        }.get(self.kind, "")
        if self.interface == "effort":
            why = "since an effort that comes a period later damps less: leave it out"
        if why and self.interpolation != "none":
            what = f"kind {self.kind}" if self.interface != "effort" else "interface effort"
            raise ValueError(
                f"interpolation: expected none with {what}, got {self.interpolation}, {why}"
            )
        try:
            _ = self.interpolated
        except ValidationError as error:
            raise ValueError(first_problem(error)) from None
        return self

    @property
    def action_kind(self) -> str:
        """The kind of a policy's action that it takes."""
        return "twist" if self.kind == "twist" else self.interface

    @model_validator(mode="after")
    def _kind_fits_interface(self) -> CommandOutput:
        possible = {
            "forward": ("effort", "position", "velocity"),
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
        return self


class SafetyConfig(StrictModel):
    """Settings of the response to faults: clamp, hold, damp, latched stop. All times in seconds."""

    soft_margin: float = Field(0.02, ge=0, lt=0.5)
    """Share of a joint's range kept free at each end."""
    hold: float = Field(ge=0, le=1)
    """How long the last good command is sent."""
    damp: float = Field(ge=0, le=60)
    """How long to damp before the latched stop."""
    recover: float = Field(0.2, gt=0, le=60)
    """Time without a fault before the policy continues."""
    ramp: float = Field(ge=0, le=60)
    """From the measured pose to the policy's, at activation."""
    blend: Annotated[float, upper_bound(60, "s", "ms")] = Field(0.05, ge=0)
    """From one policy's commands to those of another that is selected [s]."""
    safe_speed: float = Field(0.1, gt=0, le=1)
    """Share of its velocity_limit with which a joint goes to safety."""
    tilt_limit: Annotated[float, lower_bound(2, "degrees", "rad")] | None = Field(
        None, gt=0, lt=180
    )
    """Tilt that stops the robot [degrees]; needs an imu."""
    consecutive_misses: int = Field(3, gt=0, le=1_000)
    """Late commands in a row that are a fault."""
    consecutive_jumps: int = Field(3, gt=0, le=1_000)
    """Implausible readings in a row after which all are rejected."""
    may_go_limp: bool | None = None
    """Effort interface, mandatory there: whether its joints may go without effort; false: they
    carry a load against gravity, and the command is never 0."""
    rest_timeout: float = Field(5.0, gt=0, le=60)
    """Longest duration of the shutdown [s]."""
    rest_speed: float = Field(0.05, gt=0, le=MAX_SPEED)
    """Slower joints are at rest [rad/s or m/s]; effort interface, and velocities of joints."""
    rest_fade: float = Field(0.3, ge=0, le=10)
    """Time in which the damping fades out once the joints are slow [s]; effort interface that may
    go limp."""


class ActivationConfig(StrictModel):
    """The states from which a policy may start: near where training began."""

    position_error: float | None = Field(None, gt=0, le=MAX_DISTANCE)
    """Largest distance of a commanded joint from its default position, or of all from their safe
    positions [rad or m]; none: 0.3 rad (a tenth of a prismatic joint's range) for a position
    interface, anything for others."""
    tilt: Annotated[float, lower_bound(2, "degrees", "rad")] | None = Field(None, gt=0, lt=180)
    """Largest [degrees]; none: half of safety.tilt_limit."""
    speed: float | None = Field(None, gt=0, le=MAX_FREE_SPEED)
    """Largest of any joint [rad/s or m/s]; none: 1 for positions and velocities of joints, any for
    others."""
    listener_timeout: float = Field(2.0, gt=0, le=60)
    """How long to wait until the listener is matched [s]."""


class RobotConfig(StrictModel):
    """One machine. `joints` in hardware order: the order of a forward command's numbers."""

    name: Name
    joints: tuple[RobotJoint, ...] = Field(min_length=1, max_length=MAX_JOINTS)
    state: StateInput
    imu: ImuInput | None = None
    contact: ContactInput | None = None
    command_velocity: VelocityInput | None = None
    joystick: JoystickInput | None = None
    task_commands: dict[Name, TaskCommandInput] = Field(
        default_factory=dict, max_length=MAX_SIGNALS
    )
    """Values that an operator or a planner commands, by the names of the contract's signals."""
    sensors: dict[Name, SensorInput] = Field(default_factory=dict, max_length=MAX_SIGNALS)
    """Values that nodes of the user's own publish, the same."""
    command: CommandOutput
    safety: SafetyConfig
    activation: ActivationConfig = ActivationConfig()
    phases: PhasesConfig | None = None
    """How it stands up and sits down; none: a policy starts from where the robot is."""

    @model_validator(mode="after")
    def _names_agree(self) -> RobotConfig:
        require_unique("joint", [joint.name for joint in self.joints])
        require_unique("hardware name", [joint.hardware_name for joint in self.joints])
        if self.state.max_age <= 1 / self.state.rate:
            raise ValueError(
                f"state.max_age: expected more than the time between two readings,"
                f" {1 / self.state.rate:g} s, got {self.state.max_age:g} s"
            )
        if self.safety.recover < 2 / self.state.rate:
            raise ValueError(
                f"safety.recover: expected at least two readings, {2 / self.state.rate:g} s, got"
                f" {self.safety.recover:g} s: a fault in every second reading would never end"
            )
        for where, tilt in (
            ("safety.tilt_limit", self.safety.tilt_limit),
            ("activation.tilt", self.activation.tilt),
        ):
            if tilt is not None and self.imu is None:
                raise ValueError(f"{where}: expected an imu section that measures it")
        known = {joint.name for joint in self.joints}
        for place, name in () if self.phases is None else self.phases.joint_names():
            if name not in known:
                raise ValueError(
                    f"phases.{place}: expected one of the joints {sorted(known)}, got {name}"
                )
        if self.joystick is not None:
            has_phases = self.phases is not None
            problem = self.joystick.robot_problem(self.command_velocity is not None, has_phases)
            if problem:
                raise ValueError(f"joystick.{problem}")
        if self.command.interface == "effort" and self.safety.may_go_limp is None:
            raise ValueError(
                "safety.may_go_limp: expected true or false for an effort interface, got none: may"
                " the joints go without effort when the policy ends? false where they carry a load"
                " against gravity"
            )
        return self

    @property
    def limits_tilt(self) -> bool:
        """Whether a limit of the base's tilt is stated, which needs the imu."""
        phases = self.phases
        moving = () if phases is None else (phases.stand_up.tilt, phases.sit_down.tilt)
        limits = (self.safety.tilt_limit, self.activation.tilt, *moving)
        return any(limit is not None for limit in limits)

    def joint(self, name: str) -> RobotJoint:
        """Return the joint of that name."""
        return next(joint for joint in self.joints if joint.name == name)

    def signal(self, kind: Literal["command", "sensor"], name: str) -> SignalInput | None:
        """Return where a signal comes from, of a task command or of a sensor; none: not stated."""
        return self.task_commands.get(name) if kind == "command" else self.sensors.get(name)


def load_robot(path: Path | None, spec: PolicySpec) -> RobotConfig:
    """Read the `robot:` section of a file.

    Args:
        path: of the file; None: the shipped `NAME.yaml` of the policy's name.
        spec: the policy's contract.

    Raises:
        InputError: no such file or section, an invalid value, or a `policy:` section of the
            policy's name that differs from its contract (code contract).
    """
    if path is None:
        path = shipped_config(spec.name)
        if path is None:
            raise InputError(
                f"policy {spec.name}: no configuration of its name is shipped, say which robot"
                " this is: -p robot:=FILE"
            )
    content = read_config(path)
    if "policy" in content and "robot" in content:
        _require_same_contract(path, content["policy"], spec)
    return robot_of(path, content)


def robot_of(path: Path, content: Mapping[str, object]) -> RobotConfig:
    """Return the `robot:` section of a file's content.

    Args:
        path: of the file, for messages.
        content: of the file, as `read_config` returns it.

    Raises:
        InputError: no such section, or an invalid value.
    """
    if "robot" not in content:
        raise InputError(f"{path}: expected a section `robot:`")
    try:
        return RobotConfig.model_validate(content["robot"])
    except ValidationError as error:
        raise InputError(f"{path}: robot.{first_problem(error)}") from None


def _require_same_contract(path: Path, section: object, spec: PolicySpec) -> None:
    """Refuse a file whose contract differs from the policy's, since edits would have no effect."""
    if isinstance(section, dict) and section.get("name") not in (None, spec.name):
        return  # of another policy
    try:
        written = PolicySpec.model_validate(section)
    except ValidationError as error:
        raise InputError(f"{path}: policy.{first_problem(error)}", code="contract") from None
    found = differences(spec, written)
    if found:
        where, trained, got = found[0]
        more = f" ({len(found) - 1} more differ)" if len(found) > 1 else ""
        raise InputError(
            f"{path}: policy.{where}: expected {trained}, which policy {spec.name} was trained"
            f" with, got {got}{more}; the policy owns this section: train a new policy for another"
            " value, or put it back",
            code="contract",
        )


def _interface(kind: str) -> str:
    """Return what commands of an action's kind are, as a phrase."""
    return {"velocity": "velocity of joints", "twist": "velocity of the base"}.get(kind, kind)


def require_compatible(
    spec: PolicySpec, robot: RobotConfig, trained: Interpolation | None = None
) -> None:
    """Refuse a policy that must not run on this machine.

    Args:
        spec: the policy's contract.
        robot: the machine.
        trained: the interpolation that is recorded with the policy; None: not compared.

    Raises:
        InputError: the first of `incompatibilities`, or the robot has another interpolation.
    """
    for problem in incompatibilities(spec, robot):
        raise problem
    if trained is not None:
        require_trained(trained, robot.command.interpolated, spec.name, f"robot {robot.name}")


def incompatibilities(spec: PolicySpec, robot: RobotConfig) -> Iterator[InputError]:
    """Yield the reasons why a policy must not run on a machine, with codes as in docs/safety.md."""
    known = {joint.name for joint in robot.joints}
    needed = [*(joint.name for joint in spec.joints), *spec.held_joints]
    if missing := [name for name in needed if name not in known]:
        yield InputError(
            f"policy {spec.name} needs the joints {needed}, robot {robot.name} lacks {missing}",
            code="joints",
        )
    wanted, taken = _interface(spec.action.kind), _interface(robot.command.action_kind)
    if wanted != taken:
        yield InputError(
            f"policy {spec.name} commands {wanted}, robot {robot.name} takes {taken}",
            code="command-kind",
        )
        return  # what is needed of a joint depends on the kind
    if robot.state.rate < spec.rate * (1 - RATE_TOLERANCE):
        yield InputError(
            f"policy {spec.name} runs at {spec.rate:g} Hz, robot {robot.name} publishes its state"
            f" at {robot.state.rate:g} Hz: expected at least the policy's rate",
            code="rate",
        )
    try:
        robot.command.interpolated.per_step(spec)
    except ValueError as error:
        yield InputError(f"robot {robot.name}: command.rate: {error}", code="rate")
    if spec.needs(*IMU_TERMS) and robot.imu is None:
        yield InputError(
            f"policy {spec.name} observes an imu, robot {robot.name} has none", code="sensors"
        )
    if spec.needs("command_velocity") and robot.command_velocity is None:
        yield InputError(
            f"policy {spec.name} follows a velocity, robot {robot.name} has no command_velocity",
            code="sensors",
        )
    yield from signal_problems(spec, robot)
    if spec.needs("joint_effort") and not robot.state.effort:
        yield InputError(
            f"policy {spec.name} observes the joints' efforts, robot {robot.name} does not measure"
            " them: state.effort is false",
            code="sensors",
        )
    measured = () if robot.contact is None else robot.contact.feet
    if unknown := [foot for foot in spec.feet if foot not in measured]:
        yield InputError(
            f"policy {spec.name} observes contacts of the feet {unknown}, contact.feet of robot"
            f" {robot.name} has {list(measured)}",
            code="sensors",
        )
    for joint in spec.joints:
        if joint.name in known:
            ours, limp = robot.joint(joint.name), robot.safety.may_go_limp
            for problem in joint_problems(ours, robot.name, joint, spec.action, limp):
                yield InputError(problem, code="limits")
    if robot.phases is not None:
        machine = {joint.name: joint for joint in robot.joints}
        for problem in phase_problems(robot.phases, spec, machine, robot.imu is not None):
            yield InputError(f"robot {robot.name}: {problem}", code="phases")
    for axis in spec.action_joints if spec.action.kind == "twist" else ():
        if axis not in robot.command.limits:
            yield InputError(
                f"robot {robot.name}: command.limits: expected a largest speed for {axis}, which"
                f" policy {spec.name} commands",
                code="limits",
            )


def signal_problems(spec: PolicySpec, robot: RobotConfig) -> Iterator[InputError]:
    """Yield why a robot cannot give a policy its task commands and sensors."""
    for name, signal in spec.signals.items():
        given = robot.signal(signal.kind, name)
        problem = "is missing" if given is None else given.size_problem(signal.width)
        if problem:
            yield InputError(
                f"policy {spec.name} observes the {signal.kind} {name} of {signal.width} numbers,"
                f" robot {robot.name}: {signal.section}.{name}: {problem}",
                code="sensors",
            )
