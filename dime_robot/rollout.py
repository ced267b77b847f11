"""Episodes of a policy and their statistics. Knows policies as functions of numpy arrays only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from dime_robot.envs import Env, make_env
from dime_robot.runtime.errors import InputError
from dime_robot.runtime.noise import NoiseMode, NoiseSource

FloatArray = npt.NDArray[np.float32]
# raw observations (B, n_obs), unit normals (B, N+1, d) -> actions (B, d) in [-1, 1]
Policy = Callable[[FloatArray, FloatArray], FloatArray]


def iqm(values: npt.ArrayLike, axis: int = 0) -> npt.NDArray[np.float64]:
    """Interquartile mean along an axis; of three values or fewer, the mean."""
    return np.asarray(stats.trim_mean(np.asarray(values, np.float64), 0.25, axis=axis))


@dataclass
class Episode:
    """What an episode came to."""

    total: float = 0.0  # unscaled return
    length: int = 0  # [steps]
    success: bool | None = None  # None: the task states no criterion
    terminated: bool = False  # before its time limit
    action_change: float = 0.0  # sum over steps of the mean |a_t - a_{t-1}|
    effort_peak: float | None = None  # largest effort of a drive [N m or N]
    sums: dict[str, float] = field(default_factory=dict)  # over steps, of what the task measures

    @property
    def action_rate(self) -> float:
        """Mean |a_t - a_{t-1}| over steps and actions, in units of [-1, 1] per step."""
        return self.action_change / max(1, self.length - 1)

    def measure(self, name: str) -> float:
        """Mean over steps of one of the task's measures, in its unit."""
        return self.sums[name] / self.length


@dataclass(frozen=True)
class Evaluation:
    """Some episodes and their statistics."""

    episodes: tuple[Episode, ...]

    @property
    def returns(self) -> tuple[float, ...]:
        """Unscaled returns."""
        return tuple(episode.total for episode in self.episodes)

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns over episodes."""
        return float(np.std(self.returns))

    @property
    def iqm(self) -> float:
        """Interquartile mean of the returns."""
        return float(iqm(self.returns))

    @property
    def action_rate(self) -> float:
        """Mean |a_t - a_{t-1}| per step."""
        return float(np.mean([episode.action_rate for episode in self.episodes]))

    @property
    def survival(self) -> float:
        """Share of episodes that reached their time limit."""
        return float(np.mean([not episode.terminated for episode in self.episodes]))

    @property
    def effort_peak(self) -> float | None:
        """Largest effort of a drive [N m or N]; None where no drive is simulated."""
        known = [e.effort_peak for e in self.episodes if e.effort_peak is not None]
        return max(known, default=None)

    @property
    def measures(self) -> dict[str, float]:
        """Mean over episodes of what the task measures, e.g. velocity_error [m/s]."""
        names = self.episodes[0].sums
        return {name: float(np.mean([e.measure(name) for e in self.episodes])) for name in names}

    @property
    def successes(self) -> int | None:
        """How many episodes met the task's criterion; None where it states none."""
        known = [episode.success for episode in self.episodes if episode.success is not None]
        return sum(known) if len(known) == len(self.episodes) else None

    @property
    def success_rate(self) -> float | None:
        """Share of episodes that met the task's criterion."""
        return None if self.successes is None else self.successes / len(self.episodes)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Percentile bootstrap interval of the mean return."""
        if np.ptp(self.returns) == 0:  # nothing to resample
            return self.mean, self.mean
        result = stats.bootstrap(
            (self.returns,),
            np.mean,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(0),
        )
        return float(result.confidence_interval.low), float(result.confidence_interval.high)

    def summary(self) -> dict[str, Any]:
        """Everything above as plain values."""
        return {
            "return_mean": self.mean,
            "return_std": self.std,
            "return_iqm": self.iqm,
            "interval_95": list(self.interval()),
            "episodes": len(self.episodes),
            "success_rate": self.success_rate,
            "action_rate": self.action_rate,
            "survival": self.survival,
            "effort_peak": self.effort_peak,
            **self.measures,
        }

    def __str__(self) -> str:
        low, high = self.interval()
        text = (
            f"{self.mean:9.1f} ± {self.std:<7.1f} IQM {self.iqm:9.1f}"
            f"   95% of mean [{low:.1f}, {high:.1f}]   action rate {self.action_rate:.3f}"
        )
        if self.successes is not None:
            text += f"   success {self.successes}/{len(self.episodes)}"
        for name, value in self.measures.items():
            text += f"   {name.replace('_', ' ')} {value:.3f}"
        return text


def seed_of(*key: int) -> int:
    """An independent 32-bit seed for every tuple of non-negative integers."""
    # SeedSequence pads with zeros, (s,) and (s, 0) would be one key: the length goes in too
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1)[0])


def in_batches(policy: Policy, batch: int) -> Policy:
    """A policy of a fixed batch size, for any number of rows (the last batch is padded)."""

    def run(obs: FloatArray, noise: FloatArray) -> FloatArray:
        actions = []
        for start in range(0, len(obs), batch):
            rows = np.minimum(np.arange(start, start + batch), len(obs) - 1)
            actions.append(policy(obs[rows], noise[rows]))
        return np.concatenate(actions)[: len(obs)]

    return run


def episode_noise(shape: tuple[int, int], seed: int, mode: NoiseMode) -> NoiseSource:
    """Noise of an episode whose environment starts from `seed`: never the same stream twice."""
    return NoiseSource(shape, seed_of(seed, 1), mode)


class Evaluator:
    """Keeps environments between evaluations and runs their episodes side by side.

    Args:
        env: environment name.
        shape: (N+1, d), the noise of one action.
        parallel: how many environments step together, so that the policy sees a batch.
        make: how one is made, where the name does not say it all.
    """

    def __init__(
        self,
        env: str,
        shape: tuple[int, int],
        parallel: int = 20,
        make: Callable[[], Env] | None = None,
    ) -> None:
        self._name, self._shape, self._parallel = env, shape, parallel
        self._make = make or (lambda: make_env(env))
        self._envs: list[Env] = []

    def run(
        self, policy: Policy, episodes: int, seed: Sequence[int], mode: NoiseMode = "fresh"
    ) -> Evaluation:
        """Run episodes whose starts and noises follow from `seed` and the episode's number.

        Raises:
            InputError: a return was NaN or infinite.
        """
        while len(self._envs) < min(self._parallel, episodes):
            self._envs.append(self._make())
        results: list[Episode] = []
        for first in range(0, episodes, self._parallel):
            numbers = range(first, min(first + self._parallel, episodes))
            seeds = [seed_of(*seed, number) for number in numbers]
            results += self._side_by_side(policy, seeds, mode)
        evaluation = Evaluation(tuple(results))
        if not np.isfinite(evaluation.returns).all():
            raise InputError(f"{self._name}: an evaluation episode gave a return of NaN or inf")
        return evaluation

    def _side_by_side(self, policy: Policy, seeds: Sequence[int], mode: NoiseMode) -> list[Episode]:
        envs = self._envs[: len(seeds)]
        noises = [episode_noise(self._shape, seed, mode) for seed in seeds]
        obs = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
        episodes = [Episode() for _ in envs]
        previous = np.zeros((len(envs), self._shape[1]), dtype=np.float32)
        active = list(range(len(envs)))
        while active:
            noise = np.stack([noises[i].draw() for i in active])
            actions = policy(obs[active], noise)
            for i, action in zip(tuple(active), actions, strict=True):
                episode = episodes[i]
                obs[i], reward, terminated, truncated, info = envs[i].step(action)
                episode.total += float(reward)
                if episode.length:
                    episode.action_change += float(np.abs(action - previous[i]).mean())
                previous[i] = action
                episode.length += 1
                for name, value in info.get("measures", {}).items():
                    episode.sums[name] = episode.sums.get(name, 0.0) + value
                if terminated or truncated:
                    episode.terminated = terminated
                    episode.effort_peak = info.get("effort_peak")
                    episode.success = info.get("is_success")
                    active.remove(i)
        return episodes

    def close(self) -> None:
        """Close the environments."""
        while self._envs:
            self._envs.pop().close()
