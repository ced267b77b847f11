"""DIME's update in plain, unoptimised form, as a reference for speed and correctness.

Every diffusion step concatenates latents, observation and time embedding, each critic is a separate
module, log densities are summed term by term, and all gradients are by autograd.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dime_robot.learning import diffusion
from dime_robot.learning.config import TrainConfig
from dime_robot.learning.critic import BatchRenorm, BatchStatistics, DistributionalCritic
from dime_robot.learning.diffusion import ActionSample
from dime_robot.learning.dime import DIME, project
from dime_robot.learning.networks import ScoreNetwork
from dime_robot.learning.replay_buffer import Batch
from dime_robot.runtime.contract.policy_spec import PolicySpec


class PlainBatchRenorm(nn.Module):
    """Batch renormalisation of (B, C), by its definition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, warm: bool) -> Tensor:
        eps = BatchRenorm.EPS
        if not self.training:
            x = (x - self.running_mean) / torch.sqrt(self.running_var + eps)
            return self.gain * x + self.bias
        mean, var = x.mean(0), x.var(0, correction=0)
        new_mean, new_var = mean, var
        with torch.no_grad():
            running_std = torch.sqrt(self.running_var + eps)
            r = (torch.sqrt(var + eps) / running_std).clamp(1 / 3, 3)
            d = ((mean - self.running_mean) / running_std).clamp(-5, 5)
            self.running_mean.lerp_(mean, 0.01)
            self.running_var.lerp_(var, 0.01)
        if warm:
            new_mean, new_var = mean - d * torch.sqrt(var) / r, var / r.square()
        return self.gain * (x - new_mean) / torch.sqrt(new_var + eps) + self.bias


class PlainCritic(nn.Module):
    """One critic."""

    def __init__(self, sizes: list[int], warmup: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(PlainBatchRenorm(size) for size in sizes[:-1])
        self.warmup, self.passes = warmup, 0

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        hidden = torch.cat([obs, action], dim=-1)
        for i, (norm, layer) in enumerate(zip(self.norms, self.layers, strict=True)):
            hidden = layer(norm(hidden, self.passes >= self.warmup))
            if i < len(self.layers) - 1:
                hidden = torch.relu(hidden)
        self.passes += self.training
        return hidden


class PlainCritics(nn.ModuleList):
    """The ensemble of critics."""

    def absorb(self, statistics: Sequence[BatchStatistics]) -> None:
        """Do nothing: each critic has updated its running statistics in its pass."""


class PlainActor(ScoreNetwork):
    """The sampler step by step."""

    def sample(self, obs: Tensor, noise: Tensor) -> ActionSample:
        eta = self.step_sizes()
        x = diffusion.PRIOR_STD * noise[0]
        cost = torch.zeros(len(obs), device=obs.device, dtype=obs.dtype)
        for n in range(self.steps):
            std = torch.sqrt(2 * eta[n])
            mean = x + eta[n] * (-x / 6.25 + self(x, obs, self.step_index[n]))
            following = mean + std * noise[n + 1]
            forward = -0.5 * noise[n + 1] ** 2 - torch.log(std)
            back = -0.5 * ((x - following * (1 - eta[n] / 6.25)) / std) ** 2 - torch.log(std)
            cost = cost + (forward - back).sum(-1)
            x = following
        cost = cost - (2 * (math.log(2) - x - nn.functional.softplus(-2 * x))).sum(-1)
        return ActionSample(torch.tanh(x), x, cost, diffusion.prior_term(noise))


class PlainDIME(DIME):
    """The agent with sampler, bound and critics in the plain form, same initial weights."""

    def __init__(self, spec: PolicySpec, config: TrainConfig, device: torch.device) -> None:
        super().__init__(spec, config, device)
        self.actor = PlainActor(
            spec,
            width=config.actor_width,
            depth=config.actor_depth,
            steps=config.diffusion_steps,
            dt=config.dt_init,
        ).to(device)
        stacked: DistributionalCritic = self.critic
        sizes = [weight.shape[1] for weight in stacked.weights] + [stacked.weights[-1].shape[2]]
        self.critic = PlainCritics(PlainCritic(sizes, stacked.warmup) for _ in range(2)).to(device)
        self.actor_parameters = list(self.actor.parameters())
        betas = (config.adam_b1, 0.999)
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(), lr=config.critic_lr, betas=betas
        )
        self.actor_optimizer = torch.optim.Adam(
            self.actor_parameters, lr=config.actor_lr, betas=betas
        )

    def copy_weights(self, agent: DIME) -> None:
        """Copy the state of another agent."""
        self.actor.load_state_dict(agent.actor.state_dict())
        with torch.no_grad():
            for member, critic in enumerate(self.critic):
                for i, layer in enumerate(critic.layers):
                    layer.weight.copy_(agent.critic.weights[i][member].t())
                    layer.bias.copy_(agent.critic.biases[i][member, 0])

    def critic_loss(
        self, batch: Batch, next_action: Tensor, bound: Tensor
    ) -> tuple[Tensor, Tensor, tuple[BatchStatistics, ...]]:
        obs = torch.cat([batch.obs, batch.next_obs])
        action = torch.cat([batch.action, next_action])
        atoms = self.target_atoms(batch.reward, batch.terminated, bound)
        predicted, targets = [], []
        for critic in self.critic:
            logits, next_logits = critic(obs, action).chunk(2)
            predicted.append(logits.softmax(-1))
            targets.append(project(next_logits.detach().softmax(-1), atoms, self.support))
        target = (targets[0] + targets[1]) / 2
        loss = torch.zeros((), device=self.device)
        for probs in predicted:
            log_probs = torch.log(probs + 1e-15)
            loss = loss - (target * log_probs).sum(-1).mean()
            loss = loss + self.config.critic_entropy * (probs * log_probs).sum(-1).mean()
        return loss, torch.zeros((), device=self.device), ()

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        self.critic.eval()
        values = [critic(obs, action).softmax(-1) @ self.support for critic in self.critic]
        self.critic.train()
        return torch.stack(values)
