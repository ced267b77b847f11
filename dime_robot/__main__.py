"""`python -m dime_robot` lists the commands; `python -m dime_robot train ...` runs one."""

from __future__ import annotations

import runpy
import sys
from difflib import get_close_matches

COMMANDS = {
    "train": ("dime_robot.train", "train a policy in simulation"),
    "sweep": ("dime_robot.sweep", "many runs: tasks and seeds"),
    "evaluate": ("dime_robot.evaluate", "returns, videos and the robustness suite of a policy"),
    "suite": ("dime_robot.suite", "the robustness suite: a part of evaluate, --suite"),
    "report": ("dime_robot.report", "the report of a run, or figures of results"),
    "config": ("dime_robot.config", "draft, check or compare configurations of robots"),
    "export": ("export.onnx", "write policy.onnx for a robot"),
    "tensorrt": ("export.tensorrt", "build the TensorRT engine of policy.onnx ahead of time"),
    "certify": ("dime_robot.runtime.certify", "check and measure policy.onnx on this machine"),
    "replay": ("dime_robot.runtime.replay", "run a policy on a recording (.npz, MCAP, rosbag2)"),
    "recording": ("dime_robot.runtime.recording", "convert a flight recording to MCAP, or back"),
    "shadow_page": ("dime_robot.shadow_page", "a policy beside another controller as a page"),
    "loopback": ("ros_nodes.loopback", "run a policy over ROS 2 against the simulated robot"),
    "latency_page": ("ros_nodes.latency_page", "the latencies of a recorded run as a page"),
}


def overview() -> str:
    """Return the list of commands, one line each."""
    lines = ["usage: python -m dime_robot COMMAND ..., or --help after a command", ""]
    lines += [
        f"  {name:14s}{what} (python -m {module})" for name, (module, what) in COMMANDS.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """See the module's docstring."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(overview())
        return
    if name not in COMMANDS:
        meant = "".join(f"; perhaps {near}" for near in get_close_matches(name, COMMANDS, n=1))
        print(
            f"error: {name}: expected a command, one of {', '.join(COMMANDS)}{meant}",
            file=sys.stderr,
        )
        sys.exit(2)
    del sys.argv[1]
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
