"""Runs of a sweep on the nodes of a Ray cluster.

Each run is a Ray actor (`NodeRun`) with its share of CPUs and GPUs, which starts the same process
as a local sweep does. This side asks it for news, forwards a stop, and copies the run's files
where the node does not share the sweep's folder. Ray ends the actors with the driver, and the
system ends their processes with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from dime_robot.cluster.executor import INPUT_ERROR, Job, append_to
from dime_robot.cluster.run_files import RemoteFiles, RunFiles, copy
from dime_robot.cluster.run_task import Driver, NodeRun, Share
from dime_robot.runtime.io.errors import InputError, in_one_line
from dime_robot.training.run_folder import RunFolder
from dime_robot.training.run_lock import RunLock

POLL = 0.5  # [s] between two questions to a run
LOCK_WAIT = 120.0  # [s] that the lock of a lost node's process may last
_SAVE, _KILL = 1, 2  # levels of a stop
KILLED = -9  # exit code of a process that ended with its node


class _KilledError(Exception):
    """The user does not want to wait for a run."""


class RayExecutor:
    """Processes on the nodes of a Ray cluster.

    Args:
        ray: the module, connected.
        share: of each run.
        driver: this machine, for the nodes.
        retries: how often a run that was killed or lost is started again.
    """

    def __init__(self, ray: ModuleType, share: Share, driver: Driver, retries: int) -> None:
        self.retries = retries
        self._ray, self._driver, self._stop_level = ray, driver, 0
        options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_restarts": 0}
        self._actor_class = ray.remote(**options)(NodeRun)

    def stop(self, *, kill: bool) -> None:
        """See `Executor`; the threads that wait for the runs forward it."""
        self._stop_level = _KILL if kill else max(self._stop_level, _SAVE)

    def launch(self, job: Job, started: Callable[[], object]) -> int | None:
        """See `Executor`."""
        self._wait_for_lock(job.folder)
        if self._stop_level:
            return None
        actor = self._actor_class.remote(job, self._driver)
        try:
            return self._attend(job, actor, started)
        except self._ray.exceptions.RayActorError as error:
            if getattr(error, "actor_init_failed", False):
                return self._refused(job, error)
            return KILLED
        except self._ray.exceptions.RayTaskError as error:
            return self._refused(job, error.cause)
        except InputError as error:
            return self._refused(job, error)
        except _KilledError:
            return KILLED
        finally:
            self._ray.kill(actor)  # also one that is only unreachable: no two train one run
            RunFiles(job.folder).clear()

    def _wait_for_lock(self, folder: Path) -> None:
        """Wait until the process of a lost node has lost its lock on a folder, too."""
        end = time.monotonic() + LOCK_WAIT
        while not _is_free(folder) and time.monotonic() < end and not self._stop_level:
            time.sleep(POLL)

    def _attend(self, job: Job, actor: Any, started: Callable[[], object]) -> int | None:
        """Start the process, once the actor has a place, and wait for its end."""
        placed = actor.shares_folder.remote()
        while not self._ray.wait([placed], timeout=POLL)[0]:
            if self._stop_level:
                return None
        shared: bool = self._get(placed)
        remote = RemoteFiles(lambda name, *args: self._get(getattr(actor, name).remote(*args)))
        ours = RunFiles(job.folder)
        started()
        if not shared:
            copy(ours, remote)
            if not ours.files.checkpoint.exists():
                job.log.write_bytes(b"")
        self._get(actor.start.remote())
        saved = self._get(actor.saved.remote())
        while True:
            status = self._get(actor.poll.remote(self._stop_level))
            if not shared:
                ended = status.code is not None
                append_to(job.log, status.log)
                if status.saved != saved or (ended and not status.log):
                    copy(remote, ours)
                    saved = status.saved
                if ended and status.log:  # there may be more
                    continue
            if status.code is not None:
                self._get(actor.close.remote())
                code: int = status.code
                return code
            time.sleep(POLL)

    def _get(self, reference: Any) -> Any:
        """Wait for an answer, until the user wants to wait no longer."""
        while not self._ray.wait([reference], timeout=POLL)[0]:
            if self._stop_level == _KILL:
                raise _KilledError
        return self._ray.get(reference)

    def _refused(self, job: Job, error: BaseException) -> int:
        """Write into the log why a node did not start or keep a run; return its exit code."""
        text = str(error) if isinstance(error, InputError) else in_one_line(error)
        append_to(job.log, f"error: {text}\n".encode())
        return INPUT_ERROR


def _is_free(folder: Path) -> bool:
    """Whether no process trains in a run folder."""
    try:
        RunLock(RunFolder(folder)).release()
    except InputError:
        return False
    return True
