"""Workers: environments that step in processes of their own, all at the same time.

Gymnasium's AsyncVectorEnv has a process for every environment, draws its own seeds where an episode
ends, and cannot step or reset a single environment to repeat an interrupted episode; a run needs
groups of environments, a seed for every episode and exact repetition.

Environments are divided by their numbers: worker k of W has those from k N / W to (k + 1) N / W. An
environment's number decides everything about it, so results do not depend on W.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from mmap import mmap
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from gymnasium.vector.utils import CloudpickleWrapper

from dime_robot.envs import Env
from dime_robot.runtime.io.errors import InputError, in_one_line
from dime_robot.training.env_group import Begin, Infos, Result, Sizes, StepArrays
from dime_robot.training.worker_process import Failure

RESPONSE_LIMIT = 600  # [s] that a worker may take for one step of its environments
CLOSE_LIMIT = 5.0  # [s] that workers may take to close their environments
# the program's own search path, so that the same modules are found
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[4:];"
    " from dime_robot.training.parent_death import end_with; end_with(int(sys.argv[3]));"
    " from dime_robot.training.worker_process import main; main()"
)


class WorkerLostError(InputError):
    """A worker ended or does not answer."""


class EarlierTracebackError(Exception):
    """The traceback of an exception in a worker, as its cause here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass
class _Worker:
    name: str  # for messages
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    numbers: range  # of its environments

    def send(self, name: str, *arguments: Any) -> None:
        try:
            self.connection.send((name, arguments))
        except OSError:
            raise self._lost() from None

    def receive(self) -> Any:
        # waits are counted, not measured: time in which this process was stopped does not count
        for _ in range(RESPONSE_LIMIT):
            try:
                if self.connection.poll(1.0):
                    return self.connection.recv()
            except (EOFError, OSError):
                raise self._lost() from None
            if self.process.poll() is not None:  # another process may still have its socket
                raise self._lost()
        raise WorkerLostError(f"{self.name} gave no answer within {RESPONSE_LIMIT} s")

    def _lost(self) -> WorkerLostError:
        try:
            code = self.process.wait(CLOSE_LIMIT)
        except subprocess.TimeoutExpired:
            return WorkerLostError(f"{self.name} closed its connection")
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"was killed by signal {-code}"
        if code == -signal.SIGKILL:
            how += ", which the system also sends when memory runs out"
        return WorkerLostError(f"{self.name} {how}")


class Workers:
    """Environments in processes, as a `Stepper`.

    Args:
        make: makes an environment by its number; it is sent to the processes.
        count: number of environments.
        workers: number of processes, at most `count`.

    Raises:
        InputError: an environment cannot be made, or cannot be sent to a process.
    """

    def __init__(self, make: Callable[[int], Env], count: int, workers: int) -> None:
        try:
            maker = pickle.dumps(CloudpickleWrapper(make))  # type: ignore[arg-type]
        except Exception as error:  # pickling a user's objects can raise anything
            raise InputError(
                "--workers: expected an environment that can be sent to another process, such as a"
                f" name or a function that makes it, got one that cannot ({in_one_line(error)});"
                " leave out --workers"
            ) from error
        self._workers: list[_Worker] = []
        self._arrays: StepArrays
        # without a name in the file system: nothing is left of it, however the processes end
        self._memory = os.fdopen(os.memfd_create("dime_robot environments"), "r+b", buffering=0)
        try:
            for k in range(workers):
                numbers = range(count * k // workers, count * (k + 1) // workers)
                self._workers.append(self._start(k, workers, numbers))
            for worker in self._workers:
                worker.send("make", maker, worker.numbers)
            self._responses(self._workers)
        except BaseException:
            self._end(0.0)
            raise

    def _start(self, k: int, workers: int, numbers: range) -> _Worker:
        ours, theirs = Pipe()
        # the system ends a worker with the thread that started it: only if this lives to the end
        is_main = threading.current_thread() is threading.main_thread()
        shared = theirs.fileno(), self._memory.fileno()
        words = [*shared, os.getpid() if is_main else 0]
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *map(str, words), *sys.path],
                stdin=subprocess.DEVNULL,
                env={"OMP_NUM_THREADS": "1", **os.environ},
                start_new_session=True,  # a terminal's Ctrl-C reaches only the learner
                pass_fds=shared,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        name = (
            f"worker {k + 1} of {workers} (process {process.pid}, environments {numbers[0]} to"
            f" {numbers[-1]})"
        )
        return _Worker(name, process, ours, numbers)

    def _responses(self, workers: Iterable[_Worker]) -> list[Any]:
        """Return all answers, or raise the exception of the first environment that has one."""
        responses = [worker.receive() for worker in workers]
        for response in responses:
            if isinstance(response, Failure):
                raise response.error from EarlierTracebackError(response.text)
        return responses

    @property
    def processes(self) -> list[int]:
        """Their process ids."""
        return [worker.process.pid for worker in self._workers]

    def query(self, function: Callable[[Env], Result]) -> Result:
        """Return what a function of a module says of the first environment."""
        self._workers[0].send("query", function)
        result: Result = self._responses(self._workers[:1])[0]
        return result

    def attach(self, sizes: Sizes) -> StepArrays:
        """Return the arrays of every step, which the workers share.

        Args:
            sizes: of the arrays.
        """
        self._memory.truncate(StepArrays.bytes_for(sizes))
        self._arrays = StepArrays.in_memory(mmap(self._memory.fileno(), 0), sizes)
        for worker in self._workers:
            worker.send("attach", sizes)
        self._responses(self._workers)
        return self._arrays

    def reset(self, begins: Sequence[Begin]) -> None:
        """Begin episodes."""
        waiting = []
        for worker in self._workers:
            own = [begin for begin in begins if begin.environment in worker.numbers]
            if own:
                worker.send("reset", own)
                waiting.append(worker)
        self._responses(waiting)

    def step_async(self) -> None:
        """Let every active environment begin a step."""
        self._stepping = [
            worker
            for worker in self._workers
            if self._arrays.active[worker.numbers.start : worker.numbers.stop].any()
        ]
        for worker in self._stepping:
            worker.send("step")

    def step_wait(self) -> Infos:
        """Wait until all are stepped."""
        return {i: info for infos in self._responses(self._stepping) for i, info in infos.items()}

    def close(self) -> None:
        """Let the workers close their environments, and wait until they have ended."""
        self._end(CLOSE_LIMIT)

    def _end(self, limit: float) -> None:
        """Close the connections, and kill the workers that are left after `limit` seconds."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.connection.close()
        end = time.monotonic() + limit
        try:
            for worker in workers:
                worker.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:  # also on Ctrl-C
            for worker in workers:
                if worker.process.poll() is None:
                    worker.process.kill()
                    worker.process.wait()
            self._memory.close()
