"""A Go2 on its own wire, stood up, walked and sat down: `python -m benchmarks.unitree_wire`.

Starts unitree_sim, unitree_driver and policy_node on loopback, in two DDS domains, takes the
motors, stands up, walks at 0.5 m/s for 30 s, turns, sits down, and ends the driver. Shown is what
the simulated robot has received: LowCmd a second, the largest gap, what was wrong with any, and how
it walked; and the share of a core of each process. Needs Unitree's messages on PYTHONPATH, see
docs/go2.md. Exit code 1 if a LowCmd was wrong or the robot fell.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from geometry_msgs.msg import Twist
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from dime_robot.results.tables import text_table
from dime_robot.runtime.io import option_types
from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from ros_nodes.conversions import PHASE_QOS

POLICY = Path("results/go2/policy.onnx")
TICKS = os.sysconf("SC_CLK_TCK")
START_TIME = 25.0  # [s] for nodes to start and to find each other
FALLEN = 0.2  # [m] of the base while it walks
COMMAND_PERIOD = 0.05  # [s]


class Operator:
    """What a person does, over ROS."""

    def __init__(self, node: Node) -> None:
        self._node, self.phase = node, ""
        node.create_subscription(String, "/policy_node/phase", self._on_phase, PHASE_QOS)
        self._velocity = node.create_publisher(Twist, "/cmd_vel", 1)

    def _on_phase(self, message: String) -> None:
        self.phase = message.data

    def call(self, kind: type, name: str, request: Any, timeout: float = START_TIME) -> Any:
        """Call a service and return the response."""
        client: Any = self._node.create_client(kind, name)
        if not client.wait_for_service(timeout):
            raise InputError(f"{name}: expected this service within {timeout:g} s, got none")
        future = client.call_async(request)
        rclpy.spin_until_future_complete(self._node, future, timeout_sec=timeout)
        self._node.destroy_client(client)
        if not future.done():
            raise InputError(f"{name}: expected a response within {timeout:g} s, got none")
        return future.result()

    def trigger(self, name: str) -> None:
        response = self.call(Trigger, name, Trigger.Request())
        if not response.success:
            raise InputError(f"{name}: {response.message}")

    def change(self, transition: int, within: float) -> None:
        """Request a transition of policy_node until it succeeds."""
        until = time.monotonic() + within
        request = ChangeState.Request(transition=Transition(id=transition))
        while not self.call(ChangeState, "/policy_node/change_state", request).success:
            if time.monotonic() > until:
                raise InputError(f"policy_node refused transition {transition}: see its output")
            self.wait(0.5)

    def wait(
        self, seconds: float, velocity: tuple[float, float] = (0.0, 0.0),
        until: Callable[[], bool] = lambda: False,
    ) -> bool:  # fmt: skip
        """Command a velocity [m/s, rad/s]; return whether the condition came true in time."""
        end = time.monotonic() + seconds
        message = Twist()
        message.linear.x, message.angular.z = velocity
        while time.monotonic() < end:
            self._velocity.publish(message)
            rclpy.spin_once(self._node, timeout_sec=COMMAND_PERIOD)
            if until():
                return True
        return False


def cpu_time(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU time of a process and its children so far [s]."""
    total = 0.0
    pids = [process.pid]
    for pid in pids:
        try:
            pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = Parser("python -m benchmarks.unitree_wire", "Walk a Go2 on its own wire.")
    add = parser.add_argument
    text = "how long to walk [s]"
    add("--seconds", type=option_types.float_in(1.0, 3600.0), default=30.0, help=text)
    text = "domain of the robot; the ROS domain is the next one"
    add("--domain", type=option_types.int_in(0, 230), default=86, help=text)
    options = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="unitree_wire_"))
    ros = {**os.environ, "ROS_DOMAIN_ID": str(options.domain + 1)}
    robot_wire = ["-p", "interface:=lo", "-p", f"robot_domain:={options.domain}"]
    policy = ["-p", f"policy:={POLICY}"]
    commands = {
        "unitree_sim": ["ros_nodes.unitree.sim", "--ros-args", *robot_wire],
        "unitree_driver": ["ros_nodes.unitree.driver", "--ros-args", *robot_wire, *policy],
        "policy_node": ["ros_nodes.policy_node", "--ros-args", *policy],
    }
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, words in commands.items():
            with (folder / f"{name}.log").open("wb") as log:
                processes[name] = subprocess.Popen(
                    [sys.executable, "-m", *words],
                    env=ros,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
        os.environ["ROS_DOMAIN_ID"] = ros["ROS_DOMAIN_ID"]
        rclpy.init()
        node = Node("operator")
        shares, began = walk(Operator(node), processes, options.seconds)
        processes["policy_node"].terminate()
        processes["policy_node"].wait(30)
        processes["unitree_driver"].terminate()
        ended = processes["unitree_driver"].wait(30)
        processes["unitree_sim"].terminate()
        processes["unitree_sim"].wait(30)
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
        rclpy.try_shutdown()
        print(f"logs in {folder}", flush=True)
    return report(folder / "unitree_sim.log", began, options.seconds, shares, ended)


def walk(
    operator: Operator, processes: dict[str, subprocess.Popen[bytes]], seconds: float
) -> tuple[dict[str, float], float]:
    """Stand up, walk, turn, sit down; return shares of a core, and when walking began."""
    operator.trigger("/unitree_driver/release_mode")
    operator.wait(2.0)
    operator.change(Transition.TRANSITION_ACTIVATE, 15.0)
    if not operator.wait(20.0, until=lambda: operator.phase.startswith("policy")):
        raise InputError(f"expected the policy to act within 20 s, phase is {operator.phase!r}")
    operator.wait(2.0)
    before = {name: cpu_time(process) for name, process in processes.items()}
    began, start = time.time(), time.monotonic()
    operator.wait(seconds, (0.5, 0.0))
    took = time.monotonic() - start
    shares = {
        name: (cpu_time(process) - before[name]) / took for name, process in processes.items()
    }
    operator.wait(5.0, (0.0, 0.5))
    operator.wait(1.0)
    operator.trigger("/policy_node/sit_down")
    operator.wait(15.0, until=lambda: operator.phase.startswith("passive"))
    operator.change(Transition.TRANSITION_DEACTIVATE, 5.0)
    operator.wait(1.0)
    return shares, began


def report(log: Path, began: float, seconds: float, shares: dict[str, float], ended: int) -> int:
    """Print what the simulated robot has received; return the exit code."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    last = lines[-1]
    # the first and the last second of walking are left out
    offset = log.stat().st_mtime - last["time"]
    walked = [line for line in lines if began + 2 <= line["time"] + offset <= began + seconds - 1]
    rates = [line["rate"] for line in walked]
    speeds = [line["forward_speed"] for line in walked]
    heights = [line["height"] for line in walked]
    wrong = {kind: count for kind, count in last["errors"].items() if count}
    rows = [
        ["LowCmd received", f"{last['commands']:,}"],
        ["wrong in any way (checksum, mode, padding, gains, ...)", str(wrong or 0)],
        ["LowCmd a second while walking", f"{min(rates):.0f} to {max(rates):.0f}"],
        ["largest gap, walking [ms]", f"{max(line['gap_ms'] for line in walked):.1f}"],
        ["largest gap, from first to last [ms]", f"{last['largest_gap_ms']:.1f}"],
        ["forward speed at 0.5 m/s", f"{sum(speeds) / len(speeds):.3f}"],
        ["height of the base, walking [m]", f"{min(heights):.2f} to {max(heights):.2f}"],
        ["height at the end [m]", f"{last['height']:.2f}"],
        *([f"{name}, share of a core", f"{share:.0%}"] for name, share in shares.items()),
        ["exit code of the driver", str(ended)],
    ]
    print(text_table(["", "seen"], rows))
    return int(bool(wrong) or min(heights) < FALLEN or ended != 0)


if __name__ == "__main__":
    run_command(main)
