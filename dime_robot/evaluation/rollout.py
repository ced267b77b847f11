"""Episodes of a policy and their statistics. A policy here is a function of numpy arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dime_robot.envs import (
    MAX_EPISODE_STEPS,
    Env,
    EnvLike,
    SharedEnvironmentError,
    env_name,
    make_env,
    time_limit,
)
from dime_robot.evaluation.statistics import bootstrap_interval, iqm
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.noise import NoiseMode, NoiseSource

FloatArray = npt.NDArray[np.float32]
# raw observations (B, n_obs), unit normals (B, N+1, d) -> actions (B, d) in [-1, 1]
Policy = Callable[[FloatArray, FloatArray], FloatArray]


# episodes that have ended, number of all episodes, steps of those that run now
Watch = Callable[[int, int, int], object]
STARTUP = 5  # key of the seeds for values that an environment draws once in its life


class NoEnvironmentError(InputError):
    """No environment could be made in addition to those that exist."""


@dataclass
class Episode:
    """The result of one episode, in plain Python values."""

    total: float = 0.0  # unscaled return
    length: int = 0  # [steps]
    success: bool | None = None  # None: the task states no criterion
    terminated: bool = False  # before its time limit
    cut: bool = False  # ended by MAX_EPISODE_STEPS, as its environment states no time limit
    action_change: float = 0.0  # sum over steps of the mean |a_t - a_{t-1}|
    effort_peak: float | None = None  # largest effort of a drive [N m or N]
    sums: dict[str, float] = field(default_factory=dict)  # over steps, of the task's metrics
    counts: dict[str, int] = field(default_factory=dict)  # steps with the metric, if not all

    @property
    def action_rate(self) -> float:
        """Mean |a_t - a_{t-1}| over steps and actions, in units of [-1, 1] per step."""
        return self.action_change / max(1, self.length - 1)

    def metric(self, name: str) -> float:
        """Return the mean of one of the task's metrics over the steps that have it, in its unit."""
        return self.sums[name] / self.counts.get(name, self.length)


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
    def metrics(self) -> dict[str, float]:
        """Mean over episodes of the metrics that every episode has, e.g. velocity_error [m/s]."""
        names = [n for n in self.episodes[0].sums if all(n in e.sums for e in self.episodes)]
        return {name: float(np.mean([e.metric(name) for e in self.episodes])) for name in names}

    @property
    def cut(self) -> int:
        """Number of episodes ended at MAX_EPISODE_STEPS; they count as truncated."""
        return sum(episode.cut for episode in self.episodes)

    @property
    def successes(self) -> int | None:
        """Number of episodes that met the task's criterion; None: the task has none."""
        known = [episode.success for episode in self.episodes if episode.success is not None]
        return sum(known) if len(known) == len(self.episodes) else None

    @property
    def success_rate(self) -> float | None:
        """Share of episodes that met the task's criterion."""
        return None if self.successes is None else self.successes / len(self.episodes)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the percentile bootstrap interval of the mean return.

        Args:
            confidence: level of the interval [1].
        """
        return bootstrap_interval(self.returns, confidence)

    def summary(self) -> dict[str, Any]:
        """Return all of the above as plain values."""
        plain = {
            "return_mean": self.mean,
            "return_std": self.std,
            "return_iqm": self.iqm,
            "interval_95": list(self.interval()),
            "episodes": len(self.episodes),
            "success_rate": self.success_rate,
            "action_rate": self.action_rate,
            "survival": self.survival,
            "effort_peak": self.effort_peak,
        }
        # a metric never replaces a statistic of the same name
        plain.update({name: v for name, v in self.metrics.items() if name not in plain})
        if self.cut:
            plain["cut_at_step_limit"] = self.cut
        return plain

    def __str__(self) -> str:
        low, high = self.interval()
        text = (
            f"{self.mean:9.1f} ± {self.std:<7.1f} IQM {self.iqm:9.1f}"
            f"   95% of mean [{low:.1f}, {high:.1f}]   action rate {self.action_rate:.3f}"
        )
        if self.successes is not None:
            text += f"   success {self.successes}/{len(self.episodes)}"
        for name, value in self.metrics.items():
            text += f"   {name.replace('_', ' ')} {value:.3f}"
        if self.cut:
            text += f"   {self.cut} cut at {MAX_EPISODE_STEPS:,} steps"
        return text


def seed_of(*key: int) -> int:
    """Derive an independent 32-bit seed from every tuple of non-negative integers."""
    # SeedSequence pads with zeros, so (s,) and (s, 0) would be equal: the length is part of the key
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1)[0])


def zero_policy(obs: FloatArray, noise: FloatArray) -> FloatArray:
    """Return action 0.

    Args:
        obs: shape (B, n_obs).
        noise: unit normals, shape (B, N+1, d).

    Returns:
        Shape (B, d).
    """
    return np.zeros_like(noise[:, 0])


def random_policy(obs: FloatArray, noise: FloatArray) -> FloatArray:
    """Return uniform actions, computed from the episode's noise so that they are reproducible.

    Args:
        obs: shape (B, n_obs).
        noise: unit normals, shape (B, N+1, d).

    Returns:
        In [-1, 1], shape (B, d).
    """
    from scipy.special import ndtr

    uniform: FloatArray = (2 * ndtr(noise[:, 0]) - 1).astype(np.float32)
    return uniform


def require_finite_actions(policy: Policy, name: str) -> Policy:
    """Wrap a policy so that a NaN or infinite action is refused.

    Args:
        policy: the policy.
        name: of the policy or its file, for the message.

    Returns:
        A policy that raises InputError instead of returning such an action.
    """

    def run(obs: FloatArray, noise: FloatArray) -> FloatArray:
        actions = policy(obs, noise)
        if not np.isfinite(actions).all():
            raise InputError(
                f"{name}: expected actions in [-1, 1], got NaN or infinite ones for finite"
                " observations; this policy cannot be used"
            )
        return actions

    return run


def in_batches(policy: Policy, batch: int) -> Policy:
    """Wrap a policy of a fixed batch size for any number of rows; the last batch is padded."""

    def run(obs: FloatArray, noise: FloatArray) -> FloatArray:
        actions = []
        for start in range(0, len(obs), batch):
            rows = np.minimum(np.arange(start, start + batch), len(obs) - 1)
            actions.append(policy(obs[rows], noise[rows]))
        return np.concatenate(actions)[: len(obs)]

    return run


def episode_noise(shape: tuple[int, int], seed: int, mode: NoiseMode) -> NoiseSource:
    """Return the noise of an episode whose environment starts from `seed`, in another stream."""
    return NoiseSource(shape, seed_of(seed, 1), mode)


class Evaluator:
    """Keeps environments between evaluations and runs their episodes side by side.

    Where a simulator allows fewer instances than `parallel`, those that can be made are used.

    Args:
        env: what `make_env` takes.
        shape: (N+1, d), the noise of one action.
        parallel: how many environments step together, so that the policy sees a batch.
        make: makes environment number i, if `env` alone does not determine it.
        seed: for the values that each environment draws once in its life.
        log: called with a sentence if fewer could be made; by default it is printed on stderr.
    """

    def __init__(
        self,
        env: EnvLike,
        shape: tuple[int, int],
        parallel: int = 20,
        make: Callable[[int], Env] | None = None,
        seed: int = 0,
        log: Callable[[str], object] | None = None,
    ) -> None:
        self._name, self._shape, self._parallel = env_name(env), shape, parallel
        self._make = make or (lambda i: make_env(env, startup_seed=seed_of(seed, STARTUP, i)))
        self._log = log or (lambda text: print(text, file=sys.stderr))
        self._envs: list[Env] = []
        self._full = False  # no more can be made

    def run(
        self,
        policy: Policy,
        episodes: int,
        seed: Sequence[int],
        mode: NoiseMode = "fresh",
        watch: Watch | None = None,
    ) -> Evaluation:
        """Run episodes; initial states and noise are derived from `seed` and the episode's number.

        Args:
            policy: the policy to evaluate.
            episodes: how many.
            seed: key of the seeds; see `seed_of`.
            mode: of the sampler's noise.
            watch: called before every step; an exception that it raises ends the evaluation, and
                the environments remain usable.

        Raises:
            InputError: an observation or a return was NaN or infinite.
            NoEnvironmentError: no environment could be made.
        """
        self._prepare(min(self._parallel, episodes))
        width = min(self._parallel, len(self._envs))
        results: list[Episode] = []
        for first in range(0, episodes, width):
            numbers = range(first, min(first + width, episodes))
            seeds = [seed_of(*seed, number) for number in numbers]

            def watch_these(ended: int, steps: int, before: int = first) -> None:
                if watch is not None:
                    watch(before + ended, episodes, steps)

            results += self._side_by_side(policy, seeds, mode, watch_these)
        evaluation = Evaluation(tuple(results))
        if not np.isfinite(evaluation.returns).all():
            raise InputError(f"{self._name}: an evaluation episode gave a return of NaN or inf")
        return evaluation

    def _prepare(self, count: int) -> None:
        while len(self._envs) < count and not self._full:
            self._full = not self._add_one(count)

    def _add_one(self, count: int) -> bool:
        try:
            self._envs.append(self._make(len(self._envs)))
        except SharedEnvironmentError:
            raise
        except InputError as error:
            if not self._envs:
                raise NoEnvironmentError(str(error)) from error
            self._log(
                f"evaluations run {len(self._envs)} episodes at a time, not {count}: no more"
                f" environments can be made ({error})"
            )
            return False
        return True

    def _side_by_side(
        self,
        policy: Policy,
        seeds: Sequence[int],
        mode: NoiseMode,
        watch: Callable[[int, int], object],
    ) -> list[Episode]:
        envs = self._envs[: len(seeds)]
        limits = [time_limit(env) for env in envs]
        noises = [episode_noise(self._shape, seed, mode) for seed in seeds]
        obs = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
        episodes = [Episode() for _ in envs]
        previous = np.zeros((len(envs), self._shape[1]), dtype=np.float32)
        active = list(range(len(envs)))
        steps = 0
        while active:
            watch(len(envs) - len(active), steps)
            if not np.isfinite(obs[active]).all():
                raise InputError(
                    f"{self._name}: an evaluation episode gave a NaN or infinite observation at"
                    f" step {steps}"
                )
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
                    episode.counts[name] = episode.counts.get(name, 0) + 1
                done = terminated or truncated
                if not done and limits[i] is None and episode.length >= MAX_EPISODE_STEPS:
                    done = episode.cut = True
                if done:
                    episode.terminated = terminated
                    episode.effort_peak = info.get("effort_peak")
                    episode.success = info.get("is_success")
                    active.remove(i)
            steps += 1
        return episodes

    def close(self) -> None:
        """Close the environments."""
        while self._envs:
            self._envs.pop().close()
        self._full = False
