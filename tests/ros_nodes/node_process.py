"""Processes of our nodes that start at once: forked from one that has imported them already.

An import takes more than a second of one core, and the tests start some two hundred nodes. What
runs is what `python -m ros_nodes.NAME` runs, in a process of its own with its own signals,
environment and log, but for shorter latency measurements: those at a start of policy_node take
another second. Tests of start-up, packaging and the loopback start the interpreter itself.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest import mock

from ros_nodes import startup_checks

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "ros_nodes.latency_monitor",
        "ros_nodes.policy_node",
        "ros_nodes.sim_node",
        "ros_nodes.unitree.driver",
        "ros_nodes.unitree.sim",
        "rclpy.executors",
        "matplotlib.backends.backend_svg",  # of the page that latency_monitor writes at its end
        "mujoco",
        "onnxruntime",
        "pytest",  # the parent's main module, which a child looks for
    ]
)


class NodeProcess:
    """One node; the part of `subprocess.Popen` that tests use.

    Args:
        module: whose `main()` runs.
        arguments: of its command line, without the program's name.
        folder: where it runs.
        environment: the whole of it.
        log: file for its output.
        standard_input: file or pipe that it reads; None: an empty one.
    """

    def __init__(
        self,
        module: str,
        arguments: list[str],
        folder: Path,
        environment: dict[str, str],
        log: Path,
        standard_input: Path | None = None,
    ) -> None:
        log.touch()
        given = (module, arguments, str(folder), environment, str(log), standard_input)
        self._process: ForkServerProcess = _CONTEXT.Process(target=_run, args=given)
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):  # read by what is imported once
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    module: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    log: str,
    standard_input: Path | None,
) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if standard_input is not None:
        os.dup2(os.open(standard_input, os.O_RDONLY | os.O_NONBLOCK), sys.stdin.fileno())
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    sys.path += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    os.chdir(folder)
    startup_checks.WARM_CALLS, startup_checks.COLD_CALLS = 50, 10
    node = importlib.import_module(module)
    sys.argv = [str(node.__file__), *arguments]
    code = node.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the exit handlers of the process that it was forked from are not its own
