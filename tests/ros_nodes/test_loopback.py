"""The shipped policy over DDS: the same commands as in training, the same return in real time."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from benchmarks.made_policy import made_policy
from dime_robot.runtime.contract.config_files import config_folder
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import VelocityInput
from dime_robot.runtime.control.observation import ActionDecoder
from dime_robot.runtime.io.command import INTERRUPTED
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.robot_env import RobotEnv
from ros_nodes import diagnostics, loopback
from ros_nodes.loopback_session import Session
from ros_nodes.loopback_tracking import (
    commands_given,
    followed,
    judge_tracking,
    rehearse,
    velocity_to_send,
)
from tests.paths import ROOT, shipped_content
from tests.ros_nodes.graph import COMMANDS, MISBEHAVING, POLICY, Graph

pytestmark = pytest.mark.slow
STEPS = 200


def environment_commands(seed: int) -> list[float]:
    """What the policy commands in the training environment."""
    env, policy = RobotEnv("cartpole"), OnnxPolicy(POLICY, seed=seed)
    decoder, commands = ActionDecoder(policy.spec), []
    obs, _ = env.reset(seed=seed)
    for _ in range(STEPS):
        action = policy.act(obs).copy()
        commands.append(float(decoder.decode(action).value[0]))
        obs, *_ = env.step(action)
    return commands


DEAF = """
import rclpy
from std_msgs.msg import Float64MultiArray
rclpy.init()
node = rclpy.create_node("deaf")
node.create_subscription(Float64MultiArray, "%s", print, 10)
rclpy.spin(node)
"""


def test_in_lockstep_a_listener_that_acknowledges_nothing_adds_no_step(graph: Graph) -> None:
    robot = graph.start("sim_node", mode="lockstep", seed=0)
    graph.policy_node(seed=0, use_sim_time=True, autostart="configure")
    graph.until(lambda: "next: ros2 lifecycle" in graph.log(), "the node, configured")
    deaf = subprocess.Popen([sys.executable, "-c", DEAF % COMMANDS], env=graph.environment)
    try:
        count = graph.node.count_subscribers
        graph.until(lambda: count(COMMANDS) == 3, "robot, watcher and the deaf listener")
        deaf.send_signal(signal.SIGSTOP)
        graph.until(lambda: graph.transition("activate"), "activation")
        for _ in range(5):  # and a robot that now and then takes its time
            for number in (signal.SIGSTOP, signal.SIGCONT):
                os.kill(robot.pid, number)
                graph.spin(0.1)
        graph.until(lambda: len(graph.commands) >= STEPS, "commands")
    finally:
        deaf.kill()
        deaf.wait()
    seen, expected = [values[0] for _, values in graph.commands[:STEPS]], environment_commands(0)
    # the watcher may be matched one command late
    assert seen == expected or seen[:-1] == expected[1:]


@pytest.mark.parametrize("seed", [0, 5])
def test_in_lockstep_the_commands_are_the_environments_bit_for_bit(seed: int, graph: Graph) -> None:
    graph.start("sim_node", mode="lockstep", seed=seed)
    # simulated time stands still while a busy machine lets us wait
    program = (MISBEHAVING, "hiccup", "0.15") if seed else ()
    graph.policy_node(seed=seed, use_sim_time=True, autostart="configure", program=program)
    graph.until(lambda: "next: ros2 lifecycle" in graph.log(), "the node, configured")
    graph.until(lambda: graph.transition("activate"), "activation")
    graph.until(lambda: len(graph.commands) >= STEPS, "commands")
    got = [values[0] for _, values in graph.commands[:STEPS]]
    assert got == environment_commands(seed)
    assert np.ptp(got) > 1


def test_episodes_in_real_time_earn_what_the_certificate_says(tmp_path: Path) -> None:
    config = shipped_content("cartpole")
    # other tests share the machine: a hiccup of 35 ms is a fault, rightly, but not that of this one
    config["robot"]["state"]["max_age"] = 0.5
    config["robot"]["safety"].update(hold=0.5, damp=2.0)
    robot = tmp_path / "tolerant.yaml"
    robot.write_text(yaml.safe_dump({"robot": config["robot"]}))
    command = [sys.executable, "-m", "ros_nodes.loopback", str(POLICY), "--episodes", "1"]
    command += ["--robot", str(robot), "--budget", "5", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert not result["faults"], result["faults"]
    assert len(result["episodes"]) == 1
    assert all(episode["success"] for episode in result["episodes"])
    assert abs(result["return_mean"] / result["promised_return"] - 1) < 0.1
    assert abs(result["measured_rate"] / 50 - 1) < 0.02
    slow = ("of the deadlines missed", "inference takes")  # of a busy machine
    assert all(any(words in problem for words in slow) for problem in result["problems"])
    assert (done.returncode == 1) == bool(result["problems"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"return_mean": 300.0}, "return 300.0, expected at least 360.0"),
        ({"inference_p50_ms": 3.0}, "inference takes 3.000 ms (median) beside ROS, by itself on"),
        ({"missed_share": 0.02}, "2.0% of the deadlines missed"),
        ({"faults": ["hold: action_nan"]}, "hold: action_nan"),
    ],
)
def test_the_check_fails(change: dict[str, object], words: str) -> None:
    good = {"return_mean": 390.0, "promised_return": 400.0, "missed_share": 0.0, "faults": []}
    good |= {"inference_p50_ms": 1.0, "promised_inference_ms": 2.0, "tracking": None}
    assert loopback.judge(good) == []
    (problem,) = loopback.judge({**good, **change})
    assert words in problem


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fallen": 0.5}, "50% of the episodes were terminated (the robot fell, or failed)"),
        ({"velocity_error": 0.131}, "velocity error 0.131 m/s, expected at most 0.130: 1.2 times"),
        ({"yaw_rate_error": 0.08}, "yaw rate error 0.080 rad/s, expected at most 0.070"),
    ],
)
def test_the_check_fails_where_the_robot_does_not_follow(
    change: dict[str, float], words: str
) -> None:
    good: dict[str, Any] = {"fallen": 0, "velocity_error": 0.129, "yaw_rate_error": 0.069}
    good["environment"] = {"velocity_error": 0.1, "yaw_rate_error": 0.05, "fallen": 0}
    good["units"] = {"velocity_error": "m/s", "yaw_rate_error": "rad/s"}
    good["ramp"] = {"velocity_error": 0.0, "yaw_rate_error": 0.0}
    good["return"] = 1.0  # not compared where there are errors
    good["environment"]["return"] = 100.0
    result = {"return_mean": 1.0, "promised_return": 400.0, "missed_share": 0.0, "faults": []}
    result |= {"inference_p50_ms": 1.0, "promised_inference_ms": 2.0, "tracking": good}
    assert loopback.judge(result) == []
    (problem,) = loopback.judge({**result, "tracking": {**good, **change}})
    assert words in problem
    more = {"velocity_error": 0.002, "yaw_rate_error": 0.011}  # of the ramp at the start
    assert not loopback.judge({**result, "tracking": {**good, **change, "fallen": 0, "ramp": more}})


def test_the_return_is_compared_where_the_task_has_no_error() -> None:
    tracking = {"fallen": 0, "units": {}, "return": 91.0}
    tracking["environment"] = {"return": 100.0, "fallen": 0}
    assert judge_tracking(tracking) == []
    (problem,) = judge_tracking({**tracking, "return": 89.0})
    assert "return 89.0, expected at least 90.0" in problem


def test_commands_of_the_command_line_are_those_of_the_contract() -> None:
    spec = load_robot_task(ROOT / "examples/own_robot/crane.yaml")[0].policy
    assert commands_given(["berth=-0.25"], spec) == {"berth": (-0.25,)}
    for word in ("berth", "berth=", "berth=1,2", "berth=nan", "berth=x", "sway=1,2", "=1", "x=1"):
        with pytest.raises(InputError, match="--command "):
            commands_given([word], spec)


def test_the_velocity_is_within_the_robots_limits() -> None:
    config, _ = load_robot_task("go2")
    robot, spec = config.robot, config.policy
    assert velocity_to_send(None, spec, robot) == (0.5, 0.0, 0.0)
    assert velocity_to_send((0.0, 0.0, -0.5), spec, robot) == (0.0, 0.0, -0.5)
    limits = {"linear_x": 0.2, "linear_y": 0.0, "angular_z": 0.5}
    slow = robot.model_copy(update={"command_velocity": VelocityInput(timeout=0.5, limits=limits)})
    assert velocity_to_send(None, spec, slow) == (0.2, 0.0, 0.0)
    for given in ((0.3, 0.0, 0.0), (0.0, 0.0, float("nan"))):
        with pytest.raises(InputError, match="--velocity: expected linear_x"):
            velocity_to_send(given, spec, slow)
    cartpole, _ = load_robot_task("cartpole")
    assert velocity_to_send(None, cartpole.policy, cartpole.robot) is None
    with pytest.raises(InputError, match="--velocity: policy cartpole follows none"):
        velocity_to_send((0.0, 0.0, 0.0), cartpole.policy, cartpole.robot)


def test_a_latency_of_the_robot_is_measured_to_the_millisecond(graph: Graph) -> None:
    """By the youngest tenth: a machine that others use too only makes readings older."""
    ages = []
    graph.start("sim_node")
    graph.policy_node()
    graph.running()
    for fault in ("", "delay:0.007"):
        graph.set_fault(fault)
        graph.spin(0.5)
        graph.latencies.clear()
        graph.until(lambda: len(graph.latencies) > 120, "steps")
        ages.append(float(np.quantile([sample[1] for sample in graph.latencies], 0.1)))
    assert ages[1] - ages[0] == pytest.approx(0.007, abs=0.004)


def test_term_at_any_moment_ends_with_the_safe_command(graph: Graph) -> None:
    """Moments spread over a control period; the robot stays, policy_node comes anew."""
    graph.start("sim_node")
    for number in range(int(os.environ.get("TERM_TRIES", "2"))):
        graph.commands.clear()
        graph.policy_node()
        graph.until(lambda: len(graph.commands) > 3, "commands")
        graph.spin(0.037 * number)
        code, took = graph.end("policy_node", signal.SIGTERM)
        assert code == 0
        assert took < 3
        assert graph.commands[-1][1] == [0.0]


def own(folder: Path) -> tuple[Path, Path]:
    """A robot that is not shipped, and a policy of random weights under its name."""
    config = shipped_content("cartpole")
    config["policy"]["name"] = config["robot"]["name"] = "mycart"
    config["robot"]["state"]["max_age"] = 0.5
    path = folder / "mycart.yaml"
    path.write_text(yaml.safe_dump(config))
    spec = PolicySpec.model_validate(config["policy"])
    return path, made_policy(folder / "mycart.onnx", spec, 32, 2, 4)


def run_beside(path: Path, policy: Path, option: str) -> dict[str, Any]:
    """A short loopback from the folder of a robot's file, which `option` names."""
    command = [sys.executable, "-m", "ros_nodes.loopback", str(policy), "--seconds", "1.5"]
    done = subprocess.run(
        [*command, option, str(path), "--budget", "5", "--json"],
        cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_robot_that_is_not_shipped_is_named_by_its_file(tmp_path: Path) -> None:
    path, policy = own(tmp_path)
    result = run_beside(path, policy, "--config")
    assert result["steps"] > 50
    assert result["answers"]["run"] > 0
    # measured here and now: no machine is named in a certificate
    assert 0 < result["promised_inference_ms"] < 20
    assert result["promised_inference_ms"] != OnnxPolicy(policy).file.provenance.latency.cold_p99


def test_the_configuration_must_be_the_policys(tmp_path: Path) -> None:
    path, policy = own(tmp_path)
    loaded = OnnxPolicy(policy)
    assert loopback.configuration(str(path), loaded) == str(path)
    assert loopback.configuration("cartpole", loaded) == "cartpole"  # another name only
    with pytest.raises(InputError, match=r"sim:mycart: expected one of .*: --config FILE"):
        loopback.configuration(None, loaded)
    with pytest.raises(InputError, match=r"--config go2: policy\.joints.*, as policy mycart was"):
        loopback.configuration("go2", loaded)


def test_a_robots_file_with_a_simulation_is_simulated(tmp_path: Path) -> None:
    path, policy = own(tmp_path)
    loaded = OnnxPolicy(policy)
    assert loopback.configuration(None, loaded, path) == str(path)
    assert loopback.configuration("cartpole", loaded, path) == "cartpole"  # named: it is taken
    robot_only = tmp_path / "robot_only.yaml"
    robot_only.write_text(yaml.safe_dump({"robot": yaml.safe_load(path.read_text())["robot"]}))
    with pytest.raises(InputError, match=r"--config FILE \(a --robot FILE with the sections"):
        loopback.configuration(None, loaded, robot_only)
    shipped = OnnxPolicy(POLICY)
    assert loopback.configuration(None, shipped, robot_only) == "cartpole"
    other = tmp_path / "go2.yaml"
    other.write_text(f"extends: {config_folder() / 'go2.yaml'}")
    with pytest.raises(InputError, match=r"--robot .*go2\.yaml: policy\."):
        loopback.configuration(None, loaded, other)


def test_own_terms_of_a_robots_file_need_its_name_as_the_configuration(tmp_path: Path) -> None:
    path, policy = own(tmp_path)
    content = yaml.safe_load(path.read_text())
    content["task"]["metrics"] = {"mine": "terms.py:mine"}
    path.write_text(yaml.safe_dump(content))
    (tmp_path / "terms.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(InputError, match=r"task.metrics.mine: terms.py:mine is code .*: --config"):
        loopback.configuration(None, OnnxPolicy(policy), path)


def test_a_command_that_the_policy_does_not_observe_is_not_sent(tmp_path: Path) -> None:
    path, policy = own(tmp_path)
    content = yaml.safe_load(path.read_text())
    content["task"]["commands"] = {"hidden": {"term": "uniform", "low": [0.0], "high": [1.0]}}
    path.write_text(yaml.safe_dump(content))
    rehearsal = rehearse(OnnxPolicy(policy), str(path), {}, 0.1, 2, 0)
    assert rehearsal.commands == ({}, {})
    assert followed(OnnxPolicy(policy).spec) == set()
    assert followed(load_robot_task("go2")[0].policy) == {"velocity"}
    assert followed(load_robot_task("reach")[0].policy) == {"target"}


def test_a_policy_that_is_not_shipped_needs_only_its_robots_file(tmp_path: Path) -> None:
    path, policy = own(tmp_path)
    result = run_beside(path, policy, "--robot")
    assert result["config"] == str(path)
    assert result["answers"]["run"] > 0


def test_only_its_own_node_is_judged_and_a_refusal_is_no_fault(tmp_path: Path) -> None:
    options = argparse.Namespace(config="cartpole", seconds=None)
    session = Session(options, OnnxPolicy(POLICY), tmp_path)
    for node, level, response, message in (
        ("/policy_node", DiagnosticStatus.WARN, "hold", "hold: imu_stale"),
        ("/policy_node", DiagnosticStatus.WARN, "hold", "hold: imu_stale"),
        ("/policy_node", DiagnosticStatus.ERROR, "none", "it is refused, whatever the words"),
        ("/policy_node", DiagnosticStatus.OK, "run", "hold is a word here"),
        ("/other/policy_node", DiagnosticStatus.ERROR, "stop", "stop: tilt"),
    ):
        name = diagnostics.entry_name(node, diagnostics.CONTROL)
        values = {"answer": response, "steps run": 7, "steps hold": 1}
        entry = diagnostics.status(name, "cart", level, message, values)
        session._on_diagnostics(DiagnosticArray(status=[entry]))
    assert session.faults == ["hold: imu_stale"]
    assert session.responses == {"run": 28, "hold": 4}


def test_the_console_shows_the_numbers_of_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    loopback.describe(
        {
            "config": "cartpole",
            "episodes": [],
            "tracking": None,
            "return_mean": None,
            "noise": "fresh",
            "rate": 50.0,
            "measured_rate": 49.99,
            "steps": 1234,
            "missed_share": 0.01,
            "latency_ms": {"inference": {"p50": 0.5, "p99": 1.25, "max": 2.0}},
            "answers": {"run": 1230, "hold": 4, "damp": 0},
            "faults": [],
        }
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["inference", "0.500", "1.250", "2.000"] in lines
    assert ["responses", "run", "1,230,", "hold", "4"] in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seconds nan", "--seconds: expected a number from 1 to 86,400, got 'nan'"),
        ("--seconds inf", "--seconds: expected a number from 1 to 86,400, got 'inf'"),
        ("--seconds 0.001", "--seconds: expected a number from 1 to 86,400, got '0.001'"),
        ("--episodes 0", "--episodes: expected a whole number from 1 to 10,000, got '0'"),
        ("--rate -5", "--rate: expected a number from 1 to 10,000, got '-5'"),
        ("--rate 0", "--rate: expected a number from 1 to 10,000, got '0'"),
        ("--rate nan", "--rate: expected a number from 1 to 10,000, got 'nan'"),
        ("--budget 0", "--budget: expected a number from 1e-06 to 10, got '0'"),
        ("--seed -1", "--seed: expected a whole number from 0 to 2,147,483,648, got '-1'"),
        ("--seed 4294967296", "--seed: expected a whole number from 0 to 2,147,483,648, got '42"),
        ("--config ", "--config: expected a value, got an empty one"),
        ("--robot ", "--robot: expected a value, got an empty one"),
        ("--second 3", "unrecognized arguments: --second 3; perhaps --seconds"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_starts(words: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        loopback.main([str(POLICY), *words.split(" ")])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_it_and_both_nodes(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ros_nodes.loopback", str(POLICY), "--budget", "5"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + 60
    while len(nodes := children.read_text().split()) < 2:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    time.sleep(3.0)  # both begin to run, and the session waits in its executor
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert error.splitlines()[-1] == "interrupted"
    assert "Traceback" not in error
    assert not any(Path(f"/proc/{node}").exists() for node in nodes)
    assert not any(tmp_path.glob("dime_robot-*"))


def test_a_bad_policy_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ros_nodes.loopback", str(tmp_path / "none.onnx")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
