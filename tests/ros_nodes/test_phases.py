"""Phases and several policies over DDS: from lying to lying, switches, and what is refused."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from std_msgs.msg import String
from std_srvs.srv import Trigger

from benchmarks.made_policy import made_policy
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import load_robot
from dime_robot.runtime.control.flight_recorder import Recording, read_recording
from dime_robot.runtime.telemetry import recording as conversion
from dime_robot.sim.config.robot_task import load_robot_task
from ros_nodes.conversions import PHASE_QOS
from tests.paths import ROOT, SHIPPED_GO2, shipped_content
from tests.ros_nodes.graph import MISBEHAVING, Graph
from tests.ros_nodes.test_go2 import COMMANDS, tolerate_delays
from tests.ros_nodes.test_signals import control_entry

pytestmark = pytest.mark.slow
SERVICES = ("stand_up", "run_policy", "sit_down")
TWICE = 0.6  # [s] between two signals that are two requests
SWITCHES, PERIOD = 50, 0.02  # [s]
SLOWEST = 0.05 * 30.1  # [rad/s] on the way to the safe pose: safe_speed of velocity_limit
LONGEST_GAP = 0.3  # [s] between two commands on a busy machine; 0.04 s on a quiet one


def record_phases(graph: Graph) -> list[str]:
    """All phases that policy_node publishes from now on."""
    found: list[str] = []
    graph.node.create_subscription(
        String, "policy_node/phase", lambda m: found.append(m.data), PHASE_QOS
    )
    return found


def phase_is_published(graph: Graph) -> bool:
    """Whether its publisher has been discovered; only the newest phase is kept for later."""
    return graph.node.count_publishers("policy_node/phase") > 0


def in_order(expected: list[str], found: list[str]) -> bool:
    """Whether the phases came one after the other; `stand` may last a step and be missed."""
    left = iter(found)
    return all(any(phase == other for other in left) for phase in expected if phase != "stand")


def services(graph: Graph) -> set[str]:
    """What policy_node provides for its operator's hand."""
    graph.until(lambda: "policy_node" in graph.node.get_node_names(), "policy_node")
    found = graph.node.get_service_names_and_types_by_node("policy_node", "/")
    return {name.removeprefix("/policy_node/") for name, _ in found}


def refusal(graph: Graph, service: str) -> str:
    """Why a request is refused; empty: it is accepted."""
    response = graph.trigger(f"policy_node/{service}")
    assert response.success == (response.message == "accepted")
    return "" if response.success else response.message


# ---- the Go2

WHOLE = ["stand_up", "stand", "policy"]


def begin(graph: Graph, **how: Any) -> list[str]:
    """The Go2 lying, with shorter motions than the shipped ones; follows its phases."""
    config = shipped_content("go2")
    tolerate_delays(config)
    phases = config["robot"]["phases"]
    phases["stand_up"] |= {"path": [{"pose": "default", "duration": 0.8}], "timeout": 5.0}
    phases["sit_down"] |= {"path": [{"pose": "safe", "duration": 0.8}]}
    phases["stand_up"]["tolerance"] = config["robot"]["activation"]["position_error"] = 0.5
    phases["halt"] = 0.3
    path = graph.folder / "go2.yaml"
    path.write_text(yaml.safe_dump(config))
    graph.listen(COMMANDS)
    graph.start("sim_node", config=path)
    graph.policy_node(policy=SHIPPED_GO2, robot=path, autostart="configure", **how)
    phases_seen = record_phases(graph)
    graph.until(lambda: "next: ros2 lifecycle set" in graph.log(), "configured")
    graph.until(lambda: graph.states and phase_is_published(graph), "both nodes")
    graph.until(lambda: set(SERVICES) <= services(graph), "its services")
    return phases_seen


def activate(graph: Graph, seen: list[str]) -> None:
    """Let it stand up and walk."""
    seen.clear()
    graph.until(lambda: graph.transition("activate"), "activation")
    graph.until(lambda: seen[-1:] == ["policy"], "the policy")
    assert in_order(WHOLE, seen)


def reach_phase(graph: Graph, seen: list[str], service: str, *phases: str) -> None:
    """Request something, and wait for the last of the phases to which it leads."""
    seen.clear()
    assert not refusal(graph, service)
    graph.until(lambda: seen[-1:] == [phases[-1]], phases[-1])
    assert in_order(list(phases), seen)


def test_the_go2_stands_up_walks_and_sits_down(graph: Graph) -> None:
    seen = begin(graph)
    for service in SERVICES:
        assert refusal(graph, service) == "expected an active policy_node, it is inactive"
    activate(graph, seen)
    heights = [np.array(m.position)[2] for _, m in graph.states]
    assert heights[0] < -2.4 < -2.0 < heights[-1]  # a calf, folded and then stretched
    reach_phase(graph, seen, "stand_up", "stand_up", "stand")
    reach_phase(graph, seen, "run_policy", "policy")
    reach_phase(graph, seen, "sit_down", "sit_down")
    assert "it sits down" in refusal(graph, "run_policy")
    graph.until(lambda: seen[-1:] == ["passive"], "lying")
    reach_phase(graph, seen, "run_policy", *WHOLE)

    seen.clear()
    assert graph.transition("deactivate")
    graph.until(lambda: seen[-1:] == ["passive"], "lying")
    assert seen == ["sit_down", "passive"]
    assert "inactive, at rest: " in graph.log()
    assert refusal(graph, "stand_up") == "expected an active policy_node, it is inactive"

    # a stop while it sits down ends that: nothing but the slow way to the safe pose is left
    activate(graph, seen)
    seen.clear()
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
    client = graph.node.create_client(ChangeState, "policy_node/change_state")
    graph.until(client.service_is_ready, "the node")
    future = client.call_async(request)
    graph.until(lambda: seen == ["sit_down"], "sitting down")
    assert graph.trigger("policy_node/estop").success and not future.done()
    graph.spin(0.1)
    count = len(graph.commands)
    graph.until(future.done, "the end of it")
    assert seen == ["sit_down"]
    slow = np.diff([values for _, values in graph.commands[count:]], axis=0)
    assert len(slow) > 5 and np.abs(slow).max() <= SLOWEST * 2 * PERIOD + 1e-9
    assert graph.trigger("policy_node/reset_estop").message == "reset"

    activate(graph, seen)
    seen.clear()
    code, took = graph.end("policy_node", signal.SIGTERM)
    assert code == 0 and took > 1.1  # it stands still, and sits down
    assert seen == ["sit_down", "passive"]
    assert graph.log().count("inactive, at rest: ") == 3


def test_a_second_signal_skips_sitting_down(graph: Graph) -> None:
    seen = begin(graph)
    activate(graph, seen)
    seen.clear()
    process = graph.processes["policy_node"]
    process.send_signal(signal.SIGTERM)
    graph.spin(TWICE)
    assert process.poll() is None and seen == ["sit_down"]
    process.send_signal(signal.SIGTERM)
    graph.until(lambda: process.poll() is not None, "the end")
    assert process.returncode == 0
    graph.spin(0.1)
    assert seen == ["sit_down"]  # never `passive`
    assert "inactive, " in graph.log()


def test_a_policy_that_fails_leaves_the_robot_at_rest(graph: Graph) -> None:
    """It is not run again to stand still before the robot sits down."""
    begin(graph, program=(MISBEHAVING, "fail", "25"))
    process = graph.processes["policy_node"]
    graph.until(lambda: graph.transition("activate"), "activation")
    graph.until(lambda: process.poll() is not None, "the end of the process")
    assert process.returncode == 1
    assert graph.log().count("RuntimeError: ONNX Runtime failed") == 1
    assert "]: phase policy" in graph.log() and "]: phase sit_down" not in graph.log()
    assert "inactive, at rest: at the safe position" in graph.log()
    assert len(list((graph.folder / "flights").glob("*exception.npz"))) == 1


# ---- several policies


def contract(*kinds: str) -> PolicySpec:
    """The contract of the arm, with some of its observations."""
    spec = load_robot_task("reach")[0].policy
    terms = tuple(term for term in spec.observation if term.kind in kinds)
    return spec.model_copy(update={"observation": terms})


def policies_of(graph: Graph) -> dict[str, Path]:
    """Two of other weights, sizes and diffusion steps, and one of another rate."""
    brief = contract("joint_position_relative", "last_action")
    whole = contract("joint_position_relative", "joint_velocity", "last_action")
    given: dict[str, tuple[PolicySpec, int, int]] = {
        "a": (whole, 64, 4),
        "b": (brief, 48, 7),
        "other": (whole.model_copy(update={"rate": 100.0}), 16, 1),
    }
    return {
        name: made_policy(graph.folder / f"{name}.onnx", spec, width, 2, steps)
        for name, (spec, width, steps) in given.items()
    }


def arm_with_phases(folder: Path) -> Path:
    robot = shipped_content("reach")["robot"]
    del robot["task_commands"]
    robot["state"]["max_age"] = 0.5
    robot["safety"].update(hold=0.5, damp=2.0)
    move = {"path": [{"pose": "default", "duration": 0.3}], "timeout": 3.0}
    robot["phases"] = {"stand_up": move, "sit_down": move}
    path = folder / "arm.yaml"
    path.write_text(yaml.safe_dump({"robot": robot}))
    return path


def set_policies(graph: Graph, *paths: Path) -> None:
    value = ParameterValue(type=9, string_array_value=[str(path) for path in paths])
    given = [Parameter(name="policies", value=value)]
    service = "policy_node/set_parameters"
    (result,) = graph.call(SetParameters, service, SetParameters.Request(parameters=given)).results
    assert result.successful


def switch(graph: Graph, count: int) -> None:
    """Select one after the other; each is answered before the next."""
    clients = [graph.node.create_client(Trigger, f"policy_node/select/{name}") for name in "ba"]
    for client in clients:
        graph.until(client.service_is_ready, "a service")
    for k in range(count):
        future = clients[k % 2].call_async(Trigger.Request())
        graph.until(future.done, "an answer")
        assert future.result().message == "accepted"
        graph.spin(2 * PERIOD)  # a command of it at least


def read(graph: Graph) -> tuple[Path, Recording]:
    path = Path(graph.trigger("policy_node/dump").message)
    return path, read_recording(path)


def test_a_running_robot_is_switched_between_two_policies(graph: Graph) -> None:
    files, robot = policies_of(graph), arm_with_phases(graph.folder)
    graph.listen(COMMANDS)
    graph.start("sim_node", config="reach")
    graph.policy_node(
        policy="''", policies=f"[{files['a']},{files['other']}]", robot=robot, autostart="none"
    )
    seen = record_phases(graph)
    graph.until(lambda: phase_is_published(graph), "the node")
    assert not graph.transition("configure")
    (line,) = [line for line in graph.log().splitlines() if "refused [" in line]
    assert "refused [switch]: policy other: expected a rate of 50 Hz as policy a has" in line
    assert not services(graph) & {*SERVICES, "select/a", "select/other"}
    set_policies(graph, files["a"], files["b"])
    assert graph.transition("configure")
    assert re.search(r"configured: policies a [0-9a-f]{12}, b [0-9a-f]{12}, robot fr3", graph.log())
    assert refusal(graph, "select/b") == "expected an active policy_node, it is inactive"
    graph.until(lambda: graph.transition("activate"), "activation")
    graph.until(lambda: seen[-1:] == ["policy a"], "the policy")
    assert in_order(["stand_up a", "policy a"], seen)
    graph.spin(0.2)
    graph.commands.clear()
    switch(graph, SWITCHES)
    graph.until(lambda: control_entry(graph).get("selected") == "a", "a report")
    assert control_entry(graph)["phase"] == "policy"

    times = np.array([when for when, _ in graph.commands])
    changes = np.abs(np.diff([values for _, values in graph.commands], axis=0))
    limits = {joint.name: joint.velocity_limit for joint in load_robot(robot, contract()).joints}
    allowed = np.array([limits[name] for name in sorted(limits)])  # the order of the wire
    longest, share = float(np.diff(times).max()), float((changes / allowed).max() / PERIOD)
    print(f"longest gap {1e3 * longest:.1f} ms, largest change {share:.0%} of a period's limit")
    assert longest < LONGEST_GAP
    assert share <= 2.0  # the limits of two periods, where a step was late
    assert [text.split()[1] for text in seen[-4:]] == ["b", "a", "b", "a"]
    path, recording = read(graph)
    records = recording.records
    acted = records[records["inferred"]]["policy"].astype(int)
    assert np.count_nonzero(np.diff(acted)) == SWITCHES
    steps = np.abs(np.diff(records["command"][-len(acted) :], axis=0))
    assert (steps <= allowed * 2 * PERIOD + 1e-9).all()

    assert graph.trigger("policy_node/estop").success
    assert refusal(graph, "select/b").startswith("stopped: estop: re-arm it first")
    assert graph.transition("deactivate")
    assert graph.transition("cleanup")
    gone = {*SERVICES, "select/a", "select/b"}
    graph.until(lambda: not services(graph) & gone, "the end of its services")
    replayed_and_converted(path, recording, files)


def replayed_and_converted(path: Path, recording: Recording, files: dict[str, Path]) -> None:
    words = ["-m", "dime_robot.runtime.replay", str(path), str(files["a"]), str(files["b"])]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal bit for bit") == 2
    mcap = pytest.importorskip("mcap.reader", reason="MCAP: pip install '.[recordings]'")
    decoder = pytest.importorskip("mcap_ros2.decoder")
    content = path.read_bytes()
    assert conversion.main([str(path)]) == 0
    converted = path.with_suffix(".mcap")
    with converted.open("rb") as file:
        opened = mcap.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        messages = opened.iter_decoded_messages(topics=["/policy_node/phase"])
        published = [message.data for _, _, _, message in messages]
    shown = [recording.commander(row) for row in range(len(recording.records))]
    changes = [now for before, now in zip(["", *shown], shown, strict=False) if now != before]
    assert published == changes
    path.unlink()
    assert conversion.main([str(converted)]) == 0
    assert path.read_bytes() == content
