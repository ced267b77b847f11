"""The process of unitree_driver on the ROS domain, started by the driver.

It makes the Go2 look like a ros2_control robot to policy_node: joint_states, imu and the remote's
joystick are published, positions are taken, and the operator's services are served. The command's
topic is subscribed only while the driver takes commands: policy_node refuses to start without a
listener, and stops when it is gone.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import time
from array import array
from functools import partial
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.exceptions import InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import Imu, JointState, Joy
from std_srvs.srv import Trigger

from dime_robot.runtime.contract.policy_spec import MAX_JOINTS
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.unitree.low_level import MOTORS
from dime_robot.runtime.unitree.remote import AXES
from ros_nodes import diagnostics
from ros_nodes.conversions import (
    COMMAND_TYPES,
    JOYSTICK_QOS,
    STATE_QOS,
    named_positions,
    stamp_of,
)
from ros_nodes.parameters import UnitreeParameters, read_parameters, require_known_parameters
from ros_nodes.process import realtime_profile
from ros_nodes.unitree.link import (
    Call,
    Command,
    Done,
    Link,
    Log,
    Sample,
    Started,
    Status,
    Stick,
    Topics,
)

NODE = "unitree_driver"
DISCOVERY_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
SERVICES = ("check_mode", "release_mode", "restore_mode", "reset")
POLL = 0.001  # [s] between two looks at the link
RIVAL_TIME = 0.5  # [s] after a command in which those of another publisher are refused
MAX_STALL = 0.05  # [s] between two looks for commands; later ones may be old
IMU_FRAME = "imu"
READING_QOS = 10  # reliable, as ros2_control's broadcasters: a subscriber may ask for either


class RosSide:
    """See the module's docstring.

    Args:
        node: on the ROS domain.
        link: to the process on the robot's domain.
    """

    def __init__(self, node: Node, link: Link) -> None:
        self._node, self._link = node, link
        self._topics: Topics | None = None
        self._commands: Any = None  # subscription, while the driver takes commands
        self._sender = b""  # publisher of the last command
        self._sent_at = self._spun_at = -math.inf  # [s]
        self._remark = ""
        self._waiting: dict[int, Future[Done]] = {}
        self._calls = 0
        self._states: Any = None
        self._imus: Any = None
        self._sticks: Any = None
        self._diagnostics = node.create_publisher(DiagnosticArray, diagnostics.TOPIC, 10)
        self._joint_state, self._imu = JointState(name=list(MOTORS)), Imu()
        self._imu.header.frame_id = IMU_FRAME
        for what in SERVICES:
            node.create_service(Trigger, f"~/{what}", partial(self._serve, what))

    def tick(self) -> None:
        """Pass on what the robot's side has sent."""
        self._spun_at = time.monotonic()
        for message in self._link.receive():
            self._take(message)

    def _take(self, message: Any) -> None:
        node = self._node
        if isinstance(message, Sample):
            self._publish(message)
        elif isinstance(message, Stick) and self._sticks is not None:
            stick = Joy(axes=message.axes[: len(AXES)], buttons=message.buttons)
            stick.header.stamp = stamp_of(message.stamp)
            self._sticks.publish(stick)
        elif isinstance(message, Topics):
            self._topics = message
            self._states = node.create_publisher(JointState, message.state, READING_QOS)
            self._imus = node.create_publisher(Imu, message.imu, READING_QOS)
            if message.joystick:
                self._sticks = node.create_publisher(Joy, message.joystick, JOYSTICK_QOS)
        elif isinstance(message, Status):
            self._report(message)
        elif isinstance(message, Done) and message.id in self._waiting:
            self._waiting.pop(message.id).set_result(message)
        elif isinstance(message, Log):
            _log(node, message.level, message.text)

    def _publish(self, sample: Sample) -> None:
        stamp = stamp_of(sample.stamp)
        state, imu = self._joint_state, self._imu
        state.header.stamp = imu.header.stamp = stamp
        state.position = array("d", sample.position)
        state.velocity = array("d", sample.velocity)
        state.effort = array("d", sample.effort)
        q, turn, pull = imu.orientation, imu.angular_velocity, imu.linear_acceleration
        q.w, q.x, q.y, q.z = sample.quaternion
        turn.x, turn.y, turn.z = sample.gyroscope
        pull.x, pull.y, pull.z = sample.accelerometer
        self._imus.publish(imu)
        self._states.publish(state)  # last: it is what begins a step

    def _report(self, status: Status) -> None:
        node, topics = self._node, self._topics
        if topics is not None and status.takes_commands != (self._commands is not None):
            if status.takes_commands:
                kind = COMMAND_TYPES[topics.command_kind]
                self._commands = node.create_subscription(
                    kind, topics.command, self._on_command, STATE_QOS
                )
                node.get_logger().info(f"commands are taken on {self._commands.topic_name}")
            else:
                node.destroy_subscription(self._commands)
                self._commands = None
        name = diagnostics.entry_name(node.get_fully_qualified_name(), "wire")
        level = bytes([status.level])
        entry = diagnostics.status(name, "go2", level, status.text, status.values)
        self._diagnostics.publish(diagnostics.array(node.get_clock().now().to_msg(), entry))

    def _on_command(self, message: Any, info: Any) -> None:
        """Pass a command on, unless another publisher's are followed."""
        now, gid = time.monotonic(), info.get("publisher_gid")
        if now - self._spun_at > MAX_STALL:  # it may have waited since before that
            return
        try:
            names, positions = named_positions(message)
        except InputError as error:
            self._warn_once(f"command refused: {error}")
            return
        if max(len(names), len(positions)) > MAX_JOINTS:
            self._warn_once(f"command refused: expected at most {MAX_JOINTS} joints")
            return
        sender = b"" if gid is None else bytes(gid["data"])
        if sender != self._sender and now - self._sent_at < RIVAL_TIME:
            self._warn_once("commands of a second publisher are refused: stop one of the two")
            return
        self._sender, self._sent_at = sender, now
        self._link.send(Command(names, positions, now))

    def _warn_once(self, text: str) -> None:
        if text != self._remark:
            self._remark = text
            self._node.get_logger().warning(text)

    async def _serve(self, what: str, _: Any, response: Any) -> Any:
        self._calls += 1
        future: Future[Done] = Future()
        self._waiting[self._calls] = future
        if not self._link.send(Call(self._calls, what)):
            response.success, response.message = False, "the robot's side does not listen"
            return response
        done = await future
        assert done is not None
        response.success, response.message = done.success, done.text
        return response


def _log(node: Node, level: str, text: str) -> None:
    """Write a sentence of the robot's side; rclpy wants one call site for each level."""
    log = node.get_logger()
    if level == "error":
        log.error(text)
    elif level == "warning":
        log.warning(text)
    else:
        log.info(text)


def _require_other_domain(arguments: list[str]) -> None:
    """Refuse the robot's domain before this process is on it.

    Raises:
        InputError: it is the ROS domain, or a parameter is wrong.
    """
    range_before = os.environ.get(DISCOVERY_RANGE)
    os.environ[DISCOVERY_RANGE] = "OFF"  # it announces nothing
    probe = Context()
    try:
        probe.init(arguments)
    except Exception as error:  # rcl's own exceptions, for arguments it cannot parse
        raise InputError(f"ROS arguments: {' '.join(str(error).split())[:300]}") from None
    try:
        node = Node(
            NODE,
            context=probe,
            cli_args=arguments,
            start_parameter_services=False,
            enable_rosout=False,
        )
        robot_domain = read_parameters(node, UnitreeParameters).robot_domain
        domain = probe.get_domain_id()
        node.destroy_node()
    finally:
        probe.try_shutdown()
        del os.environ[DISCOVERY_RANGE]
        if range_before is not None:
            os.environ[DISCOVERY_RANGE] = range_before
    if domain == robot_domain:
        raise InputError(
            f"expected a ROS domain other than the robot's, {robot_domain}, got the same: export"
            " ROS_DOMAIN_ID=1 for this shell and all of the graph; on the robot's domain another"
            " ROS node can crash the robot"
        )


def run(end: socket.socket, arguments: list[str]) -> int:
    """Run until the link ends; return the exit code.

    Args:
        end: this process's end of the link.
        arguments: ROS arguments of the driver.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the driver ends this process by the link
    link = Link(end)
    try:
        _require_other_domain(arguments)
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        node = Node(NODE)
        parameters = read_parameters(node, UnitreeParameters)
        require_known_parameters(node)
        side = RosSide(node, link)
        link.send(Started(parameters))
        if parameters.realtime:  # readings and commands pass through here
            granted, refused = realtime_profile(parameters.priority, parameters.cpus)
            for text in [f"real-time on the ROS domain: {granted}", *refused]:
                node.get_logger().info(text)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not link.closed:
            executor.spin_once(timeout_sec=POLL)
            side.tick()
        return 0
    except (InputError, InvalidParameterValueException) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        link.close()
        if rclpy.ok():
            rclpy.shutdown()


def main() -> int:
    """Run as the driver's child: the number of the link's file, then the ROS arguments."""
    end = socket.socket(fileno=int(sys.argv[1]))
    code = run(end, [sys.argv[0], *sys.argv[2:]])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # no exit handler may keep it: the driver waits for its end


if __name__ == "__main__":
    sys.exit(main())
