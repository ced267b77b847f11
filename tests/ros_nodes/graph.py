"""A real ROS graph for a test: its own domain, real processes, and a node that records them."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger

from tests.paths import ROOT, SHIPPED_CARTPOLE, shipped_content
from tests.ros_nodes.node_process import NodeProcess

POLICY = SHIPPED_CARTPOLE
MISBEHAVING = str(Path(__file__).with_name("misbehaving_node.py"))
COMMANDS = "effort_controller/commands"
TIMEOUT = 20.0  # [s] for anything that must happen at all
DOMAINS = range(2, 60)  # the loopback, also started by tests, picks one from 60 on


@contextmanager
def domain() -> Iterator[int]:
    """A ROS domain that no other test on this machine uses at the same time."""
    folder = Path(tempfile.gettempdir()) / "dime_robot_domains"
    folder.mkdir(exist_ok=True)
    numbers = list(DOMAINS)
    random.shuffle(numbers)  # what a killed process leaves in shared memory is per domain
    for number in numbers:
        with (folder / str(number)).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield number
            return
    raise RuntimeError("all ROS domains are in use")


def published(info: dict[str, Any]) -> float:
    """When a message was published, on this machine's steady clock [s]."""
    return info["source_timestamp"] / 1e9 - time.time() + time.monotonic()


class Graph:
    """Processes in one domain and a node `watcher` that receives what a robot would receive.

    `commands`: (steady time of publishing, values) of every command, `states`: the same of every
    state: when the node acted, however late this watcher was scheduled. `reports`: (steady time of
    reading, name, level, message, values) of /diagnostics.
    """

    def __init__(self, number: int, folder: Path, listen: bool = True) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "ROS_DOMAIN_ID": str(number),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(folder / "log"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        self.commands: list[tuple[float, list[float]]] = []
        self.states: list[tuple[float, JointState]] = []
        self.reports: list[tuple[float, str, bytes, str, dict[str, str]]] = []
        self.episodes: list[str] = []
        self.latencies: list[list[float]] = []  # LatencySample, one per step
        self.processes: dict[str, subprocess.Popen[str] | NodeProcess] = {}
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self.context = Context()
        rclpy.init(context=self.context, domain_id=number)
        self.node = Node("watcher", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        if listen:
            self.listen()
        self.node.create_subscription(
            JointState,
            "joint_states",
            lambda m, info: self.states.append((published(info), m)),
            1000,
        )
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, 10)
        self.node.create_subscription(
            Float64MultiArray,
            "policy_node/latency",
            lambda m: self.latencies.append(list(m.data)),
            100,
        )
        self.node.create_subscription(
            String, "sim_node/episode", lambda m: self.episodes.append(m.data), 10
        )

    def listen(self, topic: str = COMMANDS) -> None:
        """Subscribe to the commands, as a robot's controller does."""
        self.command_subscription = self.node.create_subscription(
            Float64MultiArray,
            topic,
            lambda m, info: self.commands.append((published(info), list(m.data))),
            1000,
        )

    def _on_report(self, message: DiagnosticArray) -> None:
        for entry in message.status:
            values = {pair.key: pair.value for pair in entry.values}
            self.reports.append((time.monotonic(), entry.name, entry.level, entry.message, values))

    def add(self, node: Node) -> None:
        """Spin another node of this process too."""
        self._executor.add_node(node)

    def remove(self, node: Node) -> None:
        """Stop spinning it."""
        self._executor.remove_node(node)

    def start(
        self,
        name: str,
        *arguments: str,
        log: str = "",
        program: Sequence[str] = (),
        **parameters: object,
    ) -> subprocess.Popen[str] | NodeProcess:
        """A node of ours as a process, parameters given on its command line.

        `program` replaces `-m ros_nodes.NAME` where it is given.

        `processes` and `log` know it as `log` where that is given, and one in a namespace
        (-r __ns:=/left) as left_NAME.
        """
        label = log or name
        for argument in arguments:
            if argument.startswith("__ns:=/"):
                label = f"{argument.removeprefix('__ns:=/')}_{name}"
        words = ["--ros-args", *arguments]
        for key, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            words += ["-p", f"{key}:={text}"]
        path = self.folder / f"{label}.log"
        process: subprocess.Popen[str] | NodeProcess
        if program:
            words = [sys.executable, *program, *words]
            with path.open("w") as log:
                process = subprocess.Popen(
                    words, cwd=self.folder, env=self.environment, stdout=log, stderr=log, text=True
                )
        else:
            module = f"ros_nodes.{name}"
            process = NodeProcess(module, words, self.folder, self.environment, path)
        self.processes[label] = process
        return process

    def policy_node(
        self, *arguments: str, **parameters: object
    ) -> subprocess.Popen[str] | NodeProcess:
        """policy_node with the shipped policy, activated by itself; `parameters` change that."""
        given: dict[str, object] = {
            "policy": POLICY,
            "autostart": "activate",
            "discovery_time": 0.5,  # test_distrust has the one that users get
            "budget": 5.0,  # other tests load this machine; test_refusals has the budget
            "recordings": self.folder / "flights",
            "robot": self.tolerant_robot(),
        }
        return self.start("policy_node", *arguments, **{**given, **parameters})

    def tolerant_robot(self) -> Path:
        """The shipped robot with time-outs that a busy machine does not reach."""
        config = shipped_content("cartpole")
        config["robot"]["state"]["max_age"] = 0.5
        config["robot"]["safety"].update(hold=0.5, damp=2.0)
        path = self.folder / "tolerant.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def log(self, name: str = "policy_node") -> str:
        """What a process has printed."""
        return (self.folder / f"{name}.log").read_text()

    def spin(self, seconds: float) -> None:
        """Let messages come in."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def until(self, condition: Callable[[], object], what: str, timeout: float = TIMEOUT) -> None:
        """Spin until it holds."""
        end = time.monotonic() + timeout
        while not condition():
            self._executor.spin_once(timeout_sec=0.02)
            logs = {name: self.log(name) for name in self.processes}
            assert time.monotonic() < end, f"waited for {what}: {logs}"

    def running(self) -> None:
        """Wait until the policy commands the robot and the cart really moves."""
        self.until(
            lambda: (
                "[policy_node]: active" in self.log()
                and len(self.commands) > 10
                and any(abs(values[0]) > 1 for _, values in self.commands[-5:])
            ),
            "commands",
        )

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """Call a service and wait for its response."""
        client = self.node.create_client(kind, service)
        self.until(client.service_is_ready, service)
        future = client.call_async(request)
        self.until(future.done, f"response of {service}")
        self.node.destroy_client(client)
        return future.result()

    def trigger(self, service: str) -> Any:
        """Call a std_srvs/Trigger."""
        return self.call(Trigger, service, Trigger.Request())

    def transition(self, label: str, node: str = "policy_node") -> bool:
        """A lifecycle transition of policy_node, or of a namesake, by name."""
        numbers = {
            "configure": Transition.TRANSITION_CONFIGURE,
            "activate": Transition.TRANSITION_ACTIVATE,
            "deactivate": Transition.TRANSITION_DEACTIVATE,
            "cleanup": Transition.TRANSITION_CLEANUP,
            "shutdown": Transition.TRANSITION_ACTIVE_SHUTDOWN,
        }
        request = ChangeState.Request(transition=Transition(id=numbers[label]))
        return bool(self.call(ChangeState, f"{node}/change_state", request).success)

    def set_parameter(self, node: str, name: str, value: bool | str) -> Any:
        """Try to set a parameter; gives the node's response."""
        if isinstance(value, str):
            content = ParameterValue(type=4, string_value=value)
        else:
            content = ParameterValue(type=1, bool_value=value)
        given = Parameter(name=name, value=content)
        request = SetParameters.Request(parameters=[given])
        return self.call(SetParameters, f"{node}/set_parameters", request).results[0]

    def set_fault(self, text: str) -> float:
        """Inject a fault into sim_node; gives the steady time just before."""
        value = ParameterValue(type=4, string_value=text)
        request = SetParameters.Request(parameters=[Parameter(name="fault", value=value)])
        client = self.node.create_client(SetParameters, "sim_node/set_parameters")
        self.until(client.service_is_ready, "sim_node")
        before = time.monotonic()
        future = client.call_async(request)
        if text != "die":
            self.until(future.done, "the fault")
            assert future.result().results[0].successful, future.result()
        return before

    def end(self, name: str, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Signal a process by its own id; gives its exit code and how long it took [s]."""
        process, began = self.processes[name], time.monotonic()
        process.send_signal(number)
        while process.poll() is None and time.monotonic() - began < TIMEOUT:
            self._executor.spin_once(timeout_sec=0.01)
        assert process.poll() is not None, f"{name} did not end"
        took = time.monotonic() - began
        self.spin(0.1)  # what was still on its way
        return process.returncode, took

    def close(self) -> None:
        """End every process that still runs, gently: a killed one leaves shared memory behind."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        until = time.monotonic() + 5
        for process in self.processes.values():
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.01)
            if process.poll() is None:
                process.kill()
                process.wait()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
