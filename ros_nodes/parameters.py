"""Parameters of the nodes: declared once with type, range and description, read once, typed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.noise import NOISE_MODES
from dime_robot.runtime.policy.onnx_policy import PROVIDERS
from ros_nodes.sim_timeout import ON_TIMEOUT
from ros_nodes.unknown_parameters import require_known_parameters as require_known_parameters
from ros_nodes.unknown_parameters import unknown_parameters as unknown_parameters

Parameters = TypeVar("Parameters")


def parameter(
    default: Any,
    text: str,
    choices: tuple[str, ...] = (),
    limits: tuple[float, float] | None = None,
    start_only: bool = False,
) -> Any:
    """Make a dataclass field that is a ROS parameter.

    Args:
        default: its value.
        text: its description.
        choices: for strings.
        limits: smallest and largest value of a number.
        start_only: read when the node starts, so setting it later would have no effect.
    """
    descriptor = ParameterDescriptor(description=text)
    if choices:
        descriptor.additional_constraints = "one of " + ", ".join(choices)
    if limits is not None:
        low, high = limits
        if isinstance(default, int):
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    metadata = {"descriptor": descriptor, "choices": choices, "start_only": start_only}
    return field(default=default, metadata=metadata)


def help_asked(arguments: Sequence[str]) -> bool:
    """Whether -h or --help stands among a process's arguments, before those of ROS.

    Args:
        arguments: of the process, without its name.
    """
    own = list(arguments)
    own = own[: own.index("--ros-args")] if "--ros-args" in own else own
    return bool({"-h", "--help"} & set(own))


def help_of(text: str, parameters: type[Any]) -> str:
    """Return the help of a node: what it does, and its parameters with their defaults.

    Args:
        text: docstring of its module.
        parameters: the dataclass of its parameters.
    """
    lines = [text.strip(), "", "parameters, as --ros-args -p NAME:=VALUE:"]
    for each in fields(parameters):
        descriptor = each.metadata["descriptor"]
        extra = f"; {descriptor.additional_constraints}" if each.metadata["choices"] else ""
        lines.append(f"  {each.name:18s} {descriptor.description}{extra} ({each.default!r})")
    return "\n".join(lines)


def limits_of(parameters: type[Any], name: str) -> tuple[float, float]:
    """Return smallest and largest value of a number among a node's parameters.

    Args:
        parameters: the dataclass of the node's parameters.
        name: of a parameter with limits.
    """
    found = next(each for each in fields(parameters) if each.name == name)
    descriptor = found.metadata["descriptor"]
    limits = (descriptor.integer_range or descriptor.floating_point_range)[0]
    return limits.from_value, limits.to_value


@dataclass(frozen=True)
class PolicyParameters:
    """The parameters of policy_node."""

    policy: str = parameter("", "the policy.onnx to run")
    policies: tuple[str, ...] = parameter(
        ("",),
        "several instead of one, between which ~/select/NAME switches; the first acts first, each"
        " is named like its file",
    )
    robot: str = parameter("", "YAML with a section `robot`; empty: the shipped NAME.yaml")
    provider: str = parameter("cpu", "where the policy runs", (*PROVIDERS, "auto"))
    noise: str = parameter("fresh", "noise mode, one certified in the file", NOISE_MODES)
    seed: int = parameter(0, "seed of the noise", limits=(0, 2**31))
    drive: str = parameter(
        "auto",
        "what begins a step: each observation, or a timer that uses the newest one; auto: the"
        " observation where the robot publishes at the policy's rate",
        ("auto", "observation", "timer"),
    )
    autostart: str = parameter(
        "configure", "lifecycle at start", ("none", "configure", "activate"), start_only=True
    )
    activate_timeout: float = parameter(
        10.0,
        "how long autostart:=activate waits for the robot [s]",
        limits=(0.0, 3600.0),
        start_only=True,
    )
    discovery_time: float = parameter(
        5.0,
        "how long after its start the node waits to discover others on its topics before it is"
        " activated [s]; Fast DDS announces itself every 3 s",
        limits=(0.0, 60.0),
    )
    dry_run: bool = parameter(False, "do everything but publish commands")
    budget: float = parameter(
        0.5, "share of the control period that inference may take at p99", limits=(1e-6, 10.0)
    )
    realtime: bool = parameter(
        False, "memory locked, garbage collector off, FIFO scheduling of all threads"
    )
    priority: int = parameter(80, "FIFO priority where realtime is set", limits=(1, 98))
    cpus: tuple[int, ...] = parameter((-1,), "CPUs to run on where realtime is set; -1: any")
    recordings: str = parameter("", "folder of the flight recorder; empty: ROS_HOME/dime_robot")

    @property
    def recordings_folder(self) -> Path:
        """Folder of recordings."""
        home = os.environ.get("ROS_HOME", "~/.ros")
        return Path(self.recordings or Path(home) / "dime_robot").expanduser()


at_start = partial(parameter, start_only=True)


@dataclass(frozen=True)
class SimParameters:
    """The parameters of sim_node."""

    config: str = at_start("cartpole", "name in sim_configs/, or path of such a file")
    seed: int = at_start(0, "seed of the episode's start and of the noise", limits=(0, 2**31))
    mode: str = at_start(
        "realtime",
        "realtime: paced by the wall clock; lockstep: waits for every command and serves /clock",
        ("realtime", "lockstep"),
    )
    state_rate: float = at_start(
        0.0, "rate of joint_states [Hz]; 0: the robot's own", limits=(0.0, 10_000.0)
    )
    episode_seconds: float = at_start(
        0.0, "length of an episode [s]; 0: the task's own", limits=(0.0, 86_400.0)
    )
    on_timeout: str = at_start(
        "damp",
        "what the robot does by itself after robot.command.timeout without a command: see"
        " ros_nodes/sim_timeout.py; lockstep waits for commands and has no time-out",
        ON_TIMEOUT,
    )
    encoder_counts: int = at_start(
        0,
        "encoder counts per turn of a revolute joint and per metre of a prismatic one; 0: exact",
        limits=(0, 2**30),
    )
    position_noise: float = at_start(
        0.0, "standard deviation of joint positions [rad or m]", limits=(0.0, 10.0)
    )
    velocity_noise: float = at_start(
        0.0, "standard deviation of joint velocities [rad/s or m/s]", limits=(0.0, 100.0)
    )
    gyro_noise: float = at_start(
        0.0, "standard deviation of the imu's angular velocity [rad/s]", limits=(0.0, 10.0)
    )
    orientation_noise: float = at_start(
        0.0, "standard deviation of the imu's orientation, per axis [rad]", limits=(0.0, 1.0)
    )
    fault: str = parameter("", "a fault to inject, see ros_nodes/sim_faults.py")


@dataclass(frozen=True)
class UnitreeSimParameters:
    """The parameters of unitree_sim."""

    interface: str = at_start("lo", "network interface of the robot's domain, its name or address")
    robot_domain: int = at_start(0, "DDS domain of the robot", limits=(0, 232))
    start: str = at_start("standing", "how the robot is at first", ("standing", "lying"))
    mode: str = at_start(
        "normal",
        "the robot's own controller that has the motors at first; none: they are free",
        ("normal", "ai", "advanced", "mcf", "none"),
    )
    state_rate: float = at_start(500.0, "rate of LowState [Hz]", limits=(1.0, 500.0))
    state_crc: str = at_start(
        "sealed",
        "checksum of LowState; zero: as from Unitree's own simulator",
        ("sealed", "zero"),
    )
    command_timeout: float = at_start(
        0.02, "age of a LowCmd from which on the motors are limp [s]", limits=(0.002, 10.0)
    )
    silent_writer: bool = at_start(
        False, "the robot's own controller keeps a writer of LowCmd that sends nothing"
    )
    report: str = at_start("", "file that each report replaces; empty: standard output")
    seed: int = at_start(0, "seed of the sensors' noise", limits=(0, 2**31))
    remote: str = parameter("", "what is held on the wireless remote, such as L1 A ly=0.5")
    fault: str = parameter("", "a fault to inject, see ros_nodes/unitree/sim_wire_faults.py")


@dataclass(frozen=True)
class MonitorParameters:
    """The parameters of latency_monitor."""

    node: str = at_start("policy_node", "the node to watch; relative to the monitor's namespace")
    folder: str = at_start("latency", "where the record, the page and the distributions go")
    seconds: float = at_start(0.0, "record for so long [s]; 0: until Ctrl-C", limits=(0.0, 1e9))


@dataclass(frozen=True)
class KeyboardParameters:
    """The parameters of keyboard_node."""

    robot: str = at_start("", "YAML with the section `robot.joystick`, the one of policy_node")
    release_after: float = at_start(
        3.0, "time without a key after which the deadman is released [s]", limits=(0.5, 60.0)
    )


@dataclass(frozen=True)
class UnitreeParameters:
    """The parameters of unitree_driver."""

    interface: str = at_start("", "network interface to the robot: its name, such as eth0")
    robot_domain: int = at_start(
        0, "DDS domain of the robot; ROS_DOMAIN_ID has to be another one", limits=(0, 232)
    )
    policy: str = at_start("", "the policy.onnx whose gains the motors get")
    robot: str = at_start("", "YAML with a section `robot`; empty: the shipped NAME.yaml")
    dry_run: bool = at_start(False, "read only: print a table to compare with the robot by hand")
    mode_service: str = at_start(
        "motion_switcher",
        "which service says who has the motors; none: nobody else has them, on the operator's word",
        ("motion_switcher", "none"),
    )
    mode: str = at_start("", "controller that ~/restore_mode starts; empty: the one released here")
    state_crc: str = at_start(
        "check", "whether a LowState with a wrong checksum is refused", ("check", "ignore")
    )
    hold: float = at_start(
        0.2, "how long the last target is held before damping [s]", limits=(0.0, 1.0)
    )
    damping: float = at_start(
        3.0, "kd of the motors while they are damped [N m s/rad]", limits=(3.0, 10.0)
    )
    gain_ramp: float = at_start(0.5, "in which the gains rise after damping [s]", limits=(0.1, 5.0))
    max_temperature: float = at_start(80.0, "of a motor [degrees Celsius]", limits=(40.0, 110.0))
    joystick: str = at_start("joy", "topic of the wireless remote; empty: not published")
    remote_frozen_after: float = at_start(
        5.0,
        "after this long without any change the remote counts as silent while it is used [s]; 0:"
        " never",
        limits=(0.0, 60.0),
    )
    allow_other_middleware: bool = at_start(
        False, "run on another middleware than Fast DDS, which it was not tried with"
    )
    realtime: bool = at_start(
        False, "memory locked, garbage collector off, FIFO scheduling of all threads"
    )
    priority: int = at_start(85, "FIFO priority where realtime is set", limits=(1, 98))
    cpus: tuple[int, ...] = at_start((-1,), "CPUs to run on where realtime is set; -1: any")


START_ONLY_OF_ROS = ("use_sim_time", "start_type_description_service")


def check_parameters(kind: type, parameters: Sequence[Parameter[Any]]) -> str:
    """Return why values must not be set while a node runs, as one sentence; empty: they may.

    Types and ranges are not checked: rclpy has already done so.

    Args:
        kind: the dataclass of the node's parameters.
        parameters: name and value of each.
    """
    known = {item.name: item.metadata for item in fields(kind)}
    for given in parameters:
        metadata = known.get(given.name)
        if given.name in START_ONLY_OF_ROS or (metadata and metadata["start_only"]):
            return f"parameter {given.name} is read at start only: restart the node with it"
        if metadata and (problem := _value_problem(given.name, given.value, metadata["choices"])):
            return problem
    return ""


def _value_problem(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return what is wrong with a value of correct type and range; empty: nothing."""
    if choices and value not in choices:
        return f"parameter {name}: expected one of {', '.join(choices)}, got {value!r}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"parameter {name}: expected a finite number, got {value}"
    return ""


def read_parameters(
    node: Node,
    kind: type[Parameters],
    check: Callable[[Sequence[Parameter[Any]]], str] = lambda _: "",
) -> Parameters:
    """Declare all parameters of a dataclass on a node, the first time, and read them.

    Args:
        node: their owner.
        kind: the dataclass.
        check: called with values that are set while the node runs, after `check_parameters`;
            returns why they must not be set, as one sentence, empty: they may.

    Raises:
        InputError: a value of the wrong type, out of range or not one of the choices.
    """
    declared = fields(kind)  # type: ignore[arg-type]
    if not node.has_parameter(declared[0].name):
        try:
            for item in declared:
                node.declare_parameter(item.name, item.default, item.metadata["descriptor"])
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            text = " ".join(str(error).split())
            raise InputError(f"parameter {item.name}: {text}", code="parameter") from None

        def on_set(parameters: list[Parameter[Any]]) -> SetParametersResult:
            problem = check_parameters(kind, parameters) or check(parameters)
            return SetParametersResult(successful=not problem, reason=problem)

        node.add_on_set_parameters_callback(on_set)
    values = {}
    for item in declared:
        value = node.get_parameter(item.name).value
        if problem := _value_problem(item.name, value, item.metadata["choices"]):
            raise InputError(problem, code="parameter")
        values[item.name] = tuple(value) if isinstance(item.default, tuple) else value
    return kind(**values)


def existing_path(text: str, what: str) -> Path:
    """Return the path in a mandatory parameter.

    Raises:
        InputError: it is empty.
    """
    if not text:
        raise InputError(f"parameter {what}: expected a path: -p {what}:=FILE", code="parameter")
    return Path(text).expanduser()
