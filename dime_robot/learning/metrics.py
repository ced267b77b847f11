"""What a run logs about its learning; each key is explained in docs/metrics.md."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dime_robot.learning.dime import DIME

SATURATED = 0.99


@torch.no_grad()
def metrics(agent: DIME) -> dict[str, float]:
    """Measure the last update. Reads from the device, so call it every k updates, not each."""
    last, config = agent.last, agent.config
    eta = agent.actor.step_sizes()
    friction = F.softplus(agent.actor.friction_raw)
    values = {
        "temperature/alpha": agent.alpha,
        "diffusion/dt": F.softplus(agent.actor.dt_raw),
        "diffusion/last_step_std": torch.sqrt(2 * eta[-1]).mean(),
        "critic/loss": last["critic_loss"],
        "critic/clipped_mass": clipped_mass(agent),
        **{f"diffusion/friction_{i}": value for i, value in enumerate(friction)},
    }
    if "actor_loss" in last:
        latent = last["latent"].abs().flatten()
        quantiles = torch.quantile(latent, torch.tensor([0.5, 0.9, 0.99], device=latent.device))
        q = agent.q_values(last["obs"], last["action"]).mean(dim=1)
        gradient = torch.cat(
            [p.grad.flatten() for p in agent.actor_parameters if p.grad is not None]
        )
        values |= {
            "actor/loss": last["actor_loss"],
            "actor/gradient_clipped_share": (gradient.abs() >= config.gradient_clip).float().mean(),
            "actor/saturated_share": (last["latent"].tanh().abs() > SATURATED).float().mean(),
            "actor/latent_abs_q50": quantiles[0],
            "actor/latent_abs_q90": quantiles[1],
            "actor/latent_abs_q99": quantiles[2],
            "temperature/path_cost": last["path_cost"].mean(),
            "temperature/path_cost_target": torch.tensor(agent.path_cost_target),
            "temperature/prior_term": last["prior_term"].mean(),
            "temperature/entropy_bound": -(last["path_cost"] + last["prior_term"]).mean(),
            **{f"critic/value_{i}": value for i, value in enumerate(q)},
        }
    return {name: float(value) for name, value in values.items()}


def clipped_mass(agent: DIME) -> torch.Tensor:
    """Share of the last target's mass that fell outside [v_min, v_max] before clipping."""
    last = agent.last
    atoms = agent.target_atoms(last["reward"], last["terminated"], last["bound"])
    agent.critic.eval()
    probs = agent.critic(last["next_obs"], last["next_action"]).softmax(dim=-1)
    agent.critic.train()
    outside = (atoms < agent.support[0]) | (atoms > agent.support[-1])
    share: torch.Tensor = (probs * outside).sum(dim=-1).mean()
    return share
