"""Parameters of the nodes: their values, and unknown ones by the place where they are given."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from dime_robot.runtime.io.errors import InputError
from ros_nodes.parameters import (
    MonitorParameters,
    PolicyParameters,
    SimParameters,
    check_parameters,
    help_asked,
    read_parameters,
    require_known_parameters,
    unknown_parameters,
)
from tests.ros_nodes.graph import Graph, domain


@pytest.fixture
def context() -> Iterator[Context]:
    with domain() as number:
        context = Context()
        rclpy.init(context=context, domain_id=number)
        yield context
        rclpy.shutdown(context=context)


def unknown(context: Context, *words: str, namespace: str = "") -> tuple[list[str], list[str]]:
    """What policy_node would find in a command line."""
    arguments = ["--ros-args", *words]
    node = Node("policy_node", context=context, cli_args=arguments, namespace=namespace)
    try:
        read_parameters(node, PolicyParameters)
        return unknown_parameters(node, arguments)
    finally:
        node.destroy_node()


SLIP = "parameter polcy: unknown, did you mean policy?"


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["-p", "policy:=a.onnx", "-p", "seed:=3"], []),
        (["-p", "polcy:=a.onnx"], [SLIP]),
        (["--param", "dry_rn:=true"], ["parameter dry_rn: unknown, did you mean dry_run?"]),
        (["-p", "policy_node:polcy:=a"], [SLIP]),
        (["-p", "policy.onnx:=a"], ["parameter policy.onnx: unknown, did you mean policy?"]),
        (["-p", "zzz:=1"], ["parameter zzz: unknown, expected one of activate_timeout, autostart"]),
        (
            ["-p", "polcy_node:dry_run:=true"],
            ["parameter polcy_node:dry_run: this process holds only /policy_node"],
        ),
        (["-p", "use_sim_time:=false", "-p", "start_type_description_service:=false"], []),
        (["-p", "qos_overrides./imu.subscription.depth:=3"], []),
    ],
)
def test_what_the_command_line_gives_must_be_known(
    words: list[str], refused: list[str], context: Context
) -> None:
    found, warned = unknown(context, *words)
    assert len(found) == len(refused)
    assert all(got.startswith(wanted) for got, wanted in zip(found, refused, strict=True))
    assert not warned


@pytest.mark.parametrize(
    ("section", "namespace", "response"),
    [
        ("/**", "", "warned"),
        ("/*", "", "warned"),
        ("/left/**", "/left", "warned"),
        ("policy_node", "", "refused"),
        ("/policy_node", "", "refused"),
        ("/**/policy_node", "", "refused"),
        ("/**/policy_node", "/left", "refused"),
        ("/left/policy_node", "/left", "refused"),
        ("left: policy_node", "/left", "refused"),
        ("/right/policy_node", "/left", "ignored"),
        ("/arm_node", "", "ignored"),
    ],
)
def test_what_a_file_gives_to_all_nodes_only_warns(
    section: str, namespace: str, response: str, context: Context, tmp_path: Path
) -> None:
    content: dict[str, Any] = {"ros__parameters": {"polcy": "a.onnx", "seed": 3}}
    for name in reversed(section.split(": ")):
        content = {name: content}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    refused, warned = unknown(context, "--params-file", str(path), namespace=namespace)
    assert refused == ([SLIP] if response == "refused" else [])
    assert warned == ([SLIP] if response == "warned" else [])


def test_the_more_special_place_counts(context: Context, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"polcy": "a"}}}))
    both = unknown(context, "--params-file", str(path), "-p", "polcy:=b")
    assert both == ([SLIP], [])
    of_another = tmp_path / "another.yaml"
    of_another.write_text(yaml.safe_dump({"/right/policy_node": {"ros__parameters": {"polcy": 1}}}))
    files = ["--params-file", str(path), "--params-file", str(of_another)]
    assert unknown(context, *files, namespace="/left") == ([], [SLIP])
    assert unknown(context, *files, namespace="/right") == ([SLIP], [])
    # what a launch file gives to one node without a name: launch_ros writes it below /**
    of_launch = tmp_path / "launch_params_abc"
    path.rename(of_launch)
    assert unknown(context, "--params-file", str(of_launch)) == ([SLIP], [])


def test_names_in_mappings_are_joined_by_dots(context: Context, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    parameters = {"gains": {"arm": {"p": 1.0}}}
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    refused, (warned,) = unknown(context, "--params-file", str(path))
    assert not refused
    assert warned.startswith("parameter gains.arm.p: unknown")


def test_all_that_is_unknown_is_one_sentence(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--ros-args", "-p", "polcy:=a", "-p", "sed:=3"]
    monkeypatch.setattr("sys.argv", ["policy_node", *arguments])
    node = Node("policy_node", context=context, cli_args=arguments)
    read_parameters(node, PolicyParameters)
    with pytest.raises(InputError) as caught:
        require_known_parameters(node)
    assert str(caught.value) == f"{SLIP}; parameter sed: unknown, did you mean seed?"
    node.destroy_node()


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        (PolicyParameters, "noise", "bogus", "expected one of fresh, held, zero, got 'bogus'"),
        (PolicyParameters, "drive", "", "expected one of auto, observation, timer, got ''"),
        (PolicyParameters, "budget", float("nan"), "expected a finite number, got nan"),
        (PolicyParameters, "autostart", "activate", "autostart is read at start only"),
        (PolicyParameters, "activate_timeout", 1.0, "activate_timeout is read at start only"),
        (PolicyParameters, "use_sim_time", True, "use_sim_time is read at start only"),
        (SimParameters, "mode", "lockstep", "mode is read at start only"),
        (SimParameters, "on_timeout", "hold", "on_timeout is read at start only"),
        (MonitorParameters, "folder", "x", "folder is read at start only"),
        (PolicyParameters, "noise", "held", ""),
        (PolicyParameters, "budget", 0.4, ""),
        (SimParameters, "fault", "drop:1", ""),
    ],
)
def test_a_value_without_effect_or_out_of_range_is_refused_when_it_is_set(
    kind: type, name: str, value: object, words: str
) -> None:
    good = Parameter("seed_of_somebody_else", value=1)
    problem = check_parameters(kind, [good, Parameter(name, value=value)])
    assert words in problem
    assert bool(problem) == bool(words)
    if problem:
        assert problem.startswith(f"parameter {name}")


# ---- over processes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sim_node", "latency_monitor"])
def test_a_node_refuses_at_its_start_what_it_does_not_know(name: str, graph: Graph) -> None:
    process = graph.start(name, sed="1")
    process.wait(30)
    assert process.returncode == 2
    (line,) = graph.log(name).splitlines()
    assert line.startswith("error: parameter sed: unknown")


@pytest.mark.slow
def test_a_running_node_explains_why_a_value_is_refused(graph: Graph) -> None:
    path = graph.folder / "params.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"sed": 1}}}))
    graph.start("sim_node", "--params-file", str(path))
    graph.start("latency_monitor", folder=graph.folder / "record")
    words = "parameter sed: unknown, did you mean seed? (given to all nodes by a parameter file)"
    graph.until(lambda: words in graph.log("sim_node"), "the warning")
    for node, name, value, expected in (
        ("sim_node", "mode", "lockstep", "parameter mode is read at start only"),
        ("sim_node", "use_sim_time", True, "parameter use_sim_time is read at start only"),
        ("sim_node", "fault", "frozn", "parameter fault: expected one of"),
        ("latency_monitor", "folder", "elsewhere", "parameter folder is read at start only"),
    ):
        result = graph.set_parameter(node, name, value)
        assert not result.successful
        assert result.reason.startswith(expected)
    assert graph.set_parameter("sim_node", "fault", "drop:0.1").successful


@pytest.mark.parametrize("name", ["policy_node", "sim_node", "latency_monitor"])
def test_help_describes_the_parameters_and_starts_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = import_module(f"ros_nodes.{name}").main
    for words in (["--help"], ["-h", "--ros-args", "-p", "x:=1"]):
        monkeypatch.setattr(sys, "argv", [name, *words])
        assert main() == 0
        out = capsys.readouterr().out
        assert out.startswith(f"{name}: ") and "parameters, as --ros-args -p NAME:=VALUE:" in out
    assert not help_asked(["--ros-args", "-p", "help:=-h", "--help"])
