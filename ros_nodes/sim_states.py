"""Publish a simulated robot's states through its sensors, driver and network, with faults."""

from __future__ import annotations

import heapq
import math
import time
from array import array
from collections.abc import Callable
from itertools import count
from typing import Any, TypeAlias

from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.state import RobotState
from ros_nodes.conversions import stamp_of
from ros_nodes.sim_faults import BURST_SPACING, InjectedFault, imu_message
from ros_nodes.sim_sensors import Sensors

Outgoing: TypeAlias = tuple[Publisher[Any], Any]  # a publisher and its message


class StateTopics:
    """Publishes JointState and Imu.

    Args:
        node: owner of the topics.
        robot: has their names.
        mapping: of the joints.
        sensors: applied to each state.
        fault: the fault at the start; `fault` may be set later.
        in_bursts: False in lockstep, where each state waits for its command.
        held: returns the positions of the contract's held joints, shape (n_held,) [rad or m].
        others: returns the messages of other sensors, from their stamp [s].
        forces: returns the forces on the feet of `robot.contact`, shape (n_feet,) [N].
    """

    def __init__(
        self,
        node: Node,
        robot: RobotConfig,
        mapping: JointMapping,
        sensors: Sensors,
        fault: InjectedFault,
        in_bursts: bool,
        held: Callable[[], FloatArray],
        others: Callable[[float], list[Outgoing]] = lambda _: [],
        forces: Callable[[], FloatArray] | None = None,
    ) -> None:
        self.fault, self._held = fault, held
        self._others, self._forces = others, forces
        self._mapping, self._sensors, self._in_bursts = mapping, sensors, in_bursts
        self._joint_states = node.create_publisher(JointState, robot.state.topic, 10)
        self._imus: Publisher[Imu] | None = None
        if robot.imu is not None:
            self._imus = node.create_publisher(Imu, robot.imu.topic, 10)
        self._contacts: Publisher[Float64MultiArray] | None = None
        if robot.contact is not None and forces is not None:
            self._contacts = node.create_publisher(Float64MultiArray, robot.contact.topic, 10)
        # delayed messages: when each is due (steady, [s]), a running number, and the message
        self._late: list[tuple[float, int, Outgoing]] = []
        self._numbers = count()
        self._burst: list[list[Outgoing]] = []

    @property
    def next_late(self) -> float:
        """Time at which the next delayed message is due, steady [s]; infinity: there is none."""
        return self._late[0][0] if self._late else math.inf

    def flush(self, now: float) -> None:
        """Publish the messages that are due.

        Args:
            now: steady time [s].
        """
        while self.next_late <= now:
            _, _, (publisher, message) = heapq.heappop(self._late)
            publisher.publish(message)

    def send(self, state: RobotState, clock: float) -> None:
        """Publish a state, which was measured at `clock` on the robot's clock [s].

        Args:
            state: the measured state.
            clock: time on the robot's clock [s].
        """
        now = time.monotonic()
        messages = self._messages(self._sensors.read(state), self.fault.stamp(clock))
        if self.fault.stalls(now):
            return
        self._burst.append(messages)
        if self._in_bursts and len(self._burst) < self.fault.burst:
            return
        for number, group in enumerate(self._burst):
            when = now + self.fault.delay + number * BURST_SPACING
            for outgoing in group:
                heapq.heappush(self._late, (when, next(self._numbers), outgoing))
        self._burst = []
        self.flush(now)

    def _messages(self, state: RobotState, stamp: float) -> list[Outgoing]:
        """Make the messages that the driver publishes for one reading."""
        found = self._others(stamp)  # before the joints, whose reading begins a step
        if self._imus is not None and state.orientation is not None:
            assert state.angular_velocity is not None
            imu = imu_message(state.orientation, state.angular_velocity)
            imu.header.stamp = stamp_of(stamp)
            found.append((self._imus, self.fault.imu(imu)))
        if self._contacts is not None and self._forces is not None:
            forces = Float64MultiArray(data=array("d", self._forces()))
            found.append((self._contacts, self.fault.contact(forces)))
        names, position, velocity = self._mapping.readings(state)
        held_names, held = self._mapping.held_readings(self._held())
        message = JointState(name=[*names, *held_names])
        message.header.stamp = stamp_of(stamp)
        message.position = array("d", [*position, *held])
        message.velocity = array("d", [*velocity, *([0.0] * len(held))])
        if state.joint_effort is not None:
            effort = self._mapping.effort_readings(state.joint_effort)
            message.effort = array("d", [*effort, *([0.0] * len(held))])
        found.append((self._joint_states, self.fault.joint_state(message)))
        return [(publisher, message) for publisher, message in found if message is not None]
