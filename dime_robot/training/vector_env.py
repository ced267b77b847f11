"""SeededVectorEnv: environments that step side by side, each episode from a seed of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from pydantic import Field

from dime_robot.envs import Env
from dime_robot.learning.replay_buffer import Batch
from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.io.errors import InputError

FloatArray = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]


class OpenEpisode(StrictModel):
    """The episode that is under way in an environment, as a checkpoint records it."""

    number: int = Field(ge=0, lt=2**53, description="episodes of this environment before it")
    steps: int = Field(ge=0, lt=2**53, description="its steps so far")
    total: float = Field(description="its return so far, unscaled")
    level: int | None = Field(
        None, ge=0, lt=1000, description="of the curriculum, in which it began; none: of no level"
    )


@dataclass
class EndedEpisode:
    """An episode that ended in the last step."""

    environment: int
    steps: int
    total: float  # unscaled return
    terminated: bool
    success: bool | None  # None: the task states no criterion
    level: int | None  # of the curriculum, in which it began
    means: dict[str, float]  # of the task's metrics; none outside a curriculum


@dataclass
class _Episode:
    """The episode under way in an environment."""

    number: int = 0
    steps: int = 0
    total: float = 0.0
    level: int | None = None
    success: bool | None = None  # at the last step
    sums: dict[str, float] = field(default_factory=dict)  # of the task's metrics

    def add(self, reward: float, info: dict[str, Any]) -> None:
        """Add a step."""
        self.steps += 1
        self.total += reward
        self.success = info.get("is_success")
        if self.level is not None:
            for name, value in info.get("measures", {}).items():
                self.sums[name] = self.sums.get(name, 0.0) + value

    def ended(self, environment: int, terminated: bool) -> EndedEpisode:
        """Return what is known at its end."""
        means = {name: total / self.steps for name, total in self.sums.items()}
        known = self.steps, self.total, terminated, self.success, self.level
        return EndedEpisode(environment, *known, means)


class NotFiniteError(InputError):
    """An environment gave a NaN or an infinite number.

    Attributes:
        what: the value.
        where: environment, episode and step.
    """

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"a NaN or infinite {what} ({where})")
        self.what, self.where = what, where


@dataclass
class _Step:
    """What the environments returned in one step, before any is reset."""

    obs: FloatArray
    rewards: Numbers
    terminations: Truths
    truncations: Truths
    infos: list[dict[str, Any]] = field(default_factory=list)


class SeededVectorEnv(VectorEnv[FloatArray, FloatArray, npt.NDArray[Any]]):
    """Environments of one kind that step side by side in this process.

    As in `gymnasium.vector` with AutoresetMode.SAME_STEP: an environment whose episode ends is
    reset in the same step; the observation that the episode ended with is `infos["final_obs"]`.
    Every episode starts from a seed of its own, so that it can be repeated.

    Args:
        make: makes environment number i.
        count: number of environments.
        seed: returns the seed of an episode, by its number among those of all environments; the
            k-th of environment i has the number i + k * count.
        first: the number of each environment's first episode among its own; none: 0.

    Raises:
        InputError: an environment cannot be made.

    Attributes:
        envs: the environments.
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
    ) -> None:
        self.envs: list[Env] = []
        try:
            for i in range(count):
                self.envs.append(make(i))
        except BaseException:
            self.close_extras()
            raise
        self.num_envs, self._seed = count, seed
        self.metadata = {**self.envs[0].metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        shape = self.single_observation_space.shape
        assert shape is not None
        self.obs: FloatArray = np.zeros((count, *shape), dtype=np.float32)
        self.ended: list[EndedEpisode] = []
        self.level: int | None = None
        self._episodes = [_Episode(number) for number in first or [0] * count]

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
        for i, episode in enumerate(self._episodes):
            self._begin(i, episode.number, self.level)
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
        """
        stepped = self._step_all(actions)
        self.obs = stepped.obs
        done = stepped.terminations | stepped.truncations
        infos: dict[str, Any] = {}
        self.ended = []
        for episode, reward, info in zip(
            self._episodes, stepped.rewards.tolist(), stepped.infos, strict=True
        ):
            episode.add(reward, info)
        if done.any():
            final = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(done).tolist():
                episode = self._episodes[i]
                final[i] = self.obs[i].copy()
                self.ended.append(episode.ended(i, bool(stepped.terminations[i])))
                self._begin(i, episode.number + 1, self.level)
            infos = {"final_obs": final, "_final_obs": done}
        return (
            self.obs.copy(),
            stepped.rewards,
            stepped.terminations,
            stepped.truncations,
            infos,
        )

    def _step_all(self, actions: FloatArray) -> _Step:
        count = self.num_envs
        stepped = _Step(
            np.empty_like(self.obs),
            np.zeros(count),
            np.zeros(count, dtype=np.bool_),
            np.zeros(count, dtype=np.bool_),
        )
        for i, env in enumerate(self.envs):
            obs, reward, terminated, truncated, info = env.step(actions[i])
            stepped.infos.append(info)
            stepped.obs[i], stepped.rewards[i] = obs, reward
            stepped.terminations[i], stepped.truncations[i] = terminated, truncated
        for what, values in (("reward", stepped.rewards), ("observation", stepped.obs)):
            self._require_finite(what, values)
        return stepped

    def _begin(self, i: int, own: int, level: int | None) -> None:
        """Begin an episode, by its number among those of its environment."""
        self._episodes[i] = _Episode(own, level=level)
        seed = self._seed(i + own * self.num_envs)
        options = None if level is None else {"level": level}
        self.obs[i] = self.envs[i].reset(seed=seed, options=options)[0]
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
        """Close the environments."""
        for env in self.envs:
            env.close()

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
        dropped = []
        for i, saved in enumerate(episodes):
            self._begin(i, saved.number, saved.level)
            if saved.steps == 0:
                continue
            if self._repeats(i, past(i, saved.steps)):
                self._episodes[i].total = saved.total
                continue
            dropped.append(i)
            self._begin(i, saved.number + 1, self.level)
        return dropped

    def _repeats(self, i: int, past: Batch | None) -> bool:
        """Repeat recorded actions; return whether the same observations came of them."""
        if past is None:
            return False
        for action, expected in zip(past.action.cpu(), past.next_obs.cpu(), strict=True):
            self.obs[i], reward, _, _, info = self.envs[i].step(action.numpy())
            self._episodes[i].add(float(reward), info)
            if not np.array_equal(self.obs[i], expected.numpy()):
                return False  # a step after an end that was none may be an error
        return True
