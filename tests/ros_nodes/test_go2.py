"""The walking Go2 over DDS: as in the environment, in the robot's order, within its limits."""

from __future__ import annotations

import json
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from geometry_msgs.msg import Twist
from rclpy.publisher import Publisher
from std_msgs.msg import Float64MultiArray

from dime_robot.runtime.contract.robot_config import load_robot
from dime_robot.runtime.control.command_limits import CommandLimits
from dime_robot.runtime.control.flight_recorder import read_recording
from dime_robot.runtime.control.observation import ActionDecoder
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from ros_nodes.conversions import COMMAND_QOS
from ros_nodes.loopback_tracking import nominal_environment
from tests.paths import ROOT, SHIPPED_GO2, shipped_content
from tests.ros_nodes.graph import Graph

pytestmark = pytest.mark.slow
COMMANDS = "position_controller/commands"
VELOCITY = (0.5, 0.0, 0.0)  # to follow [m/s, m/s, rad/s]
STEPS, LOST = 100, 20  # commands that are compared; those that a busy watcher may miss
LEGS, PARTS = ("FR", "FL", "RR", "RL"), ("hip", "thigh", "calf")  # Unitree's order
WIRE = [f"{leg}_{part}_joint" for leg in LEGS for part in PARTS]
Config = dict[str, Any]


def write(folder: Path, change: Callable[[Config], None]) -> Path:
    """The shipped configuration with something changed."""
    config = shipped_content("go2")
    change(config)
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def standing_robot(folder: Path) -> Path:
    """The shipped configuration without phases: an episode begins as in training."""
    config = shipped_content("go2")
    del config["robot"]["phases"]
    path = folder / "standing.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def joint(config: Config, section: str, name: str) -> Config:
    """The entry of a joint, to be changed in place."""
    found: Config
    (found,) = [entry for entry in config[section]["joints"] if entry["name"] == name]
    return found


def tolerate_delays(config: Config) -> None:
    """Time-outs that a busy machine does not reach."""
    for sensor in ("state", "imu"):
        config["robot"][sensor]["max_age"] = 0.5
    config["robot"]["safety"].update(hold=0.5, damp=2.0)


def in_lockstep(config: Config) -> None:
    """A state per step, and nothing that the environment has not: phases, ramp, slew limit."""
    del config["robot"]["phases"]
    config["robot"]["state"]["rate"] = 50.0
    config["robot"]["safety"]["ramp"] = 0.0
    config["robot"]["command_velocity"]["timeout"] = 60.0
    for entry in config["robot"]["joints"]:
        entry["velocity_limit"] *= 2


def send_velocity(graph: Graph) -> Publisher[Twist]:
    """Send the velocity periodically."""
    message = Twist()
    message.linear.x, message.linear.y, message.angular.z = VELOCITY
    operator = graph.node.create_publisher(Twist, "cmd_vel", 10)
    graph.node.create_timer(0.02, lambda: operator.publish(message))
    return operator


def environment_commands(seed: int, robot: Path) -> tuple[npt.NDArray[np.floating], bool]:
    """Commands of the policy in the environment, in the robot's order, and if no limit acted.

    Shape (STEPS + LOST, 12) [rad].
    """
    env, policy = nominal_environment("go2"), OnnxPolicy(SHIPPED_GO2, seed=seed)
    env.task.set_command("velocity", np.array(VELOCITY))
    limits = CommandLimits(policy.spec, load_robot(robot, policy.spec))
    order = [policy.spec.action_joints.index(name) for name in WIRE]
    decoder, commands, free = ActionDecoder(policy.spec), [], True
    observation, _ = env.reset(seed=seed)
    before = limits.start(env.plant.state())
    for _ in range(STEPS + LOST):
        action = policy.act(observation).copy()
        value = decoder.decode(action).value
        free &= not limits.clamp(value, before, env.plant.state(), policy.spec.period)[1]
        commands.append(value[order])
        before = value
        observation, *_ = env.step(action)
    env.close()
    return np.array(commands), free


def walk_in_lockstep(graph: Graph, robot: Path, seed: int, fault: str = "") -> None:
    """Receive STEPS commands from the first on, and the states before them."""
    graph.listen(COMMANDS)
    operator = send_velocity(graph)
    standing = standing_robot(graph.folder)
    graph.start("sim_node", config=standing, mode="lockstep", seed=seed, fault=fault or "''")
    graph.policy_node(
        policy=SHIPPED_GO2, robot=robot, seed=seed, use_sim_time=True, autostart="configure"
    )
    graph.until(lambda: "next: ros2 lifecycle" in graph.log(), "the node, configured")
    graph.until(lambda: operator.get_subscription_count() == 2, "both who follow the velocity")
    graph.until(lambda: graph.states, "a state")
    graph.until(lambda: graph.transition("activate"), "activation")
    graph.until(lambda: len(graph.commands) >= STEPS, "commands")


def commands_of(graph: Graph) -> npt.NDArray[np.floating]:
    """The first that were received, in the robot's order, shape (STEPS, 12) [rad]."""
    return np.array([values for _, values in graph.commands[:STEPS]])


def is_in_order(received: npt.NDArray[np.floating], sent: npt.NDArray[np.floating]) -> bool:
    """Is all that was received what was sent, bit for bit and in order? Some may be lost."""
    left = iter(sent)
    return all(any((row == other).all() for other in left) for row in received)


@pytest.mark.parametrize("fault", ["", "permute"])
def test_in_lockstep_the_commands_are_the_environments_in_the_order_of_the_wire(
    fault: str, silent_graph: Graph
) -> None:
    graph = silent_graph
    robot = write(graph.folder, in_lockstep)
    runs = ((seed, *environment_commands(seed, robot)) for seed in range(20))
    seed, expected = next((seed, commands) for seed, commands, free in runs if free)
    walk_in_lockstep(graph, robot, seed, fault)
    names = list(graph.states[0][1].name)
    assert names == (WIRE[::-1] if fault else WIRE)
    assert is_in_order(commands_of(graph), expected)
    assert np.ptp(expected, axis=0).min() > 0.05  # every joint was moved


def test_in_real_time_it_walks_as_in_the_environment(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ros_nodes.loopback", str(SHIPPED_GO2), "--seconds", "6"]
    # other tests load this machine
    command += ["--robot", str(write(tmp_path, tolerate_delays)), "--budget", "5", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    (episode,) = result["episodes"]
    tracking, responses = result["tracking"], result["answers"]
    assert tracking["velocity"] == list(VELOCITY)
    assert not episode["fallen"]
    assert episode["steps"] == 300
    assert not result["faults"]
    assert "with joints_reordered" not in responses
    # the gate allows a fifth more
    for name in ("velocity_error", "yaw_rate_error"):
        assert tracking[name] < 1.5 * tracking["environment"][name] + 0.05
    assert responses["run"] > 0.8 * (responses["run"] + responses["clamp"])
    assert (responses["clamp"] > 0) == any(name.endswith("_limit") for name in responses)
    assert abs(result["measured_rate"] / 50 - 1) < 0.05
    assert 0 <= result["missed_share"] < 0.2
    assert (done.returncode == 1) == bool(result["problems"])


def stiffer(config: Config) -> None:
    joint(config, "policy", "FL_calf_joint")["stiffness"] = 50.0


def bolder(config: Config) -> None:
    config["policy"]["action"]["scale"]["RR_hip_joint"] = 0.25


def smoother(config: Config) -> None:
    config["policy"]["action"]["low_pass"] = 0.5


def reordered(config: Config) -> None:
    config["policy"]["joints"].reverse()


@pytest.mark.parametrize(
    ("change", "place", "trained", "got"),
    [
        (stiffer, "joints.FL_calf_joint.stiffness", "40.0", "50.0"),
        (bolder, "action.scale.RR_hip_joint", "0.3", "0.25"),
        (smoother, "action.low_pass", "0.6", "0.5"),
        (reordered, "joints.order", "FL_hip_joint, ", "RR_calf_joint, "),
    ],
)
def test_a_number_that_the_policy_owns_cannot_be_changed_in_the_robots_file(
    change: Callable[[Config], None], place: str, trained: str, got: str, graph: Graph
) -> None:
    process = graph.policy_node(
        policy=SHIPPED_GO2, robot=write(graph.folder, change), autostart="configure"
    )
    graph.until(lambda: process.poll() is not None, "the end of the process")
    assert process.returncode == 2
    (line,) = [line for line in graph.log().splitlines() if "refused [" in line]
    assert "refused [contract]" in line
    assert f"policy.{place}: expected {trained}" in line
    assert f"got {got}" in line
    assert "train a new policy" in line


LIMITED, FREE = WIRE.index("FL_calf_joint"), WIRE.index("FR_calf_joint")
EFFORT, STIFFNESS = 4.0, 40.0  # [N m], [N m/rad]
HIGHEST = -1.65  # [rad]: the default pose is at -1.8


def test_a_tightened_effort_limit_keeps_targets_near_the_joint(silent_graph: Graph) -> None:
    def tighten(config: Config) -> None:
        in_lockstep(config)
        joint(config, "robot", "FL_calf_joint")["effort_limit"] = EFFORT

    graph, reach = silent_graph, EFFORT / STIFFNESS
    walk_in_lockstep(graph, write(graph.folder, tighten), seed=0)
    path = Path(graph.trigger("policy_node/dump").message)
    graph.until(path.exists, "the recording")
    records = read_recording(path).records
    joints = list(OnnxPolicy(SHIPPED_GO2).spec.action_joints)
    assert is_in_order(commands_of(graph), records["command"][:, [joints.index(n) for n in WIRE]])
    limited, free = joints.index(WIRE[LIMITED]), joints.index(WIRE[FREE])
    largest = np.abs(records["command"] - records["joint_position"])[:STEPS].max(axis=0)
    assert largest[limited] == pytest.approx(reach)
    assert largest[free] > 1.2 * reach


def test_a_tightened_position_limit_bounds_the_targets(silent_graph: Graph) -> None:
    def tighten(config: Config) -> None:
        in_lockstep(config)
        config["robot"]["safety"]["soft_margin"] = 0.0
        calf = joint(config, "robot", "FL_calf_joint")
        calf["position_limits"] = [calf["position_limits"][0], HIGHEST]

    graph = silent_graph
    walk_in_lockstep(graph, write(graph.folder, tighten), seed=0)
    highest = commands_of(graph).max(axis=0)
    assert highest[LIMITED] == HIGHEST
    assert highest[FREE] > HIGHEST + 0.05


# ---- the simulated robot by itself

STANDING, CROUCHED = (0.0, 0.9, -1.8), (0.0, 1.36, -2.65)  # hip, thigh, calf [rad]


def hold(graph: Graph, leg: tuple[float, float, float]) -> None:
    """Command one pose again and again."""
    publisher = graph.node.create_publisher(Float64MultiArray, COMMANDS, COMMAND_QOS)
    message = Float64MultiArray(data=array("d", 4 * leg))
    graph.node.create_timer(0.02, lambda: publisher.publish(message))


@pytest.mark.parametrize(("sends", "error"), [(True, VELOCITY[0]), (False, 0.0)])
def test_the_episode_is_judged_by_the_velocity_that_is_sent(
    sends: bool, error: float, silent_graph: Graph
) -> None:
    graph = silent_graph
    graph.start("sim_node", config=standing_robot(graph.folder), episode_seconds=2.0)
    if sends:
        graph.until(send_velocity(graph).get_subscription_count, "who follows the velocity")
    graph.until(lambda: graph.states, "a state")
    graph.spin(0.5)
    assert np.ptp([m.position[2] for _, m in graph.states]) == 0  # stands until it is commanded
    hold(graph, STANDING)
    graph.until(lambda: graph.episodes, "the end of the episode")
    episode = json.loads(graph.episodes[0])
    assert episode["steps"] == 100
    assert not episode["fallen"]
    assert episode["success"] == (not sends)
    assert episode["velocity_error"] == pytest.approx(error, abs=0.08)
    assert episode["yaw_rate_error"] == pytest.approx(0.0, abs=0.08)


def test_a_fall_ends_the_episode_once(silent_graph: Graph) -> None:
    graph = silent_graph
    graph.start("sim_node", config=standing_robot(graph.folder), episode_seconds=2.0)
    graph.until(lambda: graph.states, "a state")
    hold(graph, CROUCHED)
    graph.until(lambda: graph.episodes, "the end of the episode")
    graph.spin(2.5)
    (text,) = graph.episodes
    episode = json.loads(text)
    assert episode["fallen"]
    assert not episode["success"]
    assert episode["steps"] < 100
