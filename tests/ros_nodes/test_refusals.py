"""What policy_node refuses before any command: one sentence with its code, and its exit code."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from std_msgs.msg import Float64MultiArray

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from ros_nodes.parameters import PolicyParameters
from ros_nodes.startup_checks import load_and_check
from tests.paths import shipped_content
from tests.ros_nodes.graph import COMMANDS, POLICY, Graph
from tests.ros_nodes.policies import resealed


def truncated(folder: Path) -> dict[str, object]:
    path = folder / "policy.onnx"
    path.write_bytes(POLICY.read_bytes()[:-1000])
    return {"policy": path}


def changed_byte(folder: Path) -> dict[str, object]:
    content = bytearray(POLICY.read_bytes())
    content[len(content) // 2] ^= 1
    path = folder / "policy.onnx"
    path.write_bytes(content)
    return {"policy": path}


def next_version(folder: Path) -> dict[str, object]:
    spec = OnnxPolicy(POLICY).spec.model_copy(update={"version": 2})
    return {"policy": resealed(folder / "policy.onnx", spec)}


def robot(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], dict[str, object]]:
    """The shipped robot with something changed."""

    def make(folder: Path) -> dict[str, object]:
        config = shipped_content("cartpole")["robot"]
        change(config)
        path = folder / "robot.yaml"
        path.write_text(yaml.safe_dump({"robot": config}))
        return {"robot": path}

    return make


def loosen(config: dict[str, Any]) -> None:
    config["joints"][0]["position_limits"] = [-1.2, 1.3]


def stronger(config: dict[str, Any]) -> None:
    config["joints"][0]["effort_limit"] = 9.0


def rename(config: dict[str, Any]) -> None:
    config["joints"][1]["name"] = "pivot"


def slower(config: dict[str, Any]) -> None:
    config["state"].update(rate=25.0, max_age=0.1)


def by_position(config: dict[str, Any]) -> None:
    config["command"]["interface"] = "position"


def unknown_key(config: dict[str, Any]) -> None:
    config["state"]["max_ages"] = 1.0


REFUSALS: dict[str, tuple[Callable[[Path], dict[str, object]], str, str]] = {
    "no file": (lambda f: {"policy": f / "none.onnx"}, "file", "No such file"),
    "truncated": (truncated, "digest", "truncated"),
    "a byte changed": (changed_byte, "digest", "changed after the export"),
    "another spec version": (next_version, "version", "version"),
    "noise mode": (lambda f: {"noise": "held"}, "noise", "not certified"),
    "no CUDA here": (lambda f: {"provider": "cuda"}, "provider", "cuda"),
    "limit loosened": (robot(loosen), "limits", "not loosened"),
    "effort loosened": (robot(stronger), "limits", "not loosened"),
    "joint named otherwise": (robot(rename), "joints", "lacks ['hinge']"),
    "state too slow": (robot(slower), "rate", "25 Hz"),
    "command kind": (robot(by_position), "command-kind", "takes position"),
    "unknown key": (robot(unknown_key), "input", "robot.state.max_ages"),
    "budget": (lambda f: {"budget": 100.0}, "parameter", "budget"),
    "machine too slow": (lambda f: {"budget": 0.0005}, "latency", "over the budget"),
    "robot file missing": (lambda f: {"robot": f / "none.yaml"}, "input", "No such file"),
    "no policy named": (lambda f: {"policy": "''"}, "parameter", "policy:=FILE"),
    "unknown choice": (lambda f: {"drive": "steam"}, "parameter", "expected one of auto"),
    "wrong type": (lambda f: {"seed": "many"}, "parameter", "seed"),
    "out of range": (lambda f: {"priority": 2000}, "parameter", "priority"),
}


OF_ROS = ("wrong type", "out of range", "budget", "unknown choice")  # refused when declared
IN_A_PROCESS = ("a byte changed", "limit loosened", "unknown choice", "wrong type")


@pytest.mark.parametrize("name", [name for name in REFUSALS if name not in OF_ROS])
def test_a_mismatch_is_one_sentence_with_a_code(name: str, tmp_path: Path) -> None:
    make, code, words = REFUSALS[name]
    given = {"policy": POLICY, "robot": "", "budget": 5.0, **make(tmp_path)}
    given = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    given["policy"] = "" if given["policy"] == "''" else given["policy"]
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        load_and_check(replace(PolicyParameters(), **given))  # type: ignore[arg-type]
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_A_PROCESS)
def test_a_mismatch_ends_the_process_with_2(name: str, graph: Graph) -> None:
    make, code, words = REFUSALS[name]
    process = graph.policy_node(**{"autostart": "configure", **make(graph.folder)})
    graph.until(lambda: process.poll() is not None, "the end of the process")
    assert process.returncode == 2
    log = graph.log()
    assert "Traceback" not in log
    (line,) = [line for line in log.splitlines() if "refused [" in line or "error:" in line]
    assert words in line
    if "refused [" in line:
        assert f"refused [{code}]" in line
    assert not graph.commands


@pytest.mark.slow
def test_without_autostart_the_node_survives_and_reports_why_on_diagnostics(graph: Graph) -> None:
    graph.policy_node(**truncated(graph.folder), autostart="none")
    assert not graph.transition("configure")
    graph.until(
        lambda: any("refused [digest]" in message for _, _, _, message, _ in graph.reports),
        "the refusal",
    )
    assert graph.end("policy_node", signal.SIGTERM)[0] == 0


@pytest.mark.slow
def test_a_tightened_limit_is_accepted(graph: Graph) -> None:
    def tighten(config: dict[str, Any]) -> None:
        config["joints"][0].update(position_limits=[-1.0, 1.0], effort_limit=2.0)

    graph.start("sim_node")
    graph.policy_node(**robot(tighten)(graph.folder))
    graph.until(lambda: any(abs(v[0]) > 1.9 for _, v in graph.commands), "a large command")
    graph.spin(1.0)
    largest = max(abs(values[0]) for _, values in graph.commands)
    assert 1.9 < largest <= 2.0


@pytest.mark.slow
def test_activation_is_refused_without_a_listener(silent_graph: Graph) -> None:
    graph = silent_graph
    config = shipped_content("cartpole")
    config["robot"]["command"]["topic"] = "another_controller/commands"
    path = graph.folder / "elsewhere.yaml"
    path.write_text(yaml.safe_dump(config))
    graph.start("sim_node")  # listens on its own topic
    process = graph.policy_node(robot=path, activate_timeout=2.0)
    graph.until(lambda: process.poll() is not None, "the end of the process")
    assert process.returncode == 3
    assert "nobody listens on /another_controller/commands" in graph.log()


@pytest.mark.slow
def test_a_taken_command_topic_refuses_activation(graph: Graph) -> None:
    graph.node.create_publisher(Float64MultiArray, COMMANDS, 1)
    graph.start("sim_node")
    graph.policy_node(autostart="configure")
    graph.until(lambda: "next: ros2 lifecycle" in graph.log(), "configured")
    graph.spin(3.0)  # for the node to discover everybody, on a busy machine
    assert not graph.transition("activate")
    assert "1 other publisher(s) on /effort_controller/commands" in graph.log()
    assert not graph.commands


@pytest.mark.slow
def test_dry_run_does_everything_but_publish(graph: Graph) -> None:
    graph.start("sim_node")
    graph.policy_node(dry_run=True)
    graph.until(
        lambda: any(
            name == "/policy_node: latency" and float(values.get("steps", 0)) > 20
            for _, name, _, _, values in graph.reports
        ),
        "steps",
    )
    assert not graph.commands
    assert graph.end("policy_node")[0] == 0
