"""A policy on a Unitree Go2 on its own wire: unitree_driver and policy_node.

    ros2 launch dime_robot go2.launch.py interface:=eth0 policy:=policy.onnx robot:=go2_unitree.yaml

Before it, build unitree_ros2's messages and source their workspace, and export a ROS_DOMAIN_ID that
is not the robot's. Nothing is sent to the motors before ~/release_mode of unitree_driver is called;
then activate policy_node. docs/go2.md has the whole order, with the robot hanging.

Ctrl-C lets the robot sit down: both processes are given the time for it.
"""

import os
from functools import partial
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from dime_robot.runtime.contract.phases import sit_down_time

DEFAULTS = Path(get_package_share_directory("dime_robot")) / "config/policy_node.yaml"
text = partial(ParameterValue, value_type=str)  # else "1" would become a number
REST_TIME = 10.0  # [s] beyond the time to sit down

# name, default (None: it must be given), description
ARGUMENTS = [
    ("interface", None, "network interface to the robot"),
    ("policy", None, "the policy.onnx to run"),
    ("robot", None, "YAML with the section `robot` of this Go2"),
    ("robot_domain", "0", "DDS domain of the robot"),
    ("mode_service", "motion_switcher", "motion_switcher, or none: see unitree_driver"),
    ("state_crc", "check", "check or ignore the checksum of LowState"),
    ("dry_run", "false", "true: read only, and print a table to compare by hand"),
    ("realtime", "false", "true: real-time profile of both nodes"),
]


def nodes(context: LaunchContext) -> list[Node]:
    """Return the processes to start."""
    given = context.launch_configurations
    robot = Path(given["robot"]).expanduser()
    if int(os.environ.get("ROS_DOMAIN_ID") or 0) == int(given["robot_domain"]):
        raise RuntimeError(
            f"expected a ROS_DOMAIN_ID other than the robot's domain, {given['robot_domain']}:"
            " export ROS_DOMAIN_ID=1; another ROS node on that domain can crash the robot"
        )
    both = {
        "policy": text(str(Path(given["policy"]).expanduser())),
        "robot": text(str(robot)),
        "dry_run": given["dry_run"].lower() == "true",
        "realtime": given["realtime"].lower() == "true",
    }
    names = ("interface", "mode_service", "state_crc")
    driver = {
        **both,
        **{name: text(given[name]) for name in names},
        "robot_domain": int(given["robot_domain"]),
    }
    common = {
        "package": "dime_robot",
        "output": "screen",
        "respawn": False,  # what ended must not command again by itself
        "sigterm_timeout": f"{REST_TIME + sit_down_time(robot):g}",
    }
    return [
        Node(
            executable="unitree_driver",
            name="unitree_driver",
            parameters=[driver],
            emulate_tty=True,
            **common,
        ),
        Node(
            executable="policy_node",
            name="policy_node",
            parameters=[DEFAULTS, {**both, "autostart": "configure"}],
            **common,
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    """See the module's docstring."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=what)
                for name, default, what in ARGUMENTS
            ),
            OpaqueFunction(function=nodes),
        ]
    )
