"""The simulated robot as a process: its own time-out, its sensors and faults, types, its end."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import TwistStamped
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray

from ros_nodes.conversions import COMMAND_QOS, seconds
from ros_nodes.sim_node import MAX_REST_TIME
from ros_nodes.sim_timeout import ON_TIMEOUT
from tests.paths import ROOT, shipped_content
from tests.ros_nodes.graph import COMMANDS, Graph

pytestmark = pytest.mark.slow
TIMEOUT = 0.1  # [s], robot.command.timeout of the shipped cart-pole
ALLOWED = 5 * TIMEOUT  # [s] from the last command to the response: test machines are shared
PUSH = 1.0  # [N]


def logged_at(log: str, words: str) -> list[float]:
    """When a process logged words, by the wall clock [s]."""
    found = re.findall(rf"\[(\d+\.\d+)\] \[[\w.]+\]: .*{re.escape(words)}", log)
    return [float(text) for text in found]


class Commander:
    """Sends one effort at 50 Hz between `go_on` and `stop`."""

    def __init__(self, graph: Graph, topic: str = COMMANDS) -> None:
        self.publisher = graph.node.create_publisher(Float64MultiArray, topic, COMMAND_QOS)
        self.last = 0.0  # when, by the wall clock [s]
        self._timer = graph.node.create_timer(0.02, self._send, autostart=False)

    def _send(self) -> None:
        self.publisher.publish(Float64MultiArray(data=array("d", [PUSH])))
        self.last = time.time()

    def stop(self) -> None:
        self._timer.cancel()

    def go_on(self) -> None:
        self._timer.reset()


def test_where_commands_end_the_robots_own_time_out_acts(silent_graph: Graph) -> None:
    """damp: the cart is braked; zero: it rolls on; hold: it is pushed on, the dangerous one."""
    graph = silent_graph
    speeds: dict[str, list[float]] = {way: [] for way in ON_TIMEOUT}
    for way, received in speeds.items():
        graph.node.create_subscription(
            JointState,
            f"/{way}/joint_states",
            lambda m, received=received: received.append(m.velocity[m.name.index("slider")]),
            100,
        )
        graph.start("sim_node", "-r", f"__ns:=/{way}", on_timeout=way)
    commanders = {way: Commander(graph, f"/{way}/{COMMANDS}") for way in ON_TIMEOUT}
    for commander in commanders.values():
        graph.until(commander.publisher.get_subscription_count, "the robots")
    for commander in commanders.values():
        commander.go_on()
    graph.until(
        lambda: all(received and received[-1] > 0.3 for received in speeds.values()), "moving carts"
    )
    for way, commander in commanders.items():
        commander.stop()
        speeds[way].clear()
    graph.until(lambda: min(map(len, speeds.values())) > 30, "states after the time-out")
    words = {"damp": "damping", "zero": "no effort", "hold": "the last command stays"}
    for way, commander in commanders.items():
        (logged,) = logged_at(graph.log(f"{way}_sim_node"), f"no command for 0.1 s: {words[way]}")
        assert TIMEOUT - 0.02 < logged - commander.last < ALLOWED
    after = {way: speeds[way][30] for way in ON_TIMEOUT}  # 0.6 s later [m/s]
    assert abs(after["damp"]) < 0.15
    assert 0.2 < after["zero"] < 0.6
    assert after["hold"] > 0.7
    commanders["damp"].go_on()
    log = "damp_sim_node"
    graph.until(lambda: speeds["damp"][-1] > 0.3, "a cart that moves again")
    assert len(logged_at(graph.log(log), "commands come again")) == 1
    assert len(logged_at(graph.log(log), "no command for")) == 1


def test_a_killed_policy_node_leaves_a_damped_robot(graph: Graph) -> None:
    graph.start("sim_node")
    graph.policy_node()
    graph.running()
    graph.end("policy_node", signal.SIGKILL)
    killed = time.time()
    graph.until(lambda: logged_at(graph.log("sim_node"), "no command for"), "the robot's time-out")
    assert logged_at(graph.log("sim_node"), "no command for")[-1] - killed < ALLOWED
    graph.spin(0.8)
    graph.states.clear()
    graph.until(lambda: len(graph.states) > 10, "states")
    cart = [m.velocity[m.name.index("slider")] for _, m in graph.states]
    # the pole swings on and drags a damped cart along a little
    assert np.mean(np.abs(cart)) < 0.3


def test_in_lockstep_the_robot_waits_for_its_command(silent_graph: Graph) -> None:
    graph = silent_graph
    commands = graph.node.create_publisher(Float64MultiArray, COMMANDS, COMMAND_QOS)
    graph.start("sim_node", mode="lockstep")
    graph.until(lambda: commands.get_subscription_count() and graph.states, "the robot")
    for _ in range(2):
        count = len(graph.states)
        commands.publish(Float64MultiArray(data=array("d", [PUSH])))
        graph.until(
            lambda count=count: len(graph.states) > count + 1, "a response, and its repetition"
        )
    stamps = sorted({seconds(m.header.stamp) for _, m in graph.states})
    np.testing.assert_allclose(np.diff(stamps), 0.02, atol=1e-6)
    assert "no command for" not in graph.log("sim_node")
    # a clock that jumps ahead and back takes /clock and the stamps with it
    clocks: list[float] = []
    graph.node.create_subscription(Clock, "/clock", lambda m: clocks.append(seconds(m.clock)), 10)
    for fault, low, high in (("clock:100", 100.0, 110.0), ("", 0.0, 10.0)):
        graph.set_fault(fault)
        clocks.clear()
        graph.states.clear()
        graph.until(lambda: clocks and graph.states, "a repetition")
        assert low < clocks[-1] < high
        assert seconds(graph.states[-1][1].header.stamp) == pytest.approx(clocks[-1])


# ---- sensors and faults in the stream


def with_imu(folder: Path) -> Path:
    """The cart-pole with an imu on its cart."""
    config = shipped_content("cartpole")
    config["sim"]["imu"] = "cart"
    config["robot"]["imu"] = {"max_age": 0.1}
    path = folder / "cartpole_imu.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_sensors_and_stream_faults_over_the_wire(silent_graph: Graph) -> None:
    graph = silent_graph
    imus: list[Imu] = []
    graph.node.create_subscription(Imu, "imu", imus.append, 100)
    graph.start(
        "sim_node",
        config=with_imu(graph.folder),
        encoder_counts=4096,
        velocity_noise=0.1,
        gyro_noise=0.01,
        orientation_noise=0.01,
    )

    def stream(fault: str, count: int = 40) -> tuple[list[float], list[JointState]]:
        """When states came, in their own order [s], and the states."""
        graph.set_fault(fault)
        graph.spin(0.2)
        graph.states.clear()
        imus.clear()
        graph.until(lambda: len(graph.states) >= count, "states")
        return [when for when, _ in graph.states], [m for _, m in graph.states]

    graph.until(lambda: graph.states, "a state")
    _, states = stream("")
    hinge = np.array([m.position[m.name.index("hinge")] for m in states])
    counts = hinge / (2 * np.pi / 4096)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
    assert 0.03 < np.std([m.velocity[0] for m in states]) < 0.3
    assert 0.003 < np.std([m.angular_velocity.x for m in imus]) < 0.03

    for fault, rate in (("rate:0.6", 30), ("rate:2", 100)):  # in whole steps of 5 ms
        when, _ = stream(fault)
        assert np.median(np.diff(when)) == pytest.approx(1 / rate, rel=0.2)
    when, states = stream("bursts:4", 41)
    stamps = [seconds(m.header.stamp) for m in states]
    assert np.median(np.diff(stamps)) == pytest.approx(0.02, abs=0.005)
    assert np.median(np.diff(when)) < 0.01  # three of four gaps
    assert np.diff(when).max() > 0.04
    _, states = stream("frozen")
    assert len({(*m.position, *m.velocity) for m in states}) == 1
    assert len({(m.orientation.x, m.angular_velocity.y) for m in imus}) == 1
    assert len({seconds(m.header.stamp) for m in states}) == len(states)
    began = time.time()
    _, states = stream("clock:100")
    assert 90 < seconds(states[0].header.stamp) - began < 110
    graph.states.clear()
    graph.set_fault("future")
    graph.until(lambda: len(graph.states) > 20, "states")
    late = [m for _, m in graph.states if m.header.stamp.sec > 2**31 - 10]
    assert len(late) == 1
    graph.set_fault("stall:0.5")
    graph.until(lambda: graph.states[-1][0] - graph.states[-2][0] > 0.4, "a pause")


# ---- types


BASE = """<mujoco><option gravity="0 0 0"/><worldbody><body name="base" pos="0 0 0.3">
<joint name="x" type="slide" axis="1 0 0"/><geom type="box" size="0.2 0.1 0.05" mass="5"/>
<body name="wheel"><joint name="wheel" axis="0 1 0"/><geom size="0.05" mass="0.1"/></body>
</body></worldbody><actuator>
<velocity name="linear_x" joint="x" kv="100"/></actuator></mujoco>"""


def base(folder: Path, kind: str) -> Path:
    """A base that takes velocities, and whose operator sends them, as messages of a type."""
    config = shipped_content("go2")
    model = folder / "base.xml"
    model.write_text(BASE)
    config["policy"].update(
        joints=[{"name": "x", "type": "prismatic"}, {"name": "wheel", "type": "revolute"}],
        observation=[{"name": "asked", "kind": "command_velocity", "size": 3, "unit": "m/s"}],
        action={"kind": "twist", "size": 1, "scale": {"linear_x": 1.0}},
    )
    config["sim"] = {"model": str(model), "timestep": 0.005, "decimation": 4}
    robot = config["robot"]
    joints = [{"name": name, "velocity_limit": 50.0} for name in ("x", "wheel")]
    robot.update(joints=joints, imu=None)
    robot["safety"]["tilt_limit"] = None
    del robot["phases"]  # a base does not stand up
    robot["command_velocity"]["type"] = kind
    robot["command"] = {"kind": "twist", "interface": "velocity", "topic": "base/cmd_vel"}
    robot["command"] |= {"type": kind, "timeout": 0.2, "limits": {"linear_x": 1.0}}
    for section in ("task", "randomization", "latency", "suite"):
        del config[section]
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_stamped_velocities_are_followed_and_another_type_is_reported(
    silent_graph: Graph,
) -> None:
    graph = silent_graph
    stamped = TwistStamped()
    stamped.twist.linear.x = 0.4
    command = graph.node.create_publisher(TwistStamped, "base/cmd_vel", COMMAND_QOS)
    graph.node.create_subscription(Imu, "/plain/joint_states", lambda _: None, 1)
    graph.start("sim_node", config=base(graph.folder, "TwistStamped"))
    remap = ("-r", "base/cmd_vel:=/base/cmd_vel")
    twist = base(graph.folder, "Twist")
    graph.start("sim_node", "-r", "__ns:=/plain", *remap, config=twist)
    graph.until(command.get_subscription_count, "the base")
    graph.node.create_timer(0.02, lambda: command.publish(stamped))
    graph.until(lambda: len(graph.states) > 100, "motion")
    (_, state) = graph.states[-1]
    assert state.velocity[list(state.name).index("x")] == pytest.approx(0.4, abs=0.05)
    expected = (
        "/watcher publishes on /base/cmd_vel with geometry_msgs/msg/TwistStamped, this robot's file"
        " says geometry_msgs/msg/Twist: set robot.command.type: TwistStamped",
        "/watcher listens on /plain/joint_states for sensor_msgs/msg/Imu, this robot's file says"
        " sensor_msgs/msg/JointState: correct robot.state.topic, or remap it",
    )
    graph.until(
        lambda: all(words in graph.log("plain_sim_node") for words in expected), "the mismatches"
    )
    graph.spin(1.2)  # another check
    assert [graph.log("plain_sim_node").count(words) for words in expected] == [1, 1]


def test_phases_that_do_not_fit_are_refused_in_one_sentence(silent_graph: Graph) -> None:
    graph = silent_graph
    path = base(graph.folder, "Twist")
    config = yaml.safe_load(path.read_text())
    move = {"path": [{"pose": "default", "duration": 0.3}], "timeout": 3.0}
    config["robot"]["phases"] = {"stand_up": move, "sit_down": move}
    path.write_text(yaml.safe_dump(config))
    process = graph.start("sim_node", config=path)
    graph.until(lambda: process.poll() is not None, "the end")
    assert process.returncode == 2
    (line,) = graph.log("sim_node").splitlines()
    assert line.startswith("error: ") and "phases: expected none, since a policy of twist" in line


# ---- the end


def test_after_a_signal_it_goes_on_until_the_policy_has_led_it_to_rest(graph: Graph) -> None:
    """Ctrl-C on a launch file reaches all processes at once."""
    graph.start("sim_node")
    graph.policy_node()
    graph.running()
    sim, policy = graph.processes["sim_node"], graph.processes["policy_node"]
    sim.send_signal(signal.SIGINT)
    graph.spin(0.5)
    assert sim.poll() is None  # still commanded
    policy.send_signal(signal.SIGINT)
    graph.until(lambda: policy.poll() is not None and sim.poll() is not None, "the end of both")
    assert (policy.returncode, sim.returncode) == (0, 0)
    log = graph.log()
    assert "[ERROR]" not in log
    assert "hold" not in log
    assert not list((graph.folder / "flights").glob("*"))
    assert graph.commands[-1][1] == [0.0]


def test_it_ends_at_once_without_commands_and_does_not_wait_for_ever(
    silent_graph: Graph,
) -> None:
    graph = silent_graph
    graph.start("sim_node")
    graph.until(lambda: graph.states, "a state")
    code, took = graph.end("sim_node", signal.SIGTERM)
    assert code == 0
    assert took < MAX_REST_TIME / 2
    words = [
        "import sys, ros_nodes.sim_node as sim",
        "sim.MAX_REST_TIME = 1.0",
        "sys.exit(sim.main())",
    ]
    commander = Commander(graph)
    commander.go_on()
    with (graph.folder / "commanded_sim_node.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "\n".join(words)],
            cwd=ROOT,
            env=graph.environment,
            stdout=log,
            stderr=log,
            text=True,
        )
    graph.processes["commanded_sim_node"] = process
    graph.states.clear()
    graph.until(lambda: len(graph.states) > 20, "states")
    code, took = graph.end("commanded_sim_node", signal.SIGTERM)
    assert code == 0
    assert 0.9 < took < MAX_REST_TIME
    commander.stop()
