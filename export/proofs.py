"""Certificates that a graph equals its policy: parity, closed loop, noise modes.

No option skips any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from dime_robot.evaluation.rollout import Evaluation, Evaluator, FloatArray, Policy
from dime_robot.learning import diffusion
from dime_robot.learning.networks import ScoreNetwork
from dime_robot.runtime.policy.certificate import (
    ClosedLoopCertificate,
    NoiseCertificate,
    ParityCertificate,
)
from dime_robot.runtime.policy.noise import NOISE_MODES, NoiseMode
from export.closed_loop import CertificateError, Loop, judge, paired_interval

# the error of an almost untrained policy's action can be 3e-6 while torch's own is 5e-7
FLOAT32_FLOOR, ERROR_FACTOR, ERROR_CEILING = 1e-5, 4.0, 1e-4
MAX_NOISE_DROP = 0.1  # share of the gain that a certified noise mode may lose
NOISE_EPISODES = 20
PARITY_OBSERVATIONS = 1000
_NOISE_SEED, _PARITY_SEED = 12, 13


def plain_sampler(actor: ScoreNetwork, obs: FloatArray, noise: FloatArray) -> np.ndarray:
    """Run the sampler by its definition, without folding, in the actor's own precision.

    Args:
        actor: the trained policy.
        obs: shape (K, n_obs).
        noise: shape (K, N+1, d).

    Returns:
        Actions, shape (K, d).
    """
    dtype = actor.phase.dtype
    state = torch.as_tensor(obs, dtype=dtype)
    drawn = torch.as_tensor(noise, dtype=dtype).transpose(0, 1)
    with torch.no_grad():
        steps = partial(diffusion.advance, lambda x, n: actor(x, state, n))
        latents = diffusion.generate(steps, actor.step_index, drawn, actor.step_sizes())
        return torch.tanh(latents[-1]).numpy()


def closed_loop_certificate(
    actor: ScoreNetwork, policy: Policy, loop: Loop, limit: float
) -> ClosedLoopCertificate:
    """Certify the closed loops.

    Args:
        actor: the trained policy.
        policy: the graph.
        loop: their episodes.
        limit: largest error of an action on a visited state [1].

    Raises:
        CertificateError: the graph's return is not torch's (`closed_loop.judge`), or the error of
            an action on a visited state exceeds `limit`.
    """
    verdict = judge(loop)
    if not verdict.passed:
        raise CertificateError(verdict.reason)
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
        return_random=float(loop.returns_random.mean()),
        difference_interval_95=verdict.interval,
        difference_allowed=verdict.allowed,
        first_divergence=loop.first_divergence,
    )


def parity_inputs(
    loop: Loop, replayed: FloatArray, shape: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """Collect observations of three kinds with fresh noise: visited, replayed, random normals.

    Args:
        loop: has the visited observations.
        replayed: shape (K, n_obs), K may be 0.
        shape: of the noise of one action, (N+1, d).

    Returns:
        Observations and noise, at least PARITY_OBSERVATIONS rows each.
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
    """Compare the graph's actions with the plain sampler in float64.

    Args:
        actor: the torch actor.
        policy: the exported graph.
        obs: raw observations, shape (K, n_obs).
        noise: unit normals, shape (K, N+1, d).

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


def earns_enough(result: Evaluation, fresh: Evaluation, gain: float) -> bool:
    """Whether a noise mode has about the return of the fresh noise, on the same seeds.

    The lower end of the 95 % interval of the mean paired difference must not be below -10 % of the
    gain, so with little data the result is False. Successes: at least 90 % of the fresh noise's.

    Args:
        result: of the mode.
        fresh: of the fresh noise.
        gain: mean return minus that of random actions [return].
    """
    low, _ = paired_interval(np.subtract(result.returns, fresh.returns), 0.95)
    if low < -MAX_NOISE_DROP * abs(gain):
        return False
    if result.success_rate is None or fresh.success_rate is None:
        return True
    return result.success_rate >= (1 - MAX_NOISE_DROP) * fresh.success_rate


def noise_certificates(
    env_name: str,
    policy: Policy,
    shape: tuple[int, int],
    gain: float,
    log: Callable[[str], object],
) -> dict[NoiseMode, NoiseCertificate]:
    """Evaluate the graph in each noise mode.

    Args:
        env_name: the environment.
        policy: the graph.
        shape: of the noise of one action, (N+1, d).
        gain: mean return minus that of random actions [return].
        log: called with one line per mode.
    """
    found: dict[NoiseMode, NoiseCertificate] = {}
    evaluator = Evaluator(env_name, shape)
    try:
        fresh: Evaluation | None = None
        for mode in NOISE_MODES:
            result = evaluator.run(policy, NOISE_EPISODES, (_NOISE_SEED,), mode)
            fresh = fresh or result
            certified = result is fresh or earns_enough(result, fresh, gain)
            log(f"{mode:6s}{result}{'' if certified else '   NOT certified'}")
            found[mode] = NoiseCertificate(
                certified=certified,
                return_mean=result.mean,
                interval_95=result.interval(),
                success_rate=result.success_rate,
                action_rate=result.action_rate,
                episodes=len(result.episodes),
            )
    finally:
        evaluator.close()
    return found
