"""The numbers in a robot's messages: for the nodes, and for recordings read without ROS.

Fields are read by their names in the message's definition, so the classes of every ROS library
fit: those of rclpy, and those that a recording is decoded to. What is written is a mapping of
these names.

The numbers of a task command or a sensor in a Twist are linear_x, linear_y, angular_z, or where six
are expected linear x, y, z and angular x, y, z [m/s, rad/s]; in a PointStamped x, y, z [m]; in a
PoseStamped x, y, z [m] and the quaternion w, x, y, z; in a JointState the positions of the input's
joints [rad or m].
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dime_robot.runtime.contract.policy_spec import TWIST_AXES, FloatArray
from dime_robot.runtime.contract.signal_input import SignalInput
from dime_robot.runtime.control.control_loop import Reading
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.io.errors import InputError


def seconds(stamp: Any) -> float:
    """Return a stamp as a float [s], exact to a microsecond in this century."""
    return float(stamp.sec + 1e-9 * stamp.nanosec)


def joint_values(values: Sequence[float], size: int) -> FloatArray:
    """Return a field of a JointState as an array; NaN if the driver left it out."""
    if len(values) != size:
        return np.full(size, np.nan)
    return np.array(values, dtype=np.float64)


def joint_reading(message: Any, mapping: JointMapping, effort: bool) -> Reading | str | None:
    """Return the reading in a JointState, in policy order.

    Args:
        message: a JointState.
        mapping: of the robot; takes the order of the message's joints.
        effort: whether the efforts in its messages are measured.

    Returns:
        A phrase where the message cannot be used; None: its joints are those of another device,
        such as a gripper.
    """
    names, size = message.name, len(message.name)
    if not mapping.concerns(names):
        return None
    try:
        reordered = mapping.set_order(names)
    except InputError as error:
        return str(error)
    position = joint_values(message.position, size)
    return Reading(
        seconds(message.header.stamp),
        mapping.positions(position),
        mapping.velocities(joint_values(message.velocity, size)),
        reordered,
        mapping.held(position),
        mapping.efforts(joint_values(message.effort, size)) if effort else None,
    )


def orientation_of(message: Any) -> FloatArray:
    """Return base to world, w x y z, of an Imu; NaN if it is marked as not measured (REP 145)."""
    if message.orientation_covariance[0] == -1:
        return np.full(4, np.nan)
    q = message.orientation
    return np.array([q.w, q.x, q.y, q.z])


def angular_velocity_of(message: Any) -> FloatArray:
    """Return [rad/s] in the base's frame; NaN if it is marked as not measured (REP 145)."""
    if message.angular_velocity_covariance[0] == -1:
        return np.full(3, np.nan)
    v = message.angular_velocity
    return np.array([v.x, v.y, v.z])


def twist_of(message: Any) -> Any:
    """Return the velocities of a Twist or TwistStamped: the object in the message, not a copy."""
    return getattr(message, "twist", message)


def twist_values(message: Any) -> FloatArray:
    """Return the velocities of a Twist or TwistStamped in the order of TWIST_AXES [m/s, rad/s]."""
    twist = twist_of(message)
    return np.array([twist.linear.x, twist.linear.y, twist.angular.z])


def command_values(message: Any, mapping: JointMapping) -> FloatArray | None:
    """Return a command's numbers in the order of `command_names`; None: not for this robot.

    Args:
        message: a Float64MultiArray, JointTrajectory, Twist or TwistStamped.
        mapping: of the robot.
    """
    names = mapping.command_names
    if hasattr(message, "twist") or hasattr(message, "linear"):
        given = dict(zip(TWIST_AXES, twist_values(message), strict=True))
        values = np.array([given[name] for name in names])
    elif hasattr(message, "data"):
        values = np.array(message.data)
    elif len(message.points) and set(message.joint_names) == set(names):
        positions = np.array(message.points[-1].positions)
        if len(positions) != len(message.joint_names):
            return None
        values = positions[[list(message.joint_names).index(name) for name in names]]
    else:
        return None
    return values if values.shape == (len(names),) and np.isfinite(values).all() else None


class SignalReading(NamedTuple):
    """What `ControlLoop.signal` takes of a message."""

    values: FloatArray  # [SI units]
    stamp: float | None  # [s]; None: its type has none
    frame: str | None  # its frame_id; None: its type has none that counts


def read_signal(message: Any, given: SignalInput, width: int) -> SignalReading:
    """Return the numbers of a message of a task command or a sensor.

    Args:
        message: of the input's type.
        given: the input.
        width: numbers that the contract expects; decides between three and six of a twist.

    Raises:
        InputError: a JointState lacks a joint, or has it twice, or has another number of positions
            than of names; a phrase.
    """
    if given.type == "Float64MultiArray":
        return SignalReading(np.array(message.data, dtype=np.float64), None, None)
    if given.type == "Twist":
        return SignalReading(_velocity(message, width), None, None)
    stamp = seconds(message.header.stamp)
    if given.type == "JointState":
        values = _positions(message.name, message.position, given.joints)
        return SignalReading(values, stamp, None)
    if given.type == "TwistStamped":
        values = _velocity(message, width)
    elif given.type == "PointStamped":
        point = message.point
        values = np.array([point.x, point.y, point.z])
    else:
        point, q = message.pose.position, message.pose.orientation
        values = np.array([point.x, point.y, point.z, q.w, q.x, q.y, q.z])
    return SignalReading(values, stamp, message.header.frame_id)


def stamp_fields(time: float) -> dict[str, int]:
    """Return the fields of a stamp.

    Args:
        time: since the epoch of its clock [s].
    """
    whole, part = divmod(round(time * 1e9), 10**9)
    return {"sec": whole, "nanosec": part}


def twist_fields(numbers: Sequence[float]) -> dict[str, dict[str, float]]:
    """Return the fields of a Twist.

    Args:
        numbers: in the order of TWIST_AXES, or linear x, y, z and angular x, y, z [m/s, rad/s].
    """
    if len(numbers) == len(TWIST_AXES):
        numbers = (numbers[0], numbers[1], 0.0, 0.0, 0.0, numbers[2])
    values = [float(number) for number in numbers]
    linear, angular = zip("xyz", values[:3], strict=True), zip("xyz", values[3:], strict=True)
    return {"linear": dict(linear), "angular": dict(angular)}


def signal_fields(given: SignalInput, values: FloatArray, now: float) -> dict[str, Any]:
    """Return the fields of a value's message, from which `read_signal` reads the same value.

    Args:
        given: the input: type, frame and joints.
        values: shape (width,) [SI units].
        now: the stamp of a stamped message, on the robot's clock [s].
    """
    numbers = array("d", [float(value) for value in values])
    if given.type == "Float64MultiArray":
        return {"data": numbers}
    if given.type == "Twist":
        return twist_fields(numbers)
    header = {"stamp": stamp_fields(now), "frame_id": given.frame or ""}
    if given.type == "JointState":
        return {"header": header, "name": list(given.joints), "position": numbers}
    if given.type == "TwistStamped":
        return {"header": header, "twist": twist_fields(numbers)}
    point = dict(zip("xyz", numbers[:3], strict=True))
    if given.type == "PointStamped":
        return {"header": header, "point": point}
    orientation = dict(zip("wxyz", numbers[3:], strict=True))
    return {"header": header, "pose": {"position": point, "orientation": orientation}}


def _velocity(message: Any, width: int) -> FloatArray:
    if width == len(TWIST_AXES):
        return twist_values(message)
    twist = twist_of(message)
    return np.array([getattr(v, axis) for v in (twist.linear, twist.angular) for axis in "xyz"])


def _positions(
    names: Sequence[str], positions: Sequence[float], joints: Sequence[str]
) -> FloatArray:
    if len(positions) != len(names):
        raise InputError(
            f"expected a position of each of its {len(names)} joints, got {len(positions)}"
        )
    if missing := [name for name in joints if names.count(name) != 1]:
        raise InputError(
            f"expected each of the joints {list(joints)} once, got {list(names)[:16]}: correct"
            f" {', '.join(missing[:6])}"
        )
    return np.array([positions[names.index(name)] for name in joints])
