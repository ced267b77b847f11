"""Rollouts: what makes a run's transitions, in step with the learner or ahead of it.

`LocalRollouts` makes one control step of every environment at each call, on this machine; those on
a cluster (`dime_robot/cluster/`) return whole messages of processes that step by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from dime_robot.envs import Env
from dime_robot.evaluation.rollout import seed_of
from dime_robot.learning.config import TrainConfig
from dime_robot.learning.dime import DIME
from dime_robot.learning.replay_buffer import Batch
from dime_robot.runtime.io.errors import InputError
from dime_robot.training.env_group import FloatArray, Numbers, Result, Truths
from dime_robot.training.env_maker import TRAIN, EnvMaker
from dime_robot.training.episode import EndedEpisode, OpenEpisode
from dime_robot.training.vector_env import SeededVectorEnv
from dime_robot.training.workers import WorkerLostError


class NotFiniteActionError(InputError):
    """The policy gave an action that is NaN or infinite."""


class AllWorkersLostError(WorkerLostError):
    """No worker is left that makes transitions; the learner has all it needs to save the run."""


@dataclass(frozen=True)
class Transitions:
    """Transitions for the replay: whole steps of `stride` environments, row t is of t % stride.

    Attributes:
        obs: shape (rows, n_obs), raw.
        actions: in [-1, 1], shape (rows, n_act).
        next_obs: before any reset, shape (rows, n_obs).
        rewards: unscaled, shape (rows,) [1].
        terminations: shape (rows,).
        ended: the episodes that ended in them.
    """

    obs: FloatArray
    actions: FloatArray
    next_obs: FloatArray
    rewards: Numbers
    terminations: Truths
    ended: Sequence[EndedEpisode]


class Rollouts(Protocol):
    """Makes the transitions of a run.

    Attributes:
        stride: environments whose rows come in turn.
        rows: transitions that `collect` returns.
        most_rows: the same for any number of workers: the replay file must not depend on it.
        level: of a curriculum, in which new episodes begin; None: without levels.
        description: for the first lines of a run; empty: nothing to say.
        provenance: what a checkpoint says of them, by its key.
    """

    stride: int
    rows: int
    most_rows: int
    level: int | None
    description: str
    provenance: Mapping[str, str]

    def query(self, function: Callable[[Env], Result]) -> Result:
        """Return what a function of a module says of the first environment; before `reset`."""

    def reset(self) -> None:
        """Begin the first episodes."""

    def collect(
        self, agent: DIME, step: int, meanwhile: Callable[[], object]
    ) -> Transitions | None:
        """Return transitions of the agent's policy.

        Args:
            agent: the learner.
            step: of the run.
            meanwhile: is called while environments step, where they wait for the learner.

        Returns:
            Transitions; None: there are none yet, ask again.
        """

    def figures(self) -> dict[str, float]:
        """Return scalars to log, of the time since the last call."""

    def open_episodes(self) -> tuple[OpenEpisode, ...]:
        """Return the state of every environment's episode, for a checkpoint."""

    def restarts(self) -> tuple[int, ...]:
        """Return how often each worker has begun, for a checkpoint; empty: none begins again."""

    def restore(
        self,
        episodes: Sequence[OpenEpisode],
        restarts: Sequence[int],
        past: Callable[[int, int], Batch | None],
    ) -> list[int]:
        """Go on from a checkpoint.

        Args:
            episodes: of `open_episodes`.
            restarts: of `restarts`.
            past: as for `SeededVectorEnv.restore`.

        Returns:
            The environments whose open episode is dropped.
        """

    def reopen(self) -> None:
        """After `close`, make the environments anew and begin the episodes that come next."""

    def close(self) -> None:
        """Close the environments."""


# settings, maker of the environments, how to tell the user something
RolloutMaker = Callable[[TrainConfig, EnvMaker, Callable[[str], None]], Rollouts]


class LocalRollouts:
    """Environments on this machine that step with the learner; see `Rollouts`.

    Args:
        config: settings of the run.
        maker: of the environments.

    Attributes:
        envs: the environments.
    """

    description = ""
    provenance: Mapping[str, str] = {}

    def __init__(self, config: TrainConfig, maker: EnvMaker) -> None:
        self._config, self._maker = config, maker
        self.stride = self.rows = self.most_rows = config.num_envs
        self.envs = self._make()

    def _make(self, first: Sequence[int] = ()) -> SeededVectorEnv:
        """Make the environments; `first` is as for `SeededVectorEnv`."""
        seed = self._config.seed
        return SeededVectorEnv(
            self._maker,
            self._config.num_envs,
            lambda number: seed_of(seed, TRAIN, number),
            first,
            self._config.workers,
        )

    @property
    def level(self) -> int | None:
        """Of a curriculum, in which new episodes begin."""
        return self.envs.level

    @level.setter
    def level(self, level: int | None) -> None:
        self.envs.level = level

    def query(self, function: Callable[[Env], Result]) -> Result:
        """Return what a function of a module says of the first environment."""
        return self.envs.query(function)

    def reset(self) -> None:
        """Begin the first episodes."""
        self.envs.reset()

    def collect(self, agent: DIME, step: int, meanwhile: Callable[[], object]) -> Transitions:
        """Make one control step in every environment; see `Rollouts`."""
        obs = self.envs.obs.copy()
        agent.observe(obs)
        actions = self._actions(agent, obs, step)
        self.envs.step_async(actions)  # workers begin; without them nothing happens yet
        meanwhile()
        next_obs, rewards, terminations, _, infos = self.envs.step_wait()
        for episode in self.envs.ended:
            next_obs[episode.environment] = infos["final_obs"][episode.environment]
        return Transitions(obs, actions, next_obs, rewards, terminations, self.envs.ended)

    def _actions(self, agent: DIME, obs: FloatArray, step: int) -> FloatArray:
        """Return an action for every environment, shape (num_envs, n_act)."""
        if step < self._config.random_steps:
            shape = self._config.num_envs, agent.actor.n_act
            uniform = torch.rand(shape, generator=agent.generator, device=agent.device)
            return (2 * uniform - 1).cpu().numpy()
        return require_finite(agent.explore(obs))

    def figures(self) -> dict[str, float]:
        """Return nothing: the learner's own figures say all."""
        return {}

    def open_episodes(self) -> tuple[OpenEpisode, ...]:
        """Return the state of every environment's episode, for a checkpoint."""
        return self.envs.open_episodes()

    def restarts(self) -> tuple[int, ...]:
        """Return nothing: a run ends with any of its workers."""
        return ()

    def restore(
        self,
        episodes: Sequence[OpenEpisode],
        restarts: Sequence[int],
        past: Callable[[int, int], Batch | None],
    ) -> list[int]:
        """Bring every environment back to its state at a checkpoint; see `Rollouts`."""
        return self.envs.restore(episodes, past)

    def reopen(self) -> None:
        """Make the environments anew and begin the episodes that come next."""
        level = self.envs.level
        self.envs = self._make([each.number + 1 for each in self.envs.open_episodes()])
        self.envs.level = level
        self.envs.reset()

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()


def require_finite(actions: FloatArray) -> FloatArray:
    """Return a policy's actions, shape (count, n_act).

    Args:
        actions: shape (count, n_act).

    Raises:
        NotFiniteActionError: one is NaN or infinite.
    """
    if not np.isfinite(actions).all():
        raise NotFiniteActionError("the policy gave a NaN action")
    return actions
