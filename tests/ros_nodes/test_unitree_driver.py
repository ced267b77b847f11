"""unitree_driver with a simulated Go2 on its own wire: the whole chain, and faults where it lives.

Real processes over DDS, on two domains: the robot's and the ROS graph's. Times are from just before
a fault is injected to the first LowCmd with the response, by the time at which the driver sent it.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from sensor_msgs.msg import Joy
from std_msgs.msg import Float64MultiArray

from dime_robot.runtime.unitree.driver_loop import END_DAMPING, START_ERROR
from dime_robot.runtime.unitree.low_level import MOTORS
from dime_robot.runtime.unitree.state_watch import DriverFault
from ros_nodes.conversions import COMMAND_QOS, JOYSTICK_QOS
from ros_nodes.unitree import dds_profile
from ros_nodes.unitree.dds_profile import DEFAULT_FILE, PROFILE_VARIABLES
from tests.paths import ROOT, SHIPPED_GO2, shipped_content
from tests.ros_nodes.changed_driver import QUICK
from tests.ros_nodes.cyclone_peer.build import cyclone_version
from tests.ros_nodes.cyclone_peer.peer import TIMEOUT as TOO_LONG
from tests.ros_nodes.cyclone_peer.peer import CyclonePeer
from tests.ros_nodes.graph import Graph, domain
from tests.ros_nodes.low_cmd_listener import is_damping
from tests.ros_nodes.test_go2 import send_velocity, tolerate_delays
from tests.ros_nodes.test_phases import in_order, record_phases
from tests.ros_nodes.unitree_chain import (
    COMMANDS,
    STIFFNESS,
    Chain,
    Stream,
    child_of,
    real_time,
    ros,
    runs,
)

pytestmark = pytest.mark.slow
MARGIN = 0.1  # [s] beyond a stated time
TIMEOUT, HOLD = 0.1, 0.2  # [s] of commands on the shipped robot; of the driver
CHECK_PERIOD = 1.0  # [s] between two questions who has the motors
CLOCK_TIME = 0.1  # [s] in which policy_node has three readings of the past
ON_THE_WAY = 0.1  # [s] that a message is on its way at most
RAMP = 0.2  # [s]
JITTER = 0.03  # [s] between a decision of the driver and its message, on a busy machine
WALK = 13.0  # [s]
N = len(MOTORS)
# what the robot is told, the fault, how long at most until the motors are damped [s]: those of
# tests/runtime/unitree/test_driver_loop.py
FAULTS = [
    ("freeze", DriverFault.STATE_FROZEN, 0.1 + HOLD),
    ("silent", DriverFault.STATE_LOST, 0.05 + HOLD),
    ("crc", DriverFault.STATE_LOST, 0.05 + HOLD),
    ("quaternion", DriverFault.STATE_LOST, 0.05 + HOLD),
    ("lost:RL_calf_joint", DriverFault.MOTOR_LOST, HOLD),
    ("left:FR_thigh_joint", DriverFault.MOTOR_LOST, 0.01 + HOLD),
    ("hot:FL_hip_joint:95", DriverFault.TOO_HOT, 0.05 + HOLD),
    ("tilt:70", DriverFault.TILTED, 0.01),
]


@pytest.fixture
def chain(graph: Graph, unitree_messages: Path) -> Iterator[Chain]:
    with domain() as number:
        chain = Chain(graph, number, unitree_messages)
        yield chain
        chain.close()


@pytest.fixture
def stream(chain: Chain) -> Iterator[Stream]:
    stream = Stream(chain.graph)
    yield stream
    stream.close()


def measured(what: str, stated: float, took: float) -> None:
    """Compare and print a time [s]."""
    print(f"{what:22s} stated {stated:.2f} s, took {took:.3f} s")
    assert took <= stated + MARGIN, what


def logged(chain: Chain, text: str) -> None:
    """The driver says so in its log, now or soon."""
    chain.graph.until(lambda: text in chain.log(), f"{text} in the log")


# ---- faults


def lie_and_follow(chain: Chain, stream: Stream) -> None:
    """Send the pose in which the robot lies until it is held at full gain, which comes slowly."""
    stream.pause()
    chain.graph.spin(ON_THE_WAY)
    chain.mark()
    chain.until_damping(time.monotonic())
    state = chain.graph.states[-1][1]
    assert tuple(state.name) == MOTORS
    stream.send(MOTORS, np.array(state.position))
    chain.graph.until(lambda: chain.stiffness() > 0.999 * STIFFNESS, "commands, followed")
    sent = chain.sent()
    rising = sent[np.flatnonzero(is_damping(sent))[-1] :]
    since = rising["time"] - rising["time"][0] + JITTER
    assert (rising["kp"].max(axis=1) <= STIFFNESS * since / RAMP).all()
    assert np.isfinite(sent["q"]).all()


def reset(chain: Chain) -> None:
    """End a fault; what was latched needs the operator."""
    chain.tell("fault")
    chain.graph.until(lambda: chain.trigger("reset").success, "a reset")


def faults_of_the_robot(chain: Chain, stream: Stream) -> None:
    for line, fault, stated in FAULTS:
        lie_and_follow(chain, stream)
        took = chain.time_to_damping(chain.tell(f"fault {line}"))
        measured(line, stated, took)
        at_once = fault is DriverFault.TILTED
        assert at_once or took > 0.9 * HOLD
        logged(chain, f"]: {fault.value}: ")
        chain.graph.spin(2 * QUICK)  # commands go on
        assert is_damping(chain.newest()).all()
        reset(chain)


def faults_of_the_commands(chain: Chain, stream: Stream) -> None:
    graph = chain.graph
    lie_and_follow(chain, stream)
    positions = np.array(graph.states[-1][1].position)
    began = time.monotonic()
    stream.pause()
    measured("commands end", TIMEOUT + HOLD, chain.time_to_damping(began))

    wrong = {"an unknown name": ("knee", *MOTORS[1:]), "a name missing": MOTORS[1:]}
    for what, names in wrong.items():
        lie_and_follow(chain, stream)
        began = time.monotonic()
        stream.send(names, positions[-len(names) :])
        measured(what, TIMEOUT + HOLD, chain.time_to_damping(began))
        logged(chain, "expected each of the joints FR_hip_joint, ")

    # another order is the same command; two names exchanged would be a jump
    order = np.random.default_rng(0).permutation(N)
    lie_and_follow(chain, stream)
    goal = positions + 0.01 * np.arange(N)
    stream.send(tuple(MOTORS[i] for i in order), goal[order])
    graph.spin(0.4)
    np.testing.assert_allclose(chain.newest()["q"][0], goal, atol=0.02)
    assert chain.stiffness() > 0.999 * STIFFNESS
    stream.pause()
    chain.until_damping(time.monotonic())
    stream.send((MOTORS[2], MOTORS[1], MOTORS[0], *MOTORS[3:]), positions)
    logged(chain, f"expected a first position within {START_ERROR:g} rad")
    assert is_damping(chain.newest()).all()

    lie_and_follow(chain, stream)
    rival = graph.node.create_publisher(Float64MultiArray, COMMANDS, COMMAND_QOS)
    graph.until(rival.get_subscription_count, "the driver")
    graph.spin(0.2)
    assert chain.stiffness() > 0.999 * STIFFNESS  # a silent one is harmless
    rival.publish(stream.message())
    logged(chain, "commands of a second publisher are refused")
    graph.spin(0.5)
    assert chain.stiffness() > 0.999 * STIFFNESS  # the first one's are followed


def faults_of_the_driver(chain: Chain, stream: Stream) -> None:
    lie_and_follow(chain, stream)
    process = chain.driver
    process.send_signal(signal.SIGSTOP)
    chain.graph.spin(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGCONT)
    measured("stopped for 0.5 s", 0.01, chain.time_to_damping(began))
    logged(chain, "]: stalled: ")
    reset(chain)

    lie_and_follow(chain, stream)
    began = time.monotonic()
    process.send_signal(signal.SIGUSR2)
    took = chain.time_to_damping(began)
    measured("an exception", HOLD, took)
    assert took > 0.9 * HOLD
    logged(chain, "]: internal: RuntimeError: of a test")
    reset(chain)


def faults_of_the_remote(chain: Chain) -> None:
    sticks: list[float] = []
    graph = chain.graph
    graph.node.create_subscription(
        Joy, "joy", lambda _: sticks.append(time.monotonic()), JOYSTICK_QOS
    )
    chain.tell("remote on")
    graph.until(lambda: len(sticks) > 10, "the remote")
    began = chain.tell("fault remote_silent")
    graph.spin(0.5)
    measured("remote silent", 0.02, sticks[-1] - began)
    chain.tell("fault")
    count = len(sticks)
    graph.until(lambda: len(sticks) > count, "the remote")


def last_of(chain: Chain, writer: np.void, since: float) -> float:
    """When this writer sent its last message, after a time [s]; it sends no more."""
    chain.graph.spin(0.3)
    sent = chain.sent()
    last = float(sent["time"][sent["writer"] == writer][-1])
    chain.graph.spin(0.3)
    sent = chain.sent()
    assert float(sent["time"][sent["writer"] == writer][-1]) == last
    return last - since


def others_who_take_the_motors(chain: Chain, stream: Stream) -> None:
    graph = chain.graph
    lie_and_follow(chain, stream)
    ours = chain.newest()["writer"][0]
    began = chain.tell("fault writer")
    sentence = r"second_writer: \S+ \([0-9a-f]{32}\) sends LowCmd too"  # a name is found out later
    graph.until(lambda: re.search(sentence, chain.log()), "the log")
    measured("a second writer", 0.0, last_of(chain, ours, began))
    refused = chain.trigger("release_mode")
    assert not refused.success and "stop it first" in refused.message
    chain.tell("fault")
    graph.until(lambda: chain.trigger("release_mode").success, "the motors")

    lie_and_follow(chain, stream)
    began = chain.tell("fault mode_back")
    logged(chain, "mode_taken: the robot's own controller normal")
    measured("mode comes back", CHECK_PERIOD, last_of(chain, ours, began))
    assert set(chain.report()["errors"]) <= {"before_release"}
    chain.tell("fault")
    assert chain.trigger("release_mode").success


def ended(chain: Chain, code: int) -> None:
    """The driver ends by itself, after it has damped the motors for a second."""
    process = chain.driver
    chain.graph.until(lambda: process.poll() is not None, "the end")
    assert process.returncode == code
    sent = chain.sent()
    damped = sent["time"][is_damping(sent)]
    assert damped[-1] - damped[0] > 0.9 * END_DAMPING


def a_second_driver(chain: Chain) -> None:
    """It is refused: two of them would not hear each other."""
    chain.start_driver("quick", "refused_driver")
    process = chain.driver
    chain.graph.until(lambda: process.poll() is not None, "its end")
    assert process.returncode == 2
    logged(chain, "error: expected no other unitree_driver")
    chain.name = "unitree_driver"


def ends(chain: Chain, stream: Stream) -> None:
    graph = chain.graph
    lie_and_follow(chain, stream)
    began = time.monotonic()
    os.kill(child_of(chain.driver.pid), signal.SIGKILL)
    took = chain.time_to_damping(began)
    measured("ROS side killed", TIMEOUT + HOLD, took)
    assert took > 0.9 * HOLD
    ended(chain, 1)

    chain.start_driver("elsewhere", "other_driver")
    chain.start_driver("quick", "second_driver", gain_ramp=RAMP)
    chain.ready()
    graph.until(lambda: chain.trigger("release_mode").success, "the motors")
    lie_and_follow(chain, stream)
    chain.name = "other_driver"
    chain.ready()
    refused = chain.trigger("release_mode")
    assert not refused.success and "stop it first" in refused.message
    chain.name = "second_driver"
    chain.driver.send_signal(signal.SIGTERM)
    graph.spin(0.6)  # signals closer to each other count as one
    assert chain.stiffness() > 0.999 * STIFFNESS
    began = time.monotonic()
    chain.driver.send_signal(signal.SIGTERM)
    measured("a second SIGTERM", 0.0, chain.time_to_damping(began))
    ended(chain, 0)


def test_each_fault_ends_in_its_response_in_time(chain: Chain, stream: Stream) -> None:
    """The robot lies, is free, and its own controller keeps a writer that is silent."""
    chain.start_robot(start="lying", mode="none", silent_writer=True)
    chain.start_driver("quick fails", gain_ramp=RAMP)
    chain.ready()
    assert chain.trigger("release_mode").success
    faults_of_the_robot(chain, stream)
    faults_of_the_commands(chain, stream)
    faults_of_the_driver(chain, stream)
    assert chain.report()["errors"] == {}
    faults_of_the_remote(chain)
    a_second_driver(chain)
    others_who_take_the_motors(chain, stream)
    ends(chain, stream)


# ---- the whole chain


def activate(chain: Chain, seen: list[str]) -> None:
    """Let policy_node begin, and the motors follow."""
    graph = chain.graph
    seen.clear()
    graph.until(lambda: graph.node.count_subscribers(COMMANDS), "who takes commands")
    graph.until(lambda: graph.transition("activate"), "activation")
    graph.until(lambda: chain.stiffness() > 0.0, "commands, followed")


def walk(chain: Chain, seen: list[str]) -> None:
    """Stand up, walk, sit down while the driver ends, and compare what is reported."""
    graph = chain.graph
    activate(chain, seen)
    graph.until(lambda: seen[-1:] == ["policy"], "the policy")
    assert in_order(["stand_up", "stand", "policy"], seen)
    graph.spin(3.0)  # to gather speed
    begin = chain.next_report()
    chain.mark()
    graph.spin(WALK - 3.0)
    sent, end = chain.sent(), chain.next_report()
    chain.mark()
    chain.driver.send_signal(signal.SIGTERM)  # it serves commands as long as there are any
    assert graph.trigger("policy_node/sit_down").success
    graph.until(lambda: seen[-1:] == ["passive"], "lying")
    assert chain.stiffness() > 0.0
    assert graph.transition("deactivate")
    ended(chain, 0)
    lying = chain.next_report()

    for report in (begin, end):
        assert report["height"] > 0.2
        assert report["tilt_deg"] < 30.0
    way = float(np.hypot(*np.subtract(end["place"], begin["place"])))
    speed = way / (end["time"] - begin["time"])
    rate = (len(sent) - 1) / np.ptp(sent["time"])
    print(f"{speed:.2f} m/s, {rate:.0f} LowCmd/s, {lying}")
    assert 0.3 < speed < 0.7
    assert rate > 250
    assert lying["height"] < 0.15
    assert lying["tilt_deg"] < 20.0
    assert lying["errors"] == {}
    assert lying["applied"] == lying["commands"] > 0
    assert lying["writers"] == 1


def step_the_clock(chain: Chain, seen: list[str]) -> None:
    """policy_node notices; it stops, and it is the operator who ends its commands."""
    graph = chain.graph
    activate(chain, seen)
    graph.spin(0.5)
    began = time.time()
    chain.driver.send_signal(signal.SIGUSR1)
    graph.until(lambda: "clock_went_back" in graph.log(), "the log")
    noticed = re.search(r"\[(\d+\.\d+)\] \[policy_node\]: stop: clock_went_back", graph.log())
    assert noticed is not None
    measured("clock step", CLOCK_TIME, float(noticed[1]) - began)
    logged(chain, "the system's clock moved by -100.00 s")
    assert graph.transition("deactivate")
    chain.until_damping(0.0)
    chain.driver.send_signal(signal.SIGUSR1)


def test_a_go2_stands_up_walks_and_sits_down(chain: Chain) -> None:
    """With the shipped policy; after it, faults of the process that commands."""
    graph = chain.graph
    config = shipped_content("go2")
    tolerate_delays(config)
    config["robot"]["command"]["timeout"] = 0.5  # of policy_node alone
    robot = graph.folder / "go2.yaml"
    robot.write_text(yaml.safe_dump(config))
    chain.start_robot(command_timeout=0.1)
    chain.start_driver("clock patient")
    graph.policy_node(policy=SHIPPED_GO2, robot=robot, autostart="configure")
    real_time(graph.processes["policy_node"].pid)
    seen = record_phases(graph)
    send_velocity(graph)
    chain.ready()
    graph.until(lambda: "next: ros2 lifecycle set" in graph.log(), "the policy, configured")

    # nothing is sent, and no policy begins, before the operator has asked for the motors
    refusal = "nobody listens on /position_controller/commands"
    graph.until(lambda: not graph.transition("activate") and refusal in graph.log(), "a refusal")
    assert len(chain.sent()) == chain.report()["commands"] == 0
    assert chain.report()["mode"] == "normal"
    released = chain.trigger("release_mode")
    assert released.success, released.message

    walk(chain, seen)
    chain.start_driver("clock patient quick", "second_driver", mode="normal")
    chain.ready()
    assert chain.trigger("release_mode").success
    step_the_clock(chain, seen)

    activate(chain, seen)
    graph.spin(0.5)
    began = time.monotonic()
    graph.processes["policy_node"].kill()
    took = chain.time_to_damping(began)
    measured("policy_node killed", TIMEOUT + HOLD, took)
    assert took > 0.9 * HOLD

    restored = chain.trigger("restore_mode")
    assert restored.success, restored.message
    count = len(chain.sent())
    code, took = graph.end(chain.name)
    assert code == 0
    assert took < END_DAMPING  # there is nothing to damp
    last = chain.next_report()
    assert (last["mode"], last["errors"], len(chain.sent())) == ("normal", {}, count)


# ---- what the driver may do to a Go2, and refuses to do


def test_a_peer_like_the_robots_firmware_survives_the_driver(
    chain: Chain, cyclone_peer: Path
) -> None:
    graph = chain.graph
    with domain() as read_only:
        reader = CyclonePeer(cyclone_peer, read_only, state_rate=500.0)
        robot = CyclonePeer(cyclone_peer, chain.domain, state_rate=500.0)
        try:
            chain.start_driver("", "dry_run", robot_domain=read_only, dry_run=True)
            chain.start_driver("", "sending", mode_service="none")
            graph.until(lambda: graph.log("dry_run").count("\nmotor joint"), "a table")
            table = graph.log("dry_run")
            assert all(name in table for name in MOTORS)
            assert chain.trigger("release_mode").success
            graph.spin(1.0)
            for name in ("dry_run", "sending"):  # one that is killed takes its child with it
                chain.name = name
                child = child_of(chain.driver.pid)
                chain.driver.kill()
                began = time.monotonic()
                graph.until(lambda child=child: not runs(child), "the child's end")
                assert time.monotonic() - began < 2.0
            seen, received = robot.stop(), reader.stop()
        finally:
            reader.close()
            robot.close()
    assert seen["received"] > 100  # of 500 a second
    assert (seen["bad_crc"], seen["writers"]) == (0, 1)
    assert received["received"] == 0


def test_the_peer_dies_of_a_driver_without_the_property(chain: Chain, cyclone_peer: Path) -> None:
    if (version := cyclone_version()) != "0.10.2":
        pytest.skip(f"this is known of Cyclone DDS 0.10.2, and here is {version}")
    robot = CyclonePeer(cyclone_peer, chain.domain, state_rate=500.0)
    try:
        chain.start_driver("no_property", dry_run=True)
        assert robot.process.wait(TOO_LONG) == -signal.SIGSEGV
    finally:
        robot.close()


def test_a_start_that_could_harm_is_one_sentence(chain: Chain) -> None:
    """Exit code 2, and nothing else is printed; each in a folder of its own."""
    graph = chain.graph
    given_profile = dds_profile._PROFILE.format(
        address="127.0.0.1", property="any", peers="", deaf=""
    )
    ours = int(graph.environment["ROS_DOMAIN_ID"])
    no_property = "expected the participant property fastdds.type_propagation"
    cases: dict[str, tuple[str, dict[str, object], dict[str, str]]] = {
        "without_messages": ("build unitree_ros2 and source", {}, {"PYTHONPATH": str(ROOT)}),
        "interface": ("expected the network interface to the robot", {"interface": "eth99"}, {}),
        "same_domain": ("expected a ROS domain other than", {"robot_domain": ours}, {}),
        "named_profile": (no_property, {}, {PROFILE_VARIABLES[0]: "mine.xml"}),
        "profile_here": (no_property, {}, {}),
    }
    for name, (_, parameters, variables) in cases.items():
        (graph.folder / name).mkdir()
        given = {"interface": "lo", "robot_domain": chain.domain, "policy": SHIPPED_GO2}
        words = ros({**given, **parameters})
        file = {"named_profile": "mine.xml", "profile_here": DEFAULT_FILE}.get(name, "other.xml")
        (graph.folder / name / file).write_text(given_profile)
        chain.start(name, "ros_nodes.unitree.driver", *words, folder=name, **variables)
    processes = graph.processes
    graph.until(lambda: all(processes[name].poll() is not None for name in cases), "their ends")
    for name, (sentence, _, _) in cases.items():
        log = graph.log(name)
        assert processes[name].returncode == 2, (name, log)
        assert log.startswith("error: ") and log.count("\n") == 1, (name, log)
        assert sentence in log
