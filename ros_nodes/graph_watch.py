"""GraphWatch: finds the other nodes on a robot's topics, and monitors their messages.

It finds the nodes that take the commands, others that could send or do send commands, and detects
whether two publishers of one input contradict each other.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from rclpy.node import Node

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.control_loop import GraphView
from ros_nodes.conversions import command_type, seconds
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

FULL_POLL_PERIOD = 1.0  # [s] between two full reads of the graph; endpoints are counted each time


class Input(NamedTuple):
    """A topic that the node subscribes to."""

    topic: str  # fully resolved
    kind: type  # of its messages


class GraphWatch:
    """See the module's docstring.

    Args:
        node: reads the graph.
        spec: the joints of the policy.
        robot: its topics and listener.
        inputs: section of the robot's file (state, imu, command_velocity, joystick,
            task_commands.NAME, sensors.NAME) -> its topic.
    """

    def __init__(
        self, node: Node, spec: PolicySpec, robot: RobotConfig, inputs: dict[str, Input]
    ) -> None:
        self._node, self._robot, self._inputs = node, robot, inputs
        self.command_topic = node.resolve_topic_name(robot.command.topic)
        self.own: set[bytes] = set()  # ids of this node's own publisher of commands
        self.view = GraphView()  # as of the last poll
        self.assumed_listeners: tuple[str, ...] = ()  # subscribers, if no listener is configured
        self._listener = robot.command.listener
        if self._listener is not None and not self._listener.startswith("/"):
            self._listener = full_name(node.get_namespace(), self._listener)
        self._command_type = command_type(robot.command)
        self._watches = {"command": TopicWatch(node, self._command_type, self.command_topic)}
        for section in {"state", "imu"} & inputs.keys():
            self._watches[section] = TopicWatch(node, inputs[section].kind, inputs[section].topic)
        joints = [robot.joint(joint.name) for joint in spec.joints]
        self._state_publishers = StatePublishers(
            [joint.hardware_name for joint in joints],
            np.array([joint.velocity_limit for joint in joints]),
            np.array([joint.position_limits is None for joint in joints]),
        )
        self._imus: dict[bytes | None, float] = {}  # when each publisher of the imu last sent [s]
        self._publishers: dict[str, list[Endpoint]] = {}  # by section
        self._signals = {f"{signal.section}.{name}": name for name, signal in spec.signals.items()}
        self._only: set[str] = set()  # signals of which a second publisher is refused
        for name, signal in spec.signals.items():
            given = robot.signal(signal.kind, name)
            if given is not None and given.second_publisher == "refuse":
                self._only.add(name)
        self._senders: dict[str, str] = {}  # signal -> the last nodes that published it
        self._counts: list[int] = []  # of endpoints at the last poll
        self._polled = -np.inf  # when the graph was last read in full [s]

    def restart(self) -> None:
        """Read the graph in full at the next poll: this node's publisher was made or destroyed."""
        self._polled = -np.inf
        if not self.own:
            self._watches["command"].close()

    def close(self) -> None:
        """End the subscriptions."""
        for watch in self._watches.values():
            watch.close()

    def poll(self) -> GraphView:
        """Return the other nodes that are on the topics now."""
        now = time.monotonic()
        topics = [self.command_topic, *(topic for topic, _ in self._inputs.values())]
        counts = [self._node.count_subscribers(self.command_topic)]
        counts += map(self._node.count_publishers, topics)
        if counts != self._counts or now - self._polled > FULL_POLL_PERIOD:
            self._counts, self._polled = counts, now
            self._read_graph()
        conflict, shared = self._judge_publishers(now)
        self.view = self.view._replace(
            rival_messages=self._rival_messages(), state_conflict=conflict, state_shared=shared
        )
        return self.view

    def command_publishers(self) -> list[Endpoint]:
        """Return all publishers of commands, this node's included."""
        return endpoints(self._node.get_publishers_info_by_topic(self.command_topic))

    def _read_graph(self) -> None:
        node, extra, velocity_conflict, joystick_conflict = self._node, [], "", ""
        conflicts: dict[str, str] = {}
        robot, expected = self._robot, type_name(self._command_type)
        listeners = [
            end.node
            for end in endpoints(node.get_subscriptions_info_by_topic(self.command_topic))
            if end.type == expected and not is_tool(end.node) and self._listener in (None, end.node)
        ]
        rivals = [end for end in self.command_publishers() if end.gid not in self.own]
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
                if section == "joystick":
                    joystick_conflict = f"{extra[-1]}: stop all but one"
                if self._signals.get(section) in self._only:
                    conflicts[self._signals[section]] = f"{extra[-1]}: stop all but one"
            if found and section in self._signals:
                names = ", ".join(dict.fromkeys(end.node for end in found))
                self._senders[self._signals[section]] = names
            if section in self._watches:
                self._watches[section].keep_open(len(found) > 1)
        self._watches["command"].keep_open(bool(rivals) and bool(self.own))
        self.assumed_listeners = tuple(listeners) if self._listener is None else ()
        self.view = GraphView(
            listeners=tuple(listeners),
            rivals=tuple(end.node for end in rivals),
            extra_publishers=tuple(extra),
            velocity_conflict=velocity_conflict,
            joystick_conflict=joystick_conflict,
            type_mismatches=tuple(mismatches),
            signal_senders=dict(self._senders),
            signal_conflicts=conflicts,
        )

    def _rival_messages(self) -> int:
        """Return the number of other nodes' commands since the last poll."""
        taken = self._watches["command"].take()
        if any(gid is None for gid, _ in taken):  # an older rclpy: count the endpoints instead
            return len(self._publishers["command"])
        return sum(gid not in self.own for gid, _ in taken)

    def _judge_publishers(self, now: float) -> tuple[str, str]:
        """Return how two publishers of the joints contradict each other, and what they share.

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
            stamp = seconds(message.header.stamp)
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
