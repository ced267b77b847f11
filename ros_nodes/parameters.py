"""Parameters of the nodes: declared once with type, range and description, read once, typed."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
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
    least: float | None = None,
    most: float | None = None,
    start_only: bool = False,
) -> Any:
    """A field that is a ROS parameter.

    Args:
        default: its value.
        text: its description.
        choices: for strings.
        least: smallest number, in the parameter's [unit].
        most: largest number, in the parameter's [unit].
        start_only: read when the node starts, so setting it later would have no effect.
    """
    metadata = {"text": text, "choices": choices, "range": (least, most), "start_only": start_only}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class PolicyParameters:
    """Of policy_node."""

    policy: str = parameter("", "the policy.onnx to run")
    robot: str = parameter("", "YAML with a section `robot`; empty: the shipped NAME.yaml")
    provider: str = parameter("cpu", "where the policy runs", (*PROVIDERS, "auto"))
    noise: str = parameter("fresh", "noise mode, one certified in the file", NOISE_MODES)
    seed: int = parameter(0, "of the noise", least=0, most=2**31)
    drive: str = parameter(
        "auto",
        "what begins a step: each observation, or a timer that takes the newest one; auto: the"
        " observation where the robot publishes at the policy's rate",
        ("auto", "observation", "timer"),
    )
    autostart: str = parameter(
        "configure", "lifecycle at start", ("none", "configure", "activate"), start_only=True
    )
    activate_timeout: float = parameter(
        10.0,
        "autostart:=activate waits so long for the robot [s]",
        least=0.0,
        most=3600.0,
        start_only=True,
    )
    discovery_time: float = parameter(
        5.0,
        "how long after its start the node looks for others on its topics before it is activated"
        " [s]; Fast DDS announces itself every 3 s",
        least=0.0,
        most=60.0,
    )
    dry_run: bool = parameter(False, "do everything but publish commands")
    budget: float = parameter(
        0.5, "share of the control period that inference may take at p99", least=1e-6, most=10.0
    )
    realtime: bool = parameter(
        False, "memory locked, garbage collector off, FIFO scheduling of all threads"
    )
    priority: int = parameter(80, "FIFO priority where realtime is set", least=1, most=98)
    cpus: list[int] = parameter([-1], "CPUs to run on where realtime is set; -1: any")
    recordings: str = parameter("", "folder of the flight recorder; empty: ROS_HOME/dime_robot")

    @property
    def recordings_folder(self) -> Path:
        """Where recordings go."""
        home = os.environ.get("ROS_HOME", "~/.ros")
        return Path(self.recordings or Path(home) / "dime_robot").expanduser()


at_start = partial(parameter, start_only=True)


@dataclass(frozen=True)
class SimParameters:
    """Of sim_node."""

    config: str = at_start("cartpole", "name in sim_configs/, or path of such a file")
    seed: int = at_start(0, "of the episode's start and of the noise", least=0, most=2**31)
    mode: str = at_start(
        "realtime",
        "realtime: paced by the wall clock; lockstep: waits for every command and serves /clock",
        ("realtime", "lockstep"),
    )
    state_rate: float = at_start(
        0.0, "rate of joint_states [Hz]; 0: the robot's own", least=0.0, most=10_000.0
    )
    episode_seconds: float = at_start(
        0.0, "length of an episode [s]; 0: the task's own", least=0.0, most=86_400.0
    )
    on_timeout: str = at_start(
        "damp",
        "what the robot does by itself once no command came for robot.command.timeout: see"
        " ros_nodes/sim_timeout.py; lockstep waits for commands and has no time-out",
        ON_TIMEOUT,
    )
    encoder_counts: int = at_start(
        0,
        "positions in whole counts, so many a turn of a revolute joint and a metre of a prismatic"
        " one; 0: exact",
        least=0,
        most=2**30,
    )
    position_noise: float = at_start(
        0.0, "standard deviation of joint positions [rad or m]", least=0.0, most=10.0
    )
    velocity_noise: float = at_start(
        0.0, "standard deviation of joint velocities [rad/s or m/s]", least=0.0, most=100.0
    )
    imu_noise: float = at_start(
        0.0,
        "standard deviation of the imu's angular velocity [rad/s] and orientation [rad]",
        least=0.0,
        most=10.0,
    )
    fault: str = parameter("", "a fault to inject, see ros_nodes/sim_faults.py")


@dataclass(frozen=True)
class MonitorParameters:
    """Of latency_monitor."""

    node: str = at_start("policy_node", "the node to watch; relative to the monitor's namespace")
    folder: str = at_start("latency", "where the record, the page and the distribution go")
    seconds: float = at_start(0.0, "stop by itself after so long; 0: at Ctrl-C", least=0.0)


START_ONLY_OF_ROS = ("use_sim_time", "start_type_description_service")


def check_parameters(kind: type, parameters: Sequence[Parameter[Any]]) -> str:
    """Why values must not be set while a node runs, as one sentence; empty: they may.

    For an on_set_parameters callback: types and ranges are rclpy's own business by then.

    Args:
        kind: the record of the node's parameters.
        parameters: name and value of each.
    """
    known = {item.name: item.metadata for item in fields(kind)}
    for given in parameters:
        metadata = known.get(given.name)
        if given.name in START_ONLY_OF_ROS or (metadata and metadata["start_only"]):
            return f"parameter {given.name} is read at start only: restart the node with it"
        if metadata and (problem := _value_problem(given.name, given.value, metadata)):
            return problem
    return ""


def _value_problem(name: str, value: Any, metadata: Any) -> str:
    """What is wrong with a value that has the right type and range; empty: nothing."""
    choices = metadata["choices"]
    if choices and value not in choices:
        return f"parameter {name}: expected one of {', '.join(choices)}, got {value!r}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"parameter {name}: expected a finite number, got {value}"
    return ""


def read_parameters(node: Node, kind: type[Parameters]) -> Parameters:
    """Declare all parameters of a record on a node and read them.

    Raises:
        InputError: a value of the wrong type, out of range or none of the choices.
    """
    hints = get_type_hints(kind)
    values = {}
    for item in fields(kind):  # type: ignore[arg-type]
        name, default = item.name, item.default
        if hints[name] == list[int]:
            default = item.default_factory()  # type: ignore[operator]
        if not node.has_parameter(name):
            try:
                node.declare_parameter(name, default, _descriptor(item.metadata, hints[name]))
            except (InvalidParameterTypeException, InvalidParameterValueException) as error:
                text = " ".join(str(error).split())
                raise InputError(f"parameter {name}: {text}", code="parameter") from None
        value = node.get_parameter(name).value
        if problem := _value_problem(name, value, item.metadata):
            raise InputError(problem, code="parameter")
        values[name] = list(value) if hints[name] == list[int] else value
    return kind(**values)


def _descriptor(metadata: Any, hint: type) -> ParameterDescriptor:
    least, most = metadata["range"]
    descriptor = ParameterDescriptor(description=metadata["text"])
    if metadata["choices"]:
        descriptor.additional_constraints = "one of " + ", ".join(metadata["choices"])
    if least is None:
        return descriptor
    if hint is int:
        descriptor.integer_range = [IntegerRange(from_value=int(least), to_value=int(most))]
    else:
        most = 1e9 if most is None else most
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(least), to_value=float(most))
        ]
    return descriptor


def existing_path(text: str, what: str) -> Path:
    """A path that a parameter has to name.

    Raises:
        InputError: it is empty.
    """
    if not text:
        raise InputError(f"parameter {what}: expected a path: -p {what}:=FILE", code="parameter")
    return Path(text).expanduser()
