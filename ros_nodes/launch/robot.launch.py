"""A policy on a robot with ros2_control.

    ros2 launch dime_robot robot.launch.py policy:=policy.onnx robot:=robot.yaml

The robot's own launch has to run, started before and not by this file:

- a controller_manager, with joint_state_broadcaster publishing at `state.rate` of the robot's YAML
  and, where the YAML has an `imu`, imu_sensor_broadcaster;
- the controller that takes `command.topic`: a forward_command_controller whose `joints` are the
  actuated ones in the YAML's order (kind `forward`), a joint_trajectory_controller (`trajectory`),
  or a drive controller (`twist`, its message as `command.type` says: TwistStamped since Jazzy),
  ACTIVE, with nobody else publishing on that topic;
- on the robot's side of that topic, MANDATORY, a time-out of at most `command.timeout`:
  forward_command_controller has none, so without one in the hardware component or the motor
  drivers the last command stays for ever once this process, its computer or the network is gone.

The node configures itself (loads, checks and measures) and then waits; with the robot held safely
somebody who watches it says `ros2 lifecycle set /policy_node activate`. `ros2 service call
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

DEFAULTS = Path(get_package_share_directory("dime_robot")) / "config/policy_node.yaml"
text = partial(ParameterValue, value_type=str)  # else "1" would become a number
TOPICS = {"joint_states": "state", "imu": "imu", "commands": "command"}  # argument: YAML section
OF_PARAMS = "empty: as in params"


def arguments() -> list[DeclareLaunchArgument]:
    """What can be given on the command line."""
    argument = DeclareLaunchArgument
    return [
        argument("policy", description="the policy.onnx to run"),
        argument("robot", description="YAML with the section `robot` of this machine"),
        argument(
            "params", default_value=str(DEFAULTS), description="parameter file of policy_node"
        ),
        argument("namespace", default_value="", description="of the node and its topics"),
        argument("autostart", default_value="configure", choices=["none", "configure", "activate"]),
        argument("noise", default_value="", description=f"fresh, held or zero; {OF_PARAMS}"),
        argument("realtime", default_value="", description=f"true or false; {OF_PARAMS}"),
        *(
            argument(name, default_value="", description=f"topic; empty: {section}.topic of robot")
            for name, section in TOPICS.items()
        ),
    ]


def remappings(robot: Path, given: dict[str, str]) -> list[tuple[str, str]]:
    """From the topics that the robot's YAML names to those that were asked for.

    `joint_states` and `imu` have defaults there, which are their names.
    """
    sections: Any = read_config(robot).get("robot") or {}
    return [
        ((sections.get(section) or {}).get("topic", name), given[name])
        for name, section in TOPICS.items()
        if given[name]
    ]


def nodes(context: LaunchContext) -> list[Node]:
    """The one process."""
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
            respawn=False,  # a policy that ended must not come back to command by itself
            sigterm_timeout="10",  # leading the robot to rest takes seconds
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """See the module's docstring."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=nodes)])
