"""The actors: the score network of the diffusion policy, and a Gaussian policy for comparison.

Sizes and initialisations follow the authors' code: LeCun-normal weights, zero biases, tanh-GELU.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dime_robot.learning import diffusion
from dime_robot.learning.config import TrainConfig
from dime_robot.learning.observation_normalization import ObservationNormalization
from dime_robot.runtime.contract.policy_spec import PolicySpec

# Standard deviation of a unit normal truncated to [-2, 2]; dividing by it restores variance 1.
_TRUNCATED_STD = 0.87962566103423978
COMPILED_STEPS = 8  # diffusion steps in one compiled function, at most


def lecun_normal_(weight: Tensor, fan_in: int) -> None:
    """Fill with a normal of variance 1/fan_in truncated at two standard deviations (flax).

    Args:
        weight: filled in place, shape (...).
        fan_in: inputs of each unit.
    """
    std = math.sqrt(1.0 / fan_in) / _TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def linear(n_in: int, n_out: int) -> nn.Linear:
    """Make a layer with the authors' initialisation."""
    layer = nn.Linear(n_in, n_out)
    lecun_normal_(layer.weight, n_in)
    nn.init.zeros_(layer.bias)
    return layer


def gelu(x: Tensor) -> Tensor:
    """tanh-GELU, 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3).

    Args:
        x: any shape (...).
    """
    slope = math.sqrt(2 / math.pi)
    if torch.compiler.is_compiling():
        # the same function as x sigmoid(2 u): fused code has no fast tanh on a CPU, and the
        # gradient of this form needs no second sigmoid
        return x * torch.sigmoid(2 * x * (slope + 0.044715 * slope * x * x))
    if x.requires_grad or x.is_cuda or x.numel() < 8192:
        return F.gelu(x, approximate="tanh")
    # On a CPU F.gelu takes five times as long as torch's tanh; with gradients it is still faster
    u = torch.square(x).mul_(0.044715 * slope).add_(slope).mul_(x)
    half = 0.5 * x
    return torch.addcmul(half, half, u.tanh_())


class Actor(nn.Module, ABC):
    """The interface of a policy to the learner. Shapes: obs (B, n_obs) raw, noise (N+1, B, d)."""

    n_obs: int
    n_act: int
    steps: int  # N; noise has one row more
    scale: Tensor
    clip: Tensor
    normalization: ObservationNormalization | None  # in place of the scale

    def __init__(self, spec: PolicySpec, steps: int, *, normalize: bool = False) -> None:
        super().__init__()
        self.n_obs, self.n_act, self.steps = spec.n_obs, spec.n_act, steps
        for name, value in (
            ("scale", spec.observation_scale()),
            ("clip", spec.observation_clip()),
        ):
            tensor = torch.as_tensor(value, dtype=torch.float32)
            self.register_buffer(name, tensor, persistent=False)
        self.normalization = ObservationNormalization(self.scale) if normalize else None

    @abstractmethod
    def sample(self, obs: Tensor, noise: Tensor) -> diffusion.ActionSample:
        """Sample one action per row with its entropy bound, differentiable throughout.

        Args:
            obs: raw observations, shape (B, n_obs).
            noise: unit normals, shape (N+1, B, d).
        """

    @abstractmethod
    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Return the actions alone, without gradient. Shape (B, d), in [-1, 1].

        Args:
            obs: raw observations, shape (B, n_obs).
            noise: unit normals, shape (N+1, B, d).
        """

    @abstractmethod
    def compile_sample(self) -> None:
        """Compile the code of `sample`. `act` stays eager: its batches have many sizes."""

    @abstractmethod
    def metrics(self) -> dict[str, Tensor]:
        """Return learned scalars for the log of a run."""

    def scaled_observation(self, obs: Tensor) -> Tensor:
        """Apply the network's first operation to the raw observation. Shape (B, n_obs).

        Args:
            obs: raw observations, shape (B, n_obs).
        """
        clipped = torch.clamp(obs, -self.clip, self.clip)
        if self.normalization is None:
            return self.scale * clipped
        normalised: Tensor = self.normalization(clipped)
        return normalised

    def absorb(self, obs: Tensor) -> None:
        """Update the statistics of observations, where the actor has some.

        Args:
            obs: raw observations that a training run acts on, shape (B, n_obs).
        """
        if self.normalization is not None:
            self.normalization.absorb(torch.clamp(obs, -self.clip, self.clip))

    def act_numpy(
        self, obs: npt.NDArray[np.float32], noise: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Do the same as `act` on arrays, with the noise layout of an exported policy.

        Args:
            obs: raw observations, shape (B, n_obs).
            noise: unit normals, batch first, shape (B, N+1, d).
        """
        device = self.scale.device
        drawn = torch.as_tensor(noise, device=device).transpose(0, 1)
        actions: npt.NDArray[np.float32] = (
            self.act(torch.as_tensor(obs, device=device), drawn).cpu().numpy()
        )
        return actions


class ScoreNetwork(Actor):
    """The learned control f(x, obs, n) with the learned step sizes: the whole actor.

    time features   e_n = [sin(w n + phase), cos(w n + phase)],  w = linspace(0.1, 100, width)
    time embedding  t_n = Linear(gelu(Linear(e_n)))
    control         f = trunk([x, scale * clamp(obs, -clip, clip), t_n])

    Args:
        spec: gives n_obs, n_act and the observation's scale and clip.
        width: units of every hidden layer and of the time embedding.
        depth: hidden layers of the trunk.
        steps: N, diffusion steps.
        dt: initial step size dt; the friction starts at 1 in every dimension.
        normalize: by running statistics in place of the scale (`observation_normalization.py`).
    """

    frequencies: Tensor
    weights: Tensor
    step_index: Tensor

    def __init__(
        self,
        spec: PolicySpec,
        *,
        width: int,
        depth: int,
        steps: int,
        dt: float,
        normalize: bool = False,
    ) -> None:
        super().__init__(spec, steps, normalize=normalize)
        self.phase = nn.Parameter(torch.zeros(width))
        self.time_mlp = nn.ModuleList([linear(2 * width, width), linear(width, width)])
        sizes = [self.n_act + self.n_obs + width] + [width] * depth
        self.trunk = nn.ModuleList([linear(a, b) for a, b in pairwise(sizes)])
        self.output = nn.Linear(width, self.n_act)
        nn.init.constant_(self.output.weight, 1e-8)  # f = 0: the policy starts as tanh(prior)
        nn.init.zeros_(self.output.bias)
        self.dt_raw = nn.Parameter(torch.tensor(diffusion.inverse_softplus(dt)))
        self.friction_raw = nn.Parameter(torch.full((self.n_act,), diffusion.inverse_softplus(1.0)))
        self._block: int | None = None
        self._trained_advance: diffusion.Advance = self._advance
        self._path_cost = diffusion.path_cost
        for name, value in {
            "frequencies": torch.linspace(0.1, 100.0, width),
            "weights": diffusion.cosine_weights(steps).float(),
            "step_index": torch.arange(steps, dtype=torch.float32),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def in_float64(self) -> ScoreNetwork:
        """Return a copy on the CPU that computes in float64."""
        return copy.deepcopy(self).cpu().double()

    def step_sizes(self) -> Tensor:
        """Return eta, shape (N, d)."""
        return diffusion.step_sizes(self.dt_raw, self.friction_raw, self.weights)

    def time_embedding(self, n: Tensor) -> Tensor:
        """Return t_n for float step indices, shape (K, width).

        Args:
            n: step indices, shape (K,).
        """
        angle = self.frequencies * n[:, None] + self.phase
        features = torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)
        hidden: Tensor = self.time_mlp[1](gelu(self.time_mlp[0](features)))
        return hidden

    def forward(self, x: Tensor, obs: Tensor, n: Tensor) -> Tensor:
        """Compute the control f(x, obs, n) in its plain form, shape (B, d).

        Args:
            x: latents, shape (B, d).
            obs: raw observations, shape (B, n_obs).
            n: the step's index, shape ().
        """
        embedding = self.time_embedding(n[None]).expand(len(x), -1)
        hidden = torch.cat([x, self.scaled_observation(obs), embedding], dim=-1)
        for layer in self.trunk:  # not `gelu` above: exported graphs are compared with this
            hidden = F.gelu(layer(hidden), approximate="tanh")
        control: Tensor = self.output(hidden)
        return control

    def _first_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first layer's columns for latents, observation and time embedding."""
        first: nn.Linear = self.trunk[0]  # type: ignore[assignment]
        w_x, w_s, w_t = first.weight.split([self.n_act, self.n_obs, self.phase.numel()], dim=1)
        return w_x, w_s, w_t

    def conditioned(self, obs: Tensor) -> Tensor:
        """Return the part of the first layer's output that does not depend on x, (N, B, width).

        The first layer is linear, W [x, s, t] + b = W_x x + (W_s s + W_t t_n + b): the bracket is
        the same for every latent, so it is computed here for all n at once, which is exact.

        Args:
            obs: raw observations, shape (B, n_obs).
        """
        _, w_s, w_t = self._first_weights()
        from_obs = F.linear(self.scaled_observation(obs), w_s, self.trunk[0].bias)  # type: ignore[arg-type]
        from_time = F.linear(self.time_embedding(self.step_index), w_t)
        return from_obs + from_time[:, None]

    def _advance(self, x: Tensor, base: Tensor, eta: Tensor, scaled_noise: Tensor) -> Tensor:
        """Call `diffusion.advance` with a row of `conditioned` as input of each step."""
        w_x = self._first_weights()[0].t()

        def score(x: Tensor, base_n: Tensor) -> Tensor:
            return self.remaining_layers(torch.addmm(base_n, x, w_x))

        return diffusion.advance(score, x, base, eta, scaled_noise)

    def sample(self, obs: Tensor, noise: Tensor) -> diffusion.ActionSample:
        """Sample one action per row with its entropy bound; differentiable through the whole chain.

        Args:
            obs: raw observations, shape (B, n_obs).
            noise: unit normals, shape (N+1, B, d).
        """
        eta = self.step_sizes()
        base = self.conditioned(obs)
        latents = diffusion.generate(self._trained_advance, base, noise, eta, self._block)
        return diffusion.ActionSample(
            action=torch.tanh(latents[-1]),
            latent=latents[-1],
            path_cost=self._path_cost(latents, noise, eta),
            prior_term=diffusion.prior_term(noise),
        )

    def compile_sample(self) -> None:
        """Compile the code of `sample`: one function of up to 8 steps, called N/8 times.

        The whole chain as one function would take minutes to compile; with one step per function a
        tenth of the time would be call overhead. `act` stays eager: its batches have many sizes.
        """
        self._block = math.gcd(self.steps, COMPILED_STEPS)
        self._trained_advance = torch.compile(self._advance, fullgraph=True, dynamic=False)
        self._path_cost = torch.compile(diffusion.path_cost, fullgraph=True, dynamic=False)

    def metrics(self) -> dict[str, Tensor]:
        """Learned scalars that a run logs."""
        friction = F.softplus(self.friction_raw)
        return {
            "diffusion/dt": F.softplus(self.dt_raw),
            "diffusion/last_step_std": torch.sqrt(2 * self.step_sizes()[-1]).mean(),
            **{f"diffusion/friction_{i}": value for i, value in enumerate(friction)},
        }

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Run the whole sampler; return actions, shape (B, d).

        Args:
            obs: raw observations, shape (B, n_obs).
            noise: unit normals, shape (N+1, B, d).
        """
        base, eta = self.conditioned(obs), self.step_sizes()
        return torch.tanh(diffusion.generate(self._advance, base, noise, eta)[-1])

    def remaining_layers(self, first_layer: Tensor) -> Tensor:
        """Compute the control from the first layer's output, shape (B, d).

        Args:
            first_layer: activations, shape (B, width).
        """
        hidden = gelu(first_layer)
        for layer in self.trunk[1:]:
            hidden = gelu(layer(hidden))
        control: Tensor = self.output(hidden)
        return control


class GaussianActor(Actor):
    """A tanh-squashed Gaussian a = tanh(mean + std eps), the usual policy, for comparison.

    Everything else is unchanged: it is a chain of no steps, x = mean + std x_0 / s for the prior
    draw x_0 ~ N(0, s^2), so with R = log N(x) - log N(x_0) - log |d tanh(x)/dx| no bound is needed:
    R + T is log pi(a|obs) itself, and the temperature controls it to the same target as DIME's
    bound.

    Args:
        spec: gives n_obs, n_act and the observation's scale and clip.
        width: units of every hidden layer.
        depth: hidden layers.
        normalize: by running statistics in place of the scale (`observation_normalization.py`).
    """

    LOG_STD = (-5.0, 2.0)

    def __init__(
        self, spec: PolicySpec, *, width: int, depth: int, normalize: bool = False
    ) -> None:
        super().__init__(spec, steps=0, normalize=normalize)
        sizes = [self.n_obs] + [width] * depth
        self.trunk = nn.ModuleList([linear(a, b) for a, b in pairwise(sizes)])
        self.output = nn.Linear(width, 2 * self.n_act)
        nn.init.constant_(self.output.weight, 1e-8)  # begins as tanh(N(0, 1)) everywhere
        nn.init.zeros_(self.output.bias)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log std of the latent, each (B, d).

        Args:
            obs: raw observations, shape (B, n_obs).
        """
        hidden = self.scaled_observation(obs)
        for layer in self.trunk:
            hidden = gelu(layer(hidden))
        mean, log_std = self.output(hidden).chunk(2, dim=-1)
        return mean, log_std.clamp(*self.LOG_STD)

    def sample(self, obs: Tensor, noise: Tensor) -> diffusion.ActionSample:
        """Sample one action per row with its log density.

        Args:
            obs: raw observations, shape (B, n_obs).
            noise: unit normals, shape (1, B, d).
        """
        mean, log_std = self(obs)
        latent = torch.addcmul(mean, log_std.exp(), noise[0])
        stretch = (log_std - math.log(diffusion.PRIOR_STD)).sum(dim=-1)
        return diffusion.ActionSample(
            action=torch.tanh(latent),
            latent=latent,
            path_cost=-stretch - diffusion.tanh_log_det(latent),
            prior_term=diffusion.prior_term(noise),
        )

    def compile_sample(self) -> None:
        """Do nothing: a few operations are not worth compiling."""

    def metrics(self) -> dict[str, Tensor]:
        """Return nothing: the standard deviation depends on the observation."""
        return {}

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Return actions, shape (B, d).

        Args:
            obs: raw observations, shape (B, n_obs).
            noise: unit normals, shape (1, B, d).
        """
        mean, log_std = self(obs)
        return torch.tanh(torch.addcmul(mean, log_std.exp(), noise[0]))


def make_actor(spec: PolicySpec, config: TrainConfig) -> Actor:
    """Make the actor that a training configuration describes."""
    width, depth, normalize = config.actor_width, config.actor_depth, config.normalize_observations
    if config.actor == "gaussian":
        return GaussianActor(spec, width=width, depth=depth, normalize=normalize)
    actor = ScoreNetwork(
        spec,
        width=width,
        depth=depth,
        steps=config.diffusion_steps,
        dt=config.dt_init,
        normalize=normalize,
    )
    for step_size in (actor.dt_raw, actor.friction_raw):
        step_size.requires_grad_(config.learn_step_size)
    return actor


def parameter_count(module: nn.Module) -> int:
    """Return the number of trained scalars."""
    return sum(parameter.numel() for parameter in module.parameters())
