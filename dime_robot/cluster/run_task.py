"""One run on a node of a cluster: its process, and its files where the node shares no folder."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from dime_robot.cluster.connection import own_version
from dime_robot.cluster.executor import Job, start_process
from dime_robot.cluster.run_files import PIECE, RunFiles, saved_at
from dime_robot.runtime.io.errors import InputError
from dime_robot.training.run_lock import remove_unfinished_start

_TOKEN_TRIES = 4  # a network's file system may show a new file late
_TOKEN_WAIT = 0.5  # [s] between them
MAX_SHARE = 1024  # of CPUs or GPUs of one run
# the process ends with the one that started it, from its first moment on; execv keeps that
_PROGRAM = (
    "import os, sys; from dime_robot.training.parent_death import end_with;"
    " end_with(int(sys.argv[1])); os.execv(sys.executable, sys.argv[2:])"
)


@dataclass(frozen=True)
class Share:
    """What one run takes of a node.

    Attributes:
        cpus: CPUs, also a fraction.
        gpus: GPUs, also a fraction: 0.25 lets four runs use one.
    """

    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("cpus", self.cpus), ("gpus", self.gpus)):
            if not 0 <= value <= MAX_SHARE or (value > 1 and value % 1):
                raise InputError(
                    f"--{name} {value:g}: expected a whole number, or a fraction below 1, up to"
                    f" {MAX_SHARE}"
                )

    def require_possible(self, ray: ModuleType) -> None:
        """Refuse a share that no node of the cluster has.

        Raises:
            InputError: no node is that large.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        sizes = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
        if not any(self.cpus <= cpus and self.gpus <= gpus for cpus, gpus in sizes):
            found = "; ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in sizes)
            raise InputError(
                f"--cpus {self.cpus:g} --gpus {self.gpus:g}: expected at most what one node of the"
                f" cluster has, got nodes with {found}; give less, or start a larger node first"
            )


@dataclass(frozen=True)
class Driver:
    """What a node has to know of the machine on which the sweep was started.

    Attributes:
        token: file in the sweep's folder, by which a node sees whether it has the same folder.
        secret: content of that file.
        folder: in which the command was typed.
        variables: of the environment, for every process.
        version: of this package.
    """

    token: Path
    secret: str
    folder: Path
    variables: Mapping[str, str]
    version: str = field(default_factory=own_version)

    def shares_folder(self) -> bool:
        """Whether the machine that calls this sees the sweep's folder."""
        for _ in range(_TOKEN_TRIES):
            try:
                return self.token.read_text() == self.secret
            except OSError:
                if not self.token.parent.is_dir():
                    return False
            time.sleep(_TOKEN_WAIT)
        return False


@contextmanager
def driver_of(out: Path) -> Iterator[Driver]:
    """Describe this machine to the nodes, with a token in the sweep's folder for as long.

    Args:
        out: the sweep's folder.
    """
    secret = secrets.token_hex(16)
    token = out.absolute() / f".token-{secret[:8]}"
    token.write_text(secret)
    # with another number of threads a run has other rounding errors
    variables = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    try:
        yield Driver(token, secret, Path.cwd(), variables)
    finally:
        token.unlink(missing_ok=True)


class Status(NamedTuple):
    """A run's process.

    Attributes:
        code: exit code; None: it runs.
        log: new output, where the driver does not see the log itself.
        saved: changes with every checkpoint.
    """

    code: int | None
    log: bytes
    saved: tuple[int, int]


class NodeRun(RunFiles):
    """The process of a run on this node.

    It trains in the run's own folder if the node has it, else in a temporary one, whose files the
    driver copies: this object is then one side of that copy.

    Args:
        job: what to start.
        driver: of the sweep.
    """

    def __init__(self, job: Job, driver: Driver) -> None:
        self._job, self._driver = job, driver
        self.shared = driver.shares_folder()
        self._temporary: Path | None = None
        if not self.shared:
            self._temporary = Path(tempfile.mkdtemp(prefix="dime_robot-run-"))
        # a Ray process has a working folder of its own
        parent = self._temporary or (driver.folder / job.folder).parent
        super().__init__(parent / job.folder.name, live=True)
        self.log = parent / job.log.name
        self._log_read = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stop_level = 0

    def shares_folder(self) -> bool:
        """Whether the run trains in the driver's folder."""
        return self.shared

    def start(self) -> None:
        """Start the process; it ends with the one that calls this.

        Raises:
            InputError: this node lacks something that the command needs.
        """
        node = socket.gethostname()
        if own_version() != self._driver.version:
            raise InputError(
                f"expected dime_robot {self._driver.version} on every node, got {own_version()} on"
                f" {node}; install the same one"
            )
        for path in self._job.needs:
            if not path.is_file():
                raise InputError(
                    f"{path}: expected this file at the same path on every node, got none on"
                    f" {node}; copy it there, or put it into a folder that all nodes share"
                )
        remove_unfinished_start(self.files)
        # an own file of the user may be named relative to where the command was typed
        folder = self._driver.folder if self._driver.folder.is_dir() else self.files.path.parent
        words = (sys.executable, *self._job.words(self.files.path)[1:])
        self._process = start_process(
            (sys.executable, "-c", _PROGRAM, str(os.getpid()), *words),
            self.log,
            cwd=folder,
            env=self._driver.variables,
        )

    def poll(self, stop_level: int = 0) -> Status:
        """Look at the process.

        Args:
            stop_level: 0: it goes on; 1: it is to save and end; 2: it is killed.
        """
        process = self._process
        if process is None:
            raise RuntimeError("the process was not started")
        if stop_level > self._stop_level:
            self._stop_level = stop_level
            process.send_signal(signal.SIGTERM if stop_level == 1 else signal.SIGKILL)
        code = process.poll()
        return Status(code, b"" if self.shared else self._new_output(), self.saved())

    def saved(self) -> tuple[int, int]:
        """Return what changes with every checkpoint."""
        return saved_at(self.files.checkpoint)

    def _new_output(self) -> bytes:
        with self.log.open("rb") as file:
            file.seek(self._log_read)
            content = file.read(PIECE)
        self._log_read += len(content)
        return content

    def end(self, seconds: float) -> int | None:
        """Let the process save and end; kill it after some time.

        Args:
            seconds: that it may take [s].

        Returns:
            Its exit code; None: it was never started.
        """
        if self._process is None:
            return None
        self._process.terminate()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def close(self) -> None:
        """Remove what is left on this node and belongs to the driver."""
        self.clear()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
