"""The reaching arm over DDS: as in the environment, and what happens when its target is lost."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from benchmarks.made_policy import made_policy
from dime_robot.runtime.control.flight_recorder import read_recording
from dime_robot.runtime.control.observation import ActionDecoder
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.sim.config.robot_task import load_robot_task
from ros_nodes.loopback_tracking import nominal_environment
from tests.paths import shipped_content
from tests.ros_nodes.graph import Graph

pytestmark = pytest.mark.slow
COMMANDS = "position_controller/commands"
PUBLISHER = str(Path(__file__).with_name("signal_publisher.py"))
TARGET = (0.4, 0.1, 0.5)  # in the frame of the base [m]
STEPS, LOST = 100, 20  # commands that are compared; those that a busy watcher may miss


def robot_file(folder: Path, lockstep: bool = False) -> Path:
    """The shipped arm with time-outs that a busy machine does not reach."""
    config = shipped_content("reach")
    robot = config["robot"]
    robot["state"]["max_age"] = 0.5
    robot["safety"].update(hold=0.5, damp=2.0)
    if lockstep:  # nothing that the environment has not: no ramp, no slew limit
        robot["state"]["rate"] = 50.0
        robot["safety"]["ramp"] = 0.0
        robot["task_commands"]["target"]["timeout"] = 60.0
        for joint in robot["joints"]:
            joint["velocity_limit"] *= 4
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def reaching_policy(graph: Graph) -> Path:
    """A policy of the arm's contract, with random weights."""
    spec = load_robot_task("reach")[0].policy
    return made_policy(graph.folder / "policy.onnx", spec, width=64, depth=2, steps=4)


def publish_target(graph: Graph) -> None:
    """A planner's node, which sends the target at 20 Hz."""
    given = load_robot_task("reach")[0].robot.task_commands["target"].model_dump(mode="json")
    words = ["planner", "task_commands", "0.05", json.dumps(given), json.dumps(TARGET)]
    graph.start("planner", program=[PUBLISHER, *words])


def environment_commands(policy: Path, seed: int) -> npt.NDArray[np.floating]:
    """Commands of the policy in the environment, shape (STEPS + LOST, 7) [rad]."""
    env, loaded = nominal_environment("reach"), OnnxPolicy(policy, seed=seed)
    env.task.set_command("target", np.array(TARGET))
    decoder, commands = ActionDecoder(loaded.spec), []
    observation, _ = env.reset(seed=seed)
    for _ in range(STEPS + LOST):
        action = loaded.act(observation).copy()
        commands.append(decoder.decode(action).value)
        observation, *_ = env.step(action)
    env.close()
    return np.array(commands)


def start(graph: Graph, policy: Path, robot: Path, **options: Any) -> None:
    publish_target(graph)
    graph.listen(COMMANDS)
    sim = {"mode": "lockstep", "seed": options["seed"]} if "seed" in options else {}
    graph.start("sim_node", config="reach", **sim)
    graph.policy_node(policy=policy, robot=robot, autostart="configure", **options)
    graph.until(lambda: "configured: " in graph.log(), "the node, configured")
    graph.until(lambda: graph.transition("activate"), "activation")


def test_in_lockstep_the_commands_are_the_environments(silent_graph: Graph) -> None:
    graph, seed = silent_graph, 3
    policy = reaching_policy(graph)
    start(graph, policy, robot_file(graph.folder, True), seed=seed, use_sim_time=True)
    graph.until(lambda: len(graph.commands) >= STEPS, "commands")
    expected = environment_commands(policy, seed)
    left = iter(expected)
    for _, values in graph.commands[:STEPS]:  # bit for bit and in order; some may be lost
        assert any((np.array(values) == other).all() for other in left)
    assert np.ptp(expected, axis=0).min() > 0.01  # every joint was moved


def test_the_arm_holds_its_target_when_the_planner_dies(graph: Graph) -> None:
    policy = reaching_policy(graph)
    start(graph, policy, robot_file(graph.folder))
    graph.until(lambda: len(graph.commands) > 20, "commands")
    graph.end("planner", signal.SIGKILL)
    graph.until(lambda: "task_command_lost" in graph.log(), "the loss")
    line = next(line for line in graph.log().splitlines() if "task_command_lost" in line)
    assert "command target on target from /planner: no usable message for 1" in line
    count = len(graph.commands)
    graph.until(lambda: len(graph.commands) > count + 25, "that it goes on")
    path = Path(graph.trigger("policy_node/dump").message)
    graph.until(path.exists, "the recording")
    targets = read_recording(path).records["signals"][-20:]
    assert (targets.reshape(20, -1) == np.array(TARGET)).all()  # the last one stands
