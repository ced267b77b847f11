"""Evaluate a policy: `python -m dime_robot.evaluate ckpt.pt`, or `policy.onnx` without torch.

Reports the sampler's three noise modes (see `runtime/noise.py`): on hardware fresh noise at every
step shakes joints, so it matters what the others do.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.extras import require_extras

    require_extras(eval=("gymnasium", "mujoco", "tyro", "scipy", "imageio"))

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dime_robot.envs import make_env, sizes_of
from dime_robot.rollout import Evaluator, Policy, in_batches, seed_of
from dime_robot.runtime.command import run_command
from dime_robot.runtime.errors import InputError
from dime_robot.runtime.noise import NOISE_MODES, NoiseMode
from dime_robot.runtime.policy import OnnxPolicy
from dime_robot.runtime.spec import PolicySpec
from dime_robot.video import record_video


@dataclass(frozen=True)
class Loaded:
    """A policy out of a file, with what an evaluation needs to know of it."""

    policy: Policy
    spec: PolicySpec
    env: str
    noise_shape: tuple[int, int]  # (N+1, d)


def load_policy(path: Path) -> Loaded:
    """Read a checkpoint or an exported policy; the latter needs no torch.

    Raises:
        InputError: the file cannot be used.
    """
    if path.suffix == ".onnx":
        exported = OnnxPolicy(path)
        made = exported.file.provenance
        shape = (exported.file.diffusion_steps + 1, exported.spec.n_act)
        return Loaded(in_batches(exported.act_with, exported.batch), exported.spec, made.env, shape)
    from dime_robot import checkpoint  # needs torch

    actor, spec, config, _ = checkpoint.load_actor(path)
    return Loaded(actor.act_numpy, spec, config.env, (actor.steps + 1, spec.n_act))


@dataclass(frozen=True)
class Arguments:
    """Evaluate a policy in the environment it was trained in."""

    policy: tyro.conf.Positional[Path]
    """A checkpoint (ckpt.pt) or an exported policy (policy.onnx)."""
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
    loaded = load_policy(arguments.policy)
    env = arguments.env or loaded.env
    _check_spaces(env, loaded.spec)
    policy, shape = loaded.policy, loaded.noise_shape
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


def _check_spaces(name: str, spec: PolicySpec) -> None:
    env = make_env(name)
    got = sizes_of(env)
    env.close()
    if got != (spec.n_obs, spec.n_act):
        raise InputError(
            f"{name}: the policy has {spec.n_obs} observations and {spec.n_act} actions, the"
            f" environment has {got[0]} and {got[1]}"
        )


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="gymnasium")  # e.g. "out of date"
    run_command(main)
