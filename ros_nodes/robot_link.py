"""RobotLink: turns a robot's messages into calls of the control loop, and commands into messages.

It also watches the ROS graph: which nodes take the commands, which others could send some or do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import Imu, JointState

from dime_robot.runtime.control.control_loop import ControlLoop, GraphView, Reading
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from ros_nodes import conversions
from ros_nodes.conversions import COMMAND_QOS, STATE_QOS, CommandMessage, CommandWriter
from ros_nodes.process import NodeClock
from ros_nodes.topic_types import type_mismatches, type_name
from ros_nodes.topic_watch import (
    WATCH_TIME,
    Endpoint,
    StatePublishers,
    TopicWatch,
    endpoints,
    full_name,
    is_tool,
)

LAST_COMMAND_TIMEOUT = 0.3  # [s] for the listeners to acknowledge the last command
RESEND_PERIOD = 0.02  # [s] after which the first command is sent again, until it is acknowledged
FULL_POLL_PERIOD = 1.0  # [s] between two full reads of the graph; endpoints are counted each time
MATCH_PAUSE = 0.005  # [s] between two checks whether the listener is matched
ALL_MATCHED_TIMEOUT = 0.5  # [s] for all subscribers to be matched, once the listener is


class RobotLink:
    """Subscriptions of a configured node, and the publisher of an active one.

    Args:
        node: their owner.
        loop: the control loop.
        clock: for the commands' stamps.
        run: runs a call of the loop, which may lead to a command.
    """

    def __init__(
        self,
        node: Node,
        loop: ControlLoop,
        clock: NodeClock,
        run: Callable[[Callable[[], Decision | None]], None],
    ) -> None:
        spec, robot = loop.controller.policy.spec, loop.controller.robot
        self._node, self.loop, self._robot = node, loop, robot
        self._clock, self._run = clock, run
        self._mapping = JointMapping(spec, robot)
        self._writer = CommandWriter(robot.command, self._mapping, spec.period)
        self._command_type = conversions.command_type(robot.command)
        self.command_topic = node.resolve_topic_name(robot.command.topic)
        loop.command_topic = self.command_topic
        self._publisher: Publisher[CommandMessage] | None = None
        self._own: set[bytes] = set()  # ids of our own publisher
        self._unacknowledged = False  # is the first command not acknowledged yet?
        self._first_sent = 0.0
        self._listener = robot.command.listener
        if self._listener is not None and not self._listener.startswith("/"):
            self._listener = full_name(node.get_namespace(), self._listener)
        self.assumed_listeners: tuple[str, ...] = ()  # who takes commands, where none is configured
        self._subscriptions: list[Any] = []
        self._inputs: dict[str, tuple[str, type]] = {}  # section of the robot's file: topic, type
        self._watches = {"command": TopicWatch(node, self._command_type, self.command_topic)}
        self._subscribe("state", JointState, robot.state.topic, self._on_joint_state)
        if loop.needs_imu and robot.imu is not None:
            self._subscribe("imu", Imu, robot.imu.topic, self._on_imu)
        if loop.needs_velocity and (velocity := robot.command_velocity) is not None:
            kind = conversions.TWIST_TYPES[velocity.type]
            self._subscribe("command_velocity", kind, velocity.topic, self._on_velocity)
        joints = [robot.joint(joint.name) for joint in spec.joints]
        self._state_publishers = StatePublishers(
            [joint.wire for joint in joints],
            np.array([joint.velocity_limit for joint in joints]),
            np.array([joint.position_limits is None for joint in joints]),
        )
        self._imus: dict[bytes | None, float] = {}  # when each publisher of the imu last sent [s]
        self._counts: list[int] = []  # of endpoints at the last poll
        self._polled = -np.inf  # when the graph was last read in full [s]
        self._view = GraphView()
        self._publishers: dict[str, list[Endpoint]] = {}

    def _subscribe(
        self, section: str, kind: type, topic: str, callback: Callable[..., None]
    ) -> None:
        # callbacks take no MessageInfo: the events executor of rclpy 9.1.2 fails on those that do
        subscription = self._node.create_subscription(kind, topic, callback, STATE_QOS)
        self._subscriptions.append(subscription)
        self._inputs[section] = subscription.topic_name, kind
        if section != "command_velocity":
            self._watches[section] = TopicWatch(self._node, kind, subscription.topic_name)

    # ---- commands

    def open(self, timeout: float) -> str:
        """Make the publisher and wait until its listener is matched. Readings are served meanwhile.

        Args:
            timeout: how long to wait [s].

        Returns:
            What went wrong, as one sentence; empty: nothing.
        """
        before = {end.gid for end in self._endpoints_of_commands()}
        self._publisher = self._node.create_publisher(
            self._command_type, self._robot.command.topic, COMMAND_QOS
        )
        began = time.monotonic()
        name = self._node.get_fully_qualified_name()
        while True:
            ours = {end.gid for end in self._endpoints_of_commands() if end.node == name}
            self._own = ours - before
            waited, matched = time.monotonic() - began, self._publisher.get_subscription_count()
            all_matched = matched >= self._node.count_subscribers(self.command_topic)
            if self._own and matched and (all_matched or waited > ALL_MATCHED_TIMEOUT):
                break
            if waited > timeout:
                self.close()
                return (
                    f"{', '.join(self._view.listeners)} did not match our publisher of"
                    f" {self.command_topic} within {timeout:g} s: is its quality of service"
                    " reliable or best effort, volatile?"
                )
            self.serve()
            time.sleep(MATCH_PAUSE)
        self._polled = -np.inf
        if rivals := self.poll().rivals:
            self.close()
            return self.loop.rivals_problem(rivals)
        self._unacknowledged, self._first_sent = True, 0.0
        return ""

    def close(self) -> None:
        """Wait until the last command has arrived, and destroy the publisher."""
        if self._publisher is not None:
            self._publisher.wait_for_all_acked(Duration(seconds=LAST_COMMAND_TIMEOUT))
            self._node.destroy_publisher(self._publisher)
        self._publisher, self._own, self._polled = None, set(), -np.inf
        self._watches["command"].close()

    def publish(self, command: JointCommand) -> None:
        """Send a command; without a publisher (a dry run) only fill the message."""
        message = self._writer.write(command, self._clock.robot_now())
        if self._publisher is not None:
            self._publisher.publish(message)
            self._first_sent = time.monotonic()

    def repeat_first(self) -> None:
        """Send the first command again until it is acknowledged: discovery loses some."""
        if not self._unacknowledged or self._publisher is None or not self._first_sent:
            return
        if self._publisher.wait_for_all_acked(Duration(seconds=0)):
            self._unacknowledged = False
        elif time.monotonic() - self._first_sent > RESEND_PERIOD:
            self._publisher.publish(self._writer.message)
            self._first_sent = time.monotonic()

    # ---- the graph

    def poll(self) -> GraphView:
        """Who else is on the topics now."""
        now = time.monotonic()
        topics = [self.command_topic, *(topic for topic, _ in self._inputs.values())]
        counts = [self._node.count_subscribers(self.command_topic)]
        counts += map(self._node.count_publishers, topics)
        if counts != self._counts or now - self._polled > FULL_POLL_PERIOD:
            self._counts, self._polled = counts, now
            self._read_graph()
        conflict, shared = self._judge_publishers(now)
        self._view = self._view._replace(
            rival_messages=self._rival_messages(), state_conflict=conflict, state_shared=shared
        )
        return self._view

    def _endpoints_of_commands(self) -> list[Endpoint]:
        return endpoints(self._node.get_publishers_info_by_topic(self.command_topic))

    def _read_graph(self) -> None:
        node, extra, velocity_conflict = self._node, [], ""
        robot, expected = self._robot, type_name(self._command_type)
        listeners = [
            end.node
            for end in endpoints(node.get_subscriptions_info_by_topic(self.command_topic))
            if end.type == expected and not is_tool(end.node) and self._listener in (None, end.node)
        ]
        rivals = [end for end in self._endpoints_of_commands() if end.gid not in self._own]
        self._publishers["command"] = rivals
        mismatches = type_mismatches(node, robot.command.topic, self._command_type, "robot.command")
        for section, (topic, kind) in self._inputs.items():
            mismatches += type_mismatches(node, topic, kind, f"robot.{section}")
            expected = type_name(kind)
            found = endpoints(node.get_publishers_info_by_topic(topic))
            found = [end for end in found if end.type == expected]
            self._publishers[section] = found
            if len(found) > 1:
                names = ", ".join(end.node for end in found)
                extra.append(f"{topic} has {len(found)} publishers: {names}")
                velocity = robot.command_velocity if section == "command_velocity" else None
                if velocity is not None and velocity.second_publisher == "refuse":
                    velocity_conflict = f"{extra[-1]}: stop all but one"
            if section in self._watches:
                self._watches[section].keep_open(len(found) > 1)
        self._watches["command"].keep_open(bool(rivals) and self._publisher is not None)
        self.assumed_listeners = tuple(listeners) if self._listener is None else ()
        self._view = GraphView(
            listeners=tuple(listeners),
            rivals=tuple(end.node for end in rivals),
            extra_publishers=tuple(extra),
            velocity_conflict=velocity_conflict,
            type_mismatches=tuple(mismatches),
        )

    def _rival_messages(self) -> int:
        """Commands of others since the last poll."""
        taken = self._watches["command"].take()
        if any(gid is None for gid, _ in taken):  # an older rclpy: count the endpoints instead
            return len(self._publishers["command"])
        return sum(gid not in self._own for gid, _ in taken)

    def _judge_publishers(self, now: float) -> tuple[str, str]:
        """How two publishers of the joints contradict each other, and what two of them share.

        Args:
            now: steady time [s].

        Returns:
            A sentence each; empty: they do not. The imu of two publishers is shared too.
        """
        conflict = shared = ""
        state, imu = self._watches["state"], self._watches.get("imu")
        judged = self._state_publishers
        names = ", ".join(end.node for end in self._publishers["state"])
        for gid, message in state.take():
            stamp = conversions.seconds(message.header.stamp)
            text = judged.take(gid, message.name, message.position, stamp, now)
            conflict = f"{names} contradict each other: {text}" if text else conflict
        if not state.is_open:
            judged.restart()
        elif joints := judged.shared(now):
            shared = f"{names} all publish {', '.join(joints[:6])}: stop all but one"
        elif now - state.since < WATCH_TIME:
            shared = f"{names} publish on {state.topic}: their joints are compared first"
        if imu is None or not imu.is_open:
            return conflict, shared
        self._imus |= {gid: now for gid, _ in imu.take()}
        names = ", ".join(end.node for end in self._publishers["imu"])
        if sum(now - then <= WATCH_TIME for then in self._imus.values()) > 1:
            shared = f"{names} all publish on {imu.topic}: stop all but one"
        elif not shared and now - imu.since < WATCH_TIME:
            shared = f"{names} publish on {imu.topic}: their messages are counted first"
        return conflict, shared

    # ---- readings

    def serve(self) -> None:
        """Take messages and call their callbacks, inside a callback where no executor can run."""
        for subscription in [*self._subscriptions, *self._clock.subscriptions()]:
            while True:
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, False)
                if taken is None:
                    break
                subscription.callback(taken[0])

    def destroy(self) -> None:
        """Destroy publisher and subscriptions."""
        self.close()
        for watch in self._watches.values():
            watch.close()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _on_joint_state(self, message: JointState) -> None:
        mapping, size = self._mapping, len(message.name)
        if not mapping.concerns(message.name):
            return  # joints of something else, such as a gripper
        try:
            reordered = mapping.follow(message.name)
        except InputError as error:
            defect = str(error)
            self._run(lambda: self.loop.unusable(defect))
            return
        position = conversions.joint_values(message.position, size)
        velocity = conversions.joint_values(message.velocity, size)
        reading = Reading(
            conversions.seconds(message.header.stamp),
            mapping.positions(position),
            mapping.velocities(velocity),
            reordered,
            mapping.held(position),
        )
        self._clock.update(reading.stamp)
        self._run(lambda: self.loop.joint_state(reading))

    def _on_imu(self, message: Imu) -> None:
        stamp = conversions.seconds(message.header.stamp)
        self._clock.update(stamp)
        orientation = conversions.orientation_of(message)
        angular_velocity = conversions.angular_velocity_of(message)
        self._run(lambda: self.loop.imu(stamp, orientation, angular_velocity))

    def _on_velocity(self, message: Any) -> None:
        self.loop.velocity(conversions.twist_values(message))
