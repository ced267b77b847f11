"""Session: policy_node and sim_node as processes, and a node that conducts them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger

from dime_robot.runtime.contract.policy_spec import TWIST_AXES
from dime_robot.runtime.contract.robot_config import load_robot
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.sim.config.robot_task import load_robot_task
from ros_nodes import diagnostics
from ros_nodes.conversions import TWIST_TYPES, write_twist
from ros_nodes.process import make_executor

POLICY_NODE = "/policy_node"  # its fully qualified name
START_LIMIT = 30.0  # [s] for both processes to be there, and for a transition
SETTLE = 0.8  # [s] in which the node sees enough of the robot
EPISODE_SLACK = 20.0  # [s] on top of an episode's own time
VELOCITY_PERIOD = 0.1  # [s] between two messages of the operator
LOCKSTEP_VELOCITY_PERIOD = 0.005  # [s] of the wall clock: simulated time runs faster
REPORT_AFTER = 1.2  # [s] in which the node reports on its last steps


def is_file(config: str) -> bool:
    """Is a configuration given by its path, not by its name in sim_configs/?"""
    return config.endswith((".yaml", ".yml"))


class Session:
    """Starts both processes, runs episodes one after the other, ends both.

    Args:
        options: of `ros_nodes.loopback`, `config` a name or an absolute path.
        policy: already loaded, so known to be good.
        log_folder: where ROS logs and flight recordings go.
        velocity: what to ask of the base [m/s, m/s, rad/s]; None: the policy follows none.

    Raises:
        InputError: a process ended or does not answer.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        policy: OnnxPolicy,
        log_folder: Path,
        velocity: Sequence[float] | None = None,
    ) -> None:
        self.samples: list[tuple[float, ...]] = []
        self.episodes: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.answers: Counter[str] = Counter()  # steps per answer, and per reason of an answer
        config, _ = load_robot_task(options.config)
        self._config, self._velocity = config, velocity
        self._has_task = config.task is not None
        if options.seconds and (velocity is not None or not self._has_task):
            self._episode_seconds = options.seconds  # one episode of that length
        else:
            self._episode_seconds = config.episode_seconds
        self._next_velocity = 0.0
        self._options, self._policy, self._log_folder = options, policy, log_folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}  # by module

    def __enter__(self) -> Session:
        given = self._options
        lockstep = given.mode == "lockstep"
        sim = {"config": given.config, "mode": given.mode, "seed": given.seed}
        if self._has_task:
            sim["episode_seconds"] = float(self._episode_seconds)
        if given.rate:
            sim["state_rate"] = given.rate
        policy = {
            "policy": str(Path(given.policy).resolve()),
            "noise": given.noise,
            "seed": given.seed,
            "budget": given.budget,
            "discovery_time": 0.5,  # in a domain of our own there are no others
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
        try:
            self._start("ros_nodes.sim_node", sim)
            self._start("ros_nodes.policy_node", policy)
            self._conduct()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if rclpy.ok():
            self._node.destroy_node()
            rclpy.shutdown()

    def run(self, seconds: float) -> None:
        """Episodes until the time is up; the last one may be cut short.

        Args:
            seconds: how long, in all [s].
        """
        episode_seconds, left = self._episode_seconds, seconds
        while left > 0:
            self._call(self._reset, Trigger.Request(), "sim_node/reset")
            self._until_usable()
            count, began = len(self.episodes), time.monotonic()
            whole = self._has_task and left >= episode_seconds - 1e-6
            limit = episode_seconds + EPISODE_SLACK if whole else left
            while len(self.episodes) == count and time.monotonic() - began < limit:
                self._spin()
            if whole and len(self.episodes) == count:
                raise InputError(f"no episode ended within {limit:g} s")
            self._transition(Transition.TRANSITION_DEACTIVATE, "deactivate")
            left -= episode_seconds
            reported = time.monotonic() + REPORT_AFTER
            while time.monotonic() < reported:
                self._spin()

    def _start(self, module: str, parameters: dict[str, object]) -> None:
        words = [sys.executable, "-m", module, "--ros-args", "--log-level", "warn"]
        for name, value in parameters.items():
            words += ["-p", f"{name}:={value}"]
        self._processes[module] = subprocess.Popen(words, stdout=sys.stderr)

    def _robot(self, path: Path | None, rate: float | None) -> Path:
        """The configuration's robot, or that of a file, perhaps with another state rate."""
        if rate is None:
            assert path is not None
            return path.resolve()
        robot = self._config.robot if path is None else load_robot(path, self._policy.spec)
        state = robot.state.model_copy(update={"rate": rate})
        robot = robot.model_copy(update={"state": state})
        written = self._log_folder / "robot.yaml"
        written.write_text(json.dumps({"robot": robot.model_dump(mode="json")}))  # JSON is YAML
        return written

    def _conduct(self) -> None:
        """A node of our own: transitions, resets, and ears for everything said."""
        rclpy.init(args=[])
        self._node = node = Node("loopback")
        self._change: Any = node.create_client(ChangeState, "policy_node/change_state")
        self._reset: Any = node.create_client(Trigger, "sim_node/reset")
        node.create_subscription(
            Float64MultiArray, "policy_node/latency", self._on_latency, QoSProfile(depth=1000)
        )
        node.create_subscription(String, "sim_node/episode", self._on_episode, 10)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        operator = self._config.robot.command_velocity
        if self._velocity is not None and operator is not None:
            kind = TWIST_TYPES[operator.type]
            self._operator: Any = node.create_publisher(kind, operator.topic, 10)
            self._wish = kind()
        self._executor = make_executor()
        self._executor.add_node(node)
        until = time.monotonic() + START_LIMIT
        while not (self._change.service_is_ready() and self._reset.service_is_ready()):
            self._spin()
            if time.monotonic() > until:
                raise InputError(
                    f"expected both nodes within {START_LIMIT:g} s, they do not answer"
                )

    def _until_usable(self) -> None:
        """Activate as soon as the node agrees: it has to see the robot first."""
        until = time.monotonic() + START_LIMIT
        settled = time.monotonic() + SETTLE
        while time.monotonic() < settled or not self._heard():
            self._spin()
            if time.monotonic() > until:
                raise InputError("expected both nodes to listen to the velocity, they do not")
        while not self._transition(Transition.TRANSITION_ACTIVATE, "activate", insist=False):
            if time.monotonic() > until:
                raise InputError("policy_node refuses to activate: see its message above")
            for _ in range(5):
                self._spin()

    def _transition(self, number: int, label: str, insist: bool = True) -> bool:
        request = ChangeState.Request(transition=Transition(id=number))
        done = bool(self._call(self._change, request, label).success)
        if insist and not done:
            raise InputError(f"policy_node refused to {label}: see its message above")
        return done

    def _call(self, client: Any, request: Any, what: str) -> Any:
        future = client.call_async(request)
        until = time.monotonic() + START_LIMIT
        while not future.done():
            self._spin()
            if time.monotonic() > until:
                raise InputError(f"{what}: no answer within {START_LIMIT:g} s")
        return future.result()

    def _spin(self) -> None:
        self._steer()
        self._executor.spin_once(timeout_sec=0.05)
        for module, process in self._processes.items():
            if process.poll() is not None:
                raise InputError(
                    f"{module} ended with code {process.returncode}: see its message above"
                )

    def _heard(self) -> bool:
        """Do both nodes hear the operator, if there is one? Discovery may take seconds."""
        return self._velocity is None or self._operator.get_subscription_count() >= 2

    def _steer(self) -> None:
        """Ask for the velocity, as an operator's stick does again and again."""
        now = time.monotonic()
        if self._velocity is None or now < self._next_velocity:
            return
        lockstep = self._options.mode == "lockstep"
        self._next_velocity = now + (LOCKSTEP_VELOCITY_PERIOD if lockstep else VELOCITY_PERIOD)
        # stamps are a robot's to judge: those of the wall clock, as an operator's stick has it
        write_twist(self._wish, dict(zip(TWIST_AXES, self._velocity, strict=True)), time.time())
        self._operator.publish(self._wish)

    def _on_latency(self, message: Float64MultiArray) -> None:
        self.samples.append(tuple(message.data))

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
                    self.answers[pair.key.removeprefix("steps ")] += int(pair.value)
