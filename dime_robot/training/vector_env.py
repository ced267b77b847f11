"""SeededVectorEnv: environments that step side by side, each episode from a seed of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dime_robot.envs import Env
from dime_robot.learning.replay_buffer import Batch
from dime_robot.runtime.io.errors import InputError
from dime_robot.training.env_group import (
    Begin,
    EnvGroup,
    FloatArray,
    Numbers,
    Result,
    Sizes,
    Stepper,
    Truths,
    spaces_of,
)
from dime_robot.training.episode import EndedEpisode, OpenEpisode, RunningEpisode
from dime_robot.training.workers import Workers


class NotFiniteError(InputError):
    """An environment gave a NaN or an infinite number.

    Attributes:
        what: the value.
        where: environment, episode and step.
    """

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"a NaN or infinite {what} ({where})")
        self.what, self.where = what, where

    def __reduce__(self) -> tuple[type[NotFiniteError], tuple[str, str]]:
        return type(self), (self.what, self.where)


class SeededVectorEnv(VectorEnv[FloatArray, FloatArray, npt.NDArray[Any]]):
    """Environments of one kind that step side by side, in this process or divided among workers.

    As in `gymnasium.vector` with AutoresetMode.SAME_STEP: an environment whose episode ends is
    reset in the same step; the observation that the episode ended with is `infos["final_obs"]`.
    Every episode starts from a seed of its own, so that it can be repeated. Seeds depend on the
    environment's number alone, so results do not depend on the number of workers.

    Args:
        make: makes environment number i.
        count: number of environments.
        seed: returns the seed of an episode, by its number among those of all environments; the
            k-th of environment i has the number i + k * count.
        first: the number of each environment's first episode among its own; none: 0.
        workers: processes that the environments are divided among; 0: this process.

    Raises:
        InputError: an environment cannot be made, or cannot be sent to a worker.

    Attributes:
        envs: the environments in this process.
        processes: ids of the workers.
        obs: current observations, shape (count, n_obs).
        level: of a curriculum, in which new episodes begin: `reset(options={"level": level})`;
            None: without options.
        ended: the episodes that ended in the last step, in the order of their environments.
    """

    def __init__(
        self,
        make: Callable[[int], Env],
        count: int,
        seed: Callable[[int], int],
        first: Sequence[int] = (),
        workers: int = 0,
    ) -> None:
        self.closed = True  # until there is something to close
        self.envs: list[Env] = []
        self.processes: list[int] = []
        self._stepper: Stepper
        if workers:
            divided = Workers(make, count, workers)
            self._stepper, self.processes = divided, divided.processes
        else:
            group = EnvGroup(make, range(count))
            self._stepper, self.envs = group, group.envs
        self.closed = False
        self.num_envs, self._seed = count, seed
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space, self.single_action_space = self.query(spaces_of)
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        n_obs, n_act = (
            spaces.flatdim(each)
            for each in (self.single_observation_space, self.single_action_space)
        )
        self._arrays = self._stepper.attach(Sizes(count, n_obs, n_act))
        self._arrays.active[:] = True
        self.obs: FloatArray = np.zeros((count, n_obs), dtype=np.float32)
        self.ended: list[EndedEpisode] = []
        self.level: int | None = None
        self._episodes = [RunningEpisode(number) for number in first or [0] * count]

    def query(self, function: Callable[[Env], Result]) -> Result:
        """Return what a function says of the first environment.

        Args:
            function: of a module, so that it can be sent to a worker.
        """
        return self._stepper.query(function)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begin an episode in every environment; the seeds are those of this object.

        Args:
            seed: must be left out.
            options: must be left out.

        Returns:
            Observations, shape (count, n_obs), and nothing else.

        Raises:
            NotFiniteError: an observation is NaN or infinite.
        """
        if seed is not None or options is not None:
            raise ValueError("expected no seed and no options: every episode has a seed of its own")
        self._begin({i: (each.number, self.level) for i, each in enumerate(self._episodes)})
        return self.obs.copy(), {}

    def step(
        self, actions: FloatArray
    ) -> tuple[FloatArray, Numbers, Truths, Truths, dict[str, Any]]:
        """Simulate one control step in every environment.

        Args:
            actions: in [-1, 1], shape (count, n_act).

        Returns:
            Observations (count, n_obs), of a new episode where one ended; rewards, terminations
            and truncations, (count,) each; and if episodes ended, `final_obs`, an array of their
            last observations, and `_final_obs`, where there are any, (count,) each.

        Raises:
            NotFiniteError: a reward or an observation is NaN or infinite.
            InputError: an environment failed, or a worker was lost.
        """
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: FloatArray) -> None:
        """Let every environment begin a step; workers then step while this process goes on.

        Args:
            actions: in [-1, 1], shape (count, n_act).
        """
        self._arrays.actions[:] = actions
        self._stepper.step_async()

    def step_wait(self) -> tuple[FloatArray, Numbers, Truths, Truths, dict[str, Any]]:
        """Finish the step; see `step`."""
        given = self._stepper.step_wait()
        rewards, obs = self._arrays.rewards.copy(), self._arrays.obs.copy()
        for what, values in (("reward", rewards), ("observation", obs)):
            self._require_finite(what, values)
        self.obs = obs
        terminations, truncations = self._arrays.terminations, self._arrays.truncations
        terminations, truncations = terminations.copy(), truncations.copy()
        done = terminations | truncations
        infos: dict[str, Any] = {}
        self.ended = []
        for i, reward in enumerate(rewards.tolist()):
            self._episodes[i].add(reward, given.get(i, {}))
        if done.any():
            final = np.full(self.num_envs, None, dtype=object)
            begins = {}
            for i in np.flatnonzero(done).tolist():
                episode = self._episodes[i]
                final[i] = self.obs[i].copy()
                self.ended.append(episode.ended(i, bool(terminations[i])))
                begins[i] = episode.number + 1, self.level
            self._begin(begins)
            infos = {"final_obs": final, "_final_obs": done}
        return self.obs.copy(), rewards, terminations, truncations, infos

    def _begin(self, episodes: Mapping[int, tuple[int, int | None]]) -> None:
        """Begin episodes: environment -> number among its own, and level."""
        begins = []
        for i, (own, level) in episodes.items():
            self._episodes[i] = RunningEpisode(own, level=level)
            begins.append(Begin(i, self._seed(i + own * self.num_envs), level))
        self._stepper.reset(begins)
        for i in episodes:
            self.obs[i] = self._arrays.obs[i]
            self._require_finite("observation after reset", self.obs[i : i + 1], i)

    def _require_finite(self, what: str, values: npt.NDArray[Any], first: int = 0) -> None:
        """Refuse NaN and infinity; row j of `values` is of environment `first` + j."""
        finite = np.isfinite(values)
        if finite.all():
            return
        i = first + int(np.argwhere(~finite)[0][0])
        episode = self._episodes[i]
        where = f"episode {episode.number}, its step {episode.steps}"
        if self.num_envs > 1:
            where = f"environment {i}, {where}"
        raise NotFiniteError(what, where)

    def close_extras(self, **_: Any) -> None:
        """Close the environments; workers end."""
        self._stepper.close()

    # -- checkpoints -----------------------------------------------------------------------------

    def open_episodes(self) -> tuple[OpenEpisode, ...]:
        """Return the state of every environment's episode, for a checkpoint."""
        return tuple(
            OpenEpisode(number=each.number, steps=each.steps, total=each.total, level=each.level)
            for each in self._episodes
        )

    def restore(
        self, episodes: Sequence[OpenEpisode], past: Callable[[int, int], Batch | None]
    ) -> list[int]:
        """Bring every environment back to its state at a checkpoint, by repeating its actions.

        Args:
            episodes: one for each environment.
            past: returns an environment's last transitions, given its number and how many, if they
                are still kept.

        Returns:
            The environments that did not repeat themselves, or whose actions are not kept: each
            begins its next episode.
        """
        self._begin({i: (saved.number, saved.level) for i, saved in enumerate(episodes)})
        recorded = {
            i: _actions_and_observations(past(i, saved.steps))
            for i, saved in enumerate(episodes)
            if saved.steps
        }
        repeated = self._repeat({i: steps for i, steps in recorded.items() if steps is not None})
        for i in repeated:
            self._episodes[i].total = episodes[i].total
        dropped = sorted(recorded.keys() - repeated)
        self._begin({i: (episodes[i].number + 1, self.level) for i in dropped})
        return dropped

    def _repeat(self, recorded: Mapping[int, tuple[FloatArray, FloatArray]]) -> set[int]:
        """Repeat recorded actions; return the environments that gave the same observations."""
        arrays, repeating = self._arrays, set(recorded)
        for t in range(max((len(actions) for actions, _ in recorded.values()), default=0)):
            stepped = [i for i in sorted(repeating) if t < len(recorded[i][0])]
            arrays.active[:] = False
            arrays.active[stepped] = True
            for i in stepped:
                arrays.actions[i] = recorded[i][0][t]
            self._stepper.step_async()
            infos = self._stepper.step_wait()
            for i in stepped:
                self.obs[i] = arrays.obs[i]
                self._episodes[i].add(float(arrays.rewards[i]), infos.get(i, {}))
                if not np.array_equal(self.obs[i], recorded[i][1][t]):
                    repeating.discard(i)  # a step after an end that was none may be an error
        arrays.active[:] = True
        return repeating


def _actions_and_observations(batch: Batch | None) -> tuple[FloatArray, FloatArray] | None:
    """Return those of transitions, if there are any, (steps, n_act) and (steps, n_obs)."""
    if batch is None:
        return None
    return batch.action.cpu().numpy(), batch.next_obs.cpu().numpy()
