"""What every node's process shares: signals, the executor, the clocks, the real-time profile.

rclpy's own signal handlers end the context before a last command could be published, so they stay
off; ours only set a flag, which a loop of finite `spin_once` calls sees.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
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

LONGEST_WAIT = 0.1  # [s] between two looks at the signal flag
MEMORY_LOCK_NOW_AND_LATER = 3  # MCL_CURRENT | MCL_FUTURE
LARGEST_OVERTAKING = 1.0  # [s] of /clock by a stamp
SWITCH_INTERVAL = 1e-4  # [s] a background thread may keep the interpreter


class NodeClock:
    """Steady time for deadlines and the robot's time for stamps; both are /clock in simulation."""

    def __init__(self, node: Node) -> None:
        self.simulated = bool(node.get_parameter("use_sim_time").value)
        self._node, self._clock = node, node.get_clock()
        self._newest = 0.0

    def now(self) -> float:
        """Steady time [s]; in simulation the newest of /clock and of the readings' stamps."""
        if not self.simulated:
            return time.monotonic()
        self._newest = max(self._newest, self._clock.now().nanoseconds * 1e-9)
        return self._newest

    def robot_now(self) -> float:
        """Time on the clock of the stamps [s]."""
        return self.now() if self.simulated else time.time()

    def overtaken(self, stamp: float) -> None:
        """Take note of a reading whose message was faster than the /clock it belongs to.

        A stamp far ahead of /clock is a stray, by which no time may be told.

        Args:
            stamp: of the reading [s].
        """
        if self.simulated and self._newest < stamp < self.now() + LARGEST_OVERTAKING:
            self._newest = stamp

    def restart(self) -> None:
        """Forget the newest time: a simulation may have been started anew."""
        self._newest = 0.0

    @property
    def is_served(self) -> bool:
        """Does anybody publish the simulation's time? A paused simulator does."""
        return not self.simulated or self._node.count_publishers("/clock") > 0

    def subscriptions(self) -> list[Any]:
        """What has to be served where no executor runs, so that time goes on."""
        if not self.simulated:
            return []
        return [s for s in self._node.subscriptions if s.topic_name == "/clock"]


class Running(Protocol):
    """A node with its own rhythm."""

    exit_code: int | None  # set: the process ends with it

    def wait(self) -> float:
        """How long nothing but messages can happen [s]."""

    def tick(self) -> None:
        """Called after every message and every wait."""

    def close(self) -> None:
        """The context is still valid: leave the robot safe."""


def make_executor() -> Executor:
    """The events executor where this rclpy has it (it is three times as quick)."""
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()


class StopSignal:
    """SIGTERM, SIGINT and SIGHUP (a terminal that went away) as a flag.

    The second one of a kind ends the process at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)


def run_node(make: Callable[[], Any], args: list[str] | None = None) -> int:
    """Run a node until a signal or its own `exit_code`; gives the exit code.

    Wrong input is one sentence and 2; an exception that nobody expected closes the node (which
    leaves the robot safe), is shown, and gives 1.
    """
    stop = StopSignal()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rcl's own kinds, for arguments it cannot parse
        print(f"error: ROS arguments: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return 2
    node = None
    try:
        node = make()
        node.told_to_end = lambda: stop.received is not None
        executor = make_executor()
        executor.add_node(node)
        while stop.received is None and node.exit_code is None:
            executor.spin_once(timeout_sec=min(LONGEST_WAIT, max(0.0, node.wait())))
            node.tick()
        return node.exit_code or 0
    except (InputError, InvalidParameterValueException) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Exception:
        import traceback

        traceback.print_exc()
        return 1
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        if rclpy.ok():
            rclpy.shutdown()


def realtime_profile(priority: int, cpus: Sequence[int]) -> tuple[str, list[str]]:
    """Ask the system for all it can do for a control loop.

    Gives what was granted in one word each, and a sentence for everything that was refused.
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
