"""Run a node in a process: signals, executor, clocks, real-time profile.

rclpy's own signal handlers end the context before a last command could be published, so they stay
off; the handlers here only set a flag, which `run_node` reads between finite `spin_once` calls.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import rclpy
from rclpy.exceptions import InvalidParameterValueException
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from dime_robot.runtime.io.errors import InputError

MAX_WAIT = 0.1  # [s] between two reads of the signal flag
MEMORY_LOCK_NOW_AND_LATER = 3  # MCL_CURRENT | MCL_FUTURE
MAX_STAMP_LEAD = 1.0  # [s] of a reading's stamp before /clock
SAME_REQUEST = 0.5  # [s] between signals that request the same
SWITCH_INTERVAL = 1e-4  # [s] a background thread may keep the interpreter


class NodeClock:
    """Steady time for deadlines and the robot's time for stamps; both are /clock in simulation."""

    def __init__(self, node: Node) -> None:
        self.simulated = bool(node.get_parameter("use_sim_time").value)
        self._node, self._clock = node, node.get_clock()
        self._newest = 0.0

    def now(self) -> float:
        """Return steady time [s]; in simulation the newest of /clock and the readings' stamps."""
        if not self.simulated:
            return time.monotonic()
        self._newest = max(self._newest, self._clock.now().nanoseconds * 1e-9)
        return self._newest

    def robot_now(self) -> float:
        """Return the time on the clock of the stamps [s]."""
        return self.now() if self.simulated else time.time()

    def update(self, stamp: float) -> None:
        """Advance to a reading's stamp [s]: its message may arrive before its /clock.

        A stamp far ahead of /clock is ignored as wrong.

        Args:
            stamp: of the reading [s].
        """
        if self.simulated and self._newest < stamp < self.now() + MAX_STAMP_LEAD:
            self._newest = stamp

    def restart(self) -> None:
        """Drop the newest time: a simulation may have been restarted."""
        self._newest = 0.0

    @property
    def is_served(self) -> bool:
        """Whether the clock has a source; in simulation a publisher of /clock, even if paused."""
        return not self.simulated or self._node.count_publishers("/clock") > 0

    def subscriptions(self) -> list[Any]:
        """Return the subscription of /clock, to process where no executor runs; empty: none."""
        if not self.simulated:
            return []
        return [s for s in self._node.subscriptions if s.topic_name == "/clock"]


class Running(Protocol):
    """A node that `run_node` can run."""

    exit_code: int | None  # once it is set, the process ends with it
    stop: StopSignal | None  # the requests to end this process; set before it runs

    def wait(self) -> float:
        """Return the longest time until `tick` has to be called [s], even if no message comes."""

    def tick(self) -> None:
        """Do all work that is due; called after every message and every wait."""

    def close(self) -> None:
        """Leave the robot safe; the ROS context is still valid."""


def make_executor() -> Executor:
    """Make the events executor if this rclpy has it: it is three times as fast."""
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()


class StopSignal:
    """SIGTERM, SIGINT and SIGHUP (a closed terminal) as requests to end.

    Signals within `SAME_REQUEST` of a request belong to it: a terminal and a launcher send theirs
    together. A node that needs long to end may take a second request to mean: at once, but safely
    (`max_requests` 2). A further signal of a kind that was received ends the process.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.max_requests = 1
        self.then: Any = signal.SIG_DFL  # handles signals of a kind that was received, after that
        self._requested_at = -math.inf  # [s]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._requested_at > SAME_REQUEST:
            self.requests, self._requested_at = self.requests + 1, now
        if self.requests >= self.max_requests:
            signal.signal(number, self.then)


def run_node(make: Callable[[], Any], args: list[str] | None = None) -> int:
    """Run a node until a signal or its own `exit_code`.

    Args:
        make: makes the node, see `Running`.
        args: ROS arguments; None: this process's.

    Returns:
        The exit code. Wrong input is one sentence and 2; an unexpected exception is printed and 1.
        The node is closed in every case.
    """
    stop = StopSignal()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rcl's own exceptions, for arguments it cannot parse
        print(f"error: ROS arguments: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return 2
    node = None
    try:
        node = make()
        node.stop = stop
        executor = make_executor()
        executor.add_node(node)
        while not stop.requests and node.exit_code is None:
            executor.spin_once(timeout_sec=min(MAX_WAIT, max(0.0, node.wait())))
            node.tick()
        return node.exit_code or 0
    except (InputError, InvalidParameterValueException) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        if rclpy.ok():
            rclpy.shutdown()


def realtime_profile(priority: int, cpus: Sequence[int]) -> tuple[str, list[str]]:
    """Request memory locking, FIFO scheduling and CPUs; stop the garbage collector.

    Args:
        priority: of FIFO scheduling, 1 to 99.
        cpus: to run on; negative ones are ignored.

    Returns:
        The granted settings, one word each, and a sentence for each refused one.
    """
    granted, refused = ["gc"], []
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(SWITCH_INTERVAL)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MEMORY_LOCK_NOW_AND_LATER) == 0:
        granted.append("memory")
    else:
        refused.append(
            f"memory not locked ({os.strerror(ctypes.get_errno())}): raise `memlock` in"
            " /etc/security/limits.conf"
        )
    threads = [int(path.name) for path in Path("/proc/self/task").iterdir()]
    try:
        for thread in threads:  # the middleware's receiving threads too
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
        granted.append(f"fifo{priority}")
    except OSError as error:
        refused.append(
            f"FIFO scheduling not granted ({error.strerror}): raise `rtprio` in"
            " /etc/security/limits.conf"
        )
    chosen = {cpu for cpu in cpus if cpu >= 0}
    if chosen:
        try:
            for thread in threads:
                os.sched_setaffinity(thread, chosen)
            granted.append("cpus" + ",".join(map(str, sorted(chosen))))
        except OSError as error:
            refused.append(f"CPUs {sorted(chosen)} not granted ({error.strerror})")
    return " ".join(granted), refused
