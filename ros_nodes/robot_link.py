"""RobotLink: a robot's topics as one RobotState, and commands back to it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import Twist
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import Imu, JointState

from dime_robot.runtime.errors import InputError
from dime_robot.runtime.freshness import Freshness
from dime_robot.runtime.reasons import Reason
from dime_robot.runtime.robot import RATE_TOLERANCE, RobotConfig
from dime_robot.runtime.safety import SafetyFilter
from dime_robot.runtime.spec import IMU_TERMS, FloatArray, PolicySpec
from dime_robot.runtime.state import JointCommand, RobotState
from dime_robot.runtime.wiring import Wiring
from ros_nodes import conversions
from ros_nodes.conversions import (
    COMMAND_QOS,
    COMMAND_TYPES,
    STATE_QOS,
    CommandMessage,
    CommandWriter,
)
from ros_nodes.process import NodeClock
from ros_nodes.steering import Steering

TOO_FAST, TOO_FAST_IN_A_ROW = 0.7, 5  # share of the policy's period; readings in a row
REST_LIMIT = 2.0  # [s] for a position or twist interface on the way out
ACKNOWLEDGED_WITHIN = 0.3  # [s] by the listeners, of the last command
RATE_SAMPLES = 20  # stamps from which the robot's rate is measured
RATE_SLACK = 0.2  # relative error of a measured rate that is put down to jitter


class RobotLink:
    """Subscriptions and the command publisher of a robot.

    Args:
        node: their owner.
        spec: the policy's contract.
        robot: the machine, found compatible.
        clock: times of arrival.
        by_observation: each reading begins a step, so its rate must be the policy's.
        on_message: called at each new reading, and at each message that cannot be used.
        publishes: False in a dry run, which must not look like a second commander.
    """

    def __init__(
        self,
        node: Node,
        spec: PolicySpec,
        robot: RobotConfig,
        clock: NodeClock,
        by_observation: bool,
        on_message: Callable[[], None],
        publishes: bool = True,
    ) -> None:
        self._node, self._spec, self._robot, self._clock = node, spec, robot, clock
        self._by_observation = by_observation
        self._on_message = on_message
        self._wiring = Wiring(spec, robot)
        self._writer = CommandWriter(robot.command, self._wiring, spec.period)
        operator = robot.command_velocity if spec.needs("command_velocity") else None
        self._steering = None if operator is None else Steering(operator)
        self._imu = robot.imu
        if not spec.needs(*IMU_TERMS) and robot.safety.tilt_limit is None:
            self._imu = None
        self.restart()
        self.command_topic = node.resolve_topic_name(robot.command.topic)
        self._publisher: Publisher[CommandMessage] | None = None
        if publishes:
            kind = COMMAND_TYPES[robot.command.kind]
            self._publisher = node.create_publisher(kind, robot.command.topic, COMMAND_QOS)
        wanted: list[tuple[type, str, Callable[..., None]]] = [
            (JointState, robot.state.topic, self._on_joint_state)
        ]
        if self._imu is not None:
            wanted.append((Imu, self._imu.topic, self._on_imu))
        if operator is not None:
            wanted.append((Twist, operator.topic, self._on_velocity))
        # callbacks take no MessageInfo: the events executor of rclpy 9.1.2 fails on those that do
        self._subscriptions = [
            node.create_subscription(kind, topic, callback, STATE_QOS)
            for kind, topic, callback in wanted
        ]

    def restart(self) -> None:
        """Forget all readings: what comes now is another life of the robot."""
        robot = self._robot
        self.state: RobotState | None = None  # the newest
        self.freshness = Freshness(robot.state.max_age, robot.state.same_clock)
        self.received = -np.inf  # when the last message came, usable or not, steady [s]
        self.defect: str | None = None  # why the last message could not be used
        self._stamps = np.full(RATE_SAMPLES, np.nan)
        self._count, self._too_fast, self._reordered = 0, 0, False
        self._orientation: FloatArray | None = None
        self._angular_velocity: FloatArray | None = None
        self._imu_freshness: Freshness | None = None
        if self._imu is not None:
            self._imu_freshness = Freshness(self._imu.max_age, robot.state.same_clock)

    def problems(self) -> list[Reason]:
        """What is wrong with the readings as a stream; `SafetyFilter` looks at their values."""
        found = []
        now, robot_now = self._clock.now(), self._clock.robot_now()
        if self.defect is not None:
            found.append(Reason.JOINT_MISSING)
        if self.freshness.is_stale(now, robot_now):
            found.append(Reason.OBSERVATION_STALE)
        elif self.freshness.is_ahead(robot_now):
            found.append(Reason.CLOCK_AHEAD)
        if self._imu_freshness is not None and self._imu_freshness.is_stale(now, robot_now):
            found.append(Reason.IMU_STALE)
        if self._by_observation and self._too_fast >= TOO_FAST_IN_A_ROW:
            found.append(Reason.WRONG_RATE)
        if self._steering is not None and self._steering.is_lost(now):
            found.append(Reason.COMMAND_VELOCITY_LOST)
        if self._reordered:
            self._reordered = False
            found.append(Reason.JOINTS_REORDERED)
        return found

    def measured_rate(self) -> float | None:
        """Of the robot's state by its stamps [Hz]; None before enough readings came."""
        if self._count < RATE_SAMPLES:
            return None
        span = float(self._stamps.max() - self._stamps.min())
        return (RATE_SAMPLES - 1) / span

    def rate_problem(self) -> str | None:
        """Why the robot's rate is not the configured one, if so."""
        rate, expected = self.measured_rate(), self._robot.state.rate
        if rate is None:
            return f"expected {RATE_SAMPLES} readings of {self._robot.state.topic} first"
        if abs(rate / expected - 1) > RATE_SLACK:
            return f"expected {self._robot.state.topic} at {expected:g} Hz, got {rate:.1f} Hz"
        return None

    def publish(self, command: JointCommand) -> None:
        """Send a command; in a dry run only write it."""
        message = self._writer.write(command)
        if self._publisher is not None:
            self._publisher.publish(message)

    def lead_to_rest(self, safety: SafetyFilter) -> bool:
        """Publish commands until the robot is at rest; see `CommandLimits`.

        A base needs as long as its acceleration says. A position interface may need longer than
        anybody waits at the end: False where it was still on its way after REST_LIMIT.
        """
        if self._publisher is None:
            return True
        limit = REST_LIMIT
        if self._robot.command.limits:
            fastest = max(self._robot.command.limits.values())
            limit = fastest / self._robot.command.acceleration + REST_LIMIT
        until = time.monotonic() + limit
        arrived = False
        while not arrived and time.monotonic() < until:
            command, arrived = safety.rest_step()
            self.publish(command)
            if not arrived:
                time.sleep(self._spec.period)
        self._publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGED_WITHIN))
        return arrived

    def listeners(self) -> int:
        """How many listen to the commands."""
        return 0 if self._publisher is None else int(self._publisher.get_subscription_count())

    def rivals(self) -> int:
        """How many others publish commands on the same topic."""
        ours = self._publisher is not None
        return int(self._node.count_publishers(self.command_topic)) - ours

    def destroy(self) -> None:
        """Leave the topics."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)

    def _on_joint_state(self, message: JointState) -> None:
        stamp, size = conversions.seconds(message.header.stamp), len(message.name)
        self.received = self._clock.now(stamp)
        try:
            self._reordered |= self._wiring.follow(message.name)
        except InputError as error:
            self.defect = str(error)
            self._on_message()
            return
        self.defect = None
        if not self.freshness.arrive(stamp, self.received):
            return  # a repeated reading is no reading
        self._stamps[self._count % RATE_SAMPLES] = stamp
        self._count += 1
        fast = self.freshness.interval < TOO_FAST * self._spec.period
        self._too_fast = self._too_fast + 1 if fast else 0
        self.state = RobotState(
            stamp=stamp,
            joint_position=self._wiring.positions(conversions.joint_values(message.position, size)),
            joint_velocity=self._wiring.velocities(
                conversions.joint_values(message.velocity, size)
            ),
            orientation=self._orientation,
            angular_velocity=self._angular_velocity,
            command_velocity=self._commanded_velocity(),
        )
        self._on_message()

    def _on_imu(self, message: Imu) -> None:
        assert self._imu_freshness is not None
        stamp = conversions.seconds(message.header.stamp)
        if not self._imu_freshness.arrive(stamp, self._clock.now(stamp)):
            return
        self._orientation = conversions.orientation_of(message)
        self._angular_velocity = conversions.angular_velocity_of(message)
        if self.state is not None:
            self.state = self.state._replace(
                orientation=self._orientation,
                angular_velocity=self._angular_velocity,
            )

    def _on_velocity(self, message: Twist) -> None:
        assert self._steering is not None
        self._steering.receive(message, self._clock.now())
        if self.state is not None:  # a simulation in lockstep sends no other before the first step
            self.state = self.state._replace(command_velocity=self._commanded_velocity())

    def _commanded_velocity(self) -> FloatArray | None:
        return None if self._steering is None else self._steering.asked(self._clock.now())


def drives_by_observation(drive: str, spec: PolicySpec, robot: RobotConfig) -> bool:
    """Does each reading begin a step? `auto`: where the robot publishes at the policy's rate.

    Raises:
        InputError: asked for, though the rates differ.
    """
    equal = abs(robot.state.rate / spec.rate - 1) <= RATE_TOLERANCE
    if drive == "observation" and not equal:
        raise InputError(
            f"parameter drive: expected timer, since robot {robot.name} publishes at"
            f" {robot.state.rate:g} Hz and the policy runs at {spec.rate:g} Hz, got observation",
            code="rate",
        )
    return equal and drive != "timer"
