"""Parameters of the nodes: declared once with type, range and description, read once, typed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from dime_robot.runtime.errors import InputError
from dime_robot.runtime.noise import NOISE_MODES
from dime_robot.runtime.policy import PROVIDERS

Parameters = TypeVar("Parameters")


def parameter(
    default: Any,
    text: str,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A field that is a ROS parameter. `choices` for strings, `least` and `most` for numbers."""
    metadata = {"text": text, "choices": choices, "range": (least, most)}
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
    autostart: str = parameter("configure", "lifecycle at start", ("none", "configure", "activate"))
    activate_timeout: float = parameter(
        10.0, "autostart:=activate waits so long for the robot [s]", least=0.0, most=3600.0
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


@dataclass(frozen=True)
class SimParameters:
    """Of sim_node."""

    config: str = parameter("cartpole", "name in sim_configs/, or path of such a file")
    seed: int = parameter(0, "of the episode's start", least=0, most=2**31)
    mode: str = parameter(
        "realtime",
        "realtime: paced by the wall clock; lockstep: waits for every command and serves /clock",
        ("realtime", "lockstep"),
    )
    state_rate: float = parameter(
        0.0, "rate of joint_states [Hz]; 0: the robot's own", least=0.0, most=10_000.0
    )
    episode_seconds: float = parameter(
        0.0, "length of an episode [s]; 0: the task's own", least=0.0, most=86_400.0
    )
    fault: str = parameter("", "a fault to inject, see ros_nodes/sim_faults.py")


@dataclass(frozen=True)
class MonitorParameters:
    """Of latency_monitor."""

    node: str = parameter("policy_node", "the node to watch")
    folder: str = parameter("latency", "where the record, the page and the distribution go")
    seconds: float = parameter(0.0, "stop by itself after so long; 0: at Ctrl-C", least=0.0)


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
        choices = item.metadata["choices"]
        if choices and value not in choices:
            raise InputError(
                f"parameter {name}: expected one of {', '.join(choices)}, got {value!r}",
                code="parameter",
            )
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
