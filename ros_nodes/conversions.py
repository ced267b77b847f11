"""Write numbers and JointCommands as ROS messages; `message_values` reads them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import TypeAlias

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from dime_robot.runtime.contract.policy_spec import TWIST_AXES
from dime_robot.runtime.contract.robot_config import CommandOutput, TwistType
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.message_values import command_values as command_values
from dime_robot.runtime.control.message_values import seconds as seconds
from dime_robot.runtime.control.message_values import stamp_fields
from dime_robot.runtime.control.message_values import twist_of as twist_of
from dime_robot.runtime.control.message_values import twist_values as twist_values
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError

TwistMessage: TypeAlias = Twist | TwistStamped
CommandMessage: TypeAlias = Float64MultiArray | JointTrajectory | TwistMessage

# best effort matches reliable and best-effort publishers; only the newest reading is used
STATE_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT
)
# of a joystick every press counts, and none may be lost on a bad radio link; publishers of Joy are
# reliable
JOYSTICK_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=50, reliability=ReliabilityPolicy.RELIABLE
)
# matches every subscriber: those of ros2_control have the middleware's default, which is best
# effort with Fast DDS and reliable with Cyclone DDS
COMMAND_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
# a node that starts later receives the newest phase too
PHASE_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
COMMAND_TYPES = {"forward": Float64MultiArray, "trajectory": JointTrajectory, "twist": Twist}
TWIST_TYPES: dict[TwistType, type[TwistMessage]] = {"Twist": Twist, "TwistStamped": TwistStamped}
NAME_SEPARATOR = ","  # between the joints in the label of a Float64MultiArray
TWIST_FRAME = "base_link"  # REP 105: velocities are in the base's frame


def command_type(output: CommandOutput) -> type[CommandMessage]:
    """Return the type of a robot's command messages."""
    if output.kind == "twist":
        return TWIST_TYPES[output.type]
    kind: type[CommandMessage] = COMMAND_TYPES[output.kind]
    return kind


def stamp_of(time: float) -> Time:
    """Return the stamp of a float [s].

    Args:
        time: since the epoch of its clock [s].
    """
    return Time(**stamp_fields(time))


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


def named_positions(message: CommandMessage) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the joints and positions of a command.

    Args:
        message: a JointTrajectory of one point, or a Float64MultiArray whose label names its
            joints, as `CommandWriter` makes them.

    Raises:
        InputError: the message does not name its joints, or is none of positions.
    """
    if isinstance(message, JointTrajectory):
        if len(message.points) != 1:
            raise InputError(f"expected a trajectory of one point, got {len(message.points)}")
        return tuple(message.joint_names), tuple(message.points[0].positions)
    if not isinstance(message, Float64MultiArray):
        raise InputError(f"expected positions of joints, got a {type(message).__name__}")
    label = message.layout.dim[0].label if len(message.layout.dim) == 1 else ""
    if not label:
        raise InputError(
            "expected the names of its joints in layout.dim[0].label, joined by"
            f" {NAME_SEPARATOR!r}, as policy_node writes them, got none"
        )
    return tuple(label.split(NAME_SEPARATOR)), tuple(message.data)


class CommandWriter:
    """Writes JointCommands into one message object of the robot's type.

    A Float64MultiArray names its joints in its label; ros2_control does not read it, our own driver
    does.
    """

    def __init__(self, output: CommandOutput, mapping: JointMapping, period: float) -> None:
        self.message: CommandMessage = command_type(output)()
        self._mapping = mapping
        if isinstance(self.message, JointTrajectory):
            self.message.joint_names = list(mapping.command_names)
            point = JointTrajectoryPoint()
            whole, part = divmod(round(period * 1e9), 10**9)
            point.time_from_start.sec, point.time_from_start.nanosec = whole, part
            self.message.points = [point]  # stamp 0: begin at once
        elif isinstance(self.message, Float64MultiArray):
            size = len(mapping.command_names)
            self.message.layout.dim = [
                MultiArrayDimension(label=NAME_SEPARATOR.join(mapping.command_names), size=size)
            ]

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
