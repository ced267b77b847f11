"""The distributional critic: stacked networks with batch renormalisation (CrossQ).

Sizes and initialisations follow the authors' code: LeCun-normal weights, zero biases, ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dime_robot.learning.networks import lecun_normal_


class _Renormalise(torch.autograd.Function):
    """`BatchRenorm` in training, with its gradient in closed form.

    y = g (c + s) + bias,  c = x - mean,  g = gain A,  A = 1 / sqrt(var/r^2 + eps),
    s = d sqrt(var) / r, with r and d constants. By autograd the gradient takes twice as many passes
    over x, which at the paper's sizes is a twentieth of the whole update on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, norm: BatchRenorm, warm: Tensor
    ) -> Tensor:
        # two passes: torch.var_mean over the middle dimension is several times slower on a CPU
        mean = x.mean(dim=1, keepdim=True)
        centred = x - mean
        var = centred.square().mean(dim=1, keepdim=True)
        r, d = norm.corrections(mean, var, warm)
        inverse, shift = torch.rsqrt(var / r.square() + norm.EPS), d * torch.sqrt(var) / r
        ctx.save_for_backward(centred, gain, inverse, shift, r, d, var)
        factor = gain * inverse
        return torch.addcmul(torch.addcmul(bias, shift, factor), centred, factor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        centred, gain, inverse, shift, r, d, var = ctx.saved_tensors
        (grad,) = grads
        total = grad.sum(dim=1, keepdim=True)  # also the gradient of the bias
        moment = (grad * centred).sum(dim=1, keepdim=True) + shift * total
        grad_var = -0.5 * gain * moment * inverse**3 / r.square()
        # sqrt(var) has an infinite slope at 0, where nothing varies and nothing is to be learned
        slope = torch.where(var > 1e-12, torch.rsqrt(var), 0.0)
        grad_var = grad_var + 0.5 * gain * inverse * total * d * slope / r
        factor, size = gain * inverse, centred.shape[1]
        grad_x = torch.addcmul(-factor * total / size, centred, 2 * grad_var / size)
        grad_x = torch.addcmul(grad_x, grad, factor)
        return grad_x, inverse * moment, total, None, None


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
        normalised: Tensor = _Renormalise.apply(x, self.gain, self.bias, self, warm)  # type: ignore[no-untyped-call]
        return normalised

    def corrections(self, mean: Tensor, var: Tensor, warm: Tensor) -> tuple[Tensor, Tensor]:
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
