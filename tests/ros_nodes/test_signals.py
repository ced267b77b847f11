"""Task commands and sensors of real processes over DDS: followed, refused, lost."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from geometry_msgs.msg import PointStamped
from std_msgs.msg import String

from dime_robot.runtime.contract.config_files import config_folder
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import load_robot
from dime_robot.runtime.contract.shorthand import written_out
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from ros_nodes.conversions import seconds
from tests.ros_nodes.graph import POLICY, Graph
from tests.ros_nodes.policies import obedient_policy

pytestmark = pytest.mark.slow
PUBLISHER = str(Path(__file__).with_name("signal_publisher.py"))
FORCE = 8.0  # [N] at action 1
GOAL = 0.002  # so small that the cart stays far from its stops
EXPECTED = FORCE * math.tanh(GOAL)  # [N], which the policy commands while it sees GOAL
TARGET = {"topic": "target", "type": "PointStamped", "frame": "base", "when_lost": "hold"}
BALL = {"topic": "ball", "type": "PointStamped", "frame": "base", "timeout": 0.5}


def begin(graph: Graph, kind: str, given: dict[str, Any], size: int) -> None:
    """A policy whose force follows the first number of its signal, and the simulated cart-pole."""
    shipped = OnnxPolicy(POLICY).spec
    data = shipped.model_dump(mode="json")
    data["observation"][0] = {"name": "goal", "kind": kind, "size": size, "unit": "m"}
    spec = PolicySpec.model_validate(data)
    robot = load_robot(graph.tolerant_robot(), shipped).model_dump(mode="json")
    robot["task_commands" if kind == "command" else "sensors"] = {"goal": given}
    path = graph.folder / "signals.yaml"
    path.write_text(yaml.safe_dump({"robot": robot}))
    graph.start("sim_node")
    policy = obedient_policy(graph.folder / "obedient.onnx", spec)
    graph.policy_node(policy=policy, robot=path, autostart="configure")
    graph.until(lambda: "configured: " in graph.log(), "configured")
    graph.spin(1.0)  # half a second of readings come first
    assert not graph.transition("activate")
    assert "got none yet" in graph.log()


def activate(graph: Graph) -> None:
    graph.until(lambda: graph.transition("activate"), "activation")


def publish(
    graph: Graph, section: str, given: dict[str, Any], values: list[float], name: str = "planner"
) -> None:
    words = [name, section, "0.05", json.dumps(given), json.dumps(values)]
    graph.start(name, program=[PUBLISHER, *words])


def follows(graph: Graph, force: float) -> bool:
    newest = [values[0] for _, values in graph.commands[-5:]]
    return len(newest) == 5 and newest == pytest.approx([force] * 5, abs=1e-5)


def control_entry(graph: Graph) -> dict[str, str]:
    found = [values for _, name, _, _, values in graph.reports if name.endswith("node: control")]
    return found[-1] if found else {}


@pytest.mark.parametrize("when_lost", ["hold", "zero", "stop"])
def test_a_task_command_is_followed_and_lost_when_its_publisher_dies(
    graph: Graph, when_lost: str
) -> None:
    given = {"topic": "goal", "type": "Float64MultiArray", "timeout": 0.6, "when_lost": when_lost}
    begin(graph, "command", given, 1)
    assert "expected a value of the command goal on goal" in graph.log()
    publish(graph, "task_commands", given, [GOAL])
    activate(graph)
    graph.until(lambda: follows(graph, EXPECTED), "the command followed")
    graph.end("planner", signal.SIGKILL)
    lost = "signal_lost" if when_lost == "stop" else "task_command_lost"
    graph.until(lambda: lost in graph.log(), "the loss")
    line = next(line for line in graph.log().splitlines() if lost in line)
    assert "command goal on goal from /planner: no usable message for 0.6" in line
    if when_lost == "stop":
        graph.until(lambda: control_entry(graph).get("answer") == "stop", "the stop")
        assert not graph.trigger("policy_node/reset_estop").success
        publish(graph, "task_commands", given, [GOAL], "another_planner")
        graph.until(lambda: graph.trigger("policy_node/reset_estop").success, "the release")
        graph.until(lambda: follows(graph, EXPECTED), "the command followed again")
        return
    force = EXPECTED if when_lost == "hold" else 0.0
    graph.until(lambda: follows(graph, force), "its loss")
    graph.spin(0.5)
    assert follows(graph, force)
    graph.until(lambda: "task_command_lost" in control_entry(graph).get("why", ""), "the report")
    assert control_entry(graph)["answer"] == "run"


def test_a_target_in_another_frame_is_refused_and_stands_once_it_is_right(graph: Graph) -> None:
    begin(graph, "command", TARGET, 3)
    publish(graph, "task_commands", {**TARGET, "frame": "world"}, [GOAL, 0, 0], "confused")
    words = "expected numbers in the frame 'base', got 'world'"
    graph.until(lambda: not graph.transition("activate") and words in graph.log(), "the refusal")
    graph.end("confused", signal.SIGKILL)
    publish(graph, "task_commands", TARGET, [GOAL, 0, 0])
    activate(graph)
    graph.until(lambda: follows(graph, EXPECTED), "the target followed")
    graph.end("planner", signal.SIGKILL)
    publish(graph, "task_commands", {**TARGET, "frame": "world"}, [1.0, 0, 0], "misled")

    def warned(line: str) -> bool:  # DDS shows a killed node for seconds more
        return all(word in line for word in ("signal_refused (command goal on", "/misled", words))

    graph.until(lambda: any(map(warned, graph.log().splitlines())), "the warning")
    graph.spin(0.5)
    assert follows(graph, EXPECTED)  # a standing target is not lost


def test_a_lost_sensor_escalates_and_names_its_node(graph: Graph) -> None:
    begin(graph, "sensor", BALL, 3)
    publish(graph, "sensors", BALL, [GOAL, 0, 0], "camera")
    activate(graph)
    graph.until(lambda: follows(graph, EXPECTED), "the sensor seen")
    graph.end("camera", signal.SIGKILL)
    graph.until(lambda: "hold: sensor_lost" in graph.log(), "hold")
    line = next(line for line in graph.log().splitlines() if "hold: sensor_lost" in line)
    assert "sensor goal on ball from /camera: no new reading for 0.5" in line
    graph.until(lambda: "damp: sensor_lost" in graph.log(), "damp")
    graph.until(lambda: "stop: sensor_lost" in graph.log(), "stop")


def test_a_publisher_of_another_type_is_named_with_the_section(graph: Graph) -> None:
    begin(graph, "command", TARGET, 3)
    graph.node.create_publisher(String, "target", 10)
    sentence = (
        "got none yet: /watcher publishes on /target with std_msgs/msg/String, this robot's file"
        " says geometry_msgs/msg/PointStamped: correct robot.task_commands.goal.topic, or remap it"
    )
    graph.until(lambda: not graph.transition("activate") and sentence in graph.log(), "the refusal")


TERMS = """
import numpy as np

def ball(view):
    return np.array([view.plant.joint_position()[0], 0.0, 1.0])

def goal(view):
    return float(view.commands["goal"][0])
"""


def test_the_simulated_robot_follows_the_command_and_publishes_its_sensors(graph: Graph) -> None:
    command = {"topic": "goal", "type": "Float64MultiArray", "timeout": 0.5, "when_lost": "stop"}
    config = yaml.safe_load(graph.tolerant_robot().read_text())
    path = graph.folder / "guided.yaml"
    config["sim"]["model"] = str(config_folder() / config["sim"]["model"])
    config["policy"] |= {"name": "guided", "observation": [
        {"name": "goal", "kind": "command", "size": 1, "unit": "m"},
        {"name": "ball", "kind": "sensor", "size": 3, "unit": "m"},
    ]}  # fmt: skip
    config["robot"] |= {"task_commands": {"goal": command}, "sensors": {"ball": BALL}}
    config["task"] |= {
        "episode_seconds": 2.0,
        "success": {},  # five seconds of standing do not fit
        "commands": {"goal": {"term": "uniform", "low": [1.0], "high": [2.0]}},
        "observations": {"ball": "terms.py:ball"},
        "metrics": {"goal": "terms.py:goal"},
    }
    path.write_text(yaml.safe_dump(config))
    (graph.folder / "terms.py").write_text(TERMS)
    spec = PolicySpec.model_validate(written_out(config)["policy"])
    balls: list[PointStamped] = []
    graph.node.create_subscription(PointStamped, "ball", balls.append, 1000)
    publish(graph, "task_commands", command, [GOAL])
    graph.start("sim_node", config=path)
    policy = obedient_policy(graph.folder / "obedient.onnx", spec)
    graph.policy_node(policy=policy, robot=path)
    graph.until(lambda: graph.episodes, "an episode")
    assert follows(graph, EXPECTED)
    result = json.loads(graph.episodes[0])
    assert result["goal"] == pytest.approx(GOAL)  # what came, not what the task drew
    states = {seconds(m.header.stamp): m.position[m.name.index("slider")] for _, m in graph.states}
    shared = [m for m in balls if seconds(m.header.stamp) in states]
    assert len(shared) > 50
    for message in shared:
        assert message.header.frame_id == "base" and message.point.z == 1.0
        assert message.point.x == states[seconds(message.header.stamp)]
    assert len({message.point.x for message in shared}) > 20
