"""unitree_driver takes the motors for an operator who does not wait."""

from __future__ import annotations

import os
from pathlib import Path

from tests.paths import ROOT, SHIPPED_GO2
from tests.ros_nodes.graph import Graph, domain


def test_a_release_that_is_asked_for_at_the_start_waits_for_the_robots_services(
    graph: Graph, unitree_messages: Path
) -> None:
    graph.environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{unitree_messages}"
    with domain() as robot:
        robot_wire = {"interface": "lo", "robot_domain": robot, "realtime": True}
        robots = ["-m", "ros_nodes.unitree.sim"]
        graph.start("sim", program=robots, interface="lo", robot_domain=robot)
        graph.until(lambda: "a Go2 on domain" in graph.log("sim"), "the robot")
        ours = ["-m", "ros_nodes.unitree.driver"]
        unheard = ("-r", "joint_states:=unheard")  # the watcher asks for reliable ones
        graph.start("driver", *unheard, program=ours, policy=SHIPPED_GO2, **robot_wire)
        response = graph.trigger("unitree_driver/release_mode")
        assert response.success, response.message
        for side in ("the robot's domain", "the ROS domain"):  # readings pass through both
            assert f"real-time on {side}: gc" in graph.log("driver")
        graph.end("driver")
        graph.end("sim")
