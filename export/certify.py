"""Proof that a graph is the policy: parity, closed loop, noise modes. No flag skips it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from dime_robot.envs import make_env
from dime_robot.learning import diffusion
from dime_robot.learning.networks import ScoreNetwork
from dime_robot.rollout import Evaluation, Evaluator, FloatArray, Policy, episode_noise, seed_of
from dime_robot.runtime.certificate import (
    ClosedLoopCertificate,
    NoiseCertificate,
    ParityCertificate,
)
from dime_robot.runtime.noise import NOISE_MODES, NoiseMode

# a single action of an almost untrained policy can be 3e-6 off where torch happens to be 5e-7 off
FLOAT32_FLOOR, ERROR_FACTOR, ERROR_CEILING = 1e-5, 4.0, 1e-4
DIVERGED = 1e-3  # action difference at which two closed loops count as apart
LARGEST_DROP = 0.05  # of the return, where the paired interval excludes 0
LARGEST_NOISE_DROP = 0.1  # below the fresh noise: a mode is measured but not certified
LOOP_EPISODES, NOISE_EPISODES = 5, 20
PARITY_OBSERVATIONS = 1000
_LOOP_SEED, _NOISE_SEED, _PARITY_SEED = 11, 12, 13


class CertificateError(Exception):
    """The graph is not the policy: nothing is written. One sentence."""


def plain_sampler(actor: ScoreNetwork, obs: FloatArray, noise: FloatArray) -> np.ndarray:
    """The sampler by its definition, in the actor's own precision.

    `obs` (K, n_obs), `noise` (K, N+1, d) -> actions (K, d). Nothing is folded or hoisted here.
    """
    dtype = actor.phase.dtype
    state = torch.as_tensor(obs, dtype=dtype)
    drawn = torch.as_tensor(noise, dtype=dtype).transpose(0, 1)
    with torch.no_grad():
        steps = partial(diffusion.advance, lambda x, n: actor(x, state, n))
        latents = diffusion.generate(steps, actor.step_index, drawn, actor.step_sizes())
        return torch.tanh(latents[-1]).numpy()


@dataclass(frozen=True)
class Loop:
    """Both policies in their own environments, same seeds and noise."""

    returns_torch: npt.NDArray[np.float64]  # Shape (episodes,)
    returns_onnx: npt.NDArray[np.float64]
    visited: FloatArray  # observations torch saw, shape (K, n_obs)
    noise: FloatArray  # and the noise it drew there, shape (K, N+1, d)
    first_divergence: int | None


def free_run(env_name: str, first: Policy, second: Policy, shape: tuple[int, int]) -> Loop:
    """Let two policies act for some episodes, each on its own states."""
    envs = [make_env(env_name), make_env(env_name)]
    totals = np.zeros((LOOP_EPISODES, 2))
    visited, drawn, divergences = [], [], []
    for episode in range(LOOP_EPISODES):
        seed = seed_of(_LOOP_SEED, episode)
        noise = episode_noise(shape, seed, "fresh")
        obs = [env.reset(seed=seed)[0] for env in envs]
        running, step = [True, True], 0
        while any(running):
            values = noise.draw()[None].copy()
            actions: list[FloatArray] = []
            for i, policy in enumerate((first, second)):
                if not running[i]:
                    continue
                if i == 0:
                    visited.append(obs[0].copy())
                    drawn.append(values[0])
                actions.append(policy(obs[i][None], values)[0])
                obs[i], reward, terminated, truncated, _ = envs[i].step(actions[-1])
                totals[episode, i] += float(reward)
                running[i] = not (terminated or truncated)
            step += 1
            if len(actions) < 2 or np.abs(actions[0] - actions[1]).max() > DIVERGED:
                divergences.append(step)
    for env in envs:
        env.close()
    return Loop(
        totals[:, 0],
        totals[:, 1],
        np.stack(visited),
        np.stack(drawn),
        min(divergences, default=None),
    )


def paired_interval(
    returns_torch: npt.NDArray[np.float64], returns_onnx: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """95 % interval of the mean paired return difference, graph minus torch.

    Raises:
        CertificateError: it excludes 0 and the mean difference exceeds 5 % of the return.
    """
    difference = returns_onnx - returns_torch
    mean = float(difference.mean())
    low = high = mean
    if np.ptp(difference) > 0:
        low, high = stats.t.interval(
            0.95, len(difference) - 1, loc=mean, scale=stats.sem(difference)
        )
    scale = abs(float(returns_torch.mean()))
    if not low <= 0 <= high and abs(mean) > LARGEST_DROP * scale:
        raise CertificateError(
            f"closed loop: the graph's return differs from torch's by {mean:.2f} (95 % interval"
            f" [{low:.2f}, {high:.2f}]) of {scale:.2f}, more than {LARGEST_DROP:.0%}"
        )
    return float(low), float(high)


def closed_loop_certificate(
    actor: ScoreNetwork, policy: Policy, loop: Loop, limit: float
) -> ClosedLoopCertificate:
    """Judge a free run.

    Raises:
        CertificateError: as `paired_interval`, or an action on a visited state is off by more than
            `limit`, the bound of the parity certificate.
    """
    interval = paired_interval(loop.returns_torch, loop.returns_onnx)
    error = np.abs(
        policy(loop.visited, loop.noise)
        - plain_sampler(actor.in_float64(), loop.visited, loop.noise)
    )
    if not error.max() <= limit:
        raise CertificateError(
            f"closed loop: on a visited state the graph's action differs from torch float64 by"
            f" {error.max():.1e}, expected at most {limit:.1e}"
        )
    return ClosedLoopCertificate(
        episodes=len(loop.returns_torch),
        visited_states=len(loop.visited),
        max_error=float(error.max()),
        return_torch=float(loop.returns_torch.mean()),
        return_onnx=float(loop.returns_onnx.mean()),
        difference_interval_95=interval,
        first_divergence=loop.first_divergence,
    )


def parity_inputs(
    loop: Loop, replayed: FloatArray, shape: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """Observations of three kinds with fresh noise: visited, from replay data, random normals.

    `replayed` has shape (K, n_obs), K may be 0. Gives at least 1,000 rows.
    """
    rng = np.random.default_rng(_PARITY_SEED)
    visited = loop.visited[rng.permutation(len(loop.visited))[:PARITY_OBSERVATIONS]]
    missing = PARITY_OBSERVATIONS - len(visited) - len(replayed)
    normals = rng.standard_normal((max(250, missing), visited.shape[1]), dtype=np.float32)
    normals = normals * (visited.std(axis=0) + 1e-3) + visited.mean(axis=0)
    obs = np.concatenate([visited, replayed, normals.astype(np.float32)])
    return obs, rng.standard_normal((len(obs), *shape), dtype=np.float32)


def parity_certificate(
    actor: ScoreNetwork, policy: Policy, obs: FloatArray, noise: FloatArray
) -> ParityCertificate:
    """Compare action by action with the plain sampler in float64.

    Raises:
        CertificateError: an error above max(1e-5, 4 x the float32 torch actor's own), or 1e-4.
    """
    exact = plain_sampler(actor.in_float64(), obs, noise)
    own = float(np.abs(plain_sampler(actor, obs, noise) - exact).max())
    error = float(np.abs(policy(obs, noise) - exact).max())
    limit = min(max(FLOAT32_FLOOR, ERROR_FACTOR * own), ERROR_CEILING)
    if not error <= limit:
        raise CertificateError(
            f"parity: the graph's actions differ from torch float64 by up to {error:.1e}, expected"
            f" at most {limit:.1e} (the float32 torch actor: {own:.1e})"
        )
    return ParityCertificate(observations=len(obs), max_error=error, float32_error=own, limit=limit)


def keeps_up(result: Evaluation, fresh: NoiseCertificate) -> bool:
    """Does a noise mode earn about what the trained one does? At most 10 % less of either."""
    floor = fresh.return_mean - LARGEST_NOISE_DROP * abs(fresh.return_mean)
    if result.mean < floor:
        return False
    if result.success_rate is None or fresh.success_rate is None:
        return True
    return result.success_rate >= (1 - LARGEST_NOISE_DROP) * fresh.success_rate


def noise_certificates(
    env_name: str,
    policy: Policy,
    shape: tuple[int, int],
    say: Callable[[str], None],
) -> dict[NoiseMode, NoiseCertificate]:
    """What the graph earns in each noise mode, and how much its actions move."""
    found: dict[NoiseMode, NoiseCertificate] = {}
    evaluator = Evaluator(env_name, shape)
    for mode in NOISE_MODES:
        result = evaluator.run(policy, NOISE_EPISODES, (_NOISE_SEED,), mode)
        fresh = found.get("fresh")
        certified = fresh is None or keeps_up(result, fresh)
        say(f"{mode:6s}{result}{'' if certified else '   NOT certified'}")
        found[mode] = NoiseCertificate(
            certified=certified,
            return_mean=result.mean,
            interval_95=result.interval(),
            success_rate=result.success_rate,
            action_rate=result.action_rate,
            episodes=len(result.episodes),
        )
    evaluator.close()
    return found
