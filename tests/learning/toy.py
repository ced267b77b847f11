"""Bandits with a known density, and the sampler trained on them without a critic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dime_robot.learning.networks import ScoreNetwork
from dime_robot.runtime.contract.policy_spec import PolicySpec

LogDensity = Callable[[Tensor], Tensor]


def flat_spec(n_obs: int, n_act: int) -> PolicySpec:
    return PolicySpec.flat("flat", n_obs, n_act)


def mixture(*modes: tuple[float, float, float]) -> LogDensity:
    """log density over a scalar action of sum_k w_k N(mean_k, std_k), given as (w, mean, std)."""

    def log_density(action: Tensor) -> Tensor:
        terms = [
            math.log(w / (std * math.sqrt(2 * math.pi))) - 0.5 * ((action - mean) / std) ** 2
            for w, mean, std in modes
        ]
        return torch.logsumexp(torch.stack(terms), dim=0).sum(dim=-1)

    return log_density


@dataclass
class ToySampler:
    """An unconditional 1-D sampler trained on E[C - log target], which is log Z = 0 at best."""

    network: ScoreNetwork
    target: LogDensity

    @classmethod
    def new(cls, target: LogDensity, steps: int, dt: float = 0.1) -> ToySampler:
        torch.manual_seed(0)
        spec = flat_spec(1, 1)
        return cls(ScoreNetwork(spec, width=64, depth=3, steps=steps, dt=dt), target)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions (B, 1) and C - log target(a), shape (B,)."""
        noise = torch.randn((self.network.steps + 1, batch, 1), generator=generator)
        sample = self.network.sample(torch.zeros(batch, 1), noise)
        return sample.action, sample.bound - self.target(sample.action)

    def train(self, updates: int, *, freeze_step_sizes: bool = False) -> None:
        """Adam (b1 0.5), elementwise clip 1, batch 256, lr 1e-3: the actor's own settings."""
        generator = torch.Generator().manual_seed(1)
        frozen = {id(self.network.dt_raw), id(self.network.friction_raw)}
        parameters = [
            p for p in self.network.parameters() if not (freeze_step_sizes and id(p) in frozen)
        ]
        optimizer = torch.optim.Adam(parameters, lr=1e-3, betas=(0.5, 0.999))
        for _ in range(updates):
            _, cost = self.draw(256, generator)
            optimizer.zero_grad()
            cost.mean().backward()
            torch.nn.utils.clip_grad_value_(parameters, 1.0)
            optimizer.step()

    @torch.no_grad()
    def gap(self, samples: int = 200_000) -> tuple[float, Tensor]:
        """log Z - bound [nat] and the actions it was measured on."""
        action, cost = self.draw(samples, torch.Generator().manual_seed(2))
        return cost.mean().item(), action
