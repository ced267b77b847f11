"""What starts the runs of a sweep: one interface, and local processes as its first form."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from dime_robot.training.run_folder import RunFolder

INPUT_ERROR = 2  # exit code of a command that refuses its input


@dataclass(frozen=True)
class Job:
    """The process of one run.

    Attributes:
        command: words that begin the run, or resume it; the first one is the interpreter.
        resume: words that resume it once its folder has a checkpoint.
        folder: of the run; a word of both commands.
        log: file of the process's output.
        needs: files that the command names, which have to exist where it runs.
    """

    command: tuple[str, ...]
    resume: tuple[str, ...]
    folder: Path
    log: Path
    needs: tuple[Path, ...] = ()

    def words(self, folder: Path) -> tuple[str, ...]:
        """Return the command for the state of a folder, which takes the place of the run's own."""
        resumed = RunFolder(folder).checkpoint.exists() and "--resume" not in self.command
        words = self.resume if resumed else self.command
        return tuple(str(folder) if word == str(self.folder) else word for word in words)


class Executor(Protocol):
    """Starts processes of runs somewhere and waits for them; `launch` is called in threads."""

    @property
    def retries(self) -> int:
        """How often a run that was killed, or lost with its machine, is started again."""

    def launch(self, job: Job, started: Callable[[], object]) -> int | None:
        """Run a job to its end.

        Args:
            job: what to start.
            started: called when its process is about to start.

        Returns:
            Exit code of the process: below 0 the signal that killed it, also with its machine.
            None: `stop` came before it started.
        """

    def stop(self, *, kill: bool) -> None:
        """Start nothing any more; ask running processes to save and end, or kill them.

        A signal handler calls this.
        """


class LocalExecutor:
    """Processes on this machine.

    Args:
        lock: a file that stays open in every process, also when the sweep itself was killed.
    """

    retries = 0

    def __init__(self, lock: IO[Any]) -> None:
        self._lock = lock
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopping = False

    def launch(self, job: Job, started: Callable[[], object]) -> int | None:
        """See `Executor`."""
        if self._is_stopping():
            return None
        started()
        process = self.start(job)
        self._processes.append(process)
        if self._is_stopping():  # a signal came meanwhile
            process.terminate()
        return process.wait()

    def _is_stopping(self) -> bool:
        return self._stopping

    def start(self, job: Job) -> subprocess.Popen[bytes]:
        """Start the process of a job."""
        return start_process(job.words(job.folder), job.log, pass_fds=(self._lock.fileno(),))

    def stop(self, *, kill: bool) -> None:
        """See `Executor`."""
        self._stopping = True
        for process in self._processes:
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)


def append_to(log: Path, content: bytes) -> None:
    """Add output to the log of a run.

    Args:
        log: its file.
        content: to add.
    """
    with log.open("ab") as file:
        file.write(content)


def start_process(words: tuple[str, ...], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command whose output goes to a log, which a resumed run continues.

    Args:
        words: of the command.
        log: its file.
        **options: others of `subprocess.Popen`.
    """
    with log.open("ab" if "--resume" in words else "wb") as output:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": "1", **os.environ, **options.pop("env", {})},
            start_new_session=True,  # a terminal's Ctrl-C reaches only the sweep
            **options,
        )
