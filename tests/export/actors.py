"""Actors as after training: every weight and bias redrawn, so that no term of the fold is zero."""

from __future__ import annotations

import math

import numpy as np
import torch

from dime_robot.learning.diffusion import inverse_softplus
from dime_robot.learning.networks import ScoreNetwork
from dime_robot.runtime.contract.policy_spec import PolicySpec

SIZES = [(348, 17), (105, 8), (223, 38), (48, 12), (17, 6)]


def redrawn_actor(
    spec: PolicySpec,
    *,
    width: int = 256,
    depth: int = 3,
    steps: int = 16,
    dt: float = 0.3,
    normalize: bool = False,
) -> ScoreNetwork:
    """|f| about 1, friction between 0.5 and 2."""
    generator = torch.Generator().manual_seed(spec.n_obs)
    actor = ScoreNetwork(spec, width=width, depth=depth, steps=steps, dt=dt, normalize=normalize)
    with torch.no_grad():
        for name, parameter in actor.named_parameters():
            if name.endswith("weight"):
                parameter.normal_(std=1.5 / math.sqrt(parameter.shape[1]), generator=generator)
            elif name not in ("dt_raw", "friction_raw"):
                parameter.normal_(std=0.3, generator=generator)
        low, high = inverse_softplus(0.5), inverse_softplus(2.0)
        actor.friction_raw.uniform_(low, high, generator=generator)
    return actor


def random_inputs(spec: PolicySpec, steps: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations (rows, n_obs) and noise (rows, N+1, d)."""
    rng = np.random.default_rng(1)
    obs = rng.standard_normal((rows, spec.n_obs), dtype=np.float32)
    return obs, rng.standard_normal((rows, steps + 1, spec.n_act), dtype=np.float32)
