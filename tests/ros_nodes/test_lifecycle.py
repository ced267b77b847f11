"""Transitions in every order, the operator at any time, parameters that may not change."""

from __future__ import annotations

import signal
import time
from array import array

import pytest
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState

from ros_nodes.conversions import stamp_of
from tests.ros_nodes.graph import Graph

pytestmark = pytest.mark.slow


def begin(graph: Graph, **parameters: object) -> None:
    graph.start("sim_node")
    graph.policy_node(**parameters)


def test_a_whole_life_and_the_operator_in_it(graph: Graph) -> None:
    """One pair of processes: transitions twice, autostart and parameters that stay out of it."""
    begin(graph, autostart="none")
    assert graph.trigger("policy_node/estop").success  # before there is a policy
    assert not graph.trigger("policy_node/dump").success
    assert not graph.set_parameter("policy_node", "use_sim_time", True).successful
    assert graph.transition("configure")
    assert "clean up first" in graph.set_parameter("policy_node", "dry_run", True).reason
    graph.spin(0.6)
    assert not graph.transition("activate")
    assert "emergency stop is set" in graph.log()
    assert graph.trigger("policy_node/reset_estop").success
    services = {name for name, _ in graph.node.get_service_names_and_types()}
    assert "/policy_node/dump" in services
    for name in ("stand_up", "run_policy", "sit_down", "select/cartpole"):  # it has no phases
        assert f"/policy_node/{name}" not in services
    for _ in range(2):
        graph.until(lambda: graph.transition("activate"), "activation")
        graph.spin(0.3)
        assert graph.transition("deactivate")
        graph.spin(0.1)
        assert graph.commands[-1][1] == [0.0]
        count = len(graph.commands)
        graph.spin(0.5)
        assert len(graph.commands) == count  # nothing undoes it
    assert graph.transition("cleanup")
    assert graph.transition("configure")
    graph.until(lambda: graph.transition("activate"), "activation")
    graph.until(lambda: len(graph.commands) > count + 10, "commands")
    assert graph.transition("shutdown")
    process = graph.processes["policy_node"]
    graph.until(lambda: process.poll() is not None, "the end of the process")
    assert process.returncode == 0
    assert graph.commands[-1][1] == [0.0]


def test_an_operators_deactivation_is_not_undone_by_autostart(graph: Graph) -> None:
    begin(graph)
    graph.running()
    assert graph.transition("deactivate")
    count = len(graph.commands)
    graph.spin(1.0)
    assert len(graph.commands) == count


def test_configuring_by_itself_does_not_activate(graph: Graph) -> None:
    begin(graph, autostart="configure")
    graph.until(lambda: "next: ros2 lifecycle set /policy_node activate" in graph.log(), "it")
    graph.spin(1.0)
    assert not graph.commands


@pytest.mark.parametrize("wait", [0.0, 0.9])
def test_term_while_starting_up_ends_with_0_and_no_stray_command(wait: float, graph: Graph) -> None:
    begin(graph)
    time.sleep(0.3 + wait)  # interpreter, imports, loading, measuring, waiting for the robot
    code, took = graph.end("policy_node", signal.SIGTERM)
    assert code in (0, -signal.SIGTERM)  # before its handler is there nothing can be commanded
    assert took < 3
    if graph.commands:
        assert graph.commands[-1][1] == [0.0]


def test_a_simulation_whose_clock_dies_is_stopped_and_a_paused_one_is_not(graph: Graph) -> None:
    now = [100.0]
    clock = graph.node.create_publisher(Clock, "/clock", 1)
    states = graph.node.create_publisher(JointState, "joint_states", 1)

    def advance() -> None:
        now[0] += 0.02
        clock.publish(Clock(clock=stamp_of(now[0])))
        state = JointState(name=["slider", "hinge"], position=array("d", [now[0] * 1e-6, 3.14]))
        state.velocity, state.header.stamp = array("d", [0.0, 0.0]), stamp_of(now[0])
        states.publish(state)

    timer = graph.node.create_timer(0.02, advance)
    graph.policy_node(use_sim_time=True)
    graph.until(lambda: len(graph.commands) > 20, "commands")
    timer.cancel()
    graph.spin(3.0)  # paused
    assert "]: stop" not in graph.log()
    timer.reset()
    count = len(graph.commands)
    graph.until(lambda: len(graph.commands) > count + 20, "commands")
    timer.cancel()
    graph.node.destroy_publisher(clock)
    graph.until(lambda: "]: stop: observation_stale (nobody publishes /clock" in graph.log(), "it")
    assert graph.end("policy_node")[0] == 0
