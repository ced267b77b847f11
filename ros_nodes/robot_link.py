"""RobotLink: convert a robot's messages to calls of the control loop, and commands to messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import Imu, JointState

from dime_robot.runtime.control.control_loop import ControlLoop, Reading
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from ros_nodes import conversions
from ros_nodes.conversions import COMMAND_QOS, STATE_QOS, CommandMessage, CommandWriter
from ros_nodes.graph_watch import GraphWatch, Input
from ros_nodes.process import NodeClock

LAST_COMMAND_TIMEOUT = 0.3  # [s] for the listeners to acknowledge the last command
RESEND_PERIOD = 0.02  # [s] after which the first command is sent again, until it is acknowledged
SIMULATED_RESEND_PERIOD = 2.0  # [s] the same in simulated time, by the wall clock
MATCH_PAUSE = 0.005  # [s] between two checks whether the listener is matched
ALL_MATCHED_TIMEOUT = 0.5  # [s] for all subscribers to be matched, once the listener is


class RobotLink:
    """Subscriptions of a configured node, and the publisher of an active one.

    Args:
        node: their owner.
        loop: the control loop.
        clock: for the commands' stamps.
        run: runs a call of the loop, which may result in a command.
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
        self._publisher: Publisher[CommandMessage] | None = None
        self._unacknowledged = False  # whether the first command is not acknowledged yet
        self._sent_at = 0.0  # when the last command was sent [s]; 0: none yet
        self._subscriptions: list[Any] = []
        inputs = {"state": self._subscribe(JointState, robot.state.topic, self._on_joint_state)}
        if loop.needs_imu and robot.imu is not None:
            inputs["imu"] = self._subscribe(Imu, robot.imu.topic, self._on_imu)
        if loop.needs_velocity and (velocity := robot.command_velocity) is not None:
            kind = conversions.TWIST_TYPES[velocity.type]
            inputs["command_velocity"] = self._subscribe(kind, velocity.topic, self._on_velocity)
        self.graph = GraphWatch(node, spec, robot, inputs)
        loop.command_topic = self.graph.command_topic

    def _subscribe(self, kind: type, topic: str, callback: Callable[..., None]) -> Input:
        # callbacks take no MessageInfo: the events executor of rclpy 9.1.2 fails on those that do
        subscription = self._node.create_subscription(kind, topic, callback, STATE_QOS)
        self._subscriptions.append(subscription)
        return Input(subscription.topic_name, kind)

    # ---- commands

    def open(self, timeout: float) -> str:
        """Make the publisher and wait until its listener is matched, while processing readings.

        Args:
            timeout: longest time to wait [s].

        Returns:
            The reason for a failure, as one sentence; empty: it succeeded.
        """
        graph = self.graph
        before = {end.gid for end in graph.command_publishers()}
        kind = conversions.command_type(self._robot.command)
        topic = self._robot.command.topic
        self._publisher = self._node.create_publisher(kind, topic, COMMAND_QOS)
        began = time.monotonic()
        name = self._node.get_fully_qualified_name()
        while True:
            ours = {end.gid for end in graph.command_publishers() if end.node == name}
            graph.own = ours - before
            waited, matched = time.monotonic() - began, self._publisher.get_subscription_count()
            all_matched = matched >= self._node.count_subscribers(graph.command_topic)
            if graph.own and matched and (all_matched or waited > ALL_MATCHED_TIMEOUT):
                break
            if waited > timeout:
                self.close()
                return (
                    f"{', '.join(graph.view.listeners)} did not match our publisher of"
                    f" {graph.command_topic} within {timeout:g} s: is its quality of service"
                    " reliable or best effort, volatile?"
                )
            self.serve()
            time.sleep(MATCH_PAUSE)
        graph.restart()
        if rivals := graph.poll().rivals:
            self.close()
            return self.loop.rivals_problem(rivals)
        self._unacknowledged, self._sent_at = True, 0.0
        return ""

    def close(self) -> None:
        """Wait until the last command has arrived, and destroy the publisher."""
        if self._publisher is not None:
            self._publisher.wait_for_all_acked(Duration(seconds=LAST_COMMAND_TIMEOUT))
            self._node.destroy_publisher(self._publisher)
        self._publisher, self.graph.own = None, set()
        self.graph.restart()

    def publish(self, command: JointCommand) -> None:
        """Send a command; without a publisher (a dry run) only fill the message."""
        message = self._writer.write(command, self._clock.robot_now())
        if self._publisher is not None:
            self._publisher.publish(message)
            # in lockstep a repeated command would be one more step of the simulation; there the
            # second command answers a reading that only the arrival of the first one causes
            if self._sent_at and self._clock.simulated:
                self._unacknowledged = False
            self._sent_at = time.monotonic()

    def repeat_first(self) -> None:
        """Send the first command again until it is acknowledged: discovery can lose messages."""
        if not self._unacknowledged or self._publisher is None or not self._sent_at:
            return
        if self._publisher.wait_for_all_acked(Duration(seconds=0)):
            self._unacknowledged = False
            return
        period = SIMULATED_RESEND_PERIOD if self._clock.simulated else RESEND_PERIOD
        if time.monotonic() - self._sent_at > period:
            self._publisher.publish(self._writer.message)
            self._sent_at = time.monotonic()

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
        self.graph.close()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _on_joint_state(self, message: JointState) -> None:
        mapping, size = self._mapping, len(message.name)
        if not mapping.concerns(message.name):
            return  # joints of another device, such as a gripper
        try:
            reordered = mapping.set_order(message.name)
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
