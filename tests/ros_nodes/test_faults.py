"""Faults while a robot runs: each ends in its stated command, in time, and is reported.

Real processes over DDS. The table of docs/safety.md has these rows; the last column of `FAULTS` is
the response at the end.
"""

from __future__ import annotations

import math
import signal
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from dime_robot.runtime.control.faults import Fault
from dime_robot.runtime.control.flight_recorder import read_recording
from ros_nodes.conversions import stamp_of
from tests.paths import shipped_content
from tests.ros_nodes.graph import COMMANDS, MISBEHAVING, Graph
from tests.ros_nodes.policies import nan_policy

pytestmark = pytest.mark.slow
PERIOD, MAX_AGE, HOLD = 0.02, 0.1, 0.08  # [s] longer than the shipped robot's: see `begin`
ALLOWED = 5 * (MAX_AGE + 2 * PERIOD)  # [s] from injection to the stated command
DAMPING, EFFORT = 5.0, 8.0  # [N s/m], [N]


def at_rest(graph: Graph, index: int) -> bool:
    """Is a command the damp of this robot: 0, or -damping * velocity of a recent state?

    The watcher may have missed the very state: a newton is what the cart's speed changes by in a
    few periods.
    """
    when, (value,) = graph.commands[index]
    if value == 0.0:
        return True
    received = [m for t, m in graph.states if when - 0.3 < t < when + 0.3]
    velocities = [m.velocity[0] for m in received if m.velocity]
    damped = [max(-EFFORT, min(EFFORT, -DAMPING * v)) for v in velocities]
    return any(abs(value - wanted) < 1.0 for wanted in damped)


def rest_began(graph: Graph) -> float:
    """When the last row of damping commands began (steady time)."""
    began = float("inf")
    for i in reversed(range(len(graph.commands))):
        if not at_rest(graph, i):
            break
        began = graph.commands[i][0]
    return began


def assert_rest_in_time(graph: Graph, since: float, allowed: float) -> None:
    """The row of damping commands that lasts began in time (steady time, [s])."""
    # of a watcher that was kept from running the last commands may still be on their way
    graph.until(lambda: math.isfinite(rest_began(graph)), "rest")
    assert rest_began(graph) - since < allowed


def fault_reported(graph: Graph, expected: Fault, response: str | tuple[str, ...]) -> bool:
    return any(
        expected.value in message and message.startswith(response)
        for _, name, _, message, _ in graph.reports
        if name == "/policy_node: control"
    )


def recorded_faults(graph: Graph) -> set[str]:
    found: set[str] = set()
    for path in (graph.folder / "flights").glob("*.npz"):
        for _, _, names in read_recording(path).escalations:
            found.update(names)
    return found


def with_imu(
    folder: Path,
    max_age: float = MAX_AGE,
    tilt_limit: float | None = 45.0,
    damp: float = 0.3,
) -> Path:
    """The cart-pole with an imu on its cart, and a tilt limit."""
    config = shipped_content("cartpole")
    config["sim"]["imu"] = "cart"
    config["robot"]["imu"] = {"max_age": 0.1}
    config["robot"]["safety"]["tilt_limit"] = tilt_limit
    # other tests load this machine: a hiccup of theirs is not the fault that is tested
    config["robot"]["state"]["max_age"] = max_age
    config["robot"]["safety"].update(hold=HOLD, damp=damp)
    path = folder / "cartpole_imu.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


class PublishingRobot:
    """A cart at rest, published by the watcher."""

    def __init__(self, graph: Graph) -> None:
        publisher = graph.node.create_publisher(JointState, "joint_states", 1)

        def publish() -> None:
            state = JointState(name=["slider", "hinge"])
            state.position, state.velocity = array("d", [0.0, 3.14]), array("d", [0.0, 0.0])
            state.header.stamp = stamp_of(time.time())
            publisher.publish(state)

        self._timer = graph.node.create_timer(PERIOD, publish)

    def stop(self) -> None:
        self._timer.cancel()


def begin(graph: Graph, max_age: float = MAX_AGE, damp: float = 0.3) -> None:
    config = with_imu(graph.folder, max_age, damp=damp)
    graph.start("sim_node", config=config)
    graph.policy_node(robot=config)
    graph.running()


def assert_response(graph: Graph, injected: float, expected: Fault, response: str) -> None:
    """The robot is at rest in time and for good; the fault is reported everywhere."""
    graph.until(
        lambda: (
            fault_reported(graph, expected, ("hold", "damp", "stop"))
            and any(message.startswith(response) for _, _, _, message, _ in graph.reports)
        ),
        f"{response}: {expected.value}",
    )
    graph.spin(0.2)  # ten commands, which have to be those of the rest
    assert_rest_in_time(graph, injected, ALLOWED + LATER.get(expected, 0.0))
    count = len(graph.commands)
    graph.spin(0.1)
    assert len(graph.commands) > count, "a stopped node goes on sending the safe command"
    assert expected.value in recorded_faults(graph)


def end_at_rest(graph: Graph) -> None:
    code, _ = graph.end("policy_node")
    assert code == 0
    assert graph.commands[-1][1] == [0.0]


SIM_FAULTS = {
    "freeze_stamp": (Fault.OBSERVATION_STALE, "not newer than"),
    "drop:1.0": (Fault.OBSERVATION_STALE, "no new reading for"),
    "nan:slider": (Fault.OBSERVATION_NAN, "no finite position of slider"),
    "no_velocity": (Fault.OBSERVATION_NAN, "no finite velocity of slider, hinge"),
    "missing:hinge": (Fault.JOINT_MISSING, "hinge came 0 times"),
    "jump:slider:0.9": (Fault.OBSERVATION_JUMP, "slider jumped by"),
    "tilt:60": (Fault.TILT, "tilted by 60 degrees"),
    "quaternion": (Fault.OBSERVATION_NAN, "orientation has a norm of 0"),
    "no_orientation": (Fault.OBSERVATION_NAN, "orientation_covariance[0] is -1"),
    "no_imu": (Fault.IMU_STALE, "no new reading for"),
    "rate:2": (Fault.WRONG_RATE, "expected 50 Hz, got"),
    "rate:0.6": (Fault.WRONG_RATE, "expected 50 Hz, got"),
}
# what is only known after a while [s]
LATER = {Fault.WRONG_RATE: 2.0}


def test_each_broken_sensor_or_driver_ends_in_a_stop_that_only_an_operator_leaves(
    graph: Graph,
) -> None:
    begin(graph)
    for fault, (expected, words) in SIM_FAULTS.items():
        graph.reports.clear()
        assert_response(graph, graph.set_fault(fault), expected, "stop")
        lines = [line for line in graph.log().splitlines() if f"{expected.value} (" in line]
        assert words in lines[-1], (fault, lines[-1])
        if expected != Fault.OBSERVATION_JUMP:  # an operator may take what follows a jump for good
            assert not graph.trigger("policy_node/reset_estop").success, fault
        graph.set_fault("")
        graph.until(lambda: graph.trigger("policy_node/reset_estop").success, f"rest of {fault}")
        graph.commands.clear()
        graph.until(lambda: any(abs(v) > 0.5 for _, (v,) in graph.commands[-5:]), "commands")
    graph.set_fault("clock:-100")  # an operator has to activate anew
    graph.until(lambda: "clock_went_back (the robot's clock went back from" in graph.log(), "it")
    assert not graph.trigger("policy_node/reset_estop").success
    assert graph.transition("deactivate")
    count = len(graph.commands)
    graph.spin(1.0)
    assert len(graph.commands) == count  # autostart does not
    graph.set_fault("")
    graph.until(lambda: graph.transition("activate"), "activation")
    end_at_rest(graph)


def test_a_robot_that_dies_is_not_commanded_any_more(graph: Graph) -> None:
    begin(graph)
    injected = time.monotonic()
    graph.end("sim_node", signal.SIGKILL)
    assert_response(graph, injected, Fault.OBSERVATION_STALE, "stop")
    end_at_rest(graph)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda folder: {"policy": nan_policy(folder / "bad.onnx")}, Fault.ACTION_NAN),
        (lambda _: {"program": (MISBEHAVING, "slow", str(1.5 * PERIOD))}, Fault.OVERRUN),
    ],
    ids=["NaN action", "inference of 1.5 periods"],
)
def test_a_policy_that_fails_is_stopped(
    given: Callable[[Path], dict[str, object]], expected: Fault, graph: Graph
) -> None:
    config = with_imu(graph.folder)
    graph.start("sim_node", config=config)
    graph.policy_node(robot=config, **given(graph.folder))
    graph.until(lambda: len(graph.commands) > 10, "commands")
    injected = graph.set_fault("spin:hinge:40")
    graph.until(lambda: fault_reported(graph, expected, ("damp", "stop")), expected.value)
    graph.until(lambda: "]: stop: " in graph.log(), "a stop")
    graph.spin(0.3)
    assert_rest_in_time(graph, injected, ALLOWED + 3 * 1.5 * PERIOD)  # three misses in a row
    assert graph.end("policy_node")[0] == 0
    assert expected.value in recorded_faults(graph)


def test_an_unexpected_exception_ends_with_the_safe_command_and_exit_1(graph: Graph) -> None:
    graph.start("sim_node")
    process = graph.policy_node(program=(MISBEHAVING, "crash"))
    graph.until(lambda: len(graph.commands) > 10, "commands")
    injected = graph.set_fault("spin:hinge:40")
    graph.until(lambda: process.poll() is not None, "the end of the process")
    assert process.returncode == 1
    graph.spin(0.1)
    when, values = graph.commands[-1]
    assert values == [0.0]
    assert when - injected < ALLOWED
    assert "Traceback" in graph.log()
    (path,) = (graph.folder / "flights").glob("*exception.npz")
    assert len(read_recording(path).records) > 5


def test_a_fault_that_ends_in_time_ends_in_running(graph: Graph) -> None:
    begin(graph, damp=10.0)  # long enough not to stop
    graph.set_fault("drop:1.0")
    graph.spin(MAX_AGE + HOLD + 0.1)  # long enough to damp
    graph.set_fault("")
    graph.until(
        lambda: (
            any(message.startswith("running") for _, _, _, message, _ in graph.reports[-2:])
            and "run after damp" in graph.log()
        ),
        "running again",
    )
    assert graph.processes["policy_node"].poll() is None


def test_losing_the_only_listener_stops_the_robot(silent_graph: Graph) -> None:
    graph = silent_graph
    robot = PublishingRobot(graph)  # its state goes on, its controller is unloaded
    controller = graph.node.create_subscription(Float64MultiArray, COMMANDS, lambda _: None, 1)
    graph.policy_node(robot=with_imu(graph.folder, tilt_limit=None))
    graph.until(lambda: "[policy_node]: active" in graph.log(), "active")
    graph.node.destroy_subscription(controller)
    graph.until(lambda: fault_reported(graph, Fault.LISTENER_LOST, "stop"), "a stop")
    graph.listen()
    graph.spin(0.5)
    assert graph.commands  # it goes on with the safe command
    assert all(values == [0.0] for _, values in graph.commands)
    assert graph.end("policy_node")[0] == 0
    robot.stop()


def test_estop_latches_until_the_operator_re_arms(graph: Graph) -> None:
    begin(graph)
    assert graph.trigger("policy_node/estop").success
    injected = time.monotonic()  # it had stopped before it responded; discovery may take long
    graph.until(lambda: fault_reported(graph, Fault.ESTOP, "stop"), "a report of it")
    graph.spin(1.0)
    assert_rest_in_time(graph, injected, ALLOWED)
    assert graph.trigger("policy_node/reset_estop").message == "armed"
    graph.until(lambda: abs(graph.commands[-1][1][0]) > 1 and not at_rest(graph, -1), "motion")
    assert Fault.ESTOP.value in recorded_faults(graph)
