"""The ROS package's files: valid, complete, and in agreement with the nodes' own parameters."""

from __future__ import annotations

import runpy
import subprocess
import sys
import types
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from catkin_pkg.package import parse_package

import dime_robot
from dime_robot.runtime.contract.phases import sit_down_time
from ros_nodes.parameters import (
    MonitorParameters,
    PolicyParameters,
    SimParameters,
    UnitreeParameters,
)
from ros_nodes.sim_node import MAX_REST_TIME
from tests.paths import ROOT

SHELL = ROOT / "ros_nodes"
STARTERS = {
    "policy_node": "ros_nodes.policy_node",
    "sim_node": "ros_nodes.sim_node",
    "latency_monitor": "ros_nodes.latency_monitor",
    "keyboard_node": "ros_nodes.keyboard_node",
    "unitree_driver": "ros_nodes.unitree.driver",
    "unitree_sim": "ros_nodes.unitree.sim",
    "loopback": "ros_nodes.loopback",
    "certify": "dime_robot.runtime.certify",
}


def test_the_parameter_file_holds_every_parameter_at_its_default() -> None:
    content = yaml.safe_load((SHELL / "config/policy_node.yaml").read_text())
    expected = {
        item.name: list(item.default) if isinstance(item.default, tuple) else item.default
        for item in fields(PolicyParameters)
    }
    assert content == {"/**/policy_node": {"ros__parameters": expected}}
    assert list(content["/**/policy_node"]["ros__parameters"]) == list(expected)


def test_package_xml_is_valid_and_of_this_version() -> None:
    warnings: list[str] = []
    package = parse_package(str(SHELL / "package.xml"), warnings=warnings)
    package.validate(warnings)
    assert not warnings
    assert (package.name, package.package_format) == ("dime_robot", 3)
    assert package.version == dime_robot.__version__
    assert package.get_build_type() == "ament_python"


def test_every_ros_module_in_use_is_a_dependency() -> None:
    package = parse_package(str(SHELL / "package.xml"))
    source = [*SHELL.glob("*.py"), *SHELL.glob("unitree/*.py"), *SHELL.glob("launch/*.py")]
    imported = {
        line.split()[1].split(".")[0]
        for path in source
        for line in path.read_text().splitlines()
        if line.startswith(("import ", "from "))
    }
    ros = {name for name in imported if name.endswith(("_msgs", "_srvs", "_interfaces"))}
    ros |= imported & {"rclpy", "launch", "launch_ros"}
    assert ros <= {depend.name for depend in package.exec_depends}


def test_starters_differ_in_their_module_only() -> None:
    assert {path.name for path in (SHELL / "scripts").iterdir()} == set(STARTERS)
    texts = set()
    for name, module in STARTERS.items():
        path = SHELL / "scripts" / name
        assert path.stat().st_mode & 0o111 == 0o111, f"{path} is not executable"
        text = path.read_text()
        assert f" -m {module} " in text
        texts.add(text.replace(f" -m {module} ", " -m MODULE "))
        subprocess.run(["sh", "-n", str(path)], check=True)
    assert len(texts) == 1


class Recorded:
    """Stands for any class of `launch` and records its arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


@pytest.fixture
def launch_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """`launch` is in no wheel: enough of it to see what the launch files ask it for."""
    names = {
        "launch": ("LaunchContext", "LaunchDescription"),
        "launch.actions": ("DeclareLaunchArgument", "OpaqueFunction", "Shutdown"),
        "launch_ros": (),
        "launch_ros.actions": ("Node",),
        "ament_index_python": (),
    }
    for name, members in names.items():
        module = types.ModuleType(name)
        for member in members:
            setattr(module, member, type(member, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, name, module)
    values: Any = types.ModuleType("launch_ros.parameter_descriptions")
    values.ParameterValue = lambda value, value_type: value_type(value)
    monkeypatch.setitem(sys.modules, values.__name__, values)
    packages: Any = types.ModuleType("ament_index_python.packages")
    packages.get_package_share_directory = lambda name: f"/share/{name}"
    monkeypatch.setitem(sys.modules, packages.__name__, packages)


def launched(name: str, **given: str) -> dict[str, dict[str, Any]]:
    """What a launch file starts: executable -> what its Node was made with."""
    file = runpy.run_path(str(SHELL / "launch" / name))
    *arguments, function = file["generate_launch_description"]().args[0]
    values = {argument.args[0]: argument.kwargs.get("default_value") for argument in arguments}
    assert set(given) <= set(values), "an argument the launch file does not have"
    for argument in arguments:
        assert argument.kwargs["description"]
    values.update(given)
    assert None not in values.values(), "an argument without a default was not given"
    context = types.SimpleNamespace(launch_configurations=values)
    nodes = function.kwargs["function"](context)
    assert all(node.kwargs["package"] == "dime_robot" for node in nodes)
    return {node.kwargs["executable"]: node.kwargs for node in nodes}


def check_parameters(given: dict[str, Any], kind: type) -> None:
    """Each one is known and of its type."""
    known = {item.name: item.type for item in fields(kind)} | {"use_sim_time": "bool"}
    for name, value in given.items():
        assert type(value).__name__ == known[name], name


@pytest.mark.usefixtures("launch_modules")
def test_sim_launch_starts_robot_policy_and_monitor() -> None:
    nodes = launched("sim.launch.py", policy="a.onnx", config="b.yaml", monitor="true")
    assert list(nodes) == ["sim_node", "policy_node", "latency_monitor"]
    (sim,) = nodes["sim_node"]["parameters"]
    check_parameters(sim, SimParameters)
    assert sim["on_timeout"] == "damp"
    (hold,) = launched("sim.launch.py", policy="a.onnx", on_timeout="hold")["sim_node"][
        "parameters"
    ]
    assert hold["on_timeout"] == "hold"
    # launch gives up on a process that is still leading the robot to rest
    assert all(float(node["sigterm_timeout"]) > MAX_REST_TIME for node in nodes.values())
    params, policy = nodes["policy_node"]["parameters"]
    assert params == "/share/dime_robot/config/policy_node.yaml"
    check_parameters(policy, PolicyParameters)
    assert (policy["policy"], policy["robot"], policy["autostart"]) == (
        "a.onnx",
        "b.yaml",
        "activate",
    )
    check_parameters(nodes["latency_monitor"]["parameters"][0], MonitorParameters)
    assert list(launched("sim.launch.py", policy="a.onnx")) == ["sim_node", "policy_node"]


@pytest.mark.usefixtures("launch_modules")
def test_robot_launch_waits_for_the_operator_and_never_restarts() -> None:
    robot = str(ROOT / "sim_configs/cartpole.yaml")
    given = {"policy": "a.onnx", "robot": robot, "params": "mine.yaml"}
    node = launched("robot.launch.py", **given)["policy_node"]
    params, policy = node["parameters"]
    assert (params, policy["autostart"]) == ("mine.yaml", "configure")
    assert set(policy) == {"policy", "robot", "autostart"}, "the rest is the parameter file's"
    assert node["respawn"] is False
    assert node["remappings"] == []
    given |= {"noise": "zero", "realtime": "true", "commands": "c", "imu": "i", "namespace": "n"}
    node = launched("robot.launch.py", **given)["policy_node"]
    check_parameters(node["parameters"][1], PolicyParameters)
    assert node["parameters"][1]["realtime"] is True
    assert node["remappings"] == [("imu", "i"), ("effort_controller/commands", "c")]
    assert node["namespace"] == "n"


@pytest.mark.usefixtures("launch_modules")
def test_go2_launch_gives_both_processes_the_time_to_sit_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "1")
    robot = str(ROOT / "sim_configs/go2.yaml")
    given = {"interface": "eth0", "policy": "a.onnx", "robot": robot, "dry_run": "true"}
    nodes = launched("go2.launch.py", **given)
    assert set(nodes) == {"unitree_driver", "policy_node"}
    (driver,) = nodes["unitree_driver"]["parameters"]
    check_parameters(driver, UnitreeParameters)
    assert (driver["interface"], driver["robot_domain"], driver["dry_run"]) == ("eth0", 0, True)
    _, policy = nodes["policy_node"]["parameters"]
    check_parameters(policy, PolicyParameters)
    assert policy["autostart"] == "configure"
    monkeypatch.setenv("ROS_DOMAIN_ID", "0")
    with pytest.raises(RuntimeError, match="other than the robot's domain"):
        launched("go2.launch.py", **given)
    for node in nodes.values():
        assert node["respawn"] is False
        assert float(node["sigterm_timeout"]) > sit_down_time(Path(robot)) + MAX_REST_TIME - 5
