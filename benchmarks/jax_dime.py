"""DIME's update in JAX, jitted as a whole: reference of train_step.py, and an independent check.

Written for this project in the structure of a jitted SB3-style learner: one compiled function per
phase of the policy delay takes the whole environment step, the critics are vmapped, the chain is a
`lax.scan` whose every step concatenates latents, observation and time embedding, optimisers are
optax's. It shares no code with `dime_robot.learning`; `from_torch` copies the weights, so that the
same noise must give the same losses and gradients.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dime_robot.learning.config import TrainConfig

Tree = Any  # nested dicts, lists and tuples of arrays
PRIOR_STD, CLIP_EPS = 2.5, 1e-15
MOMENTUM, EPS, R_MAX, D_MAX = 0.99, 1e-3, 3.0, 5.0


class Transitions(NamedTuple):
    """B transitions, as `replay_buffer.Batch`."""

    obs: jax.Array
    action: jax.Array
    next_obs: jax.Array
    reward: jax.Array
    terminated: jax.Array


class State(NamedTuple):
    """Everything that an update reads and writes."""

    actor: Tree
    critic: Tree
    stats: Tree  # running mean and variance of every normalisation, and the passes so far
    log_alpha: jax.Array
    actor_opt: Tree
    critic_opt: Tree
    alpha_opt: Tree
    key: jax.Array


def from_torch(agent: Any) -> tuple[Tree, Tree, Tree]:
    """Actor, critic and statistics of a `dime_robot.learning.dime.DIME`."""

    def array(tensor: Any) -> jax.Array:
        return jnp.asarray(tensor.detach().cpu().numpy())

    def layer(linear: Any) -> tuple[jax.Array, jax.Array]:
        return array(linear.weight).T, array(linear.bias)

    theirs = agent.actor
    actor = {
        "phase": array(theirs.phase),
        "time": [layer(linear) for linear in theirs.time_mlp],
        "trunk": [layer(linear) for linear in theirs.trunk],
        "output": layer(theirs.output),
        "dt_raw": array(theirs.dt_raw),
        "friction_raw": array(theirs.friction_raw),
    }
    norms = agent.critic.norms
    critic = {
        "weights": [array(weight) for weight in agent.critic.weights],
        "biases": [array(bias)[:, 0] for bias in agent.critic.biases],
        "gains": [array(norm.gain)[:, 0] for norm in norms],
        "offsets": [array(norm.bias)[:, 0] for norm in norms],
    }
    stats = {
        "mean": [array(norm.running_mean)[:, 0] for norm in norms],
        "var": [array(norm.running_var)[:, 0] for norm in norms],
        "passes": array(agent.critic.passes),
    }
    return actor, critic, stats


class JaxDIME:
    """The update as pure functions of its state.

    Args:
        config: sizes and hyper-parameters.
        n_act: d, the number of actions.
    """

    def __init__(self, config: TrainConfig, n_act: int) -> None:
        self.config, self.n_act = config, n_act
        self.support = jnp.linspace(config.v_min, config.v_max, config.atoms)
        n = np.arange(config.diffusion_steps)
        tau = (config.diffusion_steps - n) / config.diffusion_steps
        cosine = np.cos(math.pi / 2 * (1.008 - tau) / 1.008) ** 2
        self.cosine = jnp.asarray(0.999 * cosine + 0.001)
        b1 = config.adam_b1
        self.actor_optimizer = optax.chain(
            optax.clip(config.gradient_clip), optax.adam(config.actor_lr, b1=b1)
        )
        self.critic_optimizer = optax.adam(config.critic_lr, b1=b1)
        self.alpha_optimizer = optax.adam(config.alpha_lr)

    def begin(self, agent: Any, seed: int = 0) -> State:
        """Return the state with a torch agent's weights and new optimisers."""
        actor, critic, stats = from_torch(agent)
        log_alpha = jnp.log(jnp.asarray(self.config.alpha_init))
        return State(
            actor,
            critic,
            stats,
            log_alpha,
            self.actor_optimizer.init(actor),
            self.critic_optimizer.init(critic),
            self.alpha_optimizer.init(log_alpha),
            jax.random.key(seed),
        )

    # -- the policy ----------------------------------------------------------------------------

    def control(self, actor: Tree, x: jax.Array, obs: jax.Array, n: jax.Array) -> jax.Array:
        """Return f(x, obs, n)."""
        angle = jnp.linspace(0.1, 100.0, len(actor["phase"])) * n + actor["phase"]
        embedding = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)])
        (w0, b0), (w1, b1) = actor["time"]
        embedding = jax.nn.gelu(embedding @ w0 + b0) @ w1 + b1
        embedding = jnp.broadcast_to(embedding, (len(x), len(embedding)))
        hidden = jnp.concatenate([x, obs, embedding], axis=-1)
        for weight, bias in actor["trunk"]:
            hidden = jax.nn.gelu(hidden @ weight + bias)
        weight, bias = actor["output"]
        return hidden @ weight + bias

    def sample(
        self, actor: Tree, obs: jax.Array, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return actions (B, d), path cost R and prior term T (B,) for normals (N+1, B, d)."""
        dt = jax.nn.softplus(actor["dt_raw"])
        friction = jax.nn.softplus(actor["friction_raw"])
        variance = PRIOR_STD**2

        def step(carry: Any, given: Any) -> Any:
            x, cost = carry
            n, weight, eps = given
            eta = dt * weight / friction
            std = jnp.sqrt(2 * eta)
            mean = x + eta * (-x / variance + self.control(actor, x, obs, n))
            following = mean + std * eps
            forward = -0.5 * ((following - mean) / std) ** 2 - jnp.log(std)
            back = -0.5 * ((x - following * (1 - eta / variance)) / std) ** 2 - jnp.log(std)
            return (following, cost + (forward - back).sum(-1)), None

        x = PRIOR_STD * noise[0]
        start = (x, jnp.zeros(len(obs)))
        index = jnp.arange(self.config.diffusion_steps, dtype=x.dtype)
        (x, cost), _ = jax.lax.scan(step, start, (index, self.cosine.astype(x.dtype), noise[1:]))
        cost = cost - (2 * (math.log(2) - x - jax.nn.softplus(-2 * x))).sum(-1)
        prior = -0.5 * noise[0] ** 2 - 0.5 * math.log(2 * math.pi * variance)
        return jnp.tanh(x), cost, prior.sum(-1)

    # -- the critics ---------------------------------------------------------------------------

    def _normalise(self, x: Any, gain: Any, offset: Any, mean: Any, var: Any, warm: Any) -> Any:
        """Apply batch renormalisation to (B, C); return the new running values too."""
        new_mean, new_var = x.mean(0), x.var(0)
        running = jnp.sqrt(var + EPS)
        r = jnp.clip(jnp.sqrt(new_var + EPS) / running, 1 / R_MAX, R_MAX)
        d = jnp.clip((new_mean - mean) / running, -D_MAX, D_MAX)
        r = jax.lax.stop_gradient(jnp.where(warm, r, 1.0))
        d = jax.lax.stop_gradient(jnp.where(warm, d, 0.0))
        used_var = new_var / r**2
        varies = new_var > 1e-12  # for a constant unit the square root has no gradient
        std = jnp.where(varies, jnp.sqrt(jnp.where(varies, new_var, 1.0)), 0.0)
        used_mean = new_mean - d * std / r
        y = gain * (x - used_mean) / jnp.sqrt(used_var + EPS) + offset
        moved = [
            MOMENTUM * old + (1 - MOMENTUM) * now for old, now in ((mean, new_mean), (var, new_var))
        ]
        return y, jax.lax.stop_gradient(moved[0]), jax.lax.stop_gradient(moved[1])

    def logits(
        self, critic: Tree, stats: Tree, obs: jax.Array, action: jax.Array, train: bool
    ) -> tuple[jax.Array, Tree]:
        """Return logits (E, B, K) and the updated statistics."""
        x = jnp.concatenate([obs, action], axis=-1)
        warm = stats["passes"] >= self.config.renorm_warmup

        def member(critic: Tree, means: Any, variances: Any) -> Any:
            hidden, new_means, new_variances = x, [], []
            layers = zip(critic["weights"], critic["biases"], strict=True)
            for i, (weight, bias) in enumerate(layers):
                gain, offset = critic["gains"][i], critic["offsets"][i]
                mean, var = means[i], variances[i]
                if train:
                    hidden, mean, var = self._normalise(hidden, gain, offset, mean, var, warm)
                else:
                    hidden = gain * (hidden - mean) / jnp.sqrt(var + EPS) + offset
                new_means.append(mean)
                new_variances.append(var)
                hidden = hidden @ weight + bias
                if i < len(critic["weights"]) - 1:
                    hidden = jax.nn.relu(hidden)
            return hidden, new_means, new_variances

        out, means, variances = jax.vmap(member)(critic, stats["mean"], stats["var"])
        return out, {"mean": means, "var": variances, "passes": stats["passes"] + train}

    def project(self, probs: jax.Array, atoms: jax.Array) -> jax.Array:
        """Return the categorical projection of probs (B, K) on atoms (B, K)."""
        low, high, last = self.support[0], self.support[-1], len(self.support) - 1
        position = (jnp.clip(atoms, low, high) - low) / ((high - low) / last)
        lower = jnp.clip(jnp.floor(position), 0, last - 1).astype(jnp.int32)
        share = position - lower
        rows = jnp.arange(len(probs))[:, None]
        target = jnp.zeros_like(probs).at[rows, lower].add(probs * (1 - share))
        return target.at[rows, lower + 1].add(probs * share)

    # -- losses --------------------------------------------------------------------------------

    def critic_loss(
        self,
        critic: Tree,
        stats: Tree,
        log_alpha: jax.Array,
        batch: Transitions,
        next_action: jax.Array,
        bound: jax.Array,
    ) -> tuple[jax.Array, Tree]:
        """Return the loss and the statistics after its joint pass."""
        logits, stats = self.logits(
            critic,
            stats,
            jnp.concatenate([batch.obs, batch.next_obs]),
            jnp.concatenate([batch.action, next_action]),
            train=True,
        )
        size = len(batch.obs)
        probs = jax.nn.softmax(logits[:, :size])
        keep = self.config.discount * (1 - batch.terminated)
        atoms = (batch.reward - keep * jnp.exp(log_alpha) * bound)[:, None]
        atoms = atoms + keep[:, None] * self.support
        next_probs = jax.nn.softmax(logits[:, size:])
        target = jax.vmap(self.project, in_axes=(0, None))(next_probs, atoms).mean(0)
        target = jax.lax.stop_gradient(target)
        log_probs = jnp.log(probs + CLIP_EPS)
        cross_entropy = -(target * log_probs).sum(-1).mean(-1)
        negative_entropy = (probs * log_probs).sum(-1).mean(-1)
        return (cross_entropy + self.config.critic_entropy * negative_entropy).sum(), stats

    def actor_loss(
        self,
        actor: Tree,
        critic: Tree,
        stats: Tree,
        log_alpha: jax.Array,
        obs: jax.Array,
        noise: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Return the loss and the mean path cost."""
        action, path_cost, prior = self.sample(actor, obs, noise)
        logits, _ = self.logits(critic, stats, obs, action, train=False)
        value = (jax.nn.softmax(logits) @ self.support).mean(0)
        loss = (jnp.exp(log_alpha) * (path_cost + prior) - value).mean()
        return loss, path_cost.mean()

    # -- the update ----------------------------------------------------------------------------

    def _noise(self, key: jax.Array, batch: int) -> jax.Array:
        return jax.random.normal(key, (self.config.diffusion_steps + 1, batch, self.n_act))

    def critic_step(self, state: State, batch: Transitions) -> State:
        """Update both critics."""
        key, drawn = jax.random.split(state.key)
        noise = self._noise(drawn, len(batch.obs))
        action, path_cost, prior = self.sample(state.actor, batch.next_obs, noise)
        gradients, stats = jax.grad(self.critic_loss, has_aux=True)(
            state.critic, state.stats, state.log_alpha, batch, action, path_cost + prior
        )
        moves, optimizer = self.critic_optimizer.update(gradients, state.critic_opt)
        critic = optax.apply_updates(state.critic, moves)
        return state._replace(critic=critic, stats=stats, critic_opt=optimizer, key=key)

    def actor_step(self, state: State, obs: jax.Array) -> State:
        """Update the actor, then the temperature."""
        key, drawn = jax.random.split(state.key)
        noise = self._noise(drawn, len(obs))
        gradients, path_cost = jax.grad(self.actor_loss, has_aux=True)(
            state.actor, state.critic, state.stats, state.log_alpha, obs, noise
        )
        gradients = jax.tree.map(lambda g: jnp.where(jnp.isnan(g), 0, g), gradients)
        moves, optimizer = self.actor_optimizer.update(gradients, state.actor_opt)
        actor = optax.apply_updates(state.actor, moves)
        excess = path_cost - self.config.path_cost_target * self.n_act
        slope = -jnp.exp(state.log_alpha) * excess
        move, alpha_optimizer = self.alpha_optimizer.update(slope, state.alpha_opt)
        return state._replace(
            actor=actor,
            actor_opt=optimizer,
            log_alpha=optax.apply_updates(state.log_alpha, move),
            alpha_opt=alpha_optimizer,
            key=key,
        )

    @partial(jax.jit, static_argnums=(0, 3, 4), donate_argnums=1)
    def learn(self, state: State, replay: Transitions, size: int, due: tuple[bool, ...]) -> State:
        """Do all updates of one environment step, on `size` transitions from the replay data.

        `due`: which critic updates are followed by an actor update.
        """
        key, drawn = jax.random.split(state.key)
        index = jax.random.randint(drawn, (size,), 0, len(replay.obs))
        batch = Transitions(*(column[index] for column in replay))
        return self.update(state._replace(key=key), batch, due)

    def update(self, state: State, batch: Transitions, due: tuple[bool, ...]) -> State:
        """Do the same on a given batch."""
        parts = [jnp.split(column, len(due)) for column in batch]
        for columns, actor_is_due in zip(zip(*parts, strict=True), due, strict=True):
            minibatch = Transitions(*columns)
            state = self.critic_step(state, minibatch)
            if actor_is_due:
                state = self.actor_step(state, minibatch.obs)
        return state
