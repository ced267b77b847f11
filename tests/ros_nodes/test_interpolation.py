"""Commands between two steps over DDS: in lockstep, in real time, and what is refused."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.made_policy import made_policy
from dime_robot.runtime.contract.interpolation import Interpolation
from dime_robot.runtime.control.flight_recorder import read_recording
from dime_robot.runtime.control.observation import ActionDecoder
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.sim.config.robot_task import load_robot_task
from ros_nodes.loopback import configuration
from ros_nodes.loopback_tracking import nominal_environment
from ros_nodes.parameters import PolicyParameters
from ros_nodes.startup_checks import load_and_check
from tests.paths import SHIPPED_GO2, shipped_content
from tests.ros_nodes import test_reach as reach
from tests.ros_nodes.graph import Graph

LINEAR = Interpolation(kind="linear", rate=200.0)
STEPS = 100
WORDS = "expected interpolation none, which policy go2 was trained with, got linear at 200 Hz"


def interpolating(path: Path) -> Path:
    """The same configuration with an interpolation."""
    config = yaml.safe_load(path.read_text())
    config["robot"]["command"] |= {"interpolation": LINEAR.kind, "rate": LINEAR.rate}
    path.write_text(yaml.safe_dump(config))
    return path


def simulated_arm(folder: Path) -> Path:
    path = folder / "arm.yaml"
    path.write_text(yaml.safe_dump(shipped_content("reach")))
    return interpolating(path)


def arm_policy(folder: Path) -> Path:
    spec = load_robot_task("reach")[0].policy
    return made_policy(folder / "policy.onnx", spec, 64, 2, 4, LINEAR)


def go2_robot(folder: Path) -> Path:
    path = folder / "go2.yaml"
    path.write_text(yaml.safe_dump(shipped_content("go2")))
    return interpolating(path)


@pytest.mark.slow
def test_in_lockstep_the_simulated_robot_interpolates_as_in_training(silent_graph: Graph) -> None:
    graph, seed = silent_graph, 3
    policy, arm = arm_policy(graph.folder), simulated_arm(graph.folder)
    robot = interpolating(reach.robot_file(graph.folder, True))
    reach.publish_target(graph)
    graph.listen(reach.COMMANDS)
    graph.start("sim_node", config=arm, mode="lockstep", seed=seed)
    graph.policy_node(
        policy=policy, robot=robot, seed=seed, use_sim_time=True, autostart="configure"
    )
    graph.until(lambda: "configured: " in graph.log(), "the node, configured")
    graph.until(lambda: graph.transition("activate"), "activation")
    graph.until(lambda: len(graph.commands) >= STEPS, "commands")
    env, loaded = nominal_environment(str(arm)), OnnxPolicy(policy, seed=seed)
    env.task.set_command("target", np.array(reach.TARGET))
    decoder, expected = ActionDecoder(loaded.spec), []
    observation, _ = env.reset(seed=seed)
    for _ in range(STEPS + reach.LOST):
        action = loaded.act(observation).copy()
        expected.append(decoder.decode(action).value)
        observation, *_ = env.step(action)
    env.close()
    left = iter(expected)
    for _, values in graph.commands[:STEPS]:  # bit for bit and in order; some may be lost
        assert any((np.array(values) == other).all() for other in left)
    without = reach.environment_commands(policy, seed)
    assert not np.array_equal(np.array(expected), without)  # the interpolation is simulated


@pytest.mark.slow
def test_in_real_time_commands_come_at_their_rate_and_records_at_the_policys(graph: Graph) -> None:
    policy, arm = arm_policy(graph.folder), simulated_arm(graph.folder)
    robot = interpolating(reach.robot_file(graph.folder))
    reach.publish_target(graph)
    graph.listen(reach.COMMANDS)
    graph.start("sim_node", config=arm)
    graph.policy_node(policy=policy, robot=robot)
    graph.until(lambda: len(graph.commands) > 100, "commands")
    graph.commands.clear()
    graph.latencies.clear()
    graph.spin(2.0)
    times = np.array([when for when, _ in graph.commands])
    assert np.median(np.diff(times)) == pytest.approx(1 / 200, rel=0.3)
    assert 2 < len(graph.commands) / len(graph.latencies) <= 4.2  # a latency for each step
    assert "interpolation linear at 200 Hz, the command of a step is reached 20 ms" in graph.log()
    graph.until(
        lambda: any("missed between steps" in values for *_, values in graph.reports), "a report"
    )
    path = Path(graph.trigger("policy_node/dump").message)
    graph.until(path.exists, "the recording")
    record = read_recording(path).records["time"]
    assert np.median(np.diff(record)) == pytest.approx(1 / 50, rel=0.2)
    assert graph.end("policy_node", signal.SIGTERM)[0] == 0


@pytest.mark.slow
def test_policy_node_refuses_another_interpolation_than_in_training(graph: Graph) -> None:
    robot = go2_robot(graph.folder)
    process = graph.policy_node(policy=SHIPPED_GO2, robot=robot, autostart="configure")
    graph.until(lambda: process.poll() is not None, "the end of the process")
    assert process.returncode == 2
    (line,) = [line for line in graph.log().splitlines() if "refused [" in line]
    assert "refused [interpolation]" in line
    assert WORDS in line
    assert not graph.commands


def test_another_interpolation_is_refused_by_both_sides_of_a_loopback(tmp_path: Path) -> None:
    given = {"policy": str(SHIPPED_GO2), "robot": str(go2_robot(tmp_path)), "budget": 5.0}
    with pytest.raises(InputError, match=WORDS) as caught:
        load_and_check(replace(PolicyParameters(), **given))  # type: ignore[arg-type]
    assert caught.value.code == "interpolation"
    with pytest.raises(InputError, match=WORDS):
        configuration(str(go2_robot(tmp_path)), OnnxPolicy(SHIPPED_GO2))
