"""ObservationNormalization: the actor's first operation with `--normalize-observations`.

With o a raw observation and c the contract's clip, and mean and var of clamp(o, -c, c) over all
observations that the run has acted on, those of random actions included:

    s = clamp((clamp(o, -c, c) - mean) / std, -10, 10),    std = max(sqrt(var), 0.1 / scale)

The contract's clip comes first, so that a single wrong reading changes neither the input nor the
statistics by more than the contract allows. The contract's scale is replaced: dividing by the
standard deviation makes any factor before it ineffective. It only bounds the gain, which is at most
ten times the scale. That bound is for robots. An entry that hardly varied in training, such as a
constant command, has an arbitrary small deviation and weights that were never trained; without the
bound a slight change of it on the robot would be an input far from everything seen. The bound is in
scaled units, since the scale says which change of the entry counts as large. Before the first
observation mean is 0 and std is 1 / scale: the contract's own scale.

Off-policy learning with running statistics of this kind: Seo et al., FastSAC, arXiv 2512.01996; the
form, which there has std + 0.01 and no final clamp, is `EmpiricalNormalization` of rsl_rl (ETH
Zurich and NVIDIA). Their replay holds raw observations too, and all are normalised by the newest
statistics. The update is the one for two samples of any size by Chan, Golub and LeVeque (Updating
formulae and a pairwise algorithm for computing sample variances, 1979), in float64.

The critics have none. Their first layer is a batch renormalisation of (observation, action), which
subtracts mean and divides by standard deviation, of the batch or running; what it returns would be
the same after any other shift and factor per entry. Statistics that move would only change what its
own running values are of.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MIN_STD = 0.1  # after the contract's scale [1]: the gain is at most 10 times the scale
BOUND = 10.0  # of a normalised entry [1]
# then the statistics stay as they are: one more observation would change the mean by 1e-7 of a
# standard deviation, and a long run ends with a first operation that no longer moves
LAST_SAMPLE = 10_000_000


class ObservationNormalization(nn.Module):
    """Running mean and variance of every entry of the observation; see the module's docstring.

    The buffers are part of the actor's state. They are updated in place, and neither `absorb` nor
    `constants` waits for the device, so that both can be captured in CUDA graphs.

    Args:
        scale: the contract's factors, shape (n_obs,).
    """

    samples: Tensor
    running_mean: Tensor
    running_var: Tensor
    min_std: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        scale = scale.double()
        self.register_buffer("samples", torch.zeros((), dtype=torch.int64))
        self.register_buffer("running_mean", torch.zeros_like(scale))
        self.register_buffer("running_var", scale**-2)
        self.register_buffer("min_std", MIN_STD / scale, persistent=False)

    @torch.no_grad()
    def absorb(self, clipped: Tensor) -> None:
        """Update the statistics, unless LAST_SAMPLE is reached.

        Args:
            clipped: new observations, within the contract's clip, shape (B, n_obs).
        """
        batch = clipped.double()
        mean = batch.mean(dim=0)
        var = (batch - mean).square().mean(dim=0)
        total = self.samples + len(batch)
        share = len(batch) / total.double()  # of the new observations among all
        shift = mean - self.running_mean
        new_mean = self.running_mean + shift * share
        new_var = torch.lerp(self.running_var, var, share) + shift.square() * share * (1 - share)
        open_ = self.samples < LAST_SAMPLE
        self.running_mean.copy_(torch.where(open_, new_mean, self.running_mean))
        self.running_var.copy_(torch.where(open_, new_var, self.running_var))
        self.samples.copy_(torch.where(open_, total, self.samples))

    def constants(self) -> tuple[Tensor, Tensor]:
        """Return mean and 1 / std, shape (n_obs,) each, in float32.

        A policy's constants are these rounded numbers, in training, in float64 proofs and in an
        exported graph alike.
        """
        std = torch.maximum(self.running_var.sqrt(), self.min_std)
        return self.running_mean.float(), std.reciprocal().float()

    def forward(self, clipped: Tensor) -> Tensor:
        """Normalise observations. Shape (B, n_obs).

        Args:
            clipped: within the contract's clip, shape (B, n_obs).
        """
        mean, gain = (each.to(clipped.dtype) for each in self.constants())
        return torch.clamp((clipped - mean) * gain, -BOUND, BOUND)
