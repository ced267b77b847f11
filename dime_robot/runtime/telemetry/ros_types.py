"""The standard ROS 2 messages without ROS: their definitions, and what their bytes contain.

Only the definitions that `rosbags` ships are used. A definition in a recording is never parsed, and
no code is made from it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from dime_robot.runtime.contract.robot_config import CommandOutput
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.mcap_files import RawMessage

JOINT_STATE, IMU = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Imu"
NUMBERS, STRING = "std_msgs/msg/Float64MultiArray", "std_msgs/msg/String"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
_PACKAGES = {"Float64MultiArray": "std_msgs", "JointState": "sensor_msgs"}


def full_type(name: str) -> str:
    """Return the full name of a type that a robot's file names, such as Twist."""
    return f"{_PACKAGES.get(name, 'geometry_msgs')}/msg/{name}"


def command_type(output: CommandOutput) -> str:
    """Return the full name of the type of a robot's command messages."""
    if output.kind == "twist":
        return full_type(output.type)
    return {"forward": NUMBERS, "trajectory": TRAJECTORY}[output.kind]


@cache
def _types() -> Any:
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_HUMBLE)  # of these messages all releases have the same


def definition(kind: str) -> str:
    """Return the definition of a message type, with those of its parts, as recorders store it."""
    text: str = _types().generate_msgdef(kind, ros_version=2)[0]
    return text


def decode(message: RawMessage) -> Any:
    """Return the fields of a message.

    Raises:
        InputError: its bytes are no message of its type.
    """
    try:
        return _types().deserialize_cdr(message.data, message.type)
    except Exception as error:  # of the library's parser: any
        raise InputError(
            f"expected messages of type {message.type} on {message.topic}, got one of"
            f" {len(message.data):,} bytes that is none ({type(error).__name__})"
        ) from None
