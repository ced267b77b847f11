"""How long one update takes, against a plain form of the same mathematics.

    python benchmarks/train_step.py --preset laptop [--compile] [--json]

The plain form is what one writes first: every diffusion step concatenates latents, observation and
time embedding, each critic is a module of its own, each log density is summed as it comes. Both
forms run interleaved in this process, and are checked to give the same losses before timing.
Ratios are plain time / our time, so above 1 ours is faster.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dime_robot.learning import diffusion
from dime_robot.learning.config import PRESETS, preset_config
from dime_robot.learning.dime import DIME, ActionSample, project
from dime_robot.learning.networks import BatchRenorm, DistributionalCritic
from dime_robot.learning.replay_buffer import Batch
from dime_robot.provenance import provenance
from dime_robot.runtime.spec import PolicySpec

# the tasks each preset is meant for: (n_obs, n_act) of cart-pole, HalfCheetah-v5, Humanoid-v5
SIZES = {"tiny": (5, 1), "laptop": (17, 6), "official": (348, 17)}


class PlainBatchRenorm(nn.Module):
    """Batch renormalisation of (B, C), as its definition reads."""

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


class PlainDIME(DIME):
    """The agent with sampler, bound and critics in the plain form."""

    def use_plain_critics(self) -> None:
        stacked: DistributionalCritic = self.critic
        sizes = [weight.shape[1] for weight in stacked.weights] + [stacked.weights[-1].shape[2]]
        critics = nn.ModuleList(PlainCritic(sizes, stacked.warmup) for _ in range(2))
        with torch.no_grad():
            for member, critic in enumerate(critics):
                for layer, weight in zip(critic.layers, stacked.weights, strict=True):
                    layer.weight.copy_(weight[member].t())
                    layer.bias.zero_()
        self.critic = critics.to(self.device)
        betas = (self.config.adam_b1, 0.999)
        self.critic_optimizer = torch.optim.Adam(
            critics.parameters(), lr=self.config.critic_lr, betas=betas
        )
        self.actor_optimizer = torch.optim.Adam(
            self.actor_parameters, lr=self.config.actor_lr, betas=betas
        )

    def sample(self, obs: Tensor, noise: Tensor) -> ActionSample:
        eta = self.actor.step_sizes()
        x = diffusion.PRIOR_STD * noise[0]
        cost = torch.zeros(len(obs), device=self.device)
        for n in range(self.config.diffusion_steps):
            std = torch.sqrt(2 * eta[n])
            mean = x + eta[n] * (-x / 6.25 + self.actor(x, obs, n))
            following = mean + std * noise[n + 1]
            forward = -0.5 * noise[n + 1] ** 2 - torch.log(std)
            back = -0.5 * ((x - following * (1 - eta[n] / 6.25)) / std) ** 2 - torch.log(std)
            cost = cost + (forward - back).sum(-1)
            x = following
        cost = cost - (2 * (math.log(2) - x - nn.functional.softplus(-2 * x))).sum(-1)
        return ActionSample(torch.tanh(x), x, cost, diffusion.prior_term(noise))

    def critic_loss(self, batch: Batch, next_action: Tensor, bound: Tensor) -> Tensor:
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
        return loss

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        self.critic.eval()
        values = [critic(obs, action).softmax(-1) @ self.support for critic in self.critic]
        self.critic.train()
        return torch.stack(values)


def agents(preset: str, device: torch.device, compile_ours: bool) -> dict[str, DIME]:
    """The variants, all with the same weights."""
    n_obs, n_act = SIZES[preset]
    spec = PolicySpec.flat(preset, n_obs, n_act)
    config = preset_config(preset, "benchmark")
    plain = PlainDIME(spec, config, device)
    plain.use_plain_critics()
    found = {"plain": plain, "eager": DIME(spec, config, device)}
    if compile_ours:
        found["compiled"] = DIME(spec, config.model_copy(update={"compile": True}), device)
    return found


def random_batch(agent: DIME, size: int) -> Batch:
    """Transitions of unit normals."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=agent.device)

    n_obs, n_act = agent.actor.n_obs, agent.actor.n_act
    return Batch(
        normal(size, n_obs),
        torch.tanh(normal(size, n_act)),
        normal(size, n_obs),
        normal(size),
        torch.zeros(size, device=agent.device),
    )


def largest_difference(variants: Mapping[str, DIME]) -> float:
    """Largest relative difference of the losses to the plain form's, same weights and noise."""
    worst = 0.0
    batch = random_batch(variants["plain"], 64)
    noise = variants["plain"].noise(64)
    losses: dict[str, list[float]] = {}
    for name, agent in variants.items():
        with torch.no_grad():
            sample = agent.sample(batch.obs, noise)
            actor_loss = agent.actor_loss(batch.obs, sample)
            critic_loss = agent.critic_loss(batch, sample.action, sample.bound)
        losses[name] = [actor_loss.item(), critic_loss.item()]
    for values in losses.values():
        for ours, plain in zip(values, losses["plain"], strict=True):
            worst = max(worst, abs(ours - plain) / abs(plain))
    return worst


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, taken in turn so that a busy machine hits all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(3):
        for call in calls.values():
            call()
    for _ in range(repeats):
        for name, call in calls.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return times


def measure(preset: str, device: torch.device, compile_ours: bool, repeats: int) -> dict[str, Any]:
    """Median milliseconds and ratio to the plain form, by part and variant."""
    variants = agents(preset, device, compile_ours)
    config = variants["plain"].config
    if config.threads:
        torch.set_num_threads(config.threads)
    difference = largest_difference(variants)
    if difference > 1e-4:
        raise SystemExit(f"the variants' losses differ by {difference:.1e}; timing would mislead")
    batch = random_batch(variants["plain"], config.batch_size)
    whole = random_batch(variants["plain"], config.batch_size * config.update_to_data)

    def delay_cycle(agent: DIME) -> None:
        """As many environment steps as the policy delay: every phase once."""
        for _ in range(config.policy_delay):
            agent.update(whole)

    parts: dict[str, tuple[Callable[[DIME], None], int]] = {
        "critic_step": (lambda agent: agent.critic_step(batch), 1),
        "actor_step": (lambda agent: agent.actor_step(batch.obs), 1),
        "update": (delay_cycle, config.policy_delay),
    }
    report: dict[str, Any] = {}
    for part, (call, count) in parts.items():
        calls = {
            name: (lambda agent=agent, call=call: call(agent)) for name, agent in variants.items()
        }
        times = interleaved(calls, repeats)
        base = statistics.median(times["plain"])
        report[part] = {
            name: {
                "median_ms": 1e3 * statistics.median(values) / count,
                "ratio_to_plain": base / statistics.median(values),
            }
            for name, values in times.items()
        }
    return {
        "preset": preset,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "largest_loss_difference": difference,
        "parts": report,
        "machine": provenance(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=list(PRESETS), default="laptop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--compile", action="store_true", help="time --compile too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = measure(options.preset, torch.device(options.device), options.compile, options.repeats)
    if options.json:
        print(json.dumps(report))
        return
    print(f"{report['preset']} on {report['device']}, {report['threads']} thread(s)")
    for part, variants in report["parts"].items():
        for name, values in variants.items():
            print(
                f"{part:12s} {name:9s} {values['median_ms']:9.2f} ms"
                f"   {values['ratio_to_plain']:.2f} x plain"
            )


if __name__ == "__main__":
    main()
