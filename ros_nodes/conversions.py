"""Convert between ROS messages and numpy arrays, RobotState and JointCommand."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from dime_robot.runtime.contract.policy_spec import TWIST_AXES, FloatArray
from dime_robot.runtime.contract.robot_config import CommandOutput, TwistType
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.state import JointCommand

TwistMessage: TypeAlias = Twist | TwistStamped
CommandMessage: TypeAlias = Float64MultiArray | JointTrajectory | TwistMessage

# best effort matches reliable and best-effort publishers; only the newest reading is used
STATE_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT
)
# ros2_control's command subscribers need a reliable publisher
COMMAND_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
COMMAND_TYPES = {"forward": Float64MultiArray, "trajectory": JointTrajectory, "twist": Twist}
TWIST_TYPES: dict[TwistType, type[TwistMessage]] = {"Twist": Twist, "TwistStamped": TwistStamped}
TWIST_FRAME = "base_link"  # REP 105: velocities are in the base's frame


def command_type(output: CommandOutput) -> type[CommandMessage]:
    """Return the type of a robot's command messages."""
    if output.kind == "twist":
        return TWIST_TYPES[output.type]
    kind: type[CommandMessage] = COMMAND_TYPES[output.kind]
    return kind


def seconds(stamp: Time) -> float:
    """Return a stamp as a float [s], exact to a microsecond in this century."""
    return float(stamp.sec + 1e-9 * stamp.nanosec)


def stamp_of(time: float) -> Time:
    """Return the stamp of a float [s].

    Args:
        time: since the epoch of its clock [s].
    """
    whole, part = divmod(round(time * 1e9), 10**9)
    return Time(sec=whole, nanosec=part)


def joint_values(values: Sequence[float], size: int) -> FloatArray:
    """Return a field of a JointState as an array; NaN if the driver left it out."""
    if len(values) != size:
        return np.full(size, np.nan)
    return np.array(values, dtype=np.float64)


def orientation_of(message: Imu) -> FloatArray:
    """Return base to world, w x y z; NaN if the driver marks it as not measured (REP 145)."""
    if message.orientation_covariance[0] == -1:
        return np.full(4, np.nan)
    q = message.orientation
    return np.array([q.w, q.x, q.y, q.z])


def angular_velocity_of(message: Imu) -> FloatArray:
    """Return [rad/s] in the base's frame; NaN if it is marked as not measured (REP 145)."""
    if message.angular_velocity_covariance[0] == -1:
        return np.full(3, np.nan)
    v = message.angular_velocity
    return np.array([v.x, v.y, v.z])


def twist_of(message: TwistMessage) -> Twist:
    """Return the velocities of either type: the object in the message, not a copy."""
    return message.twist if isinstance(message, TwistStamped) else message


def twist_values(message: TwistMessage) -> FloatArray:
    """Return the velocities in the order of TWIST_AXES [m/s, rad/s]."""
    twist = twist_of(message)
    return np.array([twist.linear.x, twist.linear.y, twist.angular.z])


def write_twist(message: TwistMessage, velocity: Mapping[str, float], now: float) -> None:
    """Fill a message.

    Args:
        message: of either type.
        velocity: axis of TWIST_AXES -> speed [m/s, rad/s]; missing axes are 0.
        now: the stamp of a stamped message, on the robot's clock [s].
    """
    twist = twist_of(message)
    twist.linear.x, twist.linear.y, twist.angular.z = (
        float(velocity.get(axis, 0.0)) for axis in TWIST_AXES
    )
    if isinstance(message, TwistStamped):
        message.header.stamp, message.header.frame_id = stamp_of(now), TWIST_FRAME


class CommandWriter:
    """Writes JointCommands into one message object of the robot's type."""

    def __init__(self, output: CommandOutput, mapping: JointMapping, period: float) -> None:
        self.message: CommandMessage = command_type(output)()
        self._mapping = mapping
        if isinstance(self.message, JointTrajectory):
            self.message.joint_names = list(mapping.command_names)
            point = JointTrajectoryPoint()
            whole, part = divmod(round(period * 1e9), 10**9)
            point.time_from_start.sec, point.time_from_start.nanosec = whole, part
            self.message.points = [point]  # stamp 0: begin at once

    def write(self, command: JointCommand, now: float = 0.0) -> CommandMessage:
        """Return the message of a command, valid until the next call.

        Args:
            command: in the policy's order.
            now: the stamp of a TwistStamped, on the robot's clock [s]; 0: controllers use the
                time of its arrival.
        """
        values = array("d", self._mapping.command(command).tolist())
        if isinstance(self.message, Float64MultiArray):
            self.message.data = values
        elif isinstance(self.message, JointTrajectory):
            self.message.points[0].positions = values
        else:
            given = dict(zip(self._mapping.command_names, values, strict=True))
            write_twist(self.message, given, now)
        return self.message


def command_values(message: CommandMessage, mapping: JointMapping) -> FloatArray | None:
    """Return a command's numbers in the order of `command_names`; None: not for this robot."""
    names = mapping.command_names
    if isinstance(message, Twist | TwistStamped):
        given = dict(zip(TWIST_AXES, twist_values(message), strict=True))
        values = np.array([given[name] for name in names])
    elif isinstance(message, Float64MultiArray):
        values = np.array(message.data)
    elif message.points and set(message.joint_names) == set(names):
        order = [list(message.joint_names).index(name) for name in names]
        values = np.array(message.points[-1].positions)[order]
    else:
        return None
    return values if values.shape == (len(names),) and np.isfinite(values).all() else None
