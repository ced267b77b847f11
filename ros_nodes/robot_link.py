"""RobotLink: convert a robot's messages to calls of the control loop, and commands to messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Imu, JointState, Joy
from std_msgs.msg import Float64MultiArray

from dime_robot.runtime.contract.signal_input import SignalInput
from dime_robot.runtime.control.contact_reading import ContactReading
from dime_robot.runtime.control.control_loop import ControlLoop
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.message_values import (
    angular_velocity_of,
    joint_reading,
    orientation_of,
    seconds,
    twist_values,
)
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from ros_nodes import conversions
from ros_nodes.conversions import (
    COMMAND_QOS,
    JOYSTICK_QOS,
    STATE_QOS,
    CommandMessage,
    CommandWriter,
)
from ros_nodes.graph_watch import GraphWatch, Input
from ros_nodes.other_commands import OtherCommands
from ros_nodes.process import NodeClock
from ros_nodes.signal_messages import SIGNAL_TYPES, SignalMessage, read_signal

LAST_COMMAND_TIMEOUT = 0.3  # [s] for the listeners to acknowledge the last command
RESEND_PERIOD = 0.02  # [s] after which the first command is sent again, until it is acknowledged
SIMULATED_RESEND_PERIOD = 2.0  # [s] the same in simulated time, by the wall clock
MATCH_PAUSE = 0.005  # [s] between two checks whether the listener is matched
MAX_TAKEN = 100  # messages of one topic in a row: a flood must not delay the others
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
        spec, robot = loop.controller.spec, loop.controller.robot
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
        self._feet = ContactReading(spec, robot)
        if loop.needs_contact and robot.contact is not None:
            topic = robot.contact.topic
            inputs["contact"] = self._subscribe(Float64MultiArray, topic, self._on_contact)
        if loop.needs_velocity and (velocity := robot.command_velocity) is not None:
            kind = conversions.TWIST_TYPES[velocity.type]
            inputs["command_velocity"] = self._subscribe(kind, velocity.topic, self._on_velocity)
        if robot.joystick is not None:
            topic = robot.joystick.topic
            inputs["joystick"] = self._subscribe(Joy, topic, self._on_joystick, JOYSTICK_QOS)
        for name, signal in spec.signals.items():
            given = loop.signals.inputs[name]
            section, kind = f"{signal.section}.{name}", SIGNAL_TYPES[given.type]
            callback = partial(self._on_signal, name, given, signal.width)
            inputs[section] = self._subscribe(kind, given.topic, callback)
        self.graph = GraphWatch(node, spec, robot, inputs)
        loop.command_topic = self.graph.command_topic
        self.others: OtherCommands | None = None  # in a dry run

    def compare_with_others(self) -> OtherCommands:
        """Compare a dry run's commands with those of another controller."""
        topic = self.graph.command_topic
        self.others = OtherCommands(self._node, self.loop, self._mapping, topic)
        return self.others

    def _subscribe(
        self, kind: type, topic: str, callback: Callable[..., None], qos: QoSProfile = STATE_QOS
    ) -> Input:
        # callbacks take no MessageInfo: the events executor of rclpy 9.1.2 fails on those that do
        subscription = self._node.create_subscription(kind, topic, callback, qos)
        self._subscriptions.append(subscription)
        return Input(subscription.topic_name, kind)

    def describe_joystick(self) -> str:
        """Say what the joystick commands, as a sentence; empty: there is none."""
        joystick, velocity = self._robot.joystick, self._robot.command_velocity
        if joystick is None:
            return ""
        topic = self._node.resolve_topic_name(joystick.topic)
        text = f"joystick on {topic}: deadman button {joystick.deadman}, estop button"
        text += f" {joystick.estop}"
        if self.loop.drives_by_joystick and velocity is not None:
            ignored = self._node.resolve_topic_name(velocity.topic)
            text += f"; its axes alone give the velocity, {ignored} is not subscribed"
        return text

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
            for _ in range(MAX_TAKEN):
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, False)
                if taken is None:
                    break
                subscription.callback(taken[0])

    def destroy(self) -> None:
        """Destroy publisher and subscriptions."""
        self.close()
        self.graph.close()
        if self.others is not None:
            self.others.close()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _on_joint_state(self, message: JointState) -> None:
        reading = joint_reading(message, self._mapping, self._robot.state.effort)
        if reading is None:
            return  # joints of another device, such as a gripper
        if isinstance(reading, str):
            defect = reading
            self._run(lambda: self.loop.unusable(defect))
            return
        self._clock.update(reading.stamp)
        self._run(lambda: self.loop.joint_state(reading))

    def _on_imu(self, message: Imu) -> None:
        stamp = seconds(message.header.stamp)
        self._clock.update(stamp)
        orientation = orientation_of(message)
        angular_velocity = angular_velocity_of(message)
        self._run(lambda: self.loop.imu(stamp, orientation, angular_velocity))

    def _on_contact(self, message: Float64MultiArray) -> None:
        self.loop.contact(self._feet.contacts(np.array(message.data, dtype=float)))

    def _on_velocity(self, message: Any) -> None:
        self.loop.velocity(twist_values(message))

    def _on_joystick(self, message: Joy) -> None:
        stopped = self.loop.estopped
        axes = np.array(message.axes, dtype=float)
        self._run(lambda: self.loop.joystick(axes, message.buttons))
        log = self._node.get_logger()
        if self.loop.estopped and not stopped:
            log.error("joystick: emergency stop, ~/reset_estop releases it")
        for title, problem in self.loop.take_requests():
            text = f"joystick: {title}"
            log.warning(f"{text} refused: {problem}") if problem else log.info(text)

    def _on_signal(self, name: str, given: SignalInput, width: int, message: SignalMessage) -> None:
        try:
            reading = read_signal(message, given, width)
        except InputError as error:
            self.loop.signals[name].refuse(str(error))
            return
        self.loop.signal(name, *reading)
