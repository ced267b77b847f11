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
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PRIOR_STD = 2.5
_PRIOR_VARIANCE = PRIOR_STD**2

# (latents (B, d), step index n) -> control (B, d)
Score = Callable[[Tensor, int], Tensor]
# (latents, control, step size eta_n, scaled noise) -> next latents
Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


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
    """eta_{n,i} = softplus(dt_raw) * c_n / softplus(friction_raw_i). Shape (N, d)."""
    return F.softplus(dt_raw) * weights[:, None] / F.softplus(friction_raw)


def inverse_softplus(value: float) -> float:
    """The raw parameter whose softplus is `value` > 0."""
    return math.log(math.expm1(value))


def euler_maruyama(x: Tensor, control: Tensor, eta: Tensor, scaled_noise: Tensor) -> Tensor:
    """One generative step: x + eta (-x/s^2 + control) + sqrt(2 eta) eps.

    Shapes: x, control, scaled_noise = sqrt(2 eta) eps: (B, d); eta: (d,).
    """
    return torch.addcmul(torch.addcmul(scaled_noise, x, 1 - eta / _PRIOR_VARIANCE), control, eta)


def generate(score: Score, noise: Tensor, eta: Tensor, step: Step = euler_maruyama) -> Tensor:
    """Run the chain from the prior to the action.

    `noise` are unit normals, shape (N+1, B, d): the prior draw first, then one per step.
    `eta` has shape (N, d). Returns the latents x_0..x_N, shape (N+1, B, d).
    """
    x = PRIOR_STD * noise[0]
    scaled_noise = torch.sqrt(2 * eta)[:, None] * noise[1:]
    latents = [x]
    # unbind once: indexing a tensor inside the loop would cost an autograd node a step
    for n, (eta_n, noise_n) in enumerate(zip(eta.unbind(), scaled_noise.unbind(), strict=True)):
        x = step(x, score(x, n), eta_n, noise_n)
        latents.append(x)
    return torch.stack(latents)


def log_kernel_ratio(latents: Tensor, noise: Tensor, eta: Tensor) -> Tensor:
    """sum_n log p(x_{n+1}|x_n, obs) - log b(x_n|x_{n+1}). Shape (B,).

    Both kernels have variance 2 eta_n, so their normalisers cancel and what is left per step is
    sum_i [ -eps_i^2 / 2 + (x_n - x_{n+1} (1 - eta_n/s^2))_i^2 / (4 eta_{n,i}) ].
    """
    eta = eta[:, None]
    residual = torch.addcmul(latents[:-1], latents[1:], eta / _PRIOR_VARIANCE - 1)
    return (residual.square() / (4 * eta) - 0.5 * noise[1:].square()).sum(dim=(0, 2))


def tanh_log_det(x: Tensor) -> Tensor:
    """Log |d tanh(x) / dx| = sum_i 2 (log 2 - x_i - softplus(-2 x_i)). Shape (B,)."""
    return (2 * (math.log(2) - x - F.softplus(-2 * x))).sum(dim=-1)


def path_cost(latents: Tensor, noise: Tensor, eta: Tensor) -> Tensor:
    """R = sum_n [ log p - log b ] - log |d tanh(x_N)/dx|, the cost the temperature acts on.

    Shape (B,) [nat].
    """
    return log_kernel_ratio(latents, noise, eta) - tanh_log_det(latents[-1])


def prior_term(noise: Tensor) -> Tensor:
    """T = log N(x_0; 0, s^2 I) with x_0 = s * noise[0]. Shape (B,) [nat].

    R + T is one sample of C with E[C] >= E[log pi(a|obs)]: the policy's entropy is at least -E[C].
    """
    log_density = -0.5 * noise[0].square() - 0.5 * math.log(2 * math.pi * _PRIOR_VARIANCE)
    return log_density.sum(dim=-1)
