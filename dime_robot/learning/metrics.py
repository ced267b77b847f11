"""Metrics of the learner that a run logs; docs/metrics.md explains each key."""

from __future__ import annotations

import torch

from dime_robot.learning.dime import DIME


@torch.no_grad()
def metrics(agent: DIME) -> dict[str, float]:
    """Return means over the updates since the last call. Waits for the device: call it rarely."""
    values = {
        "temperature/alpha": float(agent.alpha),
        **{name: float(value) for name, value in agent.actor.metrics().items()},
        **agent.critic_means.read(),
        **agent.actor_means.read(),
    }
    if agent.latent is not None and "actor/loss" in values:
        latent = agent.latent.abs().flatten()
        levels = torch.tensor([0.5, 0.9, 0.99], device=latent.device, dtype=latent.dtype)
        for level, quantile in zip((50, 90, 99), torch.quantile(latent, levels), strict=True):
            values[f"actor/latent_abs_q{level}"] = float(quantile)
        values["temperature/path_cost_target"] = agent.path_cost_target
        values["temperature/entropy_bound"] = -(
            values["temperature/path_cost"] + values["temperature/prior_term"]
        )
    return values
