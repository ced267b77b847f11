"""The kinds of commands in messages, names and signs, timers, namespaces."""

from __future__ import annotations

import re
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
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.faults import Fault
from dime_robot.runtime.control.flight_recorder import read_recording
from ros_nodes.conversions import stamp_of
from tests.paths import ROBOTS, shipped_content
from tests.ros_nodes.graph import Graph

pytestmark = pytest.mark.slow
RAIL_OFFSET, SAFE, SPEED = 0.1, 0.9, 2.0


def shipped() -> dict[str, Any]:
    config: dict[str, Any] = shipped_content("cartpole")
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


def test_an_arm_of_velocities_moves_within_its_limits_and_is_braked(silent_graph: Graph) -> None:
    graph = silent_graph
    graph.listen("velocity_controller/commands")
    config = yaml.safe_load((ROBOTS / "arm_velocity.yaml").read_text())
    config["sim"]["model"] = str(ROBOTS / "arm.xml")
    elbow = config["robot"]["joints"][1]
    elbow.update(wire_name="axis_2", sign=-1, offset=0.3)  # no offset of a velocity
    config["robot"]["state"]["max_age"] = 0.5
    config["robot"]["safety"].update(hold=0.5, damp=5.0)
    robot, policy = write(graph.folder, config)
    graph.start("sim_node", config=robot)
    graph.policy_node(policy=policy, robot=robot)
    graph.until(lambda: "active" in graph.log() and len(graph.commands) > 200, "commands")
    assert not re.search(r"\]: (hold|damp|stop)", graph.log())
    assert np.abs([m.velocity for _, m in graph.states[-100:]]).max() > 0.1  # it moves
    graph.trigger("policy_node/estop")
    graph.until(lambda: graph.commands[-1][1] == [0.0, 0.0], "the end of the motion")
    graph.trigger("policy_node/reset_estop")
    graph.until(lambda: any(graph.commands[-1][1]), "the policy again")
    graph.spin(0.5)
    assert graph.end("policy_node")[0] == 0
    assert "inactive, at rest: a velocity of 0 is commanded, all joints slower" in graph.log()
    sent = np.array([values for _, values in graph.commands])
    limits, accelerations = np.array([1.5, 2.0]), np.array([5.0, 8.0])
    assert (np.abs(sent) <= limits + 1e-12).all()
    # by the time that has really passed, at most two periods; a message that the watcher lost
    steps = np.abs(np.diff(sent, axis=0)) / (2 * 0.01 * accelerations)
    assert np.percentile(steps, 99) <= 1 + 1e-9
    assert sent[-1].tolist() == [0.0, 0.0]
    graph.spin(0.3)
    assert "no command for 0.1 s: damping" in graph.log("sim_node")
    speeds = np.abs([m.velocity for _, m in graph.states[-5:]])
    assert speeds.max() < 0.05  # it is held against gravity


def test_efforts_and_forces_on_feet_reach_the_policy_and_silent_feet_hold_it(
    silent_graph: Graph,
) -> None:
    graph = silent_graph
    graph.listen("velocity_controller/commands")
    config = yaml.safe_load((ROBOTS / "arm_velocity.yaml").read_text())
    # a slower one, since the messages are more
    config["policy"]["rate"] = config["robot"]["state"]["rate"] = 50.0
    config["sim"].update(model=str(ROBOTS / "arm.xml"), feet={"hand": "fore"}, decimation=10)
    config["policy"]["observation"] += [
        {"name": "effort", "kind": "joint_effort", "joints": ["elbow", "shoulder"], "size": 2,
         "unit": "N m"},
        {"name": "touch", "kind": "foot_contact", "feet": ["hand"], "size": 1, "unit": "1"},
    ]  # fmt: skip
    config["robot"]["contact"] = {
        "topic": "hand/force", "feet": ["hand"], "threshold": 2.0, "max_age": 0.5
    }  # fmt: skip
    config["robot"]["state"].update(max_age=0.5, effort=True)
    config["robot"]["safety"].update(hold=0.5, damp=5.0)
    robot, policy = write(graph.folder, config)
    graph.start("sim_node", config=robot)
    graph.policy_node(policy=policy, robot=robot)
    graph.until(lambda: "active" in graph.log() and len(graph.commands) > 100, "commands")
    assert graph.states[-1][1].effort[0] != 0  # gravity loads the shoulder
    assert not re.search(r"\]: (hold|damp|stop)", graph.log())
    dump = graph.trigger("policy_node/dump")
    recording = read_recording(Path(re.search(r"\S+\.npz", dump.message)[0]))  # type: ignore[index]
    last = recording.records[-1]
    assert last["observation"][4:6] == pytest.approx(last["joint_effort"][::-1], abs=1e-4)
    assert last["foot_contact"].tolist() == [0.0]
    graph.set_fault("no_contact")
    graph.until(lambda: "hold: contact_stale (no reading of the feet for 0.5" in graph.log(), "it")
    graph.set_fault("")
    graph.until(lambda: any(graph.commands[-1][1]), "the policy again")


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
