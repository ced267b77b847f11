"""DIME: losses and update, top to bottom.

Source: Celik et al., DIME, ICML 2025 (arXiv 2502.02316) with the authors' published settings:
CrossQ critics (joint pass, no target networks) with a categorical return, a soft target with the
diffusion policy's entropy bound, and a temperature that holds the path cost R at 4 per action
dimension. Sampler and bound are in `diffusion.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dime_robot.learning import diffusion
from dime_robot.learning.config import TrainConfig
from dime_robot.learning.networks import DistributionalCritic, ScoreNetwork
from dime_robot.learning.replay_buffer import Batch
from dime_robot.runtime.spec import PolicySpec


class ActionSample(NamedTuple):
    """Actions with the two parts of the entropy bound, C = path_cost + prior_term."""

    action: Tensor  # Shape (B, d), in [-1, 1]
    latent: Tensor  # x_N, shape (B, d)
    path_cost: Tensor  # R, shape (B,) [nat]
    prior_term: Tensor  # T, shape (B,) [nat]

    @property
    def bound(self) -> Tensor:
        """C = R + T: E[C] >= E[log pi(a|obs)], so the entropy is at least -E[C]. Shape (B,)."""
        return self.path_cost + self.prior_term


def project(probs: Tensor, atoms: Tensor, support: Tensor) -> Tensor:
    """Categorical projection (C51) of probs on moved atoms back onto the support.

    `probs` (..., K) sit on `atoms` (..., K), clipped to the support's ends; each splits its mass
    linearly between its two neighbours on the even `support` (K,). Returns (..., K).
    """
    last = len(support) - 1
    spacing = (support[-1] - support[0]) / last
    position = (atoms.clamp(support[0], support[-1]) - support[0]) / spacing
    # lower + 1 has to exist at the upper end too; a NaN must reach the loss, not be an index
    lower = position.nan_to_num(nan=0.0).floor().clamp(0, last - 1)
    share = position - lower
    index = lower.long()
    target = torch.zeros_like(probs)
    target.scatter_add_(-1, index, probs * (1 - share))
    target.scatter_add_(-1, index + 1, probs * share)
    return target


class DIME:
    """The agent: actor, critics, temperature, their optimisers and the update.

    Args:
        spec: what the policy sees and commands.
        config: sizes and hyper-parameters.
        device: where everything lives.
    """

    def __init__(self, spec: PolicySpec, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.generator = torch.Generator(device).manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # initial weights
            actor = ScoreNetwork.from_config(spec, config)
            critic = DistributionalCritic(
                spec.n_obs + spec.n_act,
                widths=[config.critic_width] * config.critic_depth,
                atoms=config.atoms,
                warmup=config.renorm_warmup,
            )
        self.actor, self.critic = actor.to(device), critic.to(device)
        self.log_alpha = torch.tensor(config.alpha_init, device=device).log().requires_grad_()
        self.support = torch.linspace(config.v_min, config.v_max, config.atoms, device=device)
        self.path_cost_target = config.path_cost_target * spec.n_act

        betas = (config.adam_b1, 0.999)
        self.actor_parameters = list(self.actor.parameters())
        self.actor_optimizer = torch.optim.Adam(
            self.actor_parameters, lr=config.actor_lr, betas=betas, fused=True
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(), lr=config.critic_lr, betas=betas, fused=True
        )
        self.temperature_optimizer = torch.optim.Adam(
            [self.log_alpha], lr=config.alpha_lr, fused=True
        )
        self.updates = 0  # critic updates done
        self.first_bad_update = torch.full((), -1, dtype=torch.int64, device=device)
        self.last: dict[str, Tensor] = {}  # tensors of the last update, read by `metrics`
        self._step = diffusion.euler_maruyama
        self._critic_loss: Callable[[Batch, Tensor, Tensor], Tensor] = self.critic_loss
        if config.compile:
            self._step = torch.compile(diffusion.euler_maruyama)
            self._critic_loss = torch.compile(self.critic_loss)

    @property
    def alpha(self) -> Tensor:
        """Temperature, scalar, without gradient."""
        return self.log_alpha.detach().exp()

    # -- the policy ----------------------------------------------------------------------------

    def noise(self, batch: int) -> Tensor:
        """Unit normals for one sample per row. Shape (N+1, B, d)."""
        shape = (self.config.diffusion_steps + 1, batch, self.actor.n_act)
        return torch.randn(shape, generator=self.generator, device=self.device)

    def act(self, obs: Tensor) -> Tensor:
        """Sample actions in [-1, 1], shape (B, d), for raw observations (B, n_obs).

        Exploration and evaluation use the same full stochastic sampler, last step noise included.
        """
        return self.actor.act(obs, self.noise(len(obs)))

    def sample(self, obs: Tensor, noise: Tensor) -> ActionSample:
        """One action per row with its entropy bound; differentiable through the whole chain."""
        eta = self.actor.step_sizes()
        latents = diffusion.generate(self.actor.conditioned(obs), noise, eta, self._step)
        return ActionSample(
            action=torch.tanh(latents[-1]),
            latent=latents[-1],
            path_cost=diffusion.path_cost(latents, noise, eta),
            prior_term=diffusion.prior_term(noise),
        )

    # -- losses --------------------------------------------------------------------------------

    def target_atoms(self, reward: Tensor, terminated: Tensor, bound: Tensor) -> Tensor:
        """Soft Bellman backup of every atom: r + gamma (1 - done) (z_j - alpha C). Shape (B, K)."""
        keep = self.config.discount * (1 - terminated)
        return (reward - keep * self.alpha * bound)[:, None] + keep[:, None] * self.support

    def critic_loss(self, batch: Batch, next_action: Tensor, bound: Tensor) -> Tensor:
        """Cross-entropy to the averaged projected target, minus the predicted entropy's bonus.

        One training-mode pass over [(s, a); (s', a')] (CrossQ): both halves share their batch
        statistics; the second half's output is a constant.
        """
        logits = self.critic(
            torch.cat([batch.obs, batch.next_obs]), torch.cat([batch.action, next_action])
        )
        logits, next_logits = logits.chunk(2, dim=1)
        with torch.no_grad():
            # The mean of both critics' projected distributions (no minimum). Both sit on the same
            # atoms and the projection is linear in the masses, so the masses can be averaged first.
            next_probs = next_logits.softmax(dim=-1).mean(dim=0)
            atoms = self.target_atoms(batch.reward, batch.terminated, bound)
            target = project(next_probs, atoms, self.support)
        probs = logits.softmax(dim=-1)
        log_probs = torch.log(probs + 1e-15)
        per_sample = (self.config.critic_entropy * probs - target) * log_probs
        # sum over atoms, mean over the batch, sum over the critics
        loss: Tensor = per_sample.sum(dim=-1).mean(dim=-1).sum()
        return loss

    def actor_loss(self, obs: Tensor, sample: ActionSample) -> Tensor:
        """mean[ -Qbar(s, a) + alpha C ] with the mean of the critics' expected returns."""
        return (self.alpha * sample.bound - self.q_values(obs, sample.action).mean(dim=0)).mean()

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Expected return sum_j p_j z_j of each critic, running statistics. Shape (E, B)."""
        self.critic.eval()
        logits = self.critic(obs, action)
        self.critic.train()
        values: Tensor = logits.softmax(dim=-1) @ self.support
        return values

    def temperature_loss(self, path_cost: Tensor) -> Tensor:
        """-alpha (mean R - target): alpha rises while the path cost is above its target."""
        return -self.log_alpha.exp() * (path_cost.detach().mean() - self.path_cost_target)

    # -- update --------------------------------------------------------------------------------

    def update(self, batch: Batch) -> None:
        """The updates of one environment step: UTD critic steps, the actor's every third."""
        for part in zip(
            *(column.chunk(self.config.update_to_data) for column in batch), strict=True
        ):
            minibatch = Batch(*part)
            self.critic_step(minibatch)
            rested = self.updates > self.config.actor_start
            if rested and self.updates % self.config.policy_delay == 0:
                self.actor_step(minibatch.obs)

    def critic_step(self, batch: Batch) -> None:
        """One update of both critics on a fresh action sample per next state."""
        with torch.no_grad():
            following = self.sample(batch.next_obs, self.noise(len(batch.obs)))
        loss = self._critic_loss(batch, following.action, following.bound)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        self.updates += 1
        self._flag(loss)
        self.last.update(
            critic_loss=loss.detach(),
            bound=following.bound,
            reward=batch.reward,
            terminated=batch.terminated,
            next_obs=batch.next_obs,
            next_action=following.action,
        )

    def actor_step(self, obs: Tensor) -> None:
        """One update of the actor against the new critics, then one of the temperature."""
        sample = self.sample(obs, self.noise(len(obs)))
        loss = self.actor_loss(obs, sample)
        gradients = torch.autograd.grad(loss, self.actor_parameters)
        limit = self.config.gradient_clip
        for parameter, gradient in zip(self.actor_parameters, gradients, strict=True):
            parameter.grad = gradient.nan_to_num_(nan=0.0).clamp_(-limit, limit)
        self.actor_optimizer.step()

        temperature_loss = self.temperature_loss(sample.path_cost)
        self.temperature_optimizer.zero_grad()
        temperature_loss.backward()
        self.temperature_optimizer.step()
        self._flag(loss)
        self.last.update(
            actor_loss=loss.detach(),
            latent=sample.latent.detach(),
            path_cost=sample.path_cost.detach(),
            prior_term=sample.prior_term.detach(),
            obs=obs,
            action=sample.action.detach(),
        )

    def _flag(self, loss: Tensor) -> None:
        """Remember on the device the first update whose loss was not finite."""
        bad = ~torch.isfinite(loss.detach()) & (self.first_bad_update < 0)
        self.first_bad_update = torch.where(bad, self.updates, self.first_bad_update)

    def first_bad_parameter(self) -> str | None:
        """Name of a parameter that holds NaN or inf; reads from the device."""
        named = {"log_alpha": self.log_alpha}
        named |= {f"actor.{name}": value for name, value in self.actor.named_parameters()}
        named |= {f"critic.{name}": value for name, value in self.critic.named_parameters()}
        if torch.stack([torch.isfinite(value).all() for value in named.values()]).all():
            return None
        return next(name for name, value in named.items() if not torch.isfinite(value).all())

    # -- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on, under stable names."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "log_alpha": self.log_alpha.detach(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "temperature_optimizer": self.temperature_optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.load_weights(state)
        self.actor_optimizer.load_state_dict(state["actor_optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.temperature_optimizer.load_state_dict(state["temperature_optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.updates = state["updates"]

    def load_weights(self, state: dict[str, Any]) -> None:
        """Only the networks and the temperature: a new run that starts from a trained one."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
