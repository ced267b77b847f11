"""A policy on the simulated robot: `ros2 launch dime_robot sim.launch.py policy:=policy.onnx`.

sim_node simulates the robot, policy_node activates itself. Ctrl-C ends both, and so does the end
of either; sim_node keeps running until policy_node has brought the robot to rest. sim_node needs
the extra `eval`.
`python -m ros_nodes.loopback` needs no `ros2` command and checks the result of the run.
"""

from functools import partial
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from dime_robot.runtime.contract.config_files import shipped_config
from dime_robot.runtime.contract.phases import sit_down_time

DEFAULTS = Path(get_package_share_directory("dime_robot")) / "config/policy_node.yaml"
text = partial(ParameterValue, value_type=str)  # else "1" would become a number


# name, default (None: it must be given), description, choices
ARGUMENTS: list[tuple[str, str | None, str, list[str] | None]] = [
    ("policy", None, "the policy.onnx to run", None),
    ("config", "cartpole", "name in sim_configs/, or path", None),
    ("robot", "", "YAML with a section `robot`; empty: that of config", None),
    ("params", str(DEFAULTS), "parameter file of policy_node", None),
    ("noise", "fresh", "noise mode of the policy", ["fresh", "held", "zero"]),
    ("seed", "0", "seed of the noise and of the episode's start", None),
    (
        "rate",
        "0",
        "rate of joint_states [Hz], robot:=FILE has to state the same; 0: the robot's own",
        None,
    ),
    (
        "mode",
        "realtime",
        "lockstep: no wall clock, each state waits for its command",
        ["realtime", "lockstep"],
    ),
    ("fault", "", "a fault that sim_node injects, as delay:0.05", None),
    ("on_timeout", "damp", "the robot's response when commands stop", ["damp", "hold", "zero"]),
    ("namespace", "", "of all nodes", None),
    ("monitor", "false", "run latency_monitor too", ["true", "false"]),
    ("folder", "latency", "where latency_monitor writes", None),
]


def arguments() -> list[DeclareLaunchArgument]:
    """Return the arguments of the launch file."""
    return [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
        for name, default, text, choices in ARGUMENTS
    ]


def nodes(context: LaunchContext) -> list[Node]:
    """Return the processes to start."""
    given = context.launch_configurations
    config, lockstep = given["config"], given["mode"] == "lockstep"
    by_path = config.endswith((".yaml", ".yml"))
    simulated = Path(config).expanduser() if by_path else shipped_config(config)
    common = {
        "package": "dime_robot",
        "namespace": given["namespace"],
        "output": "screen",
        "on_exit": Shutdown(),
        # longer than sim_node keeps running for policy_node
        "sigterm_timeout": f"{15 + sit_down_time(simulated):g}",
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
