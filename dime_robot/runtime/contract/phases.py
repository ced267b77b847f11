"""Phases: how a robot gets from lying to a running policy and back, the `robot.phases` section.

    passive -> stand_up -> stand -> policy -> sit_down -> passive

What a phase does is stated in the robot's file; when it begins and ends is decided by
`runtime/control/phases.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from dime_robot.runtime.contract.config_files import read_config
from dime_robot.runtime.contract.names import Name
from dime_robot.runtime.contract.policy_spec import MAX_JOINTS, Joint, PolicySpec, StrictModel
from dime_robot.runtime.contract.robot_joint import RobotJoint
from dime_robot.runtime.contract.units import (
    MAX_DAMPING,
    MAX_DISTANCE,
    MAX_FREE_SPEED,
    MAX_STIFFNESS,
    lower_bound,
    upper_bound,
)
from dime_robot.runtime.io.errors import InputError

MAX_POINTS = 32  # of a path
PEAK = 1.5  # of a smooth step's speed, relative to its mean speed
Seconds = Annotated[float, Field(gt=0), upper_bound(60, "s", "ms")]


class PathPoint(StrictModel):
    """A pose, and the time in which the robot moves there."""

    pose: Literal["default", "safe"] | dict[Name, float] = Field(max_length=MAX_JOINTS)
    """default: the contract's default positions; safe: the safe positions; or positions by joint
    [rad or m], where joints that are not named stay where they were commanded before."""
    duration: Seconds
    """Longer where a joint would be faster than `speed` otherwise [s]."""
    effort: float | None = Field(None, gt=0, le=1)
    """Largest effort on the way, as `effort` of the phase; none: that one. A small one cannot lift
    a robot that lies on its legs."""
    tolerance: float | None = Field(None, gt=0, le=MAX_DISTANCE)
    """How near all joints have to come before the path goes on, as `tolerance` of the phase; none:
    that one."""


class Motion(StrictModel):
    """A phase in which the robot moves along a path of poses, beginning where its joints are.

    It waits at each pose until the joints are near it.
    """

    path: tuple[PathPoint, ...] = Field(min_length=1, max_length=MAX_POINTS)
    speed: float = Field(0.25, gt=0, le=1)
    """Largest speed of a target, as a share of each joint's velocity_limit."""
    effort: float = Field(1.0, gt=0, le=1)
    """Largest effort that a target may demand, as a share of each joint's effort_limit."""
    stiffness: dict[Name, Annotated[float, Field(ge=0, le=MAX_STIFFNESS)]] = Field(
        default_factory=dict, max_length=MAX_JOINTS
    )
    """Effort interface: of each joint [N m/rad or N/m]; velocity interface: speed per error [1/s];
    none for a position interface, whose gains are the robot's."""
    damping: dict[Name, Annotated[float, Field(ge=0, le=MAX_DAMPING)]] = Field(
        default_factory=dict, max_length=MAX_JOINTS
    )
    """Effort interface: of each joint [N m s/rad or N s/m]."""
    tilt: Annotated[float, lower_bound(2, "degrees", "rad")] | None = Field(None, gt=0, lt=180)
    """Largest tilt of the base at which it may begin [degrees]; needs an imu."""
    tolerance: float = Field(0.2, gt=0, le=MAX_DISTANCE)
    """How near to a pose of the path all joints have to come [rad or m]."""
    settle: float = Field(0.2, ge=0, le=10)
    """For how long at the last one [s]."""
    timeout: Seconds
    """After this long without that end it has failed [s]."""

    @property
    def duration(self) -> float:
        """Shortest duration [s]."""
        return sum(point.duration for point in self.path) + self.settle

    @model_validator(mode="after")
    def _can_end_in_time(self) -> Motion:
        if self.timeout <= self.duration:
            raise ValueError(
                f"timeout: expected more than the durations of the path and settle together,"
                f" {self.duration:g} s, got {self.timeout:g} s"
            )
        return self


class StandUp(Motion):
    """From lying to the pose in which a policy may start."""

    start_speed: float = Field(1.0, gt=0, le=MAX_FREE_SPEED)
    """Largest speed of a joint at which it may begin [rad/s or m/s]."""
    on_failure: Literal["sit_down", "passive", "stop"] = "sit_down"
    """What follows if it fails."""


class SitDown(Motion):
    """From standing, or walking, to lying."""

    on_failure: Literal["passive", "stop"] = "passive"
    """What follows if it fails."""


class PhasesConfig(StrictModel):
    """The phases of one machine."""

    stand_up: StandUp
    sit_down: SitDown
    halt: float = Field(1.0, ge=0, le=60)
    """For how long a policy that follows a velocity is given 0 before another phase begins, so that
    a walking robot stands still first [s]."""
    start: Literal["policy", "stand", "passive"] = "policy"
    """What an activation leads to; the operator requests what comes then."""

    @property
    def sit_down_time(self) -> float:
        """Longest duration until a robot lies, from any phase [s]."""
        return self.halt + self.sit_down.timeout

    def joint_names(self) -> Iterator[tuple[str, str]]:
        """Yield each place in this section that names a joint, and the name."""
        for name, motion in (("stand_up", self.stand_up), ("sit_down", self.sit_down)):
            for i, point in enumerate(motion.path):
                if not isinstance(point.pose, str):
                    yield from ((f"{name}.path.{i}.pose", joint) for joint in point.pose)
            for field in ("stiffness", "damping"):
                yield from ((f"{name}.{field}", joint) for joint in getattr(motion, field))


def sit_down_time(path: Path | None) -> float:
    """Return how long a robot may take to lie down, 0 for one without phases [s].

    Args:
        path: of its configuration; one that is missing or not valid, which the nodes report, counts
            as one without phases.
    """
    try:
        robot = {} if path is None else read_config(path).get("robot")
        given = robot.get("phases") if isinstance(robot, dict) else None
        return 0.0 if given is None else PhasesConfig.model_validate(given).sit_down_time
    except (InputError, ValidationError):
        return 0.0


def pose_of(
    point: PathPoint, joints: Sequence[Joint], machine: Mapping[str, RobotJoint]
) -> list[float]:
    """Return the positions of a pose [rad or m]; NaN: the joint stays.

    Args:
        point: of a path.
        joints: the commanded joints of the contract.
        machine: joints of the robot by name.

    Raises:
        ValueError: a position is beyond the joint's stops.
    """
    if point.pose == "default":
        return [joint.default_position for joint in joints]
    names = [joint.name for joint in joints]
    if point.pose == "safe":
        given = {name: machine[name].safe_position for name in names}
        found = {name: value for name, value in given.items() if value is not None}
    else:
        found = dict(point.pose)
    positions = []
    for name in names:
        stops, value = machine[name].position_limits, found.get(name, math.nan)
        if stops is not None and (value < stops[0] or value > stops[1]):
            raise ValueError(
                f"pose: expected a position of {name} in {list(stops)}, its position_limits, got"
                f" {value:g}"
            )
        positions.append(value)
    return positions


def phase_problems(
    phases: PhasesConfig, spec: PolicySpec, machine: Mapping[str, RobotJoint], has_imu: bool
) -> Iterator[str]:
    """Yield why a robot's phases do not fit a contract, a phrase each that begins with its place.

    Args:
        phases: of the robot.
        spec: a policy's contract.
        machine: joints of the robot by name.
        has_imu: whether the robot has one.
    """
    kind = spec.action.kind
    if kind in ("twist", "flat"):
        yield f"phases: expected none, since a policy of {kind} commands moves no joint to a pose"
        return
    joints = [spec.joint(name) for name in spec.action_joints]
    if any(joint.name not in machine for joint in joints):
        return  # said elsewhere
    for name, motion in (("stand_up", phases.stand_up), ("sit_down", phases.sit_down)):
        where = f"phases.{name}."
        if motion.tilt is not None and not has_imu:
            yield f"{where}tilt: expected an imu section that measures it"
        for i, point in enumerate(motion.path):
            try:
                pose = pose_of(point, joints, machine)
            except ValueError as error:
                yield f"{where}path.{i}.{error}"
                continue
            missing = [joint.name for joint, at in zip(joints, pose, strict=True) if at != at]
            if missing and i == len(motion.path) - 1:
                yield (
                    f"{where}path.{i}.pose: expected a position of every joint in the last one, got"
                    f" none of {missing}"
                )
        yield from (f"{where}{problem}" for problem in _gain_problems(motion, spec))


def _gain_problems(motion: Motion, spec: PolicySpec) -> Iterator[str]:
    """Yield why the gains of a motion do not fit the interface, a phrase each."""
    kind, names = spec.action.kind, spec.action_joints
    needed = {"effort": ("stiffness", "damping"), "velocity": ("stiffness",)}.get(kind, ())
    for field in ("stiffness", "damping"):
        given: dict[str, float] = getattr(motion, field)
        if given and field not in needed:
            yield f"{field}: expected none with {kind} commands, which carry no gains"
        missing = [name for name in names if name not in given]
        if missing and field in needed:
            yield f"{field}: expected one of each joint for {kind} commands, got none of {missing}"
