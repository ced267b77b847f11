"""The three kinds of commands in messages, names and signs, timers, namespaces."""

from __future__ import annotations

import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import Twist
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from benchmarks.made_policy import made_policy
from dime_robot.runtime.contract.config_files import config_folder
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.faults import Fault
from ros_nodes.conversions import stamp_of
from tests.ros_nodes.graph import Graph

pytestmark = pytest.mark.slow
RAIL_OFFSET, SAFE, SPEED = 0.1, 0.9, 2.0


def shipped() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((config_folder() / "cartpole.yaml").read_text())
    config["sim"]["model"] = str(config_folder() / config["sim"]["model"])
    # time-outs that a busy machine does not reach
    config["robot"]["state"]["max_age"] = 0.5
    config["robot"]["safety"].update(hold=0.5, damp=2.0)
    return config


def write(folder: Path, config: dict[str, Any]) -> tuple[Path, Path]:
    """The configuration, and a policy of random weights for its contract."""
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(config))
    spec = PolicySpec.model_validate(config["policy"])
    return path, made_policy(folder / "made.onnx", spec, 32, 2, 4)


def by_position(folder: Path) -> tuple[Path, Path]:
    """A cart that is led by positions, its joint called otherwise and turned round in messages."""
    config = shipped()
    slider = config["policy"]["joints"][0]
    slider.update(stiffness=60.0, damping=12.0, default_position=0.0)
    config["policy"]["action"] = {"kind": "position", "size": 1, "scale": {"slider": 0.5}}
    joint = config["robot"]["joints"][0]
    joint.update(wire_name="rail", sign=-1, offset=RAIL_OFFSET, safe_position=SAFE)
    joint["velocity_limit"] = SPEED
    config["robot"]["joints"].reverse()  # the robot's order is not the policy's
    config["robot"]["command"].update(kind="trajectory", interface="position", topic="arm/traj")
    config["robot"]["safety"].update(ramp=0.2, safe_speed=0.5)
    return write(folder, config)


def test_a_trajectory_is_one_point_by_wire_name_slewed_and_ends_in_the_safe_position(
    graph: Graph,
) -> None:
    config, policy = by_position(graph.folder)
    got: list[JointTrajectory] = []
    graph.node.create_subscription(JointTrajectory, "arm/traj", got.append, 100)
    graph.start("sim_node", config=config)
    graph.policy_node(policy=policy, robot=config)
    graph.until(lambda: len(got) > 60, "commands")
    graph.end("policy_node")
    assert {tuple(message.joint_names) for message in got} == {("rail",)}
    assert all(len(message.points) == 1 for message in got)
    assert got[0].points[0].time_from_start.nanosec == 20_000_000
    sent = np.array([message.points[0].positions[0] for message in got])
    position = -(sent - RAIL_OFFSET)
    # by the time that has really passed, at most two periods
    assert np.abs(np.diff(position)).max() <= 2 * SPEED * 0.02 + 1e-12
    assert np.median(np.abs(np.diff(position))) <= 1.1 * SPEED * 0.02
    assert np.ptp(position[:-1]) > 0.05  # the policy did something
    assert position[-1] == pytest.approx(SAFE, abs=1e-9)
    # the policy stays within 0.5 m, so at least the last 20 steps lead to the safe position
    assert np.abs(np.diff(position[-21:])).max() <= 2 * 0.5 * SPEED * 0.02 + 1e-12


def test_the_simulated_robot_follows_positions(graph: Graph) -> None:
    config, policy = by_position(graph.folder)
    graph.start("sim_node", config=config, on_timeout="hold")
    graph.policy_node(policy=policy, robot=config)
    graph.until(lambda: "[policy_node]: active" in graph.log(), "active")
    graph.spin(0.5)
    graph.end("policy_node")
    graph.spin(1.5)
    state = graph.states[-1][1]
    rail = state.position[state.name.index("rail")]
    assert -(rail - RAIL_OFFSET) == pytest.approx(SAFE, abs=0.03)


def steered(folder: Path) -> tuple[Path, Path]:
    """A base that takes velocities and publishes its wheels' angles."""
    config = shipped()
    config["policy"]["observation"].append(
        {"name": "asked", "kind": "command_velocity", "size": 3, "unit": "m/s"}
    )
    scale = {"angular_z": 2.0, "linear_x": 3.0}
    config["policy"]["action"] = {"kind": "twist", "size": 2, "scale": scale}
    config["robot"]["command"] = {
        "kind": "twist",
        "interface": "velocity",
        "topic": "base/cmd_vel",
        "timeout": 0.2,
        "limits": {"linear_x": 0.8, "angular_z": 0.5},
        "acceleration": 4.0,
    }
    config["robot"]["command_velocity"] = {
        "timeout": 0.3,
        "limits": {"linear_x": 1.0, "linear_y": 0.0, "angular_z": 1.0},
    }
    return write(folder, config)


def test_a_twist_keeps_its_limits_slows_down_to_zero_and_survives_a_silent_operator(
    graph: Graph,
) -> None:
    config, policy = steered(graph.folder)
    got: list[Twist] = []
    graph.node.create_subscription(Twist, "base/cmd_vel", got.append, 100)
    states = graph.node.create_publisher(JointState, "joint_states", 1)
    operator = graph.node.create_publisher(Twist, "cmd_vel", 1)
    graph.policy_node(policy=policy, robot=config)
    steering = True

    def drive() -> None:
        state = JointState(name=["hinge", "slider"], position=array("d", [0.3, 0.1]))
        state.velocity = array("d", [0.0, 0.0])
        state.header.stamp = stamp_of(time.time())
        states.publish(state)
        if steering:
            velocity = Twist()
            velocity.linear.x = 0.5
            operator.publish(velocity)

    timer = graph.node.create_timer(0.02, drive)

    def reported(fault: Fault) -> bool:
        return any(fault.value in message for _, _, _, message, _ in graph.reports)

    graph.until(lambda: len(got) > 100, "commands")
    steering = False
    graph.reports.clear()
    graph.until(lambda: reported(Fault.COMMAND_VELOCITY_LOST), "the loss of the operator")
    count = len(got)
    graph.spin(0.5)
    assert len(got) > count + 10  # it goes on, with a velocity of 0
    graph.end("policy_node")
    timer.cancel()
    speeds = np.array([[m.linear.x, m.angular.z] for m in got])
    assert np.abs(speeds).max(axis=0).tolist() == pytest.approx([0.8, 0.5])
    assert np.abs(np.diff(speeds, axis=0)).max() <= 2 * 4.0 * 0.02 + 1e-9
    assert speeds[-1].tolist() == [0.0, 0.0]
    assert all(m.linear.y == 0.0 for m in got)


def test_a_timer_keeps_the_policys_rate_where_the_robot_is_faster(graph: Graph) -> None:
    config = shipped()
    config["robot"]["state"].update(rate=200.0)
    path = graph.folder / "fast.yaml"
    path.write_text(yaml.safe_dump(config))
    graph.start("sim_node", config=path)
    graph.policy_node(robot=path)
    graph.running()
    assert "by timer" in graph.log()
    graph.commands.clear()
    graph.spin(3.0)
    assert len(graph.commands) == pytest.approx(150, abs=6)


def test_the_realtime_profile_reports_what_was_granted(graph: Graph) -> None:
    graph.start("sim_node")
    graph.policy_node(realtime=True, cpus="[0]")
    graph.running()
    graph.until(lambda: len(graph.reports) > 4, "a report")
    granted = [values["real-time"] for *_, values in graph.reports if "real-time" in values]
    assert granted[-1].startswith("gc")
    for word, refusal in (
        ("memory", "memory not locked"),
        ("fifo80", "FIFO scheduling not granted"),
        ("cpus0", "CPUs [0] not granted"),
    ):
        assert (word in granted[-1].split()) != (refusal in graph.log())
