"""RobotLink: a robot's topics as calls of the control loop, and its commands as messages.

It also looks at the graph: who takes the commands, who else could send some, who really does.
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
    JUDGED_AFTER,
    Endpoint,
    StatePublishers,
    TopicWatch,
    endpoints,
    full_name,
    is_tool,
)

ACKNOWLEDGED_WITHIN = 0.3  # [s] by the listeners, of the last command
FIRST_WITHIN = 0.02  # [s] by the listener, of the first command; else it is sent again
FULL_LOOK = 1.0  # [s] between two looks at the graph in full; numbers are looked at every time
MATCH_PAUSE = 0.005  # [s] between two looks whether the listener is matched
ALL_MATCHED_WITHIN = 0.5  # [s] after the first listener, also those that only look on


class RobotLink:
    """Subscriptions of a configured node, and the publisher of an active one.

    Args:
        node: their owner.
        loop: gets what comes in.
        clock: of the commands' stamps.
        carry_out: gets every call of the loop that may lead to a command.
    """

    def __init__(
        self,
        node: Node,
        loop: ControlLoop,
        clock: NodeClock,
        carry_out: Callable[[Callable[[], Decision | None]], None],
    ) -> None:
        spec, robot = loop.controller.policy.spec, loop.controller.robot
        self._node, self._loop, self._robot = node, loop, robot
        self._carry_out = carry_out
        self._clock = clock
        self._mapping = JointMapping(spec, robot)
        self._writer = CommandWriter(robot.command, self._mapping, spec.period)
        self._command_type = conversions.command_type(robot.command)
        self.command_topic = node.resolve_topic_name(robot.command.topic)
        loop.command_topic = self.command_topic
        self._publisher: Publisher[CommandMessage] | None = None
        self._own: set[bytes] = set()  # ids of our own publisher
        self._unacknowledged = False  # the first command, by its listener
        self._first_sent = 0.0
        self._listener = robot.command.listener
        if self._listener is not None and not self._listener.startswith("/"):
            self._listener = full_name(node.get_namespace(), self._listener)
        self.listeners_said: tuple[str, ...] = ()  # who counts, where no listener is configured
        wanted: list[tuple[str, type, str, Callable[..., None]]] = [
            ("state", JointState, robot.state.topic, self._on_joint_state)
        ]
        if loop.needs_imu and robot.imu is not None:
            wanted.append(("imu", Imu, robot.imu.topic, self._on_imu))
        if loop.needs_velocity and robot.command_velocity is not None:
            kind = conversions.TWIST_TYPES[robot.command_velocity.type]
            topic = robot.command_velocity.topic
            wanted.append(("command_velocity", kind, topic, self._on_velocity))
        # callbacks take no MessageInfo: the events executor of rclpy 9.1.2 fails on those that do
        self._subscriptions = [
            node.create_subscription(kind, topic, callback, STATE_QOS)
            for _, kind, topic, callback in wanted
        ]
        self._inputs = {
            section: (subscription.topic_name, kind)
            for (section, kind, _, _), subscription in zip(wanted, self._subscriptions, strict=True)
        }
        self._watches = {
            section: TopicWatch(node, kind, topic)
            for section, (topic, kind) in self._inputs.items()
            if section != "command_velocity"
        }
        self._watches["command"] = TopicWatch(node, self._command_type, self.command_topic)
        joints = [robot.joint(joint.name) for joint in spec.joints]
        self._state_publishers = StatePublishers(
            [joint.wire for joint in joints],
            np.array([joint.velocity_limit for joint in joints]),
            np.array([joint.position_limits is None for joint in joints]),
        )
        self._imus: dict[bytes | None, float] = {}  # when each publisher of the imu last sent [s]
        self._numbers: tuple[int, ...] = ()
        self._looked = -np.inf
        self._view = GraphView()
        self._publishers: dict[str, list[Endpoint]] = {}

    # ---- commands

    def open(self, patience: float) -> str:
        """Make the publisher and wait until its listener is matched; gives what went wrong.

        Readings are served meanwhile.

        Args:
            patience: how long to wait [s].
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
            everybody = matched >= self._node.count_subscribers(self.command_topic)
            if self._own and matched and (everybody or waited > ALL_MATCHED_WITHIN):
                break
            if waited > patience:
                self.close()
                return (
                    f"{', '.join(self._view.listeners)} did not match our publisher of"
                    f" {self.command_topic} within {patience:g} s: is its quality of service"
                    " reliable or best effort, volatile?"
                )
            self.serve()
            time.sleep(MATCH_PAUSE)
        self._looked = -np.inf
        if rivals := self.look().rivals:
            self.close()
            return self._loop.rivals_problem(rivals)
        self._unacknowledged, self._first_sent = True, 0.0
        return ""

    def close(self) -> None:
        """Let the last command arrive, and leave the command topic to others."""
        if self._publisher is not None:
            self._publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGED_WITHIN))
            self._node.destroy_publisher(self._publisher)
        self._publisher, self._own, self._looked = None, set(), -np.inf
        self._watches["command"].close()

    def publish(self, command: JointCommand) -> None:
        """Send a command; without a publisher (a dry run) only write it."""
        message = self._writer.write(command, self._clock.robot_now())
        if self._publisher is not None:
            self._publisher.publish(message)
            self._first_sent = time.monotonic()

    def repeat_first(self) -> None:
        """Send the first command again while nobody has acknowledged it: discovery loses some."""
        if not self._unacknowledged or self._publisher is None or not self._first_sent:
            return
        if self._publisher.wait_for_all_acked(Duration(seconds=0)):
            self._unacknowledged = False
        elif time.monotonic() - self._first_sent > FIRST_WITHIN:
            self._publisher.publish(self._writer.message)
            self._first_sent = time.monotonic()

    # ---- the graph

    def look(self) -> GraphView:
        """Who else is there now."""
        now = time.monotonic()
        numbers = self._count()
        if numbers != self._numbers or now - self._looked > FULL_LOOK:
            self._numbers, self._looked = numbers, now
            self._look_in_full()
        self._view = self._view._replace(
            rival_messages=self._rival_messages(), **self._state_conflicts(now)
        )
        return self._view

    def _count(self) -> tuple[int, ...]:
        node = self._node
        topics = [topic for topic, _ in self._inputs.values()]
        return (
            node.count_subscribers(self.command_topic),
            node.count_publishers(self.command_topic),
            *(node.count_publishers(topic) for topic in topics),
        )

    def _endpoints_of_commands(self) -> list[Endpoint]:
        return endpoints(self._node.get_publishers_info_by_topic(self.command_topic))

    def _look_in_full(self) -> None:
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
                self._keep_watch(section, len(found) > 1)
        self._keep_watch("command", bool(rivals) and self._publisher is not None)
        self.listeners_said = tuple(listeners) if self._listener is None else ()
        self._view = GraphView(
            listeners=tuple(listeners),
            rivals=tuple(end.node for end in rivals),
            extra_publishers=tuple(extra),
            velocity_conflict=velocity_conflict,
            type_mismatches=tuple(mismatches),
        )

    def _keep_watch(self, section: str, needed: bool) -> None:
        watch = self._watches[section]
        if needed:
            watch.open()
        else:
            watch.close()

    def _rival_messages(self) -> int:
        """Commands of others since the last look."""
        watch = self._watches["command"]
        if not watch.is_open:
            return 0
        taken = watch.take()
        if any(gid is None for gid, _ in taken):  # an older rclpy: the endpoint has to do
            return len(self._publishers["command"])
        return sum(gid not in self._own for gid, _ in taken)

    def _state_conflicts(self, now: float) -> dict[str, Any]:
        """What two publishers of the joints, or of the imu, do to each other."""
        conflict, shared = "", ""
        state, imu = self._watches["state"], self._watches.get("imu")
        if state.is_open:
            names = ", ".join(end.node for end in self._publishers["state"])
            for gid, message in state.take():
                stamp = conversions.seconds(message.header.stamp)
                said = self._state_publishers.take(gid, message.name, message.position, stamp, now)
                conflict = f"{names} contradict each other: {said}" if said else conflict
            joints = self._state_publishers.shared(now)
            if joints:
                shared = f"{names} all publish {', '.join(joints[:6])}: stop all but one"
            elif now - state.since < JUDGED_AFTER:
                shared = f"{names} publish on {state.topic}: their joints are looked at first"
        else:
            self._state_publishers.restart()
        if imu is not None and imu.is_open:
            for gid, _ in imu.take():
                self._imus[gid] = now
            talking = [gid for gid, then in self._imus.items() if now - then <= JUDGED_AFTER]
            names = ", ".join(end.node for end in self._publishers["imu"])
            if len(talking) > 1:
                shared = f"{names} all publish on {imu.topic}: stop all but one"
            elif not shared and now - imu.since < JUDGED_AFTER:
                shared = f"{names} publish on {imu.topic}: what they send is looked at first"
        return {"state_conflict": conflict, "state_shared": shared}

    # ---- readings

    def serve(self) -> None:
        """Take messages by hand, inside a callback where no executor can run."""
        for subscription in [*self._subscriptions, *self._clock.subscriptions()]:
            while True:
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, False)
                if taken is None:
                    break
                subscription.callback(taken[0])

    def destroy(self) -> None:
        """Leave the topics."""
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
            self._carry_out(lambda: self._loop.unusable(defect))
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
        self._clock.overtaken(reading.stamp)
        self._carry_out(lambda: self._loop.joint_state(reading))

    def _on_imu(self, message: Imu) -> None:
        stamp = conversions.seconds(message.header.stamp)
        self._clock.overtaken(stamp)
        orientation = conversions.orientation_of(message)
        angular_velocity = conversions.angular_velocity_of(message)
        self._carry_out(lambda: self._loop.imu(stamp, orientation, angular_velocity))

    def _on_velocity(self, message: Any) -> None:
        self._loop.velocity(conversions.twist_values(message))
