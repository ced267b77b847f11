"""Evaluate a checkpoint: `python -m dime_robot.evaluate ckpt.pt`.

Noise modes of the diffusion sampler:
    fresh  every step draws the prior and all step noises anew, as in training and in the paper
    held   one draw serves a whole episode
    zero   no noise at all: the chain starts at 0 and follows its mean
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import tyro
from scipy import stats
from torch import Tensor

from dime_robot import checkpoint
from dime_robot.command import run_command
from dime_robot.envs import Env, make_env, sizes_of
from dime_robot.learning import diffusion
from dime_robot.learning.networks import ScoreNetwork
from dime_robot.runtime.errors import InputError

NoiseMode = Literal["fresh", "held", "zero"]
NOISE_MODES: tuple[NoiseMode, ...] = ("fresh", "held", "zero")

# raw observations (B, n_obs), unit normals (N+1, B, d) -> actions (B, d) in [-1, 1]
Policy = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Unscaled returns of some episodes, and whether each met its task's success criterion."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    successes: tuple[bool, ...] | None  # None: the task states no criterion

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns over episodes."""
        return float(np.std(self.returns))

    @property
    def iqm(self) -> float:
        """Interquartile mean of the returns."""
        return float(stats.trim_mean(self.returns, 0.25))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Percentile bootstrap interval of the mean return."""
        if np.ptp(self.returns) == 0:  # nothing to resample
            return self.mean, self.mean
        result = stats.bootstrap(
            (self.returns,),
            np.mean,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(0),
        )
        return float(result.confidence_interval.low), float(result.confidence_interval.high)

    def summary(self) -> dict[str, Any]:
        """Everything above as plain values."""
        low, high = self.interval()
        return {
            "return_mean": self.mean,
            "return_std": self.std,
            "return_iqm": self.iqm,
            "interval_95": [low, high],
            "episodes": len(self.returns),
            "success_rate": None if self.successes is None else float(np.mean(self.successes)),
        }

    def __str__(self) -> str:
        low, high = self.interval()
        text = (
            f"{self.mean:9.1f} ± {self.std:<7.1f} IQM {self.iqm:9.1f}"
            f"   95% of mean [{low:.1f}, {high:.1f}]"
        )
        if self.successes is not None:
            text += f"   success {sum(self.successes)}/{len(self.successes)}"
        return text


def seed_of(*key: int) -> int:
    """An independent 32-bit seed for every tuple of non-negative integers."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


class Evaluator:
    """Keeps environments between evaluations and runs their episodes side by side.

    Args:
        env: environment name.
        shape: (N+1, d), the noise of one action.
        parallel: how many environments step together, so that the policy sees a batch.
    """

    def __init__(self, env: str, shape: tuple[int, int], parallel: int = 5) -> None:
        self._name, self._shape, self._parallel = env, shape, parallel
        self._envs: list[Env] = []

    def run(
        self,
        policy: Policy,
        episodes: int,
        seed: Sequence[int],
        mode: NoiseMode = "fresh",
        device: torch.device | str = "cpu",
    ) -> Evaluation:
        """Run episodes whose starts and noises follow from `seed` and the episode's number."""
        while len(self._envs) < min(self._parallel, episodes):
            self._envs.append(make_env(self._name))
        results: list[tuple[float, int, bool | None]] = []
        for first in range(0, episodes, self._parallel):
            numbers = range(first, min(first + self._parallel, episodes))
            seeds = [seed_of(*seed, number) for number in numbers]
            results += self._side_by_side(policy, seeds, mode, torch.device(device))
        returns, lengths, successes = zip(*results, strict=True)
        known = None if any(s is None for s in successes) else successes
        return Evaluation(returns, lengths, known)

    def _side_by_side(
        self, policy: Policy, seeds: Sequence[int], mode: NoiseMode, device: torch.device
    ) -> list[tuple[float, int, bool | None]]:
        envs = self._envs[: len(seeds)]
        noises = [_NoiseSource(self._shape, seed, mode) for seed in seeds]
        obs = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
        totals, lengths = np.zeros(len(envs)), np.zeros(len(envs), dtype=int)
        successes: list[bool | None] = [None] * len(envs)
        active = list(range(len(envs)))
        while active:
            noise = torch.stack([noises[i].draw() for i in active], dim=1).to(device)
            with torch.no_grad():
                actions = policy(torch.as_tensor(obs[active], device=device), noise).cpu().numpy()
            for i, action in zip(tuple(active), actions, strict=True):
                obs[i], reward, terminated, truncated, info = envs[i].step(action)
                totals[i] += float(reward)
                lengths[i] += 1
                if terminated or truncated:
                    successes[i] = info.get("is_success")
                    active.remove(i)
        if not np.isfinite(totals).all():
            raise InputError(f"{self._name}: an evaluation episode gave a return of NaN or inf")
        return list(zip(totals.tolist(), lengths.tolist(), successes, strict=True))

    def close(self) -> None:
        """Close the environments."""
        while self._envs:
            self._envs.pop().close()


class _NoiseSource:
    """Unit normals of one episode, shape (N+1, d) each, by noise mode."""

    def __init__(self, shape: tuple[int, int], seed: int, mode: NoiseMode) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._shape, self._mode = shape, mode
        self._held = torch.zeros(shape)
        if mode == "held":
            self._held = torch.randn(shape, generator=self._generator)

    def draw(self) -> Tensor:
        if self._mode == "fresh":
            return torch.randn(self._shape, generator=self._generator)
        return self._held


def sampler(actor: ScoreNetwork) -> Policy:
    """The actor as a policy."""

    def policy(obs: Tensor, noise: Tensor) -> Tensor:
        return torch.tanh(diffusion.generate(actor.conditioned(obs), noise, actor.step_sizes())[-1])

    return policy


# -- video ------------------------------------------------------------------------------------


def record_video(
    env_name: str, policy: Policy, shape: tuple[int, int], seed: int, path: Path
) -> int:
    """Render one episode to an MP4 file; gives the number of frames.

    Raises:
        InputError: rendering does not work here, or the environment has no picture.
    """
    import imageio.v2 as imageio

    try:
        env = make_env(env_name, render_mode="rgb_array")
        noise = _NoiseSource(shape, seed, "fresh")
        obs, _ = env.reset(seed=seed)
        frames, done = [env.render()], False
    except InputError:
        raise
    except Exception as error:  # every GL back end fails in its own way
        raise InputError(f"no video: rendering does not work here ({_one_line(error)})") from None
    while not done:
        with torch.no_grad():
            action = policy(torch.as_tensor(obs)[None], noise.draw()[:, None])[0].numpy()
        obs, _, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        frames.append(env.render())
    fps = env.metadata.get("render_fps") or 50
    env.close()
    pictures: list[npt.ArrayLike] = [np.asarray(frame) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.mimwrite(path, pictures, fps=fps, codec="libx264", macro_block_size=2, quality=6)
    return len(pictures)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def record_in_child(checkpoint_path: Path, video_path: Path, seed: int) -> str | None:
    """Record a video in a process of its own, where a broken GL library can do no harm.

    Without a display the back ends egl and osmesa are tried in turn. Gives None when the video
    was written, else the sentence that says why not.
    """
    own = os.environ.get("MUJOCO_GL")
    choices = [own] if own else ([None] if os.environ.get("DISPLAY") else ["egl", "osmesa"])
    reason = ""
    for choice in choices:
        environment = {**os.environ, **({"MUJOCO_GL": choice} if choice else {})}
        command = [sys.executable, "-m", "dime_robot.evaluate", str(checkpoint_path)]
        command += ["--episodes", "0", "--seed", str(seed), "--video", str(video_path)]
        try:
            child = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=300
            )
        except subprocess.TimeoutExpired:
            return "no video: rendering took longer than 300 s"
        if child.returncode == 0 and video_path.exists():
            return None
        lines = [line for line in child.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"the renderer ended with code {child.returncode}"
    return reason.removeprefix("error: ") + "; on Debian: apt install libegl1 libgl1 libosmesa6"


# -- command line ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arguments:
    """Evaluate the policy of a checkpoint in the environment it was trained in."""

    checkpoint: tyro.conf.Positional[Path]
    """The file a training run wrote."""
    episodes: int = 20
    """Episodes per noise mode; 0 with --video: only the video."""
    seed: int = 0
    """Starts and noises follow from it."""
    noise: NoiseMode | Literal["all"] = "all"
    """Noise mode of the sampler; all: the three of them, one after the other."""
    env: str | None = None
    """Another environment with the same spaces."""
    json: bool = False
    """Print one JSON object instead of a table."""
    video: Annotated[Path | None, tyro.conf.arg(metavar="FILE.mp4")] = None
    """Record one episode with fresh noise."""


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    arguments = tyro.cli(Arguments, args=argv, prog="python -m dime_robot.evaluate")
    if arguments.episodes < 0 or (arguments.episodes == 0 and arguments.video is None):
        raise InputError(f"--episodes: expected at least 1, got {arguments.episodes}")
    if arguments.seed < 0:
        raise InputError(f"--seed: expected 0 or more, got {arguments.seed}")
    actor, spec, config, _ = checkpoint.load_actor(arguments.checkpoint)
    if config.threads:
        torch.set_num_threads(config.threads)
    env = arguments.env or config.env
    _check_spaces(env, actor)
    shape = (actor.steps + 1, spec.n_act)
    policy = sampler(actor)
    results = {}
    modes = NOISE_MODES if arguments.noise == "all" else (arguments.noise,)
    for mode in modes if arguments.episodes else ():
        evaluator = Evaluator(env, shape, parallel=min(20, arguments.episodes))
        results[mode] = evaluator.run(policy, arguments.episodes, (arguments.seed, 2), mode)
        evaluator.close()
        if not arguments.json:
            print(f"{mode:6s}{results[mode]}", flush=True)
    if arguments.json:
        report = {mode: result.summary() for mode, result in results.items()}
        print(json.dumps({"env": env, "seed": arguments.seed, "noise": report}))
    if arguments.video is not None:
        frames = record_video(env, policy, shape, seed_of(arguments.seed, 3), arguments.video)
        if not arguments.json:
            print(f"video  {arguments.video} ({frames} frames)")
    return 0


def _check_spaces(name: str, actor: ScoreNetwork) -> None:
    env = make_env(name)
    got = sizes_of(env)
    env.close()
    if got != (actor.n_obs, actor.n_act):
        raise InputError(
            f"{name}: the policy has {actor.n_obs} observations and {actor.n_act} actions, the"
            f" environment has {got[0]} and {got[1]}"
        )


def cli() -> None:
    """Entry point of the console script."""
    warnings.filterwarnings("ignore", module="gymnasium")  # e.g. "out of date"
    run_command(main)


if __name__ == "__main__":
    cli()
