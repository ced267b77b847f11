"""A policy on the simulated robot: `ros2 launch dime_robot sim.launch.py policy:=policy.onnx`.

sim_node stands for the robot, policy_node activates itself; Ctrl-C ends both, and so does the end
of either: sim_node goes on until policy_node has led the robot to rest. sim_node needs the extra
`eval`. `python -m ros_nodes.loopback` needs no `ros2` and judges the run.
"""

from functools import partial
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

DEFAULTS = Path(get_package_share_directory("dime_robot")) / "config/policy_node.yaml"
text = partial(ParameterValue, value_type=str)  # else "1" would become a number


def arguments() -> list[DeclareLaunchArgument]:
    """What can be given on the command line."""
    argument = DeclareLaunchArgument
    return [
        argument("policy", description="the policy.onnx to run"),
        argument("config", default_value="cartpole", description="name in sim_configs/, or path"),
        argument(
            "robot",
            default_value="",
            description="YAML with a section `robot`; empty: that of config",
        ),
        argument(
            "params", default_value=str(DEFAULTS), description="parameter file of policy_node"
        ),
        argument("noise", default_value="fresh", choices=["fresh", "held", "zero"]),
        argument("seed", default_value="0", description="of the noise and the episode's start"),
        argument(
            "rate",
            default_value="0",
            description="rate of joint_states [Hz]; 0: the robot's own; else give a robot:=FILE"
            " that says the same",
        ),
        argument(
            "mode",
            default_value="realtime",
            choices=["realtime", "lockstep"],
            description="lockstep: no wall clock, each state waits for its command",
        ),
        argument("fault", default_value="", description="a fault sim_node injects, as delay:0.05"),
        argument(
            "on_timeout",
            default_value="damp",
            choices=["damp", "hold", "zero"],
            description="what the robot does by itself where commands stop coming",
        ),
        argument("namespace", default_value="", description="of all nodes"),
        argument(
            "monitor",
            default_value="false",
            choices=["true", "false"],
            description="run latency_monitor too",
        ),
        argument("folder", default_value="latency", description="where latency_monitor writes"),
    ]


def nodes(context: LaunchContext) -> list[Node]:
    """The processes."""
    given = context.launch_configurations
    config, lockstep = given["config"], given["mode"] == "lockstep"
    by_path = config.endswith((".yaml", ".yml"))
    common = {
        "package": "dime_robot",
        "namespace": given["namespace"],
        "output": "screen",
        "on_exit": Shutdown(),
        "sigterm_timeout": "15",  # more than sim_node waits for the robot to be at rest
    }
    found = [
        Node(
            executable="sim_node",
            parameters=[
                {
                    "config": text(config),
                    "seed": int(given["seed"]),
                    "mode": text(given["mode"]),
                    "state_rate": float(given["rate"]),
                    "fault": text(given["fault"]),
                    "on_timeout": text(given["on_timeout"]),
                }
            ],
            **common,
        ),
        Node(
            executable="policy_node",
            parameters=[
                given["params"],
                {
                    "policy": text(str(Path(given["policy"]).expanduser())),
                    "robot": text(given["robot"] or (config if by_path else "")),
                    "noise": text(given["noise"]),
                    "seed": int(given["seed"]),
                    "autostart": "activate",
                    "use_sim_time": lockstep,
                },
            ],
            **common,
        ),
    ]
    if given["monitor"] == "true":
        found.append(
            Node(
                executable="latency_monitor",
                parameters=[{"folder": text(given["folder"])}],
                **(common | {"on_exit": None}),
            )
        )
    return found


def generate_launch_description() -> LaunchDescription:
    """See the module's docstring."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=nodes)])
