"""A policy on a robot with ros2_control.

    ros2 launch dime_robot robot.launch.py policy:=policy.onnx robot:=robot.yaml

Start the robot's own launch files before this one. They have to provide:

- a controller_manager, with joint_state_broadcaster publishing at `state.rate` of the robot's YAML
  and, where the YAML has an `imu`, imu_sensor_broadcaster;
- the controller that takes `command.topic`: a forward_command_controller whose `joints` are the
  actuated ones in the YAML's order (kind `forward`), a joint_trajectory_controller (`trajectory`),
  or a drive controller (`twist`, with the message of `command.type`: TwistStamped since Jazzy),
  ACTIVE, with no other publisher on that topic;
- on the robot's side of that topic, MANDATORY, a time-out of at most `command.timeout`:
  forward_command_controller has none, so without one in the hardware component or the motor
  drivers the last command stays for ever once this process, its computer or the network has failed.

The node configures itself (loads, checks and measures) and then waits. With the robot held safely
and watched, activate it by `ros2 lifecycle set /policy_node activate`. `ros2 service call
/policy_node/estop std_srvs/srv/Trigger` stops, but is no substitute for a switch that cuts power.
"""

from functools import partial
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from dime_robot.runtime.contract.config_files import read_config
from dime_robot.runtime.contract.phases import sit_down_time

DEFAULTS = Path(get_package_share_directory("dime_robot")) / "config/policy_node.yaml"
text = partial(ParameterValue, value_type=str)  # else "1" would become a number
TOPICS = {"joint_states": "state", "imu": "imu", "commands": "command"}  # argument: YAML section


# name, default (None: it must be given), description, choices
ARGUMENTS: list[tuple[str, str | None, str, list[str] | None]] = [
    ("policy", None, "the policy.onnx to run", None),
    ("robot", None, "YAML with the section `robot` of this machine", None),
    ("params", str(DEFAULTS), "parameter file of policy_node", None),
    ("namespace", "", "of the node and its topics", None),
    ("autostart", "configure", "lifecycle at start", ["none", "configure", "activate"]),
    ("noise", "", "fresh, held or zero; empty: as in params", None),
    ("realtime", "", "true or false; empty: as in params", None),
    *(
        (name, "", f"topic; empty: {section}.topic of robot", None)
        for name, section in TOPICS.items()
    ),
]


def arguments() -> list[DeclareLaunchArgument]:
    """Return the arguments of the launch file."""
    return [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
        for name, default, text, choices in ARGUMENTS
    ]


def remappings(robot: Path, given: dict[str, str]) -> list[tuple[str, str]]:
    """Remap the topics of the robot's YAML to those that are given.

    If the YAML has no topic for joint_states or imu, the default is that name.
    """
    sections: Any = read_config(robot).get("robot") or {}
    return [
        ((sections.get(section) or {}).get("topic", name), given[name])
        for name, section in TOPICS.items()
        if given[name]
    ]


def nodes(context: LaunchContext) -> list[Node]:
    """Return the process to start."""
    given = context.launch_configurations
    robot = Path(given["robot"]).expanduser()
    parameters: dict[str, ParameterValue | bool] = {
        "policy": text(str(Path(given["policy"]).expanduser())),
        "robot": text(str(robot)),
        "autostart": text(given["autostart"]),
    }
    if given["noise"]:
        parameters["noise"] = text(given["noise"])
    if given["realtime"]:
        parameters["realtime"] = given["realtime"].lower() == "true"
    return [
        Node(
            package="dime_robot",
            executable="policy_node",
            name="policy_node",
            namespace=given["namespace"],
            parameters=[given["params"], parameters],
            remappings=remappings(robot, given),
            output="screen",
            respawn=False,  # a policy that ended must not command again by itself
            # sitting down and coming to rest take seconds
            sigterm_timeout=f"{10 + sit_down_time(robot):g}",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """See the module's docstring."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=nodes)])
