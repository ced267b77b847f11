"""DIME: losses and update, top to bottom.

Source: Celik et al., DIME, ICML 2025 (arXiv 2502.02316) with the authors' published settings:
CrossQ critics (joint pass, no target networks) with a categorical return, a soft target with the
diffusion policy's entropy bound, and a temperature that controls the path cost R to 4 per action
dimension. Sampler and bound are in `diffusion.py`.

An update reads and writes only tensors of fixed shape on one device, in place, and the host never
waits for the device: `learn` is one CUDA graph per phase of the policy delay.

With privileged values (`--asymmetric-critic`) the observations of a batch are longer than the
policy's: the critics take all of it, the actor only its first n_obs numbers. Source: Pinto et al.,
Asymmetric Actor Critic for Image-Based Robot Learning (RSS 2018). An action is drawn without the
privileged values, so that the critics' target stays a return of that same policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dime_robot.learning.config import TrainConfig
from dime_robot.learning.critic import BatchStatistics, DistributionalCritic
from dime_robot.learning.cuda_graphs import CudaGraphs
from dime_robot.learning.diffusion import ActionSample
from dime_robot.learning.learner_state import LearnerState, require_alike
from dime_robot.learning.means import RunningMeans
from dime_robot.learning.n_step import n_step_batch
from dime_robot.learning.networks import make_actor
from dime_robot.learning.replay_buffer import Batch, ReplayBuffer
from dime_robot.learning.symmetry import BatchMirror
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.io.errors import InputError

SATURATED = 0.99  # a larger |a| counts as saturated
ACTOR_MEANS = (
    "actor/loss",
    "actor/gradient_clipped_share",
    "actor/gradient_nan_share",
    "actor/saturated_share",
    "temperature/path_cost",
    "temperature/prior_term",
    "critic/value_0",
    "critic/value_1",
)


def project(probs: Tensor, atoms: Tensor, support: Tensor) -> Tensor:
    """Categorical projection (C51) of probs on moved atoms back onto the support.

    `atoms` are clipped to the support's ends; each splits its mass linearly between its two
    neighbours on the support. Returns the masses on it, shape (..., K).

    Args:
        probs: masses, shape (..., K).
        atoms: their positions, shape (..., K).
        support: the even atoms to project onto, shape (K,).
    """
    last = len(support) - 1
    spacing = (support[-1] - support[0]) / last
    position = (atoms.clamp(support[0], support[-1]) - support[0]) / spacing
    # lower + 1 has to exist at the upper end too; a NaN must reach the loss, but not as an index
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
        spec: the contract.
        config: sizes and hyper-parameters.
        device: of all tensors.
        n_privileged: numbers after those of the contract in each observation, which only the
            critics see.
        mirror: of the transitions that are sampled; none: they stay as they are.
    """

    def __init__(
        self,
        spec: PolicySpec,
        config: TrainConfig,
        device: torch.device,
        n_privileged: int = 0,
        mirror: BatchMirror | None = None,
    ) -> None:
        self.config, self.device, self._mirror = config, device, mirror
        self.generator = torch.Generator(device).manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # initial weights
            actor = make_actor(spec, config)
            critic = DistributionalCritic(
                spec.n_obs + n_privileged + spec.n_act,
                widths=[config.critic_width] * config.critic_depth,
                atoms=config.atoms,
                warmup=config.renorm_warmup,
            )
        self.actor, self.critic = actor.to(device), critic.to(device)
        self.log_alpha = torch.tensor(config.alpha_init, device=device).log().requires_grad_()
        self.support = torch.linspace(config.v_min, config.v_max, config.atoms, device=device)
        self.path_cost_target = config.path_cost_target * spec.n_act

        self.actor_parameters = [p for p in self.actor.parameters() if p.requires_grad]
        self.actor_optimizer = self._adam(self.actor_parameters, config.actor_lr, config.adam_b1)
        critic_parameters = list(self.critic.parameters())
        self.critic_optimizer = self._adam(critic_parameters, config.critic_lr, config.adam_b1)
        self.temperature_optimizer = self._adam([self.log_alpha], config.alpha_lr)

        self.updates = 0  # critic updates done, and the same count on the device
        self._updates = torch.zeros((), dtype=torch.int64, device=device)
        self.actor_updates = 0  # done since this object was made
        # of these, how many gradients contained NaN; counted on the device
        self.nan_gradients = torch.zeros((), dtype=torch.int64, device=device)
        self.first_bad_update = torch.full((), -1, dtype=torch.int64, device=device)
        self.critic_means = RunningMeans(("critic/loss", "critic/clipped_mass"), device)
        self.actor_means = RunningMeans(ACTOR_MEANS, device)
        self.latent: Tensor | None = None  # x_N of the last actor update, shape (B, d)
        self._obs = torch.zeros((config.num_envs, spec.n_obs), device=device)
        self._action = torch.zeros((config.num_envs, spec.n_act), device=device)
        self._graphs = CudaGraphs(self.generator, device.type == "cuda" and config.graphs)
        self._critic_loss, self._actor_loss = self.critic_loss, self.actor_loss
        if config.compile:
            self.actor.compile_sample()
            self._critic_loss = torch.compile(self.critic_loss, fullgraph=True, dynamic=False)
            self._actor_loss = torch.compile(self.actor_loss, fullgraph=True, dynamic=False)

    def _adam(self, parameters: Sequence[Tensor], lr: float, b1: float = 0.9) -> torch.optim.Adam:
        capturable = self.device.type == "cuda"  # step counts on the device
        return torch.optim.Adam(
            list(parameters), lr=lr, betas=(b1, 0.999), fused=True, capturable=capturable
        )

    @property
    def alpha(self) -> Tensor:
        """Temperature, scalar, without gradient."""
        return self.log_alpha.detach().exp()

    # -- the policy ----------------------------------------------------------------------------

    def noise(self, batch: int) -> Tensor:
        """Draw unit normals for one sample per row. Shape (N+1, B, d)."""
        return torch.randn(
            (self.actor.steps + 1, batch, self.actor.n_act),
            generator=self.generator,
            device=self.device,
            dtype=self.support.dtype,
        )

    def act(self, obs: Tensor) -> Tensor:
        """Sample actions in [-1, 1], shape (B, d).

        Exploration and evaluation use the same full stochastic sampler, last step noise included.

        Args:
            obs: raw observations, shape (B, n_obs).
        """
        return self.actor.act(obs, self.noise(len(obs)))

    def observe(self, obs: npt.NDArray[np.float32]) -> None:
        """Update the actor's statistics of observations, where it has some.

        Args:
            obs: a raw observation of each environment, shape (num_envs, n_obs), or longer with what
                only the critics see; or of a message, shape (rows, n_obs).
        """
        if self.actor.normalization is None:
            return
        seen = self._seen(torch.from_numpy(obs))
        if len(seen) != len(self._obs):
            self.actor.absorb(seen.to(self.device))
            return
        self._obs.copy_(seen)
        self._graphs.run("observe", lambda: self.actor.absorb(self._obs))

    def explore(self, obs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the actions of the training loop, shape (num_envs, d).

        Args:
            obs: a raw observation of each environment, shape (num_envs, n_obs), or longer with
                what only the critics see.
        """
        self._obs.copy_(self._seen(torch.from_numpy(obs)))
        self._graphs.run("act", lambda: self._action.copy_(self.act(self._obs)))
        actions: npt.NDArray[np.float32] = self._action.cpu().numpy().copy()
        return actions

    def _seen(self, obs: Tensor) -> Tensor:
        """Return what the policy sees of observations, shape (B, n_obs)."""
        return obs[:, : self.actor.n_obs]

    # -- losses --------------------------------------------------------------------------------

    def target_atoms(self, reward: Tensor, terminated: Tensor, bound: Tensor) -> Tensor:
        """Soft Bellman backup of every atom: r + gamma (1 - done) (z_j - alpha C). Shape (B, K).

        Args:
            reward: scaled, shape (B,).
            terminated: 1 where the episode terminated, else 0, shape (B,).
            bound: C of the next action, shape (B,).
        """
        keep = self.config.discount * (1 - terminated)
        return (reward - keep * self.alpha * bound)[:, None] + keep[:, None] * self.support

    def critic_loss(
        self, batch: Batch, next_action: Tensor, bound: Tensor
    ) -> tuple[Tensor, Tensor, tuple[BatchStatistics, ...]]:
        """Cross-entropy to the averaged projected target, minus the predicted entropy's bonus.

        One training pass over [(s, a); (s', a')] (CrossQ): both halves share their batch
        statistics; the second half's output is a constant.

        Args:
            batch: B transitions.
            next_action: drawn for the next observations, shape (B, d).
            bound: C of these actions, shape (B,).

        Returns:
            The loss; the share of the target's mass outside [v_min, v_max] before clipping; the
            batch statistics, for `DistributionalCritic.absorb` after the gradient.
        """
        logits, statistics = self.critic.training_pass(
            torch.cat([batch.obs, batch.next_obs]), torch.cat([batch.action, next_action])
        )
        logits, next_logits = logits.chunk(2, dim=1)
        with torch.no_grad():
            # The mean of both critics' projected distributions (no minimum). Both have the same
            # atoms and the projection is linear in the masses, so the masses can be averaged first.
            next_probs = next_logits.softmax(dim=-1).mean(dim=0)
            atoms = self.target_atoms(batch.reward, batch.terminated, bound)
            outside = (atoms < self.support[0]) | (atoms > self.support[-1])
            clipped_mass = torch.where(outside, next_probs, 0.0).sum(dim=-1).mean()
            target = project(next_probs, atoms, self.support)
        probs = logits.softmax(dim=-1)
        log_probs = torch.log(probs + 1e-15)
        per_sample = (self.config.critic_entropy * probs - target) * log_probs
        # sum over atoms, mean over the batch, sum over the critics
        return per_sample.sum(dim=-1).mean(dim=-1).sum(), clipped_mass, statistics

    def actor_loss(self, obs: Tensor, sample: ActionSample) -> tuple[Tensor, Tensor]:
        """mean[ -Qbar(s, a) + alpha C ] with the mean of the critics' expected returns.

        The second result is the batch mean of these returns, shape (E,).

        Args:
            obs: raw observations, with what only the critics see, shape (B, n_obs + n_privileged).
            sample: the actor's actions with their entropy bound.
        """
        q = self.q_values(obs, sample.action)
        return (self.alpha * sample.bound - q.mean(dim=0)).mean(), q.detach().mean(dim=1)

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return each critic's expected return sum_j p_j z_j, running statistics. Shape (E, B).

        Args:
            obs: raw observations, with what only the critics see, shape (B, n_obs + n_privileged).
            action: in [-1, 1], shape (B, d).
        """
        values: Tensor = self.critic(obs, action).softmax(dim=-1) @ self.support
        return values

    def temperature_loss(self, path_cost: Tensor) -> Tensor:
        """-alpha (mean R - target): alpha rises while the path cost is above its target.

        Args:
            path_cost: R, shape (B,) [nat].
        """
        return -self.log_alpha.exp() * (path_cost.detach().mean() - self.path_cost_target)

    # -- update --------------------------------------------------------------------------------

    def learn(self, replay: ReplayBuffer, updates: int) -> None:
        """Do some critic updates, and the actor's that are due, on new samples.

        Args:
            replay: to draw from.
            updates: number of critic updates.
        """
        if updates == 0:
            return
        due = self._actor_due(updates)
        self._graphs.run(due, lambda: self._update(self._sample(replay, updates), due))
        self._count(due)

    def update(self, batch: Batch) -> None:
        """Do the updates of one environment step on a given batch, UTD x B transitions."""
        due = self._actor_due(max(1, int(self.config.update_to_data)))
        self._update(batch, due)
        self._count(due)

    def _sample(self, replay: ReplayBuffer, updates: int) -> Batch:
        size, steps = updates * self.config.batch_size, self.config.n_step
        if steps == 1:
            batch = replay.sample(size, self.generator)
        else:
            batch = n_step_batch(replay, size, self.generator, steps, self.config.discount)
        return batch if self._mirror is None else self._mirror(batch, self.generator)

    def _count(self, due: tuple[bool, ...]) -> None:
        self.updates += len(due)
        self.actor_updates += sum(due)

    def _actor_due(self, updates: int) -> tuple[bool, ...]:
        """Return which of the next critic updates an actor update follows: every third, from 1."""
        numbers = range(self.updates + 1, self.updates + 1 + updates)
        delay, start = self.config.policy_delay, self.config.actor_start
        return tuple(number % delay == 0 and number > start for number in numbers)

    def _update(self, batch: Batch, actor_due: tuple[bool, ...]) -> None:
        columns = [column.chunk(len(actor_due)) for column in batch]
        for part, due in zip(zip(*columns, strict=True), actor_due, strict=True):
            minibatch = Batch(*part)
            self.critic_step(minibatch)
            if due:
                self.actor_step(minibatch.obs)

    def critic_step(self, batch: Batch) -> None:
        """Update both critics on a fresh action sample per next state."""
        self._updates += 1
        with torch.no_grad():
            following = self.actor.sample(self._seen(batch.next_obs), self.noise(len(batch.obs)))
        loss, clipped_mass, statistics = self._critic_loss(batch, following.action, following.bound)
        parameters = list(self.critic.parameters())
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters), strict=True
        ):
            parameter.grad = gradient
        self.critic.absorb(statistics)  # after the gradient, outside compiled code
        self.critic_optimizer.step()
        self._flag(loss)
        self.critic_means.add(loss, clipped_mass)

    def actor_step(self, obs: Tensor) -> None:
        """Update the actor with the new critics, then the temperature.

        Args:
            obs: raw observations, with what only the critics see, shape (B, n_obs + n_privileged).
        """
        sample = self.actor.sample(self._seen(obs), self.noise(len(obs)))
        loss, values = self._actor_loss(obs, sample)
        gradients = torch.autograd.grad(loss, self.actor_parameters)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with_nan = flat.isnan().any()
        self.nan_gradients += with_nan
        flat.nan_to_num_(nan=0.0)
        limit = self.config.gradient_clip
        clipped_share = (flat.abs() >= limit).to(flat.dtype).mean()
        pieces = flat.clamp_(-limit, limit).split([p.numel() for p in self.actor_parameters])
        for parameter, piece in zip(self.actor_parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)
        self.actor_optimizer.step()

        path_cost = sample.path_cost.detach()
        (self.log_alpha.grad,) = torch.autograd.grad(
            self.temperature_loss(path_cost), self.log_alpha
        )
        self.temperature_optimizer.step()
        self._flag(loss)
        self.latent = sample.latent.detach()
        saturated = (sample.action.detach().abs() > SATURATED).to(flat.dtype).mean()
        costs = path_cost.mean(), sample.prior_term.mean()
        self.actor_means.add(loss, clipped_share, with_nan, saturated, *costs, *values)

    def _flag(self, loss: Tensor) -> None:
        """Record on the device the first update whose loss was not finite."""
        bad = ~torch.isfinite(loss.detach()) & (self.first_bad_update < 0)
        self.first_bad_update.copy_(torch.where(bad, self._updates, self.first_bad_update))

    def first_bad_parameter(self) -> str | None:
        """Return the name of a parameter with NaN or inf; waits for the device."""
        named = {"log_alpha": self.log_alpha}
        named |= {f"actor.{name}": value for name, value in self.actor.named_parameters()}
        named |= {f"critic.{name}": value for name, value in self.critic.named_parameters()}
        if torch.stack([torch.isfinite(value).all() for value in named.values()]).all():
            return None
        return next(name for name, value in named.items() if not torch.isfinite(value).all())

    def scale_learning_rates(self, factor: float) -> None:
        """Set the step sizes of actor and critics.

        Args:
            factor: on those of the settings [1].
        """
        for optimizer, rate in (
            (self.actor_optimizer, self.config.actor_lr),
            (self.critic_optimizer, self.config.critic_lr),
        ):
            for group in optimizer.param_groups:
                group["lr"] = factor * rate
        self._graphs.forget()

    # -- state ---------------------------------------------------------------------------------

    def state_dict(self) -> LearnerState:
        """Return everything that the next update depends on."""
        return LearnerState(
            actor=self.actor.state_dict(),
            critic=self.critic.state_dict(),
            log_alpha=self.log_alpha.detach(),
            generator=self.generator.get_state(),
            optimizers={
                name: optimizer.state_dict()["state"]
                for name, (optimizer, _) in self._optimizers().items()
            },
            updates=self.updates,
        )

    def load_state_dict(self, state: LearnerState) -> None:
        """Restore a `state_dict`; only before the first update, since graphs capture its tensors.

        Raises:
            InputError: names, shapes or types differ, a value is NaN, or it is from another kind of
                device, whose random generator differs.
        """
        if state.generator.numel() != self.generator.get_state().numel():
            raise InputError(
                f"the run is from another kind of device than {self.device.type}: resume it there"
                " (--device), or start a new run with --init ckpt.pt"
            )
        self.load_weights(state)
        for name, (optimizer, parameters) in self._optimizers().items():
            moments = state.optimizers[name]
            _require_moments(f"{name} optimizer", moments, parameters)
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        try:
            self.generator.set_state(state.generator.cpu())
        except RuntimeError as error:
            raise InputError(f"generator: {str(error).splitlines()[0]}") from None
        self.updates = state.updates
        self._updates.fill_(self.updates)

    def load_weights(self, state: LearnerState, critics: bool = True) -> None:
        """Load only the networks and the temperature, for a new run that starts from a trained one.

        Args:
            state: of the other run.
            critics: False: the critics stay new, as where they have other inputs.

        Raises:
            InputError: names, shapes or types differ, or a value is NaN.
        """
        require_alike("actor", state.actor, self.actor.state_dict())
        require_alike("temperature", {"log": state.log_alpha}, {"log": self.log_alpha})
        if critics:
            require_alike("critic", state.critic, self.critic.state_dict())
            self.critic.load_state_dict(state.critic)
        self.actor.load_state_dict(state.actor)
        with torch.no_grad():
            self.log_alpha.copy_(state.log_alpha)

    def _optimizers(self) -> dict[str, tuple[torch.optim.Adam, Sequence[Tensor]]]:
        return {
            "actor": (self.actor_optimizer, self.actor_parameters),
            "critic": (self.critic_optimizer, list(self.critic.parameters())),
            "temperature": (self.temperature_optimizer, [self.log_alpha]),
        }


def _require_moments(
    where: str, given: Mapping[int, Mapping[str, Tensor]], parameters: Sequence[Tensor]
) -> None:
    """Require Adam's moments for every parameter, or for none before the first update."""
    if given and given.keys() != set(range(len(parameters))):
        raise InputError(f"{where}: expected the moments of {len(parameters)} parameters")
    for number, moments in given.items():
        like = parameters[number].detach()
        count = torch.zeros((), dtype=torch.float32)
        require_alike(
            f"{where}.{number}", moments, {"step": count, "exp_avg": like, "exp_avg_sq": like}
        )
