"""Transitions in every order, the operator at any time, parameters that may not change."""

from __future__ import annotations

import signal
import time

import pytest

from tests.ros_nodes.graph import Graph

pytestmark = pytest.mark.slow


def begin(graph: Graph, **parameters: object) -> None:
    graph.start("sim_node")
    graph.policy_node(**parameters)


def test_deactivating_ends_with_the_safe_command_and_activating_goes_on(graph: Graph) -> None:
    begin(graph)
    graph.running()
    assert graph.transition("deactivate")
    graph.spin(0.2)
    assert graph.commands[-1][1] == [0.0]
    count = len(graph.commands)
    graph.spin(0.2)
    assert len(graph.commands) == count
    assert graph.transition("activate")
    graph.until(lambda: len(graph.commands) > count + 10, "commands")


def test_a_whole_life_twice(graph: Graph) -> None:
    begin(graph, autostart="none")
    for _ in range(2):
        assert graph.transition("configure")
        graph.spin(0.6)
        assert graph.transition("activate")
        graph.spin(0.3)
        assert graph.transition("deactivate")
        assert graph.commands[-1][1] == [0.0]
        assert graph.transition("cleanup")
    assert graph.end("policy_node")[0] == 0


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


def test_shutdown_ends_the_process_with_the_safe_command(graph: Graph) -> None:
    begin(graph)
    graph.running()
    assert graph.transition("shutdown")
    process = graph.processes["policy_node"]
    graph.until(lambda: process.poll() is not None, "the end of the process")
    assert process.returncode == 0
    assert graph.commands[-1][1] == [0.0]


def test_the_emergency_stop_works_before_there_is_a_policy(graph: Graph) -> None:
    begin(graph, autostart="none")
    assert graph.trigger("policy_node/estop").success
    assert not graph.trigger("policy_node/dump").success
    assert graph.transition("configure")
    graph.spin(0.6)
    assert not graph.transition("activate")
    assert "emergency stop is set" in graph.log()
    assert graph.trigger("policy_node/reset_estop").success
    assert graph.transition("activate")


def test_a_parameter_that_would_not_be_read_is_refused(graph: Graph) -> None:
    begin(graph)
    graph.running()
    result = graph.set_parameter("policy_node", "dry_run", True)
    assert not result.successful
    assert "clean up first" in result.reason


@pytest.mark.parametrize("wait", [0.0, 0.3, 0.6, 0.9])
def test_term_while_starting_up_ends_with_0_and_no_stray_command(wait: float, graph: Graph) -> None:
    begin(graph)
    time.sleep(0.3 + wait)  # interpreter, imports, loading, measuring, waiting for the robot
    code, took = graph.end("policy_node", signal.SIGTERM)
    assert code in (0, -signal.SIGTERM)  # before its handler is there nothing can be commanded
    assert took < 3
    if graph.commands:
        assert graph.commands[-1][1] == [0.0]


def test_a_simulation_whose_clock_dies_is_stopped(graph: Graph) -> None:
    graph.start("sim_node", mode="lockstep")
    graph.policy_node(use_sim_time=True)
    graph.until(lambda: len(graph.commands) > 20, "commands")
    graph.end("sim_node", signal.SIGKILL)
    graph.until(lambda: "]: stop: observation_stale" in graph.log(), "a stop")
    assert graph.end("policy_node")[0] == 0
