"""A joystick over DDS: its velocity reaches the policy; release, silence, two of them, estop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rclpy.node import Node
from sensor_msgs.msg import Joy
from std_msgs.msg import String

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import load_robot
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from ros_nodes import loopback
from ros_nodes.conversions import JOYSTICK_QOS
from tests.ros_nodes.graph import POLICY, Graph
from tests.ros_nodes.policies import obedient_policy
from tests.ros_nodes.test_signals import EXPECTED, GOAL, control_entry, follows

pytestmark = pytest.mark.slow
DEADMAN, ESTOP, NEXT = 0, 1, 2
JOYSTICK: dict[str, Any] = {
    "timeout": 0.5,
    "deadman": DEADMAN,
    "estop": ESTOP,
    "axes": {"linear_x": {"index": 1}},
    "buttons": {"next_policy": NEXT},
}


class Pad:
    """joy_node: publishes what is pressed 20 times a second."""

    def __init__(self, node: Node, topic: str = "joy") -> None:
        self._node, self.axis, self.down = node, 0.0, set[int]()
        self._publisher = node.create_publisher(Joy, topic, JOYSTICK_QOS)
        self._timer = node.create_timer(0.05, self.send)

    def send(self) -> None:
        buttons = [int(i in self.down) for i in range(4)]
        self._publisher.publish(Joy(axes=[0.0, self.axis], buttons=buttons))

    def press(self, *down: int, axis: float | None = None) -> None:
        self.down = set(down)
        self.axis = self.axis if axis is None else axis
        self.send()

    def stop(self) -> None:
        self._timer.cancel()

    def go_on(self) -> None:
        self._timer.reset()


def begin(graph: Graph) -> None:
    """A policy whose force follows the forward velocity, and the simulated cart-pole."""
    shipped = OnnxPolicy(POLICY).spec
    data = shipped.model_dump(mode="json")
    data["observation"][0] = {
        "name": "velocity", "kind": "command_velocity", "size": 3, "unit": "m/s, m/s, rad/s"
    }  # fmt: skip
    spec = PolicySpec.model_validate(data)
    robot = load_robot(graph.tolerant_robot(), shipped).model_dump(mode="json")
    limits = {"linear_x": GOAL, "linear_y": 0.0, "angular_z": 0.0}
    robot["command_velocity"] = {"timeout": 0.5, "limits": limits}
    robot["joystick"] = JOYSTICK
    path = graph.folder / "joystick.yaml"
    path.write_text(yaml.safe_dump({"robot": json.loads(json.dumps(robot))}))
    graph.start("sim_node")
    policy = obedient_policy(graph.folder / "obedient.onnx", spec)
    graph.policy_node(policy=policy, robot=path, autostart="configure")
    graph.until(lambda: "joystick on /joy" in graph.log(), "configured")


def walk(graph: Graph, pad: Pad) -> None:
    """Press the deadman with the stick at rest, then move the stick."""
    pad.press(DEADMAN, axis=0.0)
    graph.spin(0.4)
    pad.press(DEADMAN, axis=1.0)


def test_a_joystick_walks_stands_still_and_stops_the_robot(graph: Graph) -> None:
    begin(graph)
    text = "its axes alone give the velocity, /cmd_vel is not subscribed"
    assert f"deadman button 0, estop button 1; {text}" in graph.log()
    assert graph.node.count_subscribers("cmd_vel") == 0
    wrong = graph.node.create_publisher(String, "joy", 10)
    graph.spin(1.0)
    assert not graph.transition("activate")
    mismatch = "with std_msgs/msg/String, this robot's file says sensor_msgs/msg/Joy: correct"
    graph.until(
        lambda: (
            not graph.transition("activate")
            and "the joystick is silent: no usable message on joy yet, /watcher publishes on /joy"
            f" {mismatch} robot.joystick.topic"
            in graph.log()
        ),
        "the refusal",
    )
    graph.node.destroy_publisher(wrong)

    pad = Pad(graph.node)
    graph.until(lambda: graph.transition("activate"), "activation")
    graph.until(lambda: follows(graph, 0.0), "standing still")
    walk(graph, pad)
    graph.until(lambda: follows(graph, EXPECTED), "the velocity followed")
    pad.press()
    graph.until(lambda: follows(graph, 0.0), "its end")
    pad.press(NEXT)
    graph.until(lambda: "joystick: next_policy refused: hold the deadman" in graph.log(), "why")
    graph.until(lambda: "hold the deadman" in control_entry(graph).get("joystick", ""), "report")

    walk(graph, pad)
    graph.until(lambda: follows(graph, EXPECTED), "the velocity followed again")
    pad.stop()
    graph.until(lambda: follows(graph, 0.0), "silence")
    graph.until(lambda: "joystick_lost (no usable message on joy for" in graph.log(), "the loss")
    assert control_entry(graph)["answer"] == "run"
    pad.go_on()
    graph.spin(0.3)
    assert follows(graph, 0.0)  # the stick was never let go
    walk(graph, pad)
    graph.until(lambda: follows(graph, EXPECTED), "the velocity after silence")

    other_node = Node("other_joy", context=graph.context)
    graph.add(other_node)
    other = Pad(other_node)
    graph.until(lambda: follows(graph, 0.0), "two joysticks")
    graph.until(lambda: "joy has 2 publishers:" in control_entry(graph).get("why", ""), "both")
    assert "/other_joy" in control_entry(graph)["why"] and "/watcher" in control_entry(graph)["why"]
    other.press(ESTOP)
    graph.until(lambda: "stop: estop (by the joystick)" in graph.log(), "the stop")
    graph.until(lambda: "joystick: emergency stop" in graph.log(), "its cause")
    graph.until(lambda: control_entry(graph).get("answer") == "stop", "its report")
    refused = graph.trigger("policy_node/reset_estop")
    assert not refused.success
    graph.remove(other_node)
    other_node.destroy_node()
    pad.press(axis=0.0)
    graph.until(lambda: graph.trigger("policy_node/reset_estop").success, "the release")

    assert graph.transition("deactivate")
    pad.press(ESTOP)
    graph.until(lambda: graph.log().count("joystick: emergency stop") == 2, "the stop")
    pad.press()
    graph.spin(0.3)
    assert not graph.transition("activate")
    assert "the emergency stop is set: call ~/reset_estop first" in graph.log()
    assert graph.transition("cleanup") and graph.transition("configure")
    assert not graph.transition("activate")  # it stays set
    assert graph.log().count("the emergency stop is set") == 2


def test_the_loopback_has_no_hand_for_a_joystick(tmp_path: Path) -> None:
    joystick = {"timeout": 0.5, "deadman": 0, "estop": 1}
    path = tmp_path / "joystick.yaml"
    path.write_text(yaml.safe_dump({"extends": "sim:cartpole", "robot": {"joystick": joystick}}))
    with pytest.raises(InputError, match=r"without the section robot\.joystick"):
        loopback.main([str(POLICY), "--config", str(path)])
