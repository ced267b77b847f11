"""Session: run policy_node and sim_node as processes, and a node that controls them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger

from dime_robot.runtime.contract.policy_spec import TWIST_AXES
from dime_robot.runtime.contract.robot_config import load_robot
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.config.task import VELOCITY
from ros_nodes import diagnostics
from ros_nodes.conversions import PHASE_QOS, TWIST_TYPES, write_twist
from ros_nodes.loopback_tracking import Commands
from ros_nodes.process import make_executor
from ros_nodes.signal_messages import SIGNAL_TYPES, write_signal

POLICY_NODE = "/policy_node"  # its fully qualified name
START_TIMEOUT = 30.0  # [s] for both processes to be discovered, and for a service call
SETTLING_TIME = 0.8  # [s] of readings that policy_node needs before it can be activated
EPISODE_SLACK = 20.0  # [s] in addition to the length of an episode
COMMAND_PERIOD = 0.1  # [s] between two messages of the operator
LOCKSTEP_COMMAND_PERIOD = 0.005  # [s] of the wall clock: simulated time runs faster
REPORT_TIME = 1.2  # [s] in which policy_node reports its last steps
END_TIMEOUT = 20.0  # [s] for a node that may have to sit down first


def is_file(config: str) -> bool:
    """Whether a configuration is given as a path, not as a name in sim_configs/."""
    return config.endswith((".yaml", ".yml"))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Sender(NamedTuple):
    """Publishes one command."""

    name: str
    publisher: Any
    write: Callable[[Sequence[float]], Any]  # returns the message of a value


class Session:
    """Starts both processes, runs episodes one after the other, and ends both.

    Args:
        options: of `ros_nodes.loopback`, `config` a name or an absolute path.
        policy: the loaded policy.
        log_folder: folder of flight recordings.
        commands: of each episode, name -> value; repeated where there are more episodes.

    Raises:
        InputError: a process ended or does not respond.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        policy: OnnxPolicy,
        log_folder: Path,
        commands: Sequence[Commands] = ({},),
    ) -> None:
        self.samples: list[tuple[float, ...]] = []
        self.episodes: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.responses: Counter[str] = Counter()  # steps per safety level, and per fault
        self.phase = ""  # of policy_node, the newest
        config, _ = load_robot_task(options.config)
        self._config, self._commands = config, commands
        self._has_task = config.task is not None
        if options.seconds and (commands[0] or not self._has_task):
            self._episode_seconds = options.seconds  # one episode of that length
        else:
            self._episode_seconds = config.episode_seconds
        self._next_command = 0.0
        self._senders: list[_Sender] = []
        self._now_sent = commands[0]
        self._options, self._policy, self._log_folder = options, policy, log_folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}  # by module

    def __enter__(self) -> Session:
        given = self._options
        lockstep = given.mode == "lockstep"
        sim = {"config": given.config, "mode": given.mode, "seed": given.seed}
        if self._has_task:
            sim["episode_seconds"] = float(self._episode_seconds)
        if given.rate is not None:
            sim["state_rate"] = given.rate
        policy = {
            "policy": str(Path(given.policy).resolve()),
            "noise": given.noise,
            "seed": given.seed,
            "budget": given.budget,
            "discovery_time": 0.5,  # in a separate domain there are no other nodes
            "realtime": str(given.realtime_profile).lower(),
            "recordings": str(self._log_folder),
            "use_sim_time": str(lockstep).lower(),
        }
        rate = given.rate
        if lockstep and rate is None and self._config.robot.state.rate != self._policy.spec.rate:
            rate = self._policy.spec.rate  # a state follows each command
        robot = given.robot or (Path(given.config) if is_file(given.config) else None)
        if rate or robot:
            policy["robot"] = str(self._robot(robot, rate))
        with ExitStack() as stack:
            self._start("ros_nodes.sim_node", sim, stack)
            self._start("ros_nodes.policy_node", policy, stack)
            self._connect(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, seconds: float) -> None:
        """Run episodes for a given time [s]; the last one may be incomplete.

        Args:
            seconds: total time [s].
        """
        episode_seconds, left = self._episode_seconds, seconds
        phases = self._config.robot.phases
        stand_up = 0.0 if phases is None else phases.stand_up.timeout
        while left > 0:
            self._write_commands()
            self._call(self._reset, Trigger.Request(), "sim_node/reset")
            self._activate()
            count, began = len(self.episodes), time.monotonic()
            whole = self._has_task and left >= episode_seconds - 1e-6
            limit = episode_seconds + EPISODE_SLACK if whole else left
            until = began + stand_up
            while phases is not None and self.phase != "policy" and time.monotonic() < until:
                self._spin()
            until = time.monotonic() + limit
            while len(self.episodes) == count and time.monotonic() < until:
                self._spin()
            if whole and len(self.episodes) == count:
                raise InputError(f"no episode ended within {limit:g} s")
            self._transition(Transition.TRANSITION_DEACTIVATE, "deactivate")
            if phases is not None and self.phase != "passive":
                self.faults.append(f"the robot does not lie at its end, it is in {self.phase}")
            left -= episode_seconds
            reported = time.monotonic() + REPORT_TIME
            while time.monotonic() < reported:
                self._spin()

    def _start(self, module: str, parameters: dict[str, object], stack: ExitStack) -> None:
        words = [sys.executable, "-m", module, "--ros-args", "--log-level", "warn"]
        for name, value in parameters.items():
            words += ["-p", f"{name}:={value}"]
        self._processes[module] = subprocess.Popen(words, stdout=sys.stderr)
        stack.callback(_end, self._processes[module])

    def _robot(self, path: Path | None, rate: float | None) -> Path:
        """Write the robot of the configuration or of a file, with another state rate if given."""
        if rate is None:
            assert path is not None
            return path.resolve()
        robot = self._config.robot if path is None else load_robot(path, self._policy.spec)
        state = robot.state.model_copy(update={"rate": rate})
        robot = robot.model_copy(update={"state": state})
        written = self._log_folder / "robot.yaml"
        written.write_text(json.dumps({"robot": robot.model_dump(mode="json")}))  # JSON is YAML
        return written

    def _connect(self, stack: ExitStack) -> None:
        """Make the node that requests transitions and resets and receives all reports."""
        # rclpy's own handlers end the context under the executor, which then raises
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.shutdown)
        node = Node("loopback")
        stack.callback(node.destroy_node)
        self._change: Any = node.create_client(ChangeState, "policy_node/change_state")
        self._reset: Any = node.create_client(Trigger, "sim_node/reset")
        node.create_subscription(
            Float64MultiArray, "policy_node/latency", self._on_latency, QoSProfile(depth=1000)
        )
        node.create_subscription(String, "sim_node/episode", self._on_episode, 10)
        node.create_subscription(String, "policy_node/phase", self._on_phase, PHASE_QOS)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        for name in self._commands[0]:
            self._senders.append(self._sender(node, name))
        self._executor = make_executor()
        self._executor.add_node(node)
        until = time.monotonic() + START_TIMEOUT
        while not (self._change.service_is_ready() and self._reset.service_is_ready()):
            self._spin()
            if time.monotonic() > until:
                raise InputError(
                    f"expected both nodes within {START_TIMEOUT:g} s, they do not respond"
                )

    def _activate(self) -> None:
        """Activate policy_node as soon as it accepts: it needs readings first."""
        until = time.monotonic() + START_TIMEOUT
        settled = time.monotonic() + SETTLING_TIME
        while time.monotonic() < settled or not self._operator_is_connected():
            self._spin()
            if time.monotonic() > until:
                raise InputError("expected both nodes to subscribe to the commands, they do not")
        while not self._transition(Transition.TRANSITION_ACTIVATE, "activate", required=False):
            if time.monotonic() > until:
                raise InputError("policy_node refuses to activate: see its message above")
            for _ in range(5):
                self._spin()

    def _transition(self, number: int, label: str, required: bool = True) -> bool:
        request = ChangeState.Request(transition=Transition(id=number))
        done = bool(self._call(self._change, request, label).success)
        if required and not done:
            raise InputError(f"policy_node refused to {label}: see its message above")
        return done

    def _call(self, client: Any, request: Any, what: str) -> Any:
        future = client.call_async(request)
        until = time.monotonic() + START_TIMEOUT
        while not future.done():
            self._spin()
            if time.monotonic() > until:
                raise InputError(f"{what}: no response within {START_TIMEOUT:g} s")
        return future.result()

    def _spin(self) -> None:
        self._send_commands()
        self._executor.spin_once(timeout_sec=0.05)
        for module, process in self._processes.items():
            if process.poll() is not None:
                raise InputError(
                    f"{module} ended with code {process.returncode}: see its message above"
                )

    def _sender(self, node: Node, name: str) -> _Sender:
        """Make the publisher of one command, as an operator's or a planner's node has it."""
        robot = self._config.robot
        if name == VELOCITY:
            operator = robot.command_velocity
            assert operator is not None
            velocity = TWIST_TYPES[operator.type]()

            def write(value: Sequence[float]) -> Any:
                # stamped with the wall clock, as by a joystick, also in lockstep
                write_twist(velocity, dict(zip(TWIST_AXES, value, strict=True)), time.time())
                return velocity

            return _Sender(name, node.create_publisher(type(velocity), operator.topic, 10), write)
        given = robot.task_commands[name]
        kind = SIGNAL_TYPES[given.type]
        return _Sender(
            name,
            node.create_publisher(kind, given.topic, 10),
            lambda value: write_signal(given, np.array(value), time.time()),
        )

    def _operator_is_connected(self) -> bool:
        """Whether both nodes subscribe to all commands; discovery takes seconds."""
        return all(each.publisher.get_subscription_count() >= 2 for each in self._senders)

    def _write_commands(self) -> None:
        """Take the commands of the episode that begins now."""
        number = len(self.episodes)
        self._now_sent = self._commands[min(number, len(self._commands) - 1)]
        self._next_command = 0.0

    def _send_commands(self) -> None:
        """Send the commands when they are due, as an operator's joystick does."""
        now = time.monotonic()
        if now < self._next_command:
            return
        lockstep = self._options.mode == "lockstep"
        self._next_command = now + (LOCKSTEP_COMMAND_PERIOD if lockstep else COMMAND_PERIOD)
        for name, publisher, write in self._senders:
            publisher.publish(write(self._now_sent[name]))

    def _on_latency(self, message: Float64MultiArray) -> None:
        self.samples.append(tuple(message.data))

    def _on_phase(self, message: String) -> None:
        self.phase = message.data

    def _on_episode(self, message: String) -> None:
        self.episodes.append(json.loads(message.data))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for entry in message.status:
            if diagnostics.node_of(entry) != POLICY_NODE:
                continue
            fault = diagnostics.is_fault(entry) and not diagnostics.is_refusal(entry)
            if fault and entry.message not in self.faults:
                self.faults.append(entry.message)
            for pair in entry.values:
                if pair.key.startswith("steps "):
                    self.responses[pair.key.removeprefix("steps ")] += int(pair.value)
