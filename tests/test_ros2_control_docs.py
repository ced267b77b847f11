"""docs/ros2_control.md: its YAML fits the shipped robots, and its figures are those of the source.

ros2_control itself is not run: it is not on PyPI. What a controller is called, publishes and
subscribes to was read in its source, which the page names.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from dime_robot.runtime.contract.robot_config import require_compatible
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.state import JointCommand
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task
from ros_nodes.conversions import CommandWriter
from tests.markdown import blocks
from tests.paths import ROOT

PAGE = ROOT / "docs/ros2_control.md"
FORWARD = "forward_command_controller/ForwardCommandController"
TRAJECTORY = "joint_trajectory_controller/JointTrajectoryController"
STATES = "joint_state_broadcaster/JointStateBroadcaster"
IMU = "imu_sensor_broadcaster/IMUSensorBroadcaster"
PARAMETERS = {  # those of the page, as the controllers declare them: an unknown one is ignored
    FORWARD: {"joints", "interface_name"},
    TRAJECTORY: {
        "joints",
        "command_interfaces",
        "state_interfaces",
        "interpolate_from_desired_state",
        "cmd_timeout",
    },
    STATES: {"joints", "interfaces"},
    IMU: {"sensor_name", "frame_id"},
}
TOPICS = {FORWARD: "commands", TRAJECTORY: "joint_trajectory", IMU: "imu"}  # below the name
KINDS = {FORWARD: "forward", TRAJECTORY: "trajectory"}


class Pair(NamedTuple):
    """A robot's file of the page, and the controllers that it is used with."""

    robot: str
    shipped: str
    controllers: str
    command: str  # the controller that takes the commands


PAIRS = [
    Pair("go2_ros2_control.yaml", "go2", "go2_controllers.yaml", "position_controller"),
    Pair("arm_ros2_control.yaml", "reach", "arm_controllers.yaml", "position_controller"),
    Pair("arm_trajectory.yaml", "reach", "arm_controllers.yaml", "joint_trajectory_controller"),
]


def fragment(name: str) -> str:
    (block,) = [b for b in blocks(PAGE) if b.file == name]
    return block.text


class Controllers:
    """The controllers of a file: type and parameters by name."""

    def __init__(self, name: str) -> None:
        content: dict[str, Any] = yaml.safe_load(fragment(name))
        manager = content.pop("controller_manager")["ros__parameters"]
        self.rate: int = manager.pop("update_rate")
        self.types: dict[str, str] = {each: given["type"] for each, given in manager.items()}
        self.parameters: dict[str, dict[str, Any]] = {
            each: given["ros__parameters"] for each, given in content.items()
        }

    def of_type(self, kind: str) -> list[str]:
        return [name for name, each in self.types.items() if each == kind]


def load(pair: Pair, folder: Path) -> RobotTaskConfig:
    path = folder / pair.robot
    path.write_text(fragment(pair.robot))
    config, _ = load_robot_task(path)
    return config


@pytest.mark.parametrize("name", sorted({pair.controllers for pair in PAIRS}))
def test_the_controllers_are_complete_and_have_no_parameter_that_would_be_ignored(
    name: str,
) -> None:
    controllers = Controllers(name)
    assert controllers.types.keys() == controllers.parameters.keys()
    for each, kind in controllers.types.items():
        given = controllers.parameters[each].keys() - {"update_rate"}
        assert given == PARAMETERS[kind], each


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.robot)
def test_the_controllers_fit_the_robot(pair: Pair, tmp_path: Path) -> None:
    controllers, config = Controllers(pair.controllers), load(pair, tmp_path)
    robot, (states,) = config.robot, controllers.of_type(STATES)
    require_compatible(config.policy, robot)
    shipped = load_robot_task(pair.shipped)[0].robot
    joints = [joint.hardware_name for joint in shipped.joints]
    assert [joint.hardware_name for joint in robot.joints] == joints

    given = controllers.parameters[pair.command]
    kind = controllers.types[pair.command]
    assert given["joints"] == joints
    assert robot.command.kind == KINDS[kind]
    assert robot.command.topic == f"{pair.command}/{TOPICS[kind]}"
    assert robot.command.listener == pair.command
    interfaces = given["command_interfaces"] if kind == TRAJECTORY else [given["interface_name"]]
    assert interfaces == [robot.command.interface]

    state = controllers.parameters[states]
    assert state["joints"] == joints
    assert {"position", "velocity"} <= set(state["interfaces"])
    assert ("effort" in state["interfaces"]) == robot.state.effort
    assert robot.state.topic == "joint_states"
    assert state["update_rate"] == robot.state.rate

    imus = controllers.of_type(IMU)
    assert bool(imus) == (robot.imu is not None)
    for name in imus:
        assert robot.imu is not None
        assert robot.imu.topic == f"{name}/{TOPICS[IMU]}"
        assert controllers.parameters[name]["update_rate"] == robot.state.rate
    for name, parameters in controllers.parameters.items():
        assert controllers.rate % parameters.get("update_rate", controllers.rate) == 0, name


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.robot)
def test_policy_node_sends_the_numbers_in_the_order_of_the_controllers_joints(
    pair: Pair, tmp_path: Path
) -> None:
    config = load(pair, tmp_path)
    joints = Controllers(pair.controllers).parameters[pair.command]["joints"]
    mapping = JointMapping(config.policy, config.robot)
    writer = CommandWriter(config.robot.command, mapping, config.policy.period)
    names = tuple(joint.name for joint in config.policy.joints)
    values = np.arange(len(names)) / 10.0
    message = writer.write(JointCommand(names, values, "position"))
    expected = [values[names.index(joint)] for joint in joints]
    if isinstance(message, Float64MultiArray):
        assert list(message.data) == expected
        return
    assert isinstance(message, JointTrajectory)
    (point,) = message.points
    assert message.joint_names == joints
    assert list(point.positions) == expected
    assert not point.velocities
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 0)
    assert point.time_from_start.nanosec == round(1e9 / config.policy.rate)


def test_a_trajectory_that_is_not_renewed_is_held_within_the_time_out(tmp_path: Path) -> None:
    pair = PAIRS[-1]
    controllers, config = Controllers(pair.controllers), load(pair, tmp_path)
    given = controllers.parameters[pair.command]
    cycles = 2 / controllers.rate  # until it is seen, and until the hold is commanded
    assert given["cmd_timeout"] > 0  # more than constraints.goal_time, which is 0
    held = config.policy.period + given["cmd_timeout"] + cycles
    assert held <= config.robot.command.timeout
    parts = (config.policy.period, given["cmd_timeout"], cycles)
    stated = " + ".join(f"{part:g}" for part in parts)
    assert f"within `command.timeout`: {stated} s" in " ".join(PAGE.read_text().split())
    assert given["interpolate_from_desired_state"] is True


def test_the_commands_start_the_controllers_of_the_files() -> None:
    lines = [line for b in blocks(PAGE) if b.language == "bash" for line in b.commands]
    files = {b.file for b in blocks(PAGE)}
    spawned: dict[str, set[str]] = {}
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "ros2"
        if "spawner" in words:
            names, (option, file) = words[words.index("spawner") + 1 : -2], words[-2:]
            assert option == "--param-file"
            spawned.setdefault(file, set()).update(names)
        for name in re.findall(r"(\S+?:=)?(\S+\.yaml)", line):
            assert name[1] in files, line
    assert spawned.keys() == {pair.controllers for pair in PAIRS}
    for file, started in spawned.items():
        assert started == Controllers(file).types.keys()


def sag(cycles: int, ahead: int, measured: bool, stiffness: float = 600.0) -> float:
    """A loaded drive's sag behind a constant target, over load / stiffness.

    joint_trajectory_controller's arithmetic: in cycle k after a message a line from the start to
    the point, k / cycles of the way, or (k + 1) / cycles where it looks one cycle ahead.

    Args:
        cycles: of the manager between two messages.
        ahead: 1: the command is that of the next cycle; 0: of this one (Humble).
        measured: whether the line begins at the measured position; else at the last command.
        stiffness: of the drive [N m/rad].
    """
    load, damping, inertia, step = 30.0, 50.0, 1.0, 1e-4
    position = velocity = command = start = start_time = 0.0
    cycle = 0.02 / cycles
    for i in range(100 * cycles):
        k = i % cycles
        if k == 0:
            start = position if measured else command
            # where it looks ahead, the last command was meant for now, and was made a cycle ago
            start_time = -1.0 if ahead and not measured and i else 0.0
        share = min((k + ahead - start_time) / (cycles - start_time), 1.0)
        command = (1 - share) * start
        for _ in range(round(cycle / step)):
            effort = stiffness * (command - position) - damping * velocity
            velocity += step * (effort - load) / inertia
            position += step * velocity
    return -position * stiffness / load


def test_the_table_of_sags_follows_from_the_controllers_arithmetic() -> None:
    rows = re.findall(
        r"^\| (\d+), (\d+) Hz \| ([\d.]+)[^|]*\| ([\d.]+)[^|]*\| ([\w /]+) \|$",
        PAGE.read_text(),
        re.M,
    )
    assert len(rows) == 4
    for cycles, rate, later, humble, desired in rows:
        n = int(cycles)
        assert int(rate) == 50 * n
        assert desired in ("1", "load / stiffness")
        assert float(later) == pytest.approx(2 * n / (n + 1), abs=0.006)
        assert float(humble) == pytest.approx(2 * n / (n - 1), abs=0.006)
        assert sag(n, ahead=1, measured=True) == pytest.approx(float(later), rel=0.02)
        assert sag(n, ahead=0, measured=True) == pytest.approx(float(humble), rel=0.02)
        for ahead in (0, 1):
            assert sag(n, ahead, measured=False) == pytest.approx(1.0, rel=0.02)


def test_every_statement_names_a_source_that_is_listed() -> None:
    text, _, sources = PAGE.read_text().partition("\n## Sources\n")
    listed = re.findall(r"^\| ([A-Z]{1,2}) \| (?:controllers|control|ros2/)", sources, re.M)
    assert len(listed) == len(set(listed)) > 15
    cells = re.findall(r"\| ((?:[A-Z]{1,2}(?: `\w+`)?(?:, )?)+) \|$", text, re.M)
    cited = "; ".join([*re.findall(r"\(([A-Z]{1,2}\b[^()]*)\)", text), *cells])
    used = set(re.findall(r"(?<![\w`])[A-Z]{1,2}(?![\w`])", cited))
    assert used == set(listed)
