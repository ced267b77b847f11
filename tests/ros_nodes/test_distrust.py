"""policy_node distrusts its neighbours, its clock and itself. Real processes over DDS."""

from __future__ import annotations

import os
import re
import signal
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from benchmarks.made_policy import made_policy
from dime_robot.runtime.contract.policy_spec import PolicySpec
from ros_nodes.conversions import COMMAND_QOS, stamp_of
from tests.paths import ROBOTS, shipped_content
from tests.ros_nodes.graph import COMMANDS, POLICY, Graph

pytestmark = pytest.mark.slow
PERIOD = 0.02  # [s] of the cart-pole


def publish_robot(graph: Graph) -> None:
    """Publish a cart-pole at rest, whose encoders change in the last bits."""
    robot = Neighbour(graph, "published_robot")
    random = np.random.default_rng(0)

    def state() -> JointState:
        position = np.array([0.0, 3.14]) + 1e-6 * random.random(2)
        message = JointState(name=["slider", "hinge"], position=array("d", position))
        message.velocity = array("d", [0.0, 0.0])
        message.header.stamp = stamp_of(time.time())
        return message

    robot.publish(JointState, "joint_states", state, 50.0)


class Neighbour:
    """Another node in the graph, in the process of the watcher."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph = graph
        self.node = Node(name, context=graph.context)
        graph.add(self.node)

    def publish(self, kind: type, topic: str, message: Callable[[], Any], rate: float) -> Any:
        """Send a message again and again; gives the timer."""
        publisher = self.node.create_publisher(kind, topic, COMMAND_QOS)
        return self.node.create_timer(1 / rate, lambda: publisher.publish(message()))

    def leave(self) -> None:
        self.graph.remove(self.node)
        self.node.destroy_node()


def begin(graph: Graph, change: Callable[[dict[str, Any]], None] | None = None) -> None:
    robot = graph.tolerant_robot()
    if change is not None:
        config = yaml.safe_load(robot.read_text())
        change(config["robot"])
        robot = graph.folder / "changed.yaml"
        robot.write_text(yaml.safe_dump(config))
    graph.start("sim_node")
    graph.policy_node(robot=robot)
    graph.running()


def arm(graph: Graph, name: str, **changes: Any) -> tuple[Path, Path]:
    """One of the gravity-loaded arms, and a policy of random weights for it."""
    config = yaml.safe_load((ROBOTS / f"{name}.yaml").read_text())
    config["sim"]["model"] = str(ROBOTS / "arm.xml")
    if name == "arm_effort":  # it falls, but not too fast to be damped
        config["policy"]["action"]["scale"] = {"shoulder": 8.0, "elbow": 1.0}
    config["robot"]["state"]["max_age"] = 0.5
    config["robot"]["safety"].update(hold=0.5, damp=5.0, **changes)
    path = graph.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    spec = PolicySpec.model_validate(config["policy"])
    return path, made_policy(graph.folder / f"{name}.onnx", spec, 16, 1, 2)


# ---- rest


@pytest.mark.parametrize("way", ["deactivate", "TERM"])
def test_an_arm_against_gravity_is_damped_and_never_sent_to_0(
    way: str, silent_graph: Graph
) -> None:
    graph = silent_graph
    graph.listen(COMMANDS)
    robot, policy = arm(graph, "arm_effort", rest_timeout=0.6)
    graph.start("sim_node", config=robot)
    graph.policy_node(policy=policy, robot=robot)
    graph.until(
        lambda: graph.states and "active" in graph.log() and len(graph.commands) > 30, "commands"
    )
    at = time.monotonic()
    if way == "TERM":
        assert graph.end("policy_node")[0] == 0
    else:
        assert graph.transition("deactivate")
        graph.spin(0.2)
    rest = [(t, v) for t, v in graph.commands if t > at + 0.02]
    assert len(rest) > 30
    assert all(value != [0.0, 0.0] for _, value in rest)
    damping, holding = np.array([20.0, 4.0]), [-8.2, -1.3]
    judged = []
    for when, value in rest:  # -damping * velocity of a state received at about that time
        near = [np.array(m.velocity) for t, m in graph.states if abs(t - when) < 0.03]
        off = [np.abs(np.clip(-damping * v, [-40, -15], [40, 15]) - value).max() for v in near]
        if near:
            judged.append(value == holding or min(off) < 1.0)
    assert len(judged) > 8
    assert np.mean(judged) > 0.7  # the watcher misses states on a busy machine
    assert re.search(r"robot not at rest: .* has to act", graph.log())
    graph.spin(0.3)
    assert "no command for 0.1 s" in graph.log("sim_node")  # the robot's own time-out has acted


def test_a_blocked_joint_is_not_forced_and_estop_is_served_meanwhile(silent_graph: Graph) -> None:
    graph = silent_graph
    topic = "position_controller/commands"
    graph.listen(topic)
    robot, policy = arm(graph, "arm_position", rest_timeout=1.5)
    config = yaml.safe_load(robot.read_text())
    joints = config["policy"]["joints"]
    pose = [joint["default_position"] for joint in joints]
    stiffness = joints[0]["stiffness"]
    reach = config["robot"]["joints"][0]["effort_limit"] / stiffness
    config["robot"]["joints"][0]["safe_position"] = pose[0] + 1.4
    robot.write_text(yaml.safe_dump(config))
    blocked = Neighbour(graph, "blocked_robot")  # its joints stay where they are

    def state() -> JointState:
        message = JointState(name=[joint["name"] for joint in joints])
        message.position = array("d", np.array(pose) + 1e-7 * np.random.default_rng().random(2))
        message.velocity = array("d", 1e-6 * np.random.default_rng().random(2))
        message.header.stamp = stamp_of(time.time())
        return message

    blocked.publish(JointState, "joint_states", state, 100.0)
    graph.policy_node(policy=policy, robot=robot)
    graph.until(lambda: len(graph.commands) > 30, "commands")
    process = graph.processes["policy_node"]
    at = time.monotonic()
    process.send_signal(signal.SIGTERM)
    graph.spin(0.3)
    assert graph.trigger("policy_node/estop").success
    assert process.poll() is None  # it responded on its way out
    graph.until(lambda: process.poll() is not None, "the end")
    assert process.returncode == 0
    rest = np.array([value for t, value in graph.commands if t > at + 0.1])
    assert len(rest) > 50
    assert np.abs(rest[:, 0] - pose[0]).max() <= reach + 1e-5
    assert "robot not at rest: shoulder is 1.4 from its safe position" in graph.log()


def test_a_driver_that_hangs_with_fresh_stamps_is_detected(graph: Graph) -> None:
    robot, policy = arm(graph, "arm_position")
    graph.start("sim_node", config=robot)
    graph.policy_node(policy=policy, robot=robot)
    graph.until(lambda: "active" in graph.log(), "active")
    graph.spin(1.0)
    assert not re.search(r"\]: (hold|damp|stop)", graph.log())
    graph.set_fault("frozen")
    graph.until(
        lambda: (
            "damp: observation_frozen (all joints show the same values to the last" in graph.log()
        ),
        "it",
    )


# ---- who else is there


def test_a_recorder_may_come_and_go_and_the_last_listener_may_not(silent_graph: Graph) -> None:
    graph = silent_graph
    graph.listen(COMMANDS)
    publish_robot(graph)
    controller = Neighbour(graph, "controller")
    controller.node.create_subscription(Float64MultiArray, COMMANDS, lambda _: None, 10)
    graph.policy_node()
    graph.until(lambda: len(graph.commands) > 10, "commands")
    recorder = Neighbour(graph, "rosbag2_recorder")
    recorder.node.create_subscription(Float64MultiArray, COMMANDS, lambda _: None, 10)
    graph.spin(1.0)
    recorder.leave()
    graph.spin(1.0)
    recorder = Neighbour(graph, "rosbag2_recorder")
    recorder.node.create_subscription(Float64MultiArray, COMMANDS, lambda _: None, 10)
    graph.spin(0.5)
    assert not re.search(r"\]: (hold|damp|stop)", graph.log())
    assert "command.listener is not set: " in graph.log()
    graph.node.destroy_subscription(graph.command_subscription)
    controller.leave()  # now the recorder alone is left
    graph.until(
        lambda: any("stop: listener_lost" in message for _, _, _, message, _ in graph.reports), "it"
    )


def test_only_a_configured_listener_counts(silent_graph: Graph) -> None:
    graph = silent_graph
    graph.listen(COMMANDS)
    begin(graph, lambda robot: robot["command"].update(listener="sim_node"))
    graph.node.destroy_subscription(graph.command_subscription)
    graph.spin(1.0)
    assert "]: stop" not in graph.log()
    assert "command.listener is not set" not in graph.log()


def test_an_idle_rival_is_a_warning_and_a_commanding_one_gets_the_robot(graph: Graph) -> None:
    begin(graph)
    rival = Neighbour(graph, "other_policy")
    publisher = rival.node.create_publisher(Float64MultiArray, COMMANDS, COMMAND_QOS)
    graph.until(
        lambda: any("rival_publisher" in message for _, _, _, message, _ in graph.reports),
        "a warning",
    )
    graph.spin(0.5)
    assert not re.search(r"\]: (hold|damp|stop)", graph.log())
    for _ in range(30):
        publisher.publish(Float64MultiArray(data=[0.125]))
        graph.spin(PERIOD)
    graph.until(lambda: "command_conflict" in graph.log(), "the conflict")
    count = len(ours(graph))
    graph.spin(0.5)
    assert len(ours(graph)) == count  # not one more command of ours
    assert "/other_policy commands the robot" in graph.log()
    graph.until(lambda: "not active" in {r[3] for r in graph.reports[-6:]}, "deactivation")
    assert not graph.transition("activate")
    assert (
        "1 other publisher(s) on /effort_controller/commands: stop /other_policy first"
        in graph.log()
    )
    assert graph.end("policy_node")[0] == 0


def ours(graph: Graph) -> list[list[float]]:
    return [value for _, value in graph.commands if value != [0.125]]


def test_a_standby_may_be_configured_beside_a_running_node(graph: Graph) -> None:
    begin(graph)
    robot = graph.folder / "tolerant.yaml"
    graph.start(
        "policy_node", "-r", "__node:=standby", log="standby", policy=POLICY, robot=robot,
        budget=5.0, recordings=graph.folder / "other",
    )  # fmt: skip
    graph.until(lambda: "next: ros2 lifecycle set /standby activate" in graph.log("standby"), "it")
    graph.spin(1.0)
    assert not re.search(r"\]: (hold|damp|stop)|rival", graph.log())

    def refused() -> bool:
        assert not graph.transition("activate", "standby"), graph.log("standby")
        return " other publisher(s) on " in graph.log("standby")

    graph.until(refused, "who commands already")
    assert graph.transition("deactivate")
    count = len(graph.commands)
    graph.until(lambda: graph.transition("activate", "standby"), "the standby takes over")
    graph.until(lambda: len(graph.commands) > count + 20, "its commands")


def joint_states(values: list[float], names: tuple[str, ...]) -> Callable[[], JointState]:
    def make() -> JointState:
        message = JointState(name=list(names), position=array("d", values))
        message.velocity = array("d", [0.0] * len(values))
        message.header.stamp = stamp_of(time.time())
        return message

    return make


def test_two_publishers_of_the_same_joints_stop_the_robot(graph: Graph) -> None:
    begin(graph)
    gripper = Neighbour(graph, "gripper")
    gripper.publish(JointState, "joint_states", joint_states([0.1], ("finger",)), 50.0)
    graph.until(
        lambda: any("second_publisher" in message for _, _, _, message, _ in graph.reports),
        "a warning",
    )
    graph.spin(1.5)
    assert not re.search(r"\]: (hold|damp|stop)", graph.log())  # joints of its own are welcome
    forgotten = Neighbour(graph, "joint_state_publisher")
    forgotten.publish(
        JointState, "joint_states", joint_states([0.4, 0.0], ("slider", "hinge")), 20.0
    )
    graph.until(lambda: re.search(r"\]: (damp|stop)", graph.log()), "a response")
    assert graph.transition("deactivate")
    graph.spin(1.2)
    assert not graph.transition("activate")
    assert re.search(r"/joint_state_publisher.* all publish slider, hinge: stop all", graph.log())
    forgotten.leave()
    graph.until(lambda: graph.transition("activate"), "activation")


def test_another_message_type_is_reported(silent_graph: Graph) -> None:
    graph = silent_graph
    config = shipped_content("cartpole")
    config["policy"]["observation"].append(
        {"name": "asked", "kind": "command_velocity", "size": 3, "unit": "m/s"}
    )
    scale = {"angular_z": 2.0, "linear_x": 3.0}
    config["policy"]["action"] = {"kind": "twist", "size": 2, "scale": scale}
    config["robot"]["state"]["max_age"] = 0.5
    config["robot"]["command"] = {
        "kind": "twist", "interface": "velocity", "topic": "base/cmd_vel", "timeout": 0.2,
        "limits": {"linear_x": 0.8, "angular_z": 0.5},
    }  # fmt: skip
    config["robot"]["command_velocity"] = {
        "timeout": 0.3,
        "limits": {"linear_x": 1.0, "linear_y": 0.0, "angular_z": 1.0},
    }
    path = graph.folder / "robot.yaml"
    path.write_text(yaml.safe_dump(config))
    policy = made_policy(
        graph.folder / "made.onnx", PolicySpec.model_validate(config["policy"]), 16, 1, 2
    )
    base = Neighbour(graph, "base_controller")
    got: list[TwistStamped] = []
    base.node.create_subscription(TwistStamped, "base/cmd_vel", got.append, 10)
    base.publish(JointState, "joint_states", joint_states([0.3, 0.1], ("hinge", "slider")), 50.0)

    def velocity() -> TwistStamped:
        message = TwistStamped()
        message.twist.linear.x = 0.5
        return message

    base.publish(TwistStamped, "cmd_vel", velocity, 50.0)
    process = graph.policy_node(policy=policy, robot=path, activate_timeout=2.5)
    graph.until(lambda: process.poll() is not None, "its end")
    assert process.returncode == 3
    assert (
        "/base_controller listens on /base/cmd_vel for geometry_msgs/msg/TwistStamped"
        in graph.log()
    )
    assert "set robot.command.type: TwistStamped" in graph.log()
    config["robot"]["command"]["type"] = "TwistStamped"
    path.write_text(yaml.safe_dump(config))
    graph.policy_node(policy=policy, robot=path)
    graph.until(lambda: len(got) > 10, "commands")
    assert got[-1].header.stamp.sec > 0
    graph.until(
        lambda: any("type_mismatch" in message for _, _, _, message, _ in graph.reports),
        "a report of the operator's type",
    )
    whys = [values.get("why", "") for *_, values in graph.reports]
    assert any("set robot.command_velocity.type: TwistStamped" in why for why in whys)
    graph.end("policy_node")
    config["robot"]["command_velocity"]["type"] = "TwistStamped"
    path.write_text(yaml.safe_dump(config))
    graph.policy_node(policy=policy, robot=path)
    graph.reports.clear()
    graph.until(
        lambda: any(message.startswith("running") for _, _, _, message, _ in graph.reports), "it"
    )
    graph.reports.clear()
    graph.spin(1.5)
    assert not any("command_velocity_lost" in message for _, _, _, message, _ in graph.reports)


# ---- its clock and itself


def test_a_process_that_was_stopped_does_not_continue_by_itself(graph: Graph) -> None:
    begin(graph)
    process = graph.processes["policy_node"]
    for _ in range(3):
        graph.reports.clear()
        os.kill(process.pid, signal.SIGSTOP)
        graph.spin(0.5)
        continued = time.monotonic()
        os.kill(process.pid, signal.SIGCONT)
        graph.until(
            lambda: any(
                message.startswith("stop") and "self_stalled" in message
                for _, _, _, message, _ in graph.reports
            ),
            "a stop",
        )
        graph.spin(0.2)
        after = [value for t, (value,) in graph.commands if t > continued - 0.02]
        speeds = [abs(m.velocity[0]) for t, m in graph.states if t > continued - 0.6]
        largest = 5.0 * max(speeds, default=2.0) + 0.5  # the watcher may have missed them
        assert after
        assert max(abs(value) for value in after) <= largest  # damping, not the policy
        graph.until(lambda: graph.trigger("policy_node/reset_estop").success, "re-arming")
        graph.commands.clear()
        graph.until(lambda: any(abs(v) > 0.5 for _, (v,) in graph.commands[-5:]), "commands")
    missed = [float(v["missed"]) for _, n, _, _, v in graph.reports if n.endswith("latency")]
    assert missed[-1] >= 3 * 20


def test_the_response_of_dump_is_true(graph: Graph) -> None:
    (graph.folder / "file").write_text("")
    begin(graph)
    assert graph.trigger("policy_node/dump").success
    graph.end("policy_node")
    graph.policy_node(recordings=graph.folder / "file/below")
    graph.running()
    response = graph.trigger("policy_node/dump")
    assert not response.success
    assert "Not a directory" in response.message
    assert "resume" not in response.message
    graph.until(
        lambda: any(
            values.get("last recording", "").startswith("failed: ") for *_, values in graph.reports
        ),
        "it on /diagnostics",
    )
