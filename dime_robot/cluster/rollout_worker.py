"""RolloutWorker: environments and the policy in a process of a cluster, one thread on a CPU.

Ray makes it an actor (`remote_rollouts.py`); nothing here needs Ray. It answers one call after
another. What goes wrong is the answer too, so that the learner's process raises it as it raises
errors of its own environments.
"""

from __future__ import annotations

import os
import pickle
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from dime_robot.cluster.connection import own_version
from dime_robot.cluster.task_files import TaskFiles
from dime_robot.evaluation.rollout import seed_of
from dime_robot.learning.config import TrainConfig
from dime_robot.learning.networks import Actor, make_actor
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.io.errors import InputError
from dime_robot.training.env_facts import facts_of
from dime_robot.training.env_group import FloatArray, Numbers, Truths
from dime_robot.training.env_maker import TRAIN, EnvMaker
from dime_robot.training.episode import EndedEpisode
from dime_robot.training.rollouts import require_finite
from dime_robot.training.vector_env import SeededVectorEnv
from dime_robot.training.worker_process import Failure, failure_of

EXPLORE = TRAIN + 2  # key of exploration among the seeds derived from the run's
Weights = dict[str, npt.NDArray[np.generic]]  # the actor's state, by name
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Job:
    """What all workers of a run know.

    Attributes:
        config: settings of the run.
        maker: of the environments, with the driver's name of the environment.
        task: the environment's own files; none: it is not one that has a name.
        spec: the contract, as the driver knows it.
        digest: of a robot task's content, as the driver knows it; None: it is no robot task.
        steps: of every environment in a message.
    """

    config: TrainConfig
    maker: EnvMaker
    task: TaskFiles | None
    spec: PolicySpec
    digest: str | None
    steps: int


class Message(NamedTuple):
    """Whole steps of a worker's environments: row k * count + i is step k of environment i."""

    version: int  # of the weights that acted
    obs: FloatArray  # (rows, n_obs)
    actions: FloatArray  # (rows, n_act)
    next_obs: FloatArray  # (rows, n_obs), before any reset
    rewards: Numbers  # (rows,), unscaled
    terminations: Truths  # (rows,)
    ended: list[EndedEpisode]


class Place(NamedTuple):
    """Where a worker runs."""

    host: str
    process: int


def episode_key(seed: int, worker: int, restart: int, number: int) -> tuple[int, ...]:
    """Return what the seed of an episode is derived from; no two episodes of a run share one.

    Args:
        seed: of the run.
        worker: number of the worker.
        restart: how often it had begun before, over all sessions of the run.
        number: of the episode, among those of its environments since then.
    """
    return seed, TRAIN, worker, restart, number


class RolloutWorker:
    """Some of a run's environments, stepped by the policy's newest weights that were sent.

    Args:
        version: of the package in the learner's process.
        job: a pickled `Job`.
        worker: its number.
        restart: how often this worker had begun before.
    """

    def __init__(self, version: str, job: bytes, worker: int, restart: int) -> None:
        self._version, self._job, self._worker, self._restart = version, job, worker, restart
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._envs: SeededVectorEnv
        self._actor: Actor
        self._weights = -1  # version of those that the actor has

    def start(self) -> Place | Failure:
        """Make environments and policy."""
        return _answer(self._start)

    def rollout(
        self, version: int, weights: Weights, level: int | None, random: bool
    ) -> Message | Failure:
        """Make a message of transitions.

        Args:
            version: of the weights.
            weights: the actor's state.
            level: of a curriculum, in which new episodes begin; None: without levels.
            random: uniformly random actions.
        """
        return _answer(lambda: self._rollout(version, weights, level, random))

    def close(self) -> None:
        """Close the environments and remove the task's files."""
        if hasattr(self, "_envs"):
            self._envs.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _start(self) -> Place:
        if self._version != own_version():
            raise InputError(
                f"--ray: expected dime_robot {self._version}, as in the learner's process, on every"
                f" node, got {own_version()} on {platform.node()}: install the same version there"
            )
        job: Job = pickle.loads(self._job)
        config, count = job.config, job.config.num_envs // job.config.workers
        torch.set_num_threads(1)
        maker = job.maker
        if job.task is not None and job.task.files:
            self._folder = tempfile.TemporaryDirectory(prefix="dime_robot-")
            maker = replace(maker, source=job.task.unpack(Path(self._folder.name)))
        self._first = self._worker * count
        self._envs = SeededVectorEnv(
            lambda i: maker(self._first + i),
            count,
            lambda number: seed_of(*episode_key(config.seed, self._worker, self._restart, number)),
        )
        facts = self._envs.query(lambda env: facts_of(env, config.env))
        if (facts.spec, facts.task_digest) != (job.spec, job.digest):
            raise InputError(
                f"--ray: {config.env} on {platform.node()} is another environment than in the"
                " learner's process: install the same packages and files there"
            )
        self._config, self._spec, self._steps = config, job.spec, job.steps
        self._actor = make_actor(job.spec, config)
        seed = seed_of(config.seed, EXPLORE, self._worker, self._restart)
        self._generator = torch.Generator().manual_seed(seed)
        self._begun = False
        return Place(platform.node(), os.getpid())

    def _rollout(self, version: int, weights: Weights, level: int | None, random: bool) -> Message:
        envs, count, steps = self._envs, self._envs.num_envs, self._steps
        envs.level = level
        if not self._begun:
            envs.reset()
            self._begun = True
        if version != self._weights:
            # copies: what Ray delivers is read-only memory that other processes see too
            self._actor.load_state_dict(
                {name: torch.as_tensor(np.array(value)) for name, value in weights.items()}
            )
            self._weights = version
        n_obs = envs.obs.shape[1]
        obs, next_obs = (np.empty((steps, count, n_obs), np.float32) for _ in range(2))
        actions = np.empty((steps, count, self._spec.n_act), np.float32)
        rewards = np.empty((steps, count), np.float64)
        terminations = np.empty((steps, count), np.bool_)
        ended: list[EndedEpisode] = []
        for k in range(steps):
            obs[k] = envs.obs
            actions[k] = self._act(obs[k], random)
            next_obs[k], rewards[k], terminations[k], _, infos = envs.step(actions[k])
            for episode in envs.ended:
                next_obs[k, episode.environment] = infos["final_obs"][episode.environment]
                ended.append(replace(episode, environment=self._first + episode.environment))
        rows = steps * count
        return Message(
            version,
            obs.reshape(rows, -1),
            actions.reshape(rows, -1),
            next_obs.reshape(rows, -1),
            rewards.reshape(rows),
            terminations.reshape(rows),
            ended,
        )

    def _act(self, obs: FloatArray, random: bool) -> FloatArray:
        """Return an action for every environment, shape (count, n_act)."""
        shape = len(obs), self._spec.n_act
        if random:
            return (2 * torch.rand(shape, generator=self._generator) - 1).numpy()
        noise = torch.randn((self._actor.steps + 1, *shape), generator=self._generator)
        seen = torch.from_numpy(obs[:, : self._actor.n_obs])
        return require_finite(self._actor.act(seen, noise).numpy())


def _answer(work: Callable[[], Answer]) -> Answer | Failure:
    try:
        return work()
    except BaseException as error:  # a user's environment can raise anything, SystemExit too
        return failure_of(error)
