"""Messages and diagnostics entries by themselves: types of velocities, faults known by fields."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Twist, TwistStamped
from pydantic import ValidationError
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy, qos_profile_system_default
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from dime_robot.runtime.contract.policy_spec import Action
from dime_robot.runtime.contract.robot_config import CommandOutput, RobotConfig, VelocityInput
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.control.velocity_command import VelocityCommand
from dime_robot.sim.config.robot_task import load_robot_task
from ros_nodes import diagnostics
from ros_nodes.conversions import (
    COMMAND_QOS,
    STATE_QOS,
    TWIST_FRAME,
    CommandWriter,
    TwistMessage,
    command_type,
    command_values,
    seconds,
    twist_values,
)
from ros_nodes.topic_types import type_name
from tests.ros_nodes.graph import TIMEOUT, domain

BASE = {"kind": "twist", "interface": "velocity", "topic": "cmd", "timeout": 0.2}
FORWARD = {"kind": "forward", "interface": "effort", "topic": "c", "timeout": 0.2}


def output(**given: Any) -> CommandOutput:
    return CommandOutput.model_validate({**BASE, **given})


def mapping() -> JointMapping:
    config, _ = load_robot_task("cartpole")
    action = Action(kind="twist", size=2, scale={"linear_x": 1.0, "angular_z": 1.0})
    return JointMapping(config.policy.model_copy(update={"action": action}), config.robot)


@pytest.mark.parametrize(("name", "kind"), [("Twist", Twist), ("TwistStamped", TwistStamped)])
def test_a_velocity_is_written_and_read_as_either_type(name: str, kind: type) -> None:
    wired = mapping()
    writer = CommandWriter(output(type=name), wired, 0.02)
    command = JointCommand(("linear_x", "angular_z"), np.array([0.3, -0.2]), "twist")
    message = writer.write(command, 12.5)
    assert isinstance(message, Twist | TwistStamped)
    assert type(message) is kind
    assert type(message) is command_type(output(type=name))
    np.testing.assert_array_equal(twist_values(message), [0.3, 0.0, -0.2])
    if isinstance(message, TwistStamped):
        assert (seconds(message.header.stamp), message.header.frame_id) == (12.5, TWIST_FRAME)
    values = command_values(message, wired)
    assert values is not None
    np.testing.assert_array_equal(values, [0.3, -0.2])
    assert type_name(kind) == f"geometry_msgs/msg/{name}"


@pytest.mark.parametrize("message", [Twist(), TwistStamped()], ids=["Twist", "TwistStamped"])
def test_the_operators_velocity_is_followed_as_either_type(message: TwistMessage) -> None:
    limits = {"linear_x": 0.5, "linear_y": 0.0, "angular_z": 1.0}
    given = VelocityCommand(VelocityInput(timeout=0.5, limits=limits))
    twist = message.twist if isinstance(message, TwistStamped) else message
    twist.linear.x, twist.angular.z = 0.9, 0.2
    given.receive(twist_values(message), 10.0)
    np.testing.assert_array_equal(given.at(10.4), [0.5, 0.0, 0.2])
    twist.linear.x = float("nan")
    given.receive(twist_values(message), 10.6)
    assert given.is_lost(10.6)


def test_a_velocity_that_is_no_number_is_no_command() -> None:
    message = Twist()
    message.linear.x = float("inf")
    assert command_values(message, mapping()) is None


def test_a_type_is_configured_where_there_is_a_choice() -> None:
    assert output().type == "Twist"
    forward = CommandOutput.model_validate(FORWARD)
    assert command_type(forward) is Float64MultiArray
    with pytest.raises(ValidationError, match="leave it out, or set kind: twist"):
        CommandOutput.model_validate({**FORWARD, "type": "TwistStamped"})
    with pytest.raises(ValidationError, match="Input should be 'Twist' or 'TwistStamped'"):
        output(type="TwistStamped2")
    for name in ("cartpole", "go2"):  # what is written out can be read again
        robot = load_robot_task(name)[0].robot
        assert RobotConfig.model_validate(robot.model_dump(mode="json")) == robot


ERROR, WARN, STALE, OK = (
    DiagnosticStatus.ERROR,
    DiagnosticStatus.WARN,
    DiagnosticStatus.STALE,
    DiagnosticStatus.OK,
)


@pytest.mark.parametrize(
    ("what", "level", "response", "fault", "refusal"),
    [
        ("control", OK, "run", False, False),
        ("control", WARN, "clamp", False, False),
        ("control", WARN, "hold", True, False),
        ("control", ERROR, "stop", True, False),
        ("control", STALE, "damp", True, False),
        ("control", ERROR, "none", True, True),
        ("control", ERROR, None, True, True),
        ("control", OK, None, False, False),
        ("latency", STALE, None, True, False),
        ("latency", ERROR, None, True, False),
    ],
)
def test_a_fault_is_known_by_fields_not_by_words(
    what: str, level: bytes, response: str | None, fault: bool, refusal: bool
) -> None:
    values = {} if response is None else {"answer": response}
    name = diagnostics.entry_name("/left/policy_node", what)
    for message in ("hold: words", "refused [x]: words", "stop", ""):
        entry = diagnostics.status(name, "cart", level, message, values)
        assert diagnostics.node_of(entry) == "/left/policy_node"
        assert diagnostics.is_fault(entry) == fault
        assert diagnostics.is_refusal(entry) == refusal


def test_endpoints_with_the_middlewares_default_are_matched() -> None:
    """What controllers of ros2_control use; docs/ros2_control.md states what it is."""
    default = qos_profile_system_default
    with domain() as number:
        context = Context()
        rclpy.init(context=context, domain_id=number)
        try:
            node = Node("controller", context=context)
            node.create_subscription(Float64MultiArray, "commands", lambda _: None, default)
            states = node.create_publisher(JointState, "joint_states", default)
            node.create_subscription(JointState, "joint_states", lambda _: None, STATE_QOS)
            commands = node.create_publisher(Float64MultiArray, "commands", COMMAND_QOS)
            end = time.monotonic() + TIMEOUT
            while not (commands.get_subscription_count() and states.get_subscription_count()):
                assert time.monotonic() < end, "not matched"
                time.sleep(0.01)
            (reader,) = node.get_subscriptions_info_by_topic("/commands")
            (writer,) = node.get_publishers_info_by_topic("/joint_states")
        finally:
            rclpy.shutdown(context=context)
    if rclpy.get_rmw_implementation_identifier() == "rmw_fastrtps_cpp":
        assert reader.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        assert reader.qos_profile.durability == DurabilityPolicy.VOLATILE
        assert writer.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        assert writer.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
