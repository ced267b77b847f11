"""What policy_node adds to a bare ROS 2 echo: JointState in, command out, over DDS.

    python -m benchmarks.ros_loop [--rates 50 200 500 1000] [--json]
    python -m benchmarks.ros_loop --soak 600 --rates 200

Per rate and profile, short segments of echo and policy_node alternate; round trips are measured in
this process, the policy's own median inference time is subtracted, and the results are ratios to
the echo. `--soak` runs both at once for that many seconds and monitors memory and losses.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from benchmarks.made_policy import NAMES, made_policy, robot_file, spec_of
from dime_robot.training.provenance import provenance
from ros_nodes.conversions import COMMAND_QOS, stamp_of
from ros_nodes.loopback import private_domain
from ros_nodes.process import make_executor

ROOT = Path(__file__).parents[1]
SEGMENT, SEGMENTS = 2.0, 4  # [s], per node
NUMBERS = 1000  # states are numbered cyclically, by a joint that moves up and down
SIZES = {"small": (64, 2, 8), "official": (256, 3, 16)}  # width, depth, diffusion steps


class Driver(Node):
    """A robot that sends states at absolute deadlines and times the commands."""

    def __init__(self) -> None:
        super().__init__("driver")
        self.sent: dict[str, int] = {}
        self.trips: dict[str, list[float]] = {}  # round trips [s]
        self.inference = 0.0  # median by policy_node's own report [s]
        self._waiting: dict[str, dict[int, float]] = {}  # number -> when it was sent
        self._states = {}
        self._state = JointState(name=list(NAMES))
        self._state.velocity = array("d", [0.1] * len(NAMES))
        for name, prefix in (("policy", ""), ("echo", "echo/")):
            self.clear(name)
            self._states[name] = self.create_publisher(JointState, prefix + "joint_states", 1)
            self.create_subscription(
                Float64MultiArray,
                prefix + "commands",
                lambda message, name=name: self._on_answer(name, message),
                COMMAND_QOS,
            )
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, 10)
        self.change = self.create_client(ChangeState, "policy_node/change_state")
        self.executor_ = make_executor()
        self.executor_.add_node(self)

    def clear(self, name: str) -> None:
        self.sent[name] = 0
        self.trips[name], self._waiting[name] = [], {}

    def _on_answer(self, name: str, message: Float64MultiArray) -> None:
        now = time.monotonic()
        up = round((message.data[-1] + 0.5) * NUMBERS / 2)
        waiting = self._waiting[name]
        found = [n for n in (up, NUMBERS - up) if n in waiting]
        if found:  # the same position when moving up and down: the one that was sent last
            self.trips[name].append(now - waiting.pop(max(found, key=lambda n: waiting[n])))

    def _on_report(self, message: DiagnosticArray) -> None:
        for entry in message.status:
            for pair in entry.values:
                if pair.key == "inference p50 [ms]":
                    self.inference = 1e-3 * float(pair.value)

    def send(self, name: str) -> None:
        number = self.sent[name] % NUMBERS
        place = min(number, NUMBERS - number) * 2 / NUMBERS - 0.5  # [rad], without jumps
        self._state.position = array("d", [0.1] * (len(NAMES) - 1) + [place])
        self._state.header.stamp = stamp_of(time.time())
        self._waiting[name][number] = time.monotonic()
        self._states[name].publish(self._state)
        self.sent[name] += 1

    def pace(self, names: list[str], rate: float, seconds: float) -> None:
        """Send states to these nodes, evenly spread over each period."""
        count, began = 0, time.monotonic()
        step = 1 / (rate * len(names))
        while (due := began + count * step) < began + seconds:
            while (left := due - time.monotonic()) > 0:
                self.executor_.spin_once(timeout_sec=left)
            self.send(names[count % len(names)])
            count += 1
        self.listen(5 / rate)

    def listen(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.executor_.spin_once(timeout_sec=left)

    def transition(self, number: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=number))
        until = time.monotonic() + 20
        while not self.change.service_is_ready() and time.monotonic() < until:
            self.executor_.spin_once(timeout_sec=0.05)  # an earlier call would be lost
        future = self.change.call_async(request)
        while not future.done() and time.monotonic() < until:
            self.executor_.spin_once(timeout_sec=0.05)
        return bool(future.done() and future.result().success)

    def activate(self, rate: float) -> None:
        for _ in range(50):
            self.pace(["policy"], rate, max(0.2, 25 / rate))
            if self.transition(Transition.TRANSITION_ACTIVATE):
                self.clear("policy")
                return
        raise SystemExit("error: policy_node does not activate: see its message above")


class Nodes:
    """policy_node and the echo as processes."""

    def __init__(self, folder: Path, rate: float, size: str, realtime: bool) -> None:
        path = made_policy(folder / f"{size}_{rate:g}.onnx", spec_of(rate), *SIZES[size])
        robot = robot_file(folder / f"robot_{rate:g}.yaml", rate)
        flag = str(realtime).lower()
        policy = {"policy": path, "robot": robot, "budget": 10.0, "recordings": folder}
        policy["discovery_time"] = 0.5  # in a separate domain there are no other nodes
        self.processes = {
            "policy": self._start(["-m", "ros_nodes.policy_node"], {**policy, "realtime": flag}),
            "echo": self._start(["-m", "benchmarks.ros_echo"], {"realtime": flag}),
        }

    def _start(self, words: list[str], parameters: dict[str, object]) -> subprocess.Popen[bytes]:
        given = [part for k, v in parameters.items() for part in ("-p", f"{k}:={v}")]
        command = [sys.executable, *words, "--ros-args", "--log-level", "warn", *given]
        return subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr)

    def memory(self, name: str) -> int:
        """Return the resident memory of a node [bytes]."""
        text = Path(f"/proc/{self.processes[name].pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(20)


def compare(driver: Driver, folder: Path, rate: float, size: str, realtime: bool) -> dict[str, Any]:
    """Run alternating segments of echo and policy_node."""
    nodes = Nodes(folder, rate, size, realtime)
    try:
        driver.listen(2.0)
        driver.clear("echo")
        trips: dict[str, list[float]] = {"policy": [], "echo": []}
        inferences, sent = [], 0
        for _ in range(SEGMENTS):
            for name in ("echo", "policy"):
                if name == "policy":
                    driver.activate(rate)
                driver.clear(name)
                driver.pace([name], rate, SEGMENT)
                trips[name] += driver.trips[name]
                if name == "policy":
                    sent += driver.sent[name]
                    driver.listen(1.1)  # its report of this segment
                    inferences.append(driver.inference)
                    driver.transition(Transition.TRANSITION_DEACTIVATE)
    finally:
        nodes.end()
    inference = float(np.median(inferences))
    echo, policy = np.array(trips["echo"]), np.array(trips["policy"]) - inference
    result: dict[str, Any] = {"rate": rate, "size": size, "realtime": realtime}
    result["inference_us"] = 1e6 * inference
    for name, values in (("echo", echo), ("policy", policy)):
        p50, p99 = np.percentile(values, (50, 99)) * 1e6
        result |= {
            f"{name}_p50_us": p50,
            f"{name}_p99_us": p99,
            f"{name}_max_us": 1e6 * max(values),
        }
    result["ratio_p50"] = result["policy_p50_us"] / result["echo_p50_us"]
    result["ratio_p99"] = result["policy_p99_us"] / result["echo_p99_us"]
    result["deadlines_met"] = float((policy + inference <= 1 / rate).sum() / sent)
    return result


def soak(driver: Driver, folder: Path, rate: float, seconds: float) -> dict[str, Any]:
    """Run both nodes at once, for a long time."""
    nodes = Nodes(folder, rate, "small", False)
    memory = []
    try:
        driver.listen(2.0)
        driver.activate(rate)
        driver.clear("echo")
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            driver.pace(["echo", "policy"], rate, min(5.0, seconds - elapsed))
            memory.append((elapsed, nodes.memory("policy"), nodes.memory("echo")))
    finally:
        nodes.end()
    rows = np.array(memory)
    settled = rows[rows[:, 0] >= min(60.0, seconds / 2)]
    share = {n: 1 - len(driver.trips[n]) / driver.sent[n] for n in ("policy", "echo")}
    return {
        "rate": rate,
        "seconds": seconds,
        "sent": driver.sent["policy"],
        "lost_share": share["policy"],
        "echo_lost_share": share["echo"],
        "memory_mib": float(settled[0, 1] / 2**20),
        "memory_growth_kib": float((settled[-1, 1] - settled[0, 1]) / 2**10),
        "echo_memory_growth_kib": float((settled[-1, 2] - settled[0, 2]) / 2**10),
        "p99_us": float(np.percentile(driver.trips["policy"], 99) * 1e6),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[50, 200, 500, 1000])
    parser.add_argument("--soak", type=float, help="seconds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    private_domain()
    rclpy.init(args=[])
    driver = Driver()
    results = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["ROS_LOG_DIR"] = name
        folder = Path(name)
        if options.soak:
            results = [soak(driver, folder, rate, options.soak) for rate in options.rates]
        else:
            for rate in options.rates:
                for realtime in (False, True):
                    results.append(compare(driver, folder, rate, "small", realtime))
                    show(results[-1], options.json)
            results.append(compare(driver, folder, max(options.rates), "official", True))
            show(results[-1], options.json)
    driver.destroy_node()
    rclpy.shutdown()
    if options.soak and not options.json:
        print(json.dumps(results, indent=1))
    if options.json:
        print(json.dumps({"provenance": provenance(), "results": results}, indent=1))
    return 0


def show(row: dict[str, Any], quiet: bool) -> None:
    if quiet:
        return
    print(
        f"{row['rate']:5g} Hz  {row['size']:8s} {'realtime' if row['realtime'] else 'default':8s}"
        f"  echo p50 {row['echo_p50_us']:5.0f} p99 {row['echo_p99_us']:6.0f} us"
        f"   policy_node {row['policy_p50_us']:5.0f} {row['policy_p99_us']:6.0f}"
        f" (+ inference {row['inference_us']:4.0f})   ratio {row['ratio_p50']:.2f}"
        f" {row['ratio_p99']:.2f}   deadlines met {row['deadlines_met']:.2%}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
