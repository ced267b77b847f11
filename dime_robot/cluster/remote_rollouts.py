"""RemoteRollouts: the transitions of a run from workers of a Ray cluster.

Each worker (`rollout_worker.py`) has at most two calls under way, each for one message. It works on
the second while the first waits for the learner, and then waits itself; the learner makes all
updates that a message brings before it takes the next one. So neither runs away from the other:
there are as many updates per transition as the settings say, and a message is at most a few of them
old. Weights go out at most once a second, to each node once.

A worker that is lost, alone or with its node, costs its messages under way. Another one begins in
its place where the cluster has room, with seeds of its own. What Ray would do by itself
(`max_restarts`) would not tell the new process that it is another one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep
from types import ModuleType
from typing import Any

from dime_robot.cluster.connection import own_version
from dime_robot.cluster.rollout_worker import Job, Message, Place, RolloutWorker
from dime_robot.cluster.task_files import TaskFiles
from dime_robot.envs import Env
from dime_robot.learning.config import MESSAGE, TrainConfig
from dime_robot.learning.dime import DIME
from dime_robot.learning.replay_buffer import Batch
from dime_robot.runtime.io.errors import InputError, in_one_line
from dime_robot.training.env_facts import facts_of
from dime_robot.training.env_group import EnvGroup, Result
from dime_robot.training.env_maker import EnvMaker
from dime_robot.training.episode import OpenEpisode
from dime_robot.training.rollouts import AllWorkersLostError, RolloutMaker, Transitions
from dime_robot.training.worker_process import Failure
from dime_robot.training.workers import EarlierTracebackError

IN_FLIGHT = 2  # calls of a worker under way
WEIGHTS_PERIOD = 1.0  # [s] at least between two versions of the weights
POLL = 0.5  # [s] until the loop may look for a stop request
START_PATIENCE = 30.0  # [s] until a worker that has not started is mentioned
SILENCE = 120.0  # [s] without a message after which a run with no worker ends
# [s] the same while workers run but give nothing, as for a single step on this machine
SILENCE_OF_RUNNING = 600.0
LONGEST_PAUSE = 30.0  # [s] before a worker that fails again and again begins anew
CLOSE_LIMIT = 3.0  # [s] that workers may take to remove their files


@dataclass
class _Worker:
    """A place among the workers, and the actor that has it now, if any."""

    number: int
    begun: int = 0  # how often an actor has begun here, over all sessions
    actor: Any = None
    place: Place | None = None  # where it runs; none: its environments are not made yet
    since: float = 0.0  # when it was asked for [s]
    failures: int = 0  # in a row, without a message in between
    not_before: float = 0.0  # when the next one may begin [s]
    calls: set[Any] = field(default_factory=set)  # messages under way


def pause_after(failures: int) -> float:
    """Return how long a place stays empty after so many failures in a row [s]."""
    return 0.0 if failures <= 1 else min(LONGEST_PAUSE, 2.0 ** min(failures, 10))


class RemoteRollouts:
    """Workers of a cluster, as the `Rollouts` of a run.

    Args:
        ray: the connected module.
        config: settings of the run.
        maker: of its environments.
        log: tells the user something.

    Raises:
        InputError: the environment cannot be made or its files cannot be sent.
    """

    def __init__(
        self, ray: ModuleType, config: TrainConfig, maker: EnvMaker, log: Callable[[str], None]
    ) -> None:
        self._ray, self._config, self._maker, self._log = ray, config, maker, log
        self.stride = config.num_envs // config.workers
        self._steps = math.ceil(MESSAGE / self.stride)
        self.rows = self._steps * self.stride
        self.most_rows = MESSAGE + config.num_envs
        self.level: int | None = None
        self.description = (
            f"{ray.__version__}, {self.stride} of {config.num_envs} environments in each of"
            f" {config.workers} workers; asynchronous: not repeatable bit for bit"
        )
        self.provenance: Mapping[str, str] = {
            "rollouts": f"Ray {ray.__version__}, asynchronous, not repeatable"
        }
        source = maker.source
        self._task = TaskFiles.of(source) if isinstance(source, str) else None
        # the driver needs the same environment for evaluations
        self._group: EnvGroup | None = EnvGroup(maker, range(1))
        facts = self.query(functools.partial(facts_of, name=config.env))
        self._job = self._pickled(facts.spec, facts.task_digest)
        self._workers = [_Worker(i) for i in range(config.workers)]
        self._more_begun: tuple[int, ...] = ()  # of workers that an earlier session had
        self._calls: dict[Any, _Worker] = {}  # every call under way
        self._Actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(RolloutWorker)
        self._version = 0
        self._weights: Any = None  # the reference to the newest
        self._published, self._published_updates = -math.inf, -1
        self._silent = 0.0
        self._told = False
        self._since, self._messages, self._versions_behind = monotonic(), 0, 0
        self._restarted = self._lost = 0

    @classmethod
    def on(cls, ray: ModuleType) -> RolloutMaker:
        """Return what makes the rollouts of a run on a connected cluster.

        Args:
            ray: the connected module.
        """
        return lambda config, maker, log: cls(ray, config, maker, log)

    def _pickled(self, spec: Any, digest: str | None) -> bytes:
        job = Job(self._config, self._maker, self._task, spec, digest, self._steps)
        try:
            content: bytes = self._ray.cloudpickle.dumps(job)
            return content
        except Exception as error:  # pickling a user's objects can raise anything
            raise InputError(
                "--ray: expected an environment that can be sent to another process, such as a"
                f" name or a function that makes it, got one that cannot ({in_one_line(error)})"
            ) from error

    # -- Rollouts --------------------------------------------------------------------------------

    def query(self, function: Callable[[Env], Result]) -> Result:
        """Return what a function says of an environment in this process; before `reset`."""
        assert self._group is not None
        return self._group.query(function)

    def reset(self) -> None:
        """Let go of the environment that was asked; workers begin with the first `collect`."""
        if self._group is not None:
            self._group.close()
            self._group = None

    def collect(
        self, agent: DIME, step: int, meanwhile: Callable[[], object]
    ) -> Transitions | None:
        """Take the next message, and keep all workers at work; see `Rollouts`."""
        self._publish(agent)
        self._fill(step)
        ready = []
        if self._calls:
            ready, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=POLL)
        else:  # every place rests after failures
            sleep(POLL)
        if not ready:
            self._count_silence()
            return None
        response, worker = self._response_of(ready[0])
        if isinstance(response, Failure):
            raise response.error from EarlierTracebackError(response.text)
        if isinstance(response, Place):
            worker.place = response
            self._say_who_waits()
            return None
        if not isinstance(response, Message):
            return None
        worker.failures, self._silent = 0, 0.0
        self._messages += 1
        self._versions_behind += self._version - response.version
        agent.observe(response.obs.copy())  # what Ray delivers is read-only
        return Transitions(*response[1:])

    def figures(self) -> dict[str, float]:
        """Return staleness, speed and losses."""
        now = monotonic()
        messages, seconds = self._messages, max(now - self._since, 1e-9)
        behind = self._versions_behind / max(1, messages)
        self._since, self._messages, self._versions_behind = now, 0, 0
        return {
            "ray/staleness": behind,
            "ray/messages_per_second": messages / seconds,
            "ray/workers": sum(each.place is not None for each in self._workers),
            "ray/restarts": self._restarted,
            "ray/lost_messages": self._lost,
        }

    def open_episodes(self) -> tuple[OpenEpisode, ...]:
        """Return nothing: episodes under way are the workers' own, and end with them."""
        return ()

    def restarts(self) -> tuple[int, ...]:
        """Return how often each worker has begun."""
        return (*(each.begun for each in self._workers), *self._more_begun)

    def restore(
        self,
        episodes: Sequence[OpenEpisode],
        restarts: Sequence[int],
        past: Callable[[int, int], Batch | None],
    ) -> list[int]:
        """Go on counting where the checkpoint ends; episodes begin anew. See `Rollouts`."""
        for worker, begun in zip(self._workers, restarts, strict=False):
            worker.begun = begun
        self._more_begun = tuple(restarts[len(self._workers) :])
        return []

    def reopen(self) -> None:
        """Do nothing: workers have environments of their own."""

    def close(self) -> None:
        """End all workers."""
        self.reset()
        files = {} if self._task is None else self._task.files
        closing = [each.actor.close.remote() for each in self._workers if files and each.place]
        if closing:
            self._ray.wait(closing, num_returns=len(closing), timeout=CLOSE_LIMIT)
        for worker in self._workers:
            self._empty(worker)

    @property
    def places(self) -> list[Place | None]:
        """Where each worker runs; None: it waits for its place."""
        return [each.place for each in self._workers]

    # -- workers ---------------------------------------------------------------------------------

    def _publish(self, agent: DIME) -> None:
        """Make a new version of the weights, if they have changed and the last one is not new."""
        now, moving = monotonic(), agent.actor.normalization is not None
        changed = moving or agent.updates != self._published_updates
        if self._weights is None or (changed and now - self._published >= WEIGHTS_PERIOD):
            state = {name: each.cpu().numpy() for name, each in agent.actor.state_dict().items()}
            self._weights = self._ray.put(state)
            self._version += 1
            self._published, self._published_updates = now, agent.updates

    def _fill(self, step: int) -> None:
        """Give every worker calls, and let one begin where there is none."""
        now = monotonic()
        under_way = sum(len(each.calls) for each in self._workers)
        for worker in self._workers:
            if worker.actor is None:
                if now < worker.not_before:
                    continue
                worker.actor = self._Actor.remote(
                    own_version(), self._job, worker.number, worker.begun
                )
                worker.begun, worker.since = worker.begun + 1, now
                self._calls[worker.actor.start.remote()] = worker
            while len(worker.calls) < IN_FLIGHT:
                random = step + under_way * self.rows < self._config.random_steps
                call = worker.actor.rollout.remote(self._version, self._weights, self.level, random)
                worker.calls.add(call)
                self._calls[call] = worker
                under_way += 1

    def _response_of(self, call: Any) -> tuple[Any, _Worker]:
        """Return the answer to a call, None if it is lost, and whose it was."""
        errors = self._ray.exceptions
        worker = self._calls.pop(call)
        is_message = call in worker.calls
        worker.calls.discard(call)
        try:
            return self._ray.get(call), worker
        except errors.RayTaskError as error:  # a response that cannot be sent
            raise _refusal(error) from None
        except errors.RayActorError as error:
            if getattr(error, "actor_init_failed", False):
                raise _refusal(error) from None
            self._replace(worker, is_message)
        except errors.RayError:  # it was made, but its node is gone with it
            self._lost += is_message
            self._log(f"a message of worker {worker.number + 1} was lost with its node")
        return None, worker

    def _replace(self, worker: _Worker, was_message: bool) -> None:
        """Count what is lost with a worker, and let another one begin in its place."""
        # one that has not begun had none under way
        lost = 0 if worker.place is None else len(worker.calls) + was_message
        self._lost += lost
        self._restarted += 1
        worker.failures += 1
        where = "" if worker.place is None else f" on {worker.place.host}"
        self._empty(worker)
        worker.not_before = monotonic() + pause_after(worker.failures)
        self._log(
            f"worker {worker.number + 1} of {len(self._workers)} is lost{where}, its process or"
            f" its node, with up to {lost} messages; another one begins in its place"
        )

    def _empty(self, worker: _Worker) -> None:
        """Forget a worker's calls, and end its process if it has one."""
        for call in [call for call, of in self._calls.items() if of is worker]:
            del self._calls[call]
        worker.calls.clear()
        if worker.actor is not None:
            self._ray.kill(worker.actor)
        worker.actor = worker.place = None

    def _count_silence(self) -> None:
        """Count a wait without any message, and end the run if there were too many."""
        self._silent += POLL  # counted, not measured: time in which the learner worked is none
        self._say_who_waits()
        running = any(each.place is not None for each in self._workers)
        limit = SILENCE_OF_RUNNING if running else SILENCE
        if self._silent >= limit:
            state = "none of them runs" if not running else "though some of them run"
            raise AllWorkersLostError(
                f"--ray: no message came from any of {len(self._workers)} workers for {limit:g} s,"
                f" {state}: expected nodes with a free CPU each, see `ray status`"
            )

    def _say_who_waits(self) -> None:
        """Say once that the run goes on with fewer workers."""
        now = monotonic()
        waiting = [each for each in self._workers if each.place is None]
        if not waiting:
            self._told = False
        late = [e for e in waiting if e.actor is not None and now - e.since > START_PATIENCE]
        if late and not self._told:
            self._told = True
            there = len(self._workers) - len(waiting)
            self._log(
                f"{len(late)} of {len(self._workers)} workers have not begun, which need a node"
                f" with a free CPU each; the run goes on with {there}"
            )


def _refusal(error: BaseException) -> InputError:
    """Return one sentence for a worker that cannot begin or answer, such as without the package."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "")
    return InputError(
        f"--ray: a worker cannot begin ({reason:.300}): expected dime_robot {own_version()} with"
        " its extras, and the packages of the environment, on every node"
    )
