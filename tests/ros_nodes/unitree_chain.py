"""A simulated Go2, its driver and a listener on its wire, as processes of a test."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from std_msgs.msg import Float64MultiArray, MultiArrayDimension

from ros_nodes.conversions import COMMAND_QOS
from tests.paths import ROOT, SHIPPED_GO2
from tests.ros_nodes.graph import Graph
from tests.ros_nodes.low_cmd_listener import SENT, is_damping
from tests.ros_nodes.node_process import NodeProcess

COMMANDS = "position_controller/commands"
STIFFNESS = 40.0  # [N m/rad] of the shipped policy's contract
PERIOD = 0.02  # [s] between two commands of a stream
PRIORITY = 20  # of real-time scheduling


class Chain:
    """The processes on the robot's domain; those on the ROS domain are the graph's.

    Args:
        graph: on the ROS domain.
        domain: of the robot.
        messages: folder of Unitree's messages.

    The methods about a driver are about the newest one, or the one that `name` is set to.
    """

    def __init__(self, graph: Graph, domain: int, messages: Path) -> None:
        self.graph, self.domain = graph, domain
        self.name = ""
        graph.environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{messages}"
        self._report = graph.folder / "report.json"
        self._sent = graph.folder / "sent.bin"
        self._lines = graph.folder / "lines"
        self._begin = 0  # records that `sent` leaves out
        self._input = -1

    def start(
        self, name: str, module: str, *arguments: str, folder: str = ".", **variables: str
    ) -> NodeProcess:
        """Start a program in a folder, relative to the graph's; variables: of its environment."""
        graph = self.graph
        environment = {**graph.environment, **variables}
        log = graph.folder / f"{name}.log"
        given = self._lines if name == "unitree_sim" else None
        process = NodeProcess(
            module, list(arguments), graph.folder / folder, environment, log, given
        )
        graph.processes[name] = process
        real_time(process.pid)
        return process

    def start_robot(self, **parameters: object) -> None:
        """Start the simulated robot, and the listener on its domain."""
        os.mkfifo(self._lines)
        self._input = os.open(self._lines, os.O_RDWR)
        given = {"interface": "lo", "robot_domain": self.domain, "report": self._report}
        self.start("unitree_sim", "ros_nodes.unitree.sim", *ros({**given, **parameters}))
        self._sent.touch()
        listener = "tests.ros_nodes.low_cmd_listener"
        self.start("listener", listener, str(self.domain), str(self._sent))

    def start_driver(self, changes: str = "", name: str = "unitree_driver", **more: object) -> None:
        """Start a driver; see changed_driver.py for what can be changed.

        Each needs a name of its own: what is left of a killed one still looks like a service.
        """
        given = {"interface": "lo", "robot_domain": self.domain, "policy": SHIPPED_GO2}
        arguments = [*ros({**given, **more}), "-r", f"__node:={name}"]
        self.name = name
        self.start(name, "tests.ros_nodes.changed_driver", *arguments, CHANGES=changes)

    @property
    def driver(self) -> NodeProcess:
        """Its process."""
        found = self.graph.processes[self.name]
        assert isinstance(found, NodeProcess)
        return found

    def ready(self) -> None:
        """Wait until the driver reads the robot, knows who has its motors, and can be asked."""
        graph = self.graph
        graph.until(
            lambda: graph.states and self.report() and "listening" in graph.log("listener"),
            "the robot and its driver",
        )
        graph.until(self._knows_mode, "who has the motors")

    def _knows_mode(self) -> bool:
        if self.trigger("check_mode").success:
            return True
        self.graph.spin(0.2)
        return False

    def close(self) -> None:
        """End the driver first: the robot goes on as long as it is commanded."""
        for name, process in self.graph.processes.items():
            if name != "unitree_sim":
                process.terminate()
        if self._input >= 0:
            os.close(self._input)

    # ---- the robot

    def tell(self, line: str) -> float:
        """Give the robot a fault or a remote; gives the steady time just before."""
        before = time.monotonic()
        os.write(self._input, f"{line}\n".encode())
        return before

    def report(self) -> dict[str, Any]:
        """The robot's newest report; empty: there is none yet."""
        try:
            found: dict[str, Any] = json.loads(self._report.read_text())
        except FileNotFoundError:
            return {}
        return found

    def next_report(self) -> dict[str, Any]:
        """The robot's next report."""
        before = self.report()
        self.graph.until(lambda: self.report() != before, "a report")
        return self.report()

    # ---- the driver

    def trigger(self, service: str) -> Any:
        """Call one of the driver's services."""
        return self.graph.trigger(f"{self.name}/{service}")

    def log(self) -> str:
        """What the driver has printed."""
        return self.graph.log(self.name)

    # ---- the wire

    def mark(self) -> None:
        """From now on `sent` gives what is sent from now on."""
        self._begin = self._sent.stat().st_size // SENT.itemsize

    def sent(self) -> np.ndarray:
        """Each LowCmd since `mark`: records of `SENT`."""
        return np.fromfile(self._sent, SENT, offset=self._begin * SENT.itemsize)

    def newest(self) -> np.ndarray:
        """The newest LowCmd, shape (1,) of `SENT`; or none yet, shape (0,)."""
        count = self._sent.stat().st_size // SENT.itemsize
        return np.fromfile(self._sent, SENT, 1, offset=max(0, count - 1) * SENT.itemsize)

    def stiffness(self) -> float:
        """Of the newest LowCmd [N m/rad]; 0: there is none."""
        return float(self.newest()["kp"].max(initial=0.0))

    def until_damping(self, since: float) -> None:
        """Wait until the motors are damped by a message that was sent after a time [s]."""

        def is_damped() -> bool:
            newest = self.newest()
            return bool((is_damping(newest) & (newest["time"] > since)).any())

        self.graph.until(is_damped, "damping")

    def time_to_damping(self, since: float) -> float:
        """Wait until the motors are damped; gives when this was first sent, after a time [s]."""
        self.until_damping(since)
        sent = self.sent()
        sent = sent[sent["time"] > since]
        followed = np.flatnonzero(~is_damping(sent))
        first = followed[-1] + 1 if len(followed) else 0
        return float(sent["time"][first] - since)


def ros(parameters: dict[str, object]) -> list[str]:
    """Parameters as words of a command line."""
    words = ["--ros-args"]
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words += ["-p", f"{name}:={text}"]
    return words


def child_of(pid: int) -> int:
    """The only child of a process."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def real_time(pid: int) -> None:
    """Schedule a process, and what it starts, before others, as on a robot's computer.

    Without it a busy machine makes the driver stall now and then, and it damps, as it should.
    """
    with suppress(OSError):  # not everybody may
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(PRIORITY))


def runs(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for yet has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class Stream:
    """Sends positions 50 times a second, as policy_node does, however busy the test is.

    Args:
        graph: on the driver's ROS domain.
    """

    def __init__(self, graph: Graph) -> None:
        self._publisher = graph.node.create_publisher(Float64MultiArray, COMMANDS, COMMAND_QOS)
        self._command: tuple[tuple[str, ...], np.ndarray] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, names: Sequence[str], positions: np.ndarray) -> None:
        """Send these from now on."""
        self._command = tuple(names), positions

    def pause(self) -> None:
        """Send nothing from now on."""
        self._command = None

    def message(self) -> Float64MultiArray:
        """What it sends."""
        assert self._command is not None
        return positions_message(*self._command)

    def _run(self) -> None:
        real_time(0)  # this thread
        while not self._ended.wait(PERIOD):
            command = self._command
            if command is not None:
                self._publisher.publish(positions_message(*command))

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join()


def positions_message(names: Sequence[str], positions: np.ndarray) -> Float64MultiArray:
    """Positions of joints, as policy_node sends them."""
    message = Float64MultiArray(data=positions.tolist())
    message.layout.dim = [MultiArrayDimension(label=",".join(names), size=len(positions))]
    return message
