"""The distributional critic: stacked networks with batch renormalisation (CrossQ).

Sizes and initialisations follow the authors' code: LeCun-normal weights, zero biases, ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dime_robot.learning.networks import lecun_normal_


class BatchStatistics(NamedTuple):
    """Mean and biased variance over the batch, each of shape (E, 1, C), without gradient."""

    mean: Tensor
    var: Tensor


class _Renormalise(torch.autograd.Function):
    """Batch renormalisation with its gradient in closed form.

    y = g (c + s) + bias,  c = x - mean,  g = gain A,  A = 1 / sqrt(var/r^2 + eps),
    s = d sqrt(var) / r, with r and d constants. Autograd would need twice as many passes over x,
    which at the paper's sizes is a twentieth of the time of an update on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        warm: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # two passes: torch.var_mean over the middle dimension is several times slower on a CPU
        mean = x.mean(dim=1, keepdim=True)
        centred = x - mean
        var = centred.square().mean(dim=1, keepdim=True)
        batch, running = BatchStatistics(mean, var), BatchStatistics(running_mean, running_var)
        r, d = BatchRenorm.corrections(batch, running, warm)
        inverse, shift = torch.rsqrt(var / r.square() + BatchRenorm.EPS), d * torch.sqrt(var) / r
        ctx.save_for_backward(centred, gain, inverse, shift, r, d, var)
        ctx.mark_non_differentiable(mean, var)
        factor = gain * inverse
        return torch.addcmul(torch.addcmul(bias, shift, factor), centred, factor), mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        centred, gain, inverse, shift, r, d, var = ctx.saved_tensors
        grad = grads[0]
        total = grad.sum(dim=1, keepdim=True)  # also the gradient of the bias
        moment = (grad * centred).sum(dim=1, keepdim=True) + shift * total
        grad_var = -0.5 * gain * moment * inverse**3 / r.square()
        # sqrt(var) has an infinite slope at 0, where nothing varies and there is no gradient
        slope = torch.where(var > 1e-12, torch.rsqrt(var), 0.0)
        grad_var = grad_var + 0.5 * gain * inverse * total * d * slope / r
        factor, size = gain * inverse, centred.shape[1]
        grad_x = torch.addcmul(-factor * total / size, centred, 2 * grad_var / size)
        grad_x = torch.addcmul(grad_x, grad, factor)
        return grad_x, inverse * moment, total, None, None, None


class BatchRenorm(nn.Module):
    """Batch renormalisation of stacked inputs (E, B, C), statistics per ensemble member.

    Training, first `warmup` passes: batch statistics. Afterwards (Ioffe 2017, as in CrossQ):
        r = clip(sqrt(var + eps) / sqrt(ra_var + eps), 1/3, 3)        no gradient
        d = clip((mean - ra_mean) / sqrt(ra_var + eps), -5, 5)        no gradient
        y = (x - mean') / sqrt(var' + eps),  var' = var / r^2,  mean' = mean - d sqrt(var) / r
    with the running values from before this pass, which then move by 0.01 towards the batch.
    Variances are the biased ones everywhere. Gradients are taken through mean and var.

    A pass only reads the running values; `absorb` updates them, after the gradient was computed: a
    compiled backward pass may recompute r and d from them instead of storing r and d.
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

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x by the running statistics, as for evaluation.

        Args:
            x: shape (E, B, C).
        """
        gain = self.gain * torch.rsqrt(self.running_var + self.EPS)
        return torch.addcmul(self.bias - self.running_mean * gain, x, gain)

    def training_pass(self, x: Tensor, warm: Tensor) -> tuple[Tensor, BatchStatistics]:
        """Normalise x (E, B, C) as in training.

        Args:
            x: shape (E, B, C).
            warm: whether the warm-up passes are over, shape ().

        Returns:
            The normalised x, and the batch's statistics for `absorb`.
        """
        normalised, mean, var = _Renormalise.apply(  # type: ignore[no-untyped-call]
            x, self.gain, self.bias, self.running_mean, self.running_var, warm
        )
        return normalised, BatchStatistics(mean, var)

    @classmethod
    def corrections(
        cls, batch: BatchStatistics, running: BatchStatistics, warm: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the factors r and d, each of shape (E, 1, C); 1 and 0 before `warm`.

        Args:
            batch: statistics of this batch.
            running: running statistics from before it.
            warm: whether the warm-up is over, shape ().
        """
        running_std = torch.sqrt(running.var + cls.EPS)
        r = torch.sqrt(batch.var + cls.EPS) / running_std
        d = (batch.mean - running.mean) / running_std
        r = torch.where(warm, r.clamp(1 / cls.R_MAX, cls.R_MAX), 1.0)
        d = torch.where(warm, d.clamp(-cls.D_MAX, cls.D_MAX), 0.0)
        return r, d

    @torch.no_grad()
    def absorb(self, batch: BatchStatistics) -> None:
        """Update the running statistics with those of one training pass."""
        self.running_mean.lerp_(batch.mean, 1 - self.MOMENTUM)
        self.running_var.lerp_(batch.var, 1 - self.MOMENTUM)


class DistributionalCritic(nn.Module):
    """An ensemble of categorical critics, evaluated as stacked matrix products.

    BRN([obs, a]) -> { Linear -> ReLU -> BRN } x depth -> Linear -> logits over the atoms.

    Args:
        n_in: n_obs + n_act, and what only the critics see.
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
        """Return the logits, shape (E, B, atoms), with the running statistics.

        Args:
            obs: raw observations, shape (B, n_obs).
            action: in [-1, 1], shape (B, n_act).
        """
        hidden = self._stacked(obs, action)
        for i, norm in enumerate(self.norms):
            hidden = self._layer(i, norm(hidden))
        return hidden

    def training_pass(
        self, obs: Tensor, action: Tensor
    ) -> tuple[Tensor, tuple[BatchStatistics, ...]]:
        """Do the same with batch statistics, as in training; changes no state.

        Args:
            obs: raw observations, shape (B, n_obs).
            action: in [-1, 1], shape (B, n_act).

        Returns:
            Logits (E, B, atoms), and statistics for `absorb`, after the gradient was computed.
        """
        hidden = self._stacked(obs, action)
        warm = self.passes >= self.warmup
        statistics = []
        for i, norm in enumerate(self.norms):
            normalised, of_batch = norm.training_pass(hidden, warm)  # type: ignore[operator]
            hidden = self._layer(i, normalised)
            statistics.append(of_batch)
        return hidden, tuple(statistics)

    def absorb(self, statistics: Sequence[BatchStatistics]) -> None:
        """Count a training pass and update the running statistics with it."""
        for norm, of_batch in zip(self.norms, statistics, strict=True):
            norm.absorb(of_batch)  # type: ignore[operator]
        self.passes += 1

    def _stacked(self, obs: Tensor, action: Tensor) -> Tensor:
        return torch.cat([obs, action], dim=-1).expand(self.ensemble, -1, -1)

    def _layer(self, i: int, normalised: Tensor) -> Tensor:
        out = torch.baddbmm(self.biases[i], normalised, self.weights[i])
        return out if i == len(self.weights) - 1 else torch.relu(out)
