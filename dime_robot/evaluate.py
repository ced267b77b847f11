"""Evaluate a policy: `python -m dime_robot.evaluate ckpt.pt`, or `policy.onnx` without torch.

Reports the sampler's three noise modes (see `runtime/noise.py`): on hardware fresh noise at every
step shakes joints, so it matters what the others do. `--suite` tries a policy that follows a
velocity on every robot its configuration knows; `--policy zero` and `--policy random` need no file.
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

import numpy as np
import tyro
from scipy.special import ndtr

from dime_robot import suite
from dime_robot.envs import make_env, sizes_of, spec_of
from dime_robot.rollout import Evaluator, Policy, in_batches, seed_of
from dime_robot.runtime.command import run_command
from dime_robot.runtime.env_name import require_file_may_name
from dime_robot.runtime.errors import InputError
from dime_robot.runtime.noise import NOISE_MODES, NoiseMode
from dime_robot.runtime.places import differences
from dime_robot.runtime.policy import OnnxPolicy
from dime_robot.runtime.spec import PolicySpec
from dime_robot.video import record_video

EPISODES = 20
SHORT = 1  # exit code: the suite's thresholds are not met


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

    actor, loaded = checkpoint.load_actor(path)
    spec, env = loaded.spec, loaded.config.env
    return Loaded(actor.act_numpy, spec, env, (actor.steps + 1, spec.n_act))


def load_agent(name: Literal["zero", "random"], env: str) -> Loaded:
    """An agent that needs no file: no action at all, or uniformly random ones.

    Raises:
        InputError: no such environment.
    """
    made = make_env(env)
    spec = spec_of(made, env)
    made.close()
    agents: dict[str, Policy] = {
        "zero": lambda obs, noise: np.zeros_like(noise[:, 0]),
        "random": lambda obs, noise: (2 * ndtr(noise[:, 0]) - 1).astype(np.float32),
    }
    return Loaded(agents[name], spec, env, (1, spec.n_act))


@dataclass(frozen=True)
class Arguments:
    """Evaluate a policy in the environment it was trained in."""

    file: tyro.conf.Positional[Path | None] = None
    """A checkpoint (ckpt.pt) or an exported policy (policy.onnx)."""
    policy: Literal["zero", "random"] | None = None
    """An agent without a file, to see what doing nothing earns; needs --env."""
    episodes: int | None = None
    """Episodes per noise mode, 20 by default; 0 with --video: only the video. With --suite: per
    condition and command, 4 by default."""
    seed: int = 0
    """Starts and noises follow from it."""
    noise: NoiseMode | Literal["all"] = "all"
    """Noise mode of the sampler; all: the three of them, one after the other."""
    env: str | None = None
    """Another environment with the same spaces."""
    suite: bool = False
    """Try it on every robot of the task's configuration; exit code 1 where it falls short."""
    model: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """With --suite: another model of the robot (MJCF), joints matched by name, judged as the
    nominal one is. Again for each further one."""
    only: str = ""
    """With --suite: only conditions with this in their names, beside the nominal one."""
    json: bool = False
    """Print one JSON object instead of a table."""
    video: Annotated[Path | None, tyro.conf.arg(metavar="FILE.mp4")] = None
    """Record one episode with fresh noise."""


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    arguments = tyro.cli(Arguments, args=argv, prog="python -m dime_robot.evaluate")
    loaded = _load(arguments)
    env = arguments.env or require_file_may_name(loaded.env, arguments.file)
    _check_spaces(env, loaded.spec)
    if arguments.suite:
        return _suite(arguments, loaded, env)
    policy, shape = loaded.policy, loaded.noise_shape
    episodes = EPISODES if arguments.episodes is None else arguments.episodes
    results = {}
    modes = NOISE_MODES if arguments.noise == "all" else (arguments.noise,)
    if arguments.policy is not None:
        modes = ("fresh",)  # there is no sampler to compare
    for mode in modes if episodes else ():
        evaluator = Evaluator(env, shape, parallel=min(20, episodes))
        results[mode] = evaluator.run(policy, episodes, (arguments.seed, 2), mode)
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


def _load(arguments: Arguments) -> Loaded:
    least = 0 if arguments.video is not None and not arguments.suite else 1
    if arguments.episodes is not None and arguments.episodes < least:
        raise InputError(f"--episodes: expected at least 1, got {arguments.episodes}")
    if arguments.seed < 0:
        raise InputError(f"--seed: expected 0 or more, got {arguments.seed}")
    if (arguments.file is None) == (arguments.policy is None):
        raise InputError("expected a file (ckpt.pt or policy.onnx) or --policy, one of both")
    if (arguments.model or arguments.only) and not arguments.suite:
        raise InputError("--model and --only: expected --suite with them")
    if arguments.policy is not None:
        if arguments.env is None:
            raise InputError(f"--policy {arguments.policy}: expected --env with it")
        return load_agent(arguments.policy, arguments.env)
    assert arguments.file is not None
    return load_policy(arguments.file)


def _suite(arguments: Arguments, loaded: Loaded, env: str) -> int:
    def say(text: str) -> None:
        if not arguments.json:
            print(text, flush=True)

    noise: NoiseMode = "fresh" if arguments.noise == "all" else arguments.noise
    rows, asked = suite.run_suite(
        env,
        loaded.policy,
        loaded.noise_shape,
        suite.Sampling(arguments.episodes or suite.EPISODES, arguments.seed, noise, arguments.only),
        arguments.model,
        say,
    )
    found = suite.shortfalls(rows, asked)
    if arguments.json:
        print(json.dumps({"env": env, "seed": arguments.seed, **suite.report(rows, asked)}))
    say("\n".join(["", *found, f"FAIL: {len(found)} shortfalls"] if found else ["", "PASS"]))
    return SHORT if found else 0


def _check_spaces(name: str, spec: PolicySpec) -> None:
    env = make_env(name)
    got = sizes_of(env)
    env.close()
    own = getattr(env.unwrapped, "policy_spec", None)
    if own is not None and (found := differences(spec, own)):
        place, ours, theirs = found[0]
        raise InputError(
            f"{name}: the policy's contract says {place} = {ours}, the environment's {theirs}"
            f" ({len(found)} differences): the policy was not trained for this robot"
        )
    if got != (spec.n_obs, spec.n_act):
        raise InputError(
            f"{name}: the policy has {spec.n_obs} observations and {spec.n_act} actions, the"
            f" environment has {got[0]} and {got[1]}"
        )


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="gymnasium")  # e.g. "out of date"
    run_command(main)
