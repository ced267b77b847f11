"""The score network (actor) and the distributional critic with batch renormalisation.

Sizes and initialisations follow the authors' code: LeCun-normal weights, zero biases, tanh-GELU
in the actor, ReLU in the critic.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dime_robot.learning import diffusion
from dime_robot.learning.config import TrainConfig
from dime_robot.runtime.spec import PolicySpec

# Standard deviation of a unit normal truncated to [-2, 2]; dividing by it restores variance 1.
_TRUNCATED_STD = 0.87962566103423978


def lecun_normal_(weight: Tensor, fan_in: int) -> None:
    """Fill with a normal of variance 1/fan_in truncated at two standard deviations (flax)."""
    std = math.sqrt(1.0 / fan_in) / _TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def _linear(n_in: int, n_out: int) -> nn.Linear:
    layer = nn.Linear(n_in, n_out)
    lecun_normal_(layer.weight, n_in)
    nn.init.zeros_(layer.bias)
    return layer


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class ScoreNetwork(nn.Module):
    """The learned control f(x, obs, n) with the learned step sizes: all of the actor.

    time features   e_n = [sin(w n + phase), cos(w n + phase)],  w = linspace(0.1, 100, width)
    time embedding  t_n = Linear(gelu(Linear(e_n)))
    control         f = trunk([x, scale * clamp(obs, -clip, clip), t_n])

    Args:
        spec: gives n_obs, n_act and the observation's scale and clip.
        width: units of every hidden layer and of the time embedding.
        depth: hidden layers of the trunk.
        steps: N, diffusion steps.
        dt: initial step size dt; the friction starts at 1 in every dimension.
    """

    scale: Tensor
    clip: Tensor
    frequencies: Tensor
    weights: Tensor
    step_index: Tensor

    def __init__(self, spec: PolicySpec, *, width: int, depth: int, steps: int, dt: float) -> None:
        super().__init__()
        self.n_obs, self.n_act, self.steps = spec.n_obs, spec.n_act, steps
        self.phase = nn.Parameter(torch.zeros(width))
        self.time_mlp = nn.ModuleList([_linear(2 * width, width), _linear(width, width)])
        sizes = [self.n_act + self.n_obs + width] + [width] * depth
        self.trunk = nn.ModuleList([_linear(a, b) for a, b in pairwise(sizes)])
        self.output = nn.Linear(width, self.n_act)
        nn.init.constant_(self.output.weight, 1e-8)  # f = 0: the policy starts as tanh(prior)
        nn.init.zeros_(self.output.bias)
        self.dt_raw = nn.Parameter(torch.tensor(diffusion.inverse_softplus(dt)))
        self.friction_raw = nn.Parameter(torch.full((self.n_act,), diffusion.inverse_softplus(1.0)))
        for name, value in {
            "scale": torch.as_tensor(spec.observation_scale(), dtype=torch.float32),
            "clip": torch.as_tensor(spec.observation_clip(), dtype=torch.float32),
            "frequencies": torch.linspace(0.1, 100.0, width),
            "weights": diffusion.cosine_weights(steps).float(),
            "step_index": torch.arange(steps, dtype=torch.float32),
        }.items():
            self.register_buffer(name, value, persistent=False)

    @classmethod
    def from_config(cls, spec: PolicySpec, config: TrainConfig) -> ScoreNetwork:
        """The actor that a training configuration describes."""
        return cls(
            spec,
            width=config.actor_width,
            depth=config.actor_depth,
            steps=config.diffusion_steps,
            dt=config.dt_init,
        )

    def in_float64(self) -> ScoreNetwork:
        """A copy on the CPU that computes in float64."""
        return copy.deepcopy(self).cpu().double()

    def step_sizes(self) -> Tensor:
        """eta, shape (N, d)."""
        return diffusion.step_sizes(self.dt_raw, self.friction_raw, self.weights)

    def scaled_observation(self, obs: Tensor) -> Tensor:
        """The network's first operation on the raw observation. Shape (B, n_obs)."""
        return self.scale * torch.clamp(obs, -self.clip, self.clip)

    def time_embedding(self, n: Tensor) -> Tensor:
        """t_n for float step indices, shape (K,) -> (K, width)."""
        angle = self.frequencies * n[:, None] + self.phase
        features = torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)
        hidden: Tensor = self.time_mlp[1](_gelu(self.time_mlp[0](features)))
        return hidden

    def forward(self, x: Tensor, obs: Tensor, n: int) -> Tensor:
        """The plain form: f(x, obs, n) for latents x (B, d) and raw obs (B, n_obs)."""
        embedding = self.time_embedding(self.step_index[n : n + 1]).expand(len(x), -1)
        hidden = torch.cat([x, self.scaled_observation(obs), embedding], dim=-1)
        for layer in self.trunk:
            hidden = _gelu(layer(hidden))
        control: Tensor = self.output(hidden)
        return control

    def conditioned(self, obs: Tensor) -> diffusion.Score:
        """f(., obs, .) with everything that does not depend on x computed once.

        The first layer is linear, W [x, s, t] + b = W_x x + (W_s s + W_t t_n + b): the bracket is
        the same for every latent, so it is formed here for all n at once. Exact algebra.
        """
        first: nn.Linear = self.trunk[0]  # type: ignore[assignment]
        w_x, w_s, w_t = first.weight.split([self.n_act, self.n_obs, self.phase.numel()], dim=1)
        from_obs = F.linear(self.scaled_observation(obs), w_s, first.bias)
        from_time = F.linear(self.time_embedding(self.step_index), w_t)
        base = (from_obs + from_time[:, None]).unbind()
        w_x = w_x.t()

        def score(x: Tensor, n: int) -> Tensor:
            return self.rest(torch.addmm(base[n], x, w_x))

        return score

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """The whole sampler: raw obs (B, n_obs), unit normals (N+1, B, d) -> actions (B, d)."""
        latents = diffusion.generate(self.conditioned(obs), noise, self.step_sizes())
        return torch.tanh(latents[-1])

    def act_numpy(
        self, obs: npt.NDArray[np.float32], noise: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """`act` on arrays, with the noise batch-first, (B, N+1, d), as a deployed policy has it."""
        device = self.phase.device
        drawn = torch.as_tensor(noise, device=device).transpose(0, 1)
        actions: npt.NDArray[np.float32] = (
            self.act(torch.as_tensor(obs, device=device), drawn).cpu().numpy()
        )
        return actions

    def rest(self, first_layer: Tensor) -> Tensor:
        """The trunk after its first product: activations (B, width) -> control (B, d)."""
        hidden = _gelu(first_layer)
        for layer in self.trunk[1:]:
            hidden = _gelu(layer(hidden))
        control: Tensor = self.output(hidden)
        return control


class BatchRenorm(nn.Module):
    """Batch renormalisation of stacked inputs (E, B, C), statistics per ensemble member.

    Training, first `warmup` passes: batch statistics. Afterwards (Ioffe 2017, as in CrossQ):
        r = clip(sqrt(var + eps) / sqrt(ra_var + eps), 1/3, 3)        no gradient
        d = clip((mean - ra_mean) / sqrt(ra_var + eps), -5, 5)        no gradient
        y = (x - mean') / sqrt(var' + eps),  var' = var / r^2,  mean' = mean - d sqrt(var) / r
    with the running values from before this pass, which then move by 0.01 towards the batch.
    Variances are the biased ones everywhere. Gradients flow through mean and var.
    """

    MOMENTUM, EPS, R_MAX, D_MAX = 0.99, 1e-3, 3.0, 5.0
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, ensemble: int, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(ensemble, 1, channels))
        self.bias = nn.Parameter(torch.zeros(ensemble, 1, channels))
        self.register_buffer("running_mean", torch.zeros(ensemble, 1, channels))
        self.register_buffer("running_var", torch.ones(ensemble, 1, channels))

    def forward(self, x: Tensor, warm: Tensor) -> Tensor:
        """Normalise x (E, B, C); `warm` is a boolean scalar: are the warm-up passes over?"""
        if not self.training:
            gain = self.gain * torch.rsqrt(self.running_var + self.EPS)
            return torch.addcmul(self.bias - self.running_mean * gain, x, gain)
        # two passes: torch.var_mean over the middle dimension is several times slower on a CPU
        mean = x.mean(dim=1, keepdim=True)
        centred = x - mean
        var = centred.square().mean(dim=1, keepdim=True)
        r, d = self._corrections(mean, var, warm)
        # x - mean' = centred + d sqrt(var) / r; sqrt has an infinite slope at 0: keep off it
        shift = d * torch.sqrt(var.clamp_min(1e-12)) / r
        gain = self.gain * torch.rsqrt(var / r.square() + self.EPS)
        return torch.addcmul(torch.addcmul(self.bias, shift, gain), centred, gain)

    def _corrections(self, mean: Tensor, var: Tensor, warm: Tensor) -> tuple[Tensor, Tensor]:
        """The factors r and d from the old running statistics, which then take in this batch."""
        with torch.no_grad():
            running_std = torch.sqrt(self.running_var + self.EPS)
            r = torch.sqrt(var + self.EPS) / running_std
            d = (mean - self.running_mean) / running_std
            r = torch.where(warm, r.clamp(1 / self.R_MAX, self.R_MAX), 1.0)
            d = torch.where(warm, d.clamp(-self.D_MAX, self.D_MAX), 0.0)
            self.running_mean.lerp_(mean, 1 - self.MOMENTUM)
            self.running_var.lerp_(var, 1 - self.MOMENTUM)
        return r, d


class DistributionalCritic(nn.Module):
    """An ensemble of categorical critics, evaluated as stacked matrix products.

    BRN([obs, a]) -> { Linear -> ReLU -> BRN } x depth -> Linear -> logits over the atoms.

    Args:
        n_in: n_obs + n_act.
        widths: units of the hidden layers.
        atoms: number of atoms of the return distribution.
        warmup: training passes before renormalisation starts.
        ensemble: E, number of independent critics.
    """

    passes: Tensor

    def __init__(
        self, n_in: int, *, widths: Sequence[int], atoms: int, warmup: int, ensemble: int = 2
    ) -> None:
        super().__init__()
        sizes = [n_in, *widths, atoms]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            weight = nn.Parameter(torch.empty(ensemble, fan_in, fan_out))
            lecun_normal_(weight.data, fan_in)
            self.weights.append(weight)
            self.biases.append(nn.Parameter(torch.zeros(ensemble, 1, fan_out)))
        self.norms = nn.ModuleList([BatchRenorm(ensemble, size) for size in sizes[:-1]])
        self.ensemble, self.warmup = ensemble, warmup
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Logits (E, B, atoms) of obs (B, n_obs) [raw] and action (B, n_act) in [-1, 1].

        In training mode this counts as one pass and moves the running statistics.
        """
        hidden = torch.cat([obs, action], dim=-1).expand(self.ensemble, -1, -1)
        warm = self.passes >= self.warmup
        for norm, weight, bias in zip(self.norms, self.weights, self.biases, strict=True):
            hidden = torch.baddbmm(bias, norm(hidden, warm), weight)
            if weight is not self.weights[-1]:
                hidden = torch.relu(hidden)
        if self.training:
            self.passes += 1
        return hidden


def parameter_count(module: nn.Module) -> int:
    """Number of trained scalars."""
    return sum(parameter.numel() for parameter in module.parameters())
