"""The diffusion policy's mathematics as pure functions: schedule, sampler, entropy bound.

Source: Celik et al., DIME, ICML 2025 (arXiv 2502.02316), and the authors' published code where
the two differ. Steps are counted in the direction of generation: x_0 is drawn from the prior and
x_N is the pre-tanh action, a = tanh(x_N). All operations are elementwise per action dimension.

    prior        x_0 ~ N(0, s^2 I)                                     s = PRIOR_STD
    generate     x_{n+1} ~ N( x_n + eta_n (-x_n/s^2 + f(x_n, obs, n)),  2 eta_n )      "p"
    noise back   x_n     ~ N( x_{n+1} (1 - eta_n/s^2),                  2 eta_n )      "b"
    step size    eta_n = dt * c_n / phi      dt, phi learned; c_n fixed (`cosine_weights`)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PRIOR_STD = 2.5
_PRIOR_VARIANCE = PRIOR_STD**2

# (latents (B, d), input of step n: its index, or values computed from it) -> control (B, d)
Score = Callable[[Tensor, Tensor], Tensor]
# (latents (B, d), K rows each of: given, eta (K, d), scaled noise (K, B, d)) -> latents (K, B, d)
Advance = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class ActionSample(NamedTuple):
    """Actions with the two parts of the entropy bound, C = path_cost + prior_term."""

    action: Tensor  # Shape (B, d), in [-1, 1]
    latent: Tensor  # x_N, shape (B, d)
    path_cost: Tensor  # R, shape (B,) [nat]
    prior_term: Tensor  # T, shape (B,) [nat]

    @property
    def bound(self) -> Tensor:
        """C = R + T: E[C] >= E[log pi(a|obs)], so the entropy is at least -E[C]. Shape (B,)."""
        return self.path_cost + self.prior_term


def cosine_weights(steps: int) -> Tensor:
    """Schedule weights c_n, from almost 1 at the prior down to almost `floor` at the action.

    c_n = (1 - m) cos^2( pi/2 * (1 + s0 - tau_n) / (1 + s0) ) + m,  tau_n = (N - n)/N,
    m = 0.001, s0 = 0.008. Shape (N,), float64.
    """
    floor, offset = 0.001, 0.008
    n = torch.arange(steps, dtype=torch.float64)
    tau = (steps - n) / steps
    return (1 - floor) * torch.cos(math.pi / 2 * (1 + offset - tau) / (1 + offset)) ** 2 + floor


def step_sizes(dt_raw: Tensor, friction_raw: Tensor, weights: Tensor) -> Tensor:
    """eta_{n,i} = softplus(dt_raw) * c_n / softplus(friction_raw_i). Shape (N, d).

    Args:
        dt_raw: shape ().
        friction_raw: shape (d,).
        weights: c_n, shape (N,).
    """
    return F.softplus(dt_raw) * weights[:, None] / F.softplus(friction_raw)


def inverse_softplus(value: float) -> float:
    """Return the raw parameter whose softplus is `value` > 0.

    Args:
        value: result of softplus, above 0 [1].
    """
    return math.log(math.expm1(value))


def advance(score: Score, x: Tensor, given: Tensor, eta: Tensor, scaled_noise: Tensor) -> Tensor:
    """Make K Euler-Maruyama steps from latents x; return the K next latents, shape (K, B, d).

    Each is x + eta (-x/s^2 + control) + sqrt(2 eta) eps, with its row of `given`, `eta` and
    `scaled_noise`.

    Args:
        score: the control f.
        x: latents, shape (B, d).
        given: input of each step, shape (K, ...).
        eta: step sizes, shape (K, d).
        scaled_noise: sqrt(2 eta) eps, shape (K, B, d).
    """
    latents = []
    keep = 1 - eta / _PRIOR_VARIANCE
    # unbind once: indexing a tensor inside the loop would add an autograd node per step
    rows = (rows.unbind() for rows in (given, eta, keep, scaled_noise))
    for given_n, eta_n, keep_n, noise_n in zip(*rows, strict=True):
        x = torch.addcmul(torch.addcmul(noise_n, x, keep_n), score(x, given_n), eta_n)
        latents.append(x)
    return torch.stack(latents)


def generate(
    advance: Advance, given: Tensor, noise: Tensor, eta: Tensor, block: int | None = None
) -> Tensor:
    """Run the chain from the prior to the action.

    Returns the latents x_0..x_N, shape (N+1, B, d).

    Args:
        advance: makes a block of steps.
        given: input of each step, shape (N, ...).
        noise: unit normals, the prior draw first, shape (N+1, B, d).
        eta: step sizes, shape (N, d).
        block: steps of one call of `advance`; none: all N.
    """
    latents = [PRIOR_STD * noise[:1]]
    scaled_noise = torch.sqrt(2 * eta)[:, None] * noise[1:]
    blocks: Iterable[tuple[Tensor, ...]] = [(given, eta, scaled_noise)]
    if block is not None:
        blocks = zip(*(rows.split(block) for rows in (given, eta, scaled_noise)), strict=True)
    for rows in blocks:
        latents.append(advance(latents[-1][-1], *rows))
    return torch.cat(latents)


def log_kernel_ratio(latents: Tensor, noise: Tensor, eta: Tensor) -> Tensor:
    """sum_n log p(x_{n+1}|x_n, obs) - log b(x_n|x_{n+1}). Shape (B,).

    Both kernels have variance 2 eta_n, so their normalisers cancel and a step contributes
    sum_i [ -eps_i^2 / 2 + (x_n - x_{n+1} (1 - eta_n/s^2))_i^2 / (4 eta_{n,i}) ].

    Args:
        latents: x_0 to x_N, shape (N+1, B, d).
        noise: the unit normals behind them, shape (N+1, B, d).
        eta: step sizes, shape (N, d).
    """
    eta = eta[:, None]
    residual = torch.addcmul(latents[:-1], latents[1:], eta / _PRIOR_VARIANCE - 1)
    return (residual.square() / (4 * eta) - 0.5 * noise[1:].square()).sum(dim=(0, 2))


def tanh_log_det(x: Tensor) -> Tensor:
    """Log |d tanh(x) / dx| = sum_i 2 (log 2 - x_i - softplus(-2 x_i)). Shape (B,).

    Args:
        x: latents, shape (B, d).
    """
    return (2 * (math.log(2) - x - F.softplus(-2 * x))).sum(dim=-1)


def path_cost(latents: Tensor, noise: Tensor, eta: Tensor) -> Tensor:
    """R = sum_n [ log p - log b ] - log |d tanh(x_N)/dx|, which the temperature controls.

    Shape (B,) [nat].

    Args:
        latents: x_0 to x_N, shape (N+1, B, d).
        noise: the unit normals behind them, shape (N+1, B, d).
        eta: step sizes, shape (N, d).
    """
    return log_kernel_ratio(latents, noise, eta) - tanh_log_det(latents[-1])


def prior_term(noise: Tensor) -> Tensor:
    """T = log N(x_0; 0, s^2 I) with x_0 = s * noise[0]. Shape (B,) [nat].

    R + T is one sample of C with E[C] >= E[log pi(a|obs)]: the policy's entropy is at least -E[C].

    Args:
        noise: unit normals, the prior draw first, shape (N+1, B, d).
    """
    log_density = -0.5 * noise[0].square() - 0.5 * math.log(2 * math.pi * _PRIOR_VARIANCE)
    return log_density.sum(dim=-1)
