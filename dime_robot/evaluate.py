"""Evaluate a policy: `python -m dime_robot.evaluate ckpt.pt`, or `policy.onnx` without torch.

Reports the sampler's three noise modes (see `runtime/policy/noise.py`): on hardware fresh noise at
every step shakes joints, so the results of the other modes matter. `--suite` evaluates a policy
that tracks a velocity in all conditions of the robustness suite; `--policy zero` and
`--policy random` need no file.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(eval=("gymnasium", "mujoco", "scipy", "imageio"))

import json
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dime_robot.progress import ProgressLine
from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.env_name import require_file_may_name
from dime_robot.runtime.policy.noise import NOISE_LEGEND, NOISE_MODES, NoiseMode
from dime_robot.sim.config.trust import typed_env

if TYPE_CHECKING:  # modules that take seconds to load are imported by the functions that need them
    from dime_robot.loaded_policy import LoadedPolicy

PROGRAM = "python -m dime_robot.evaluate"
EPISODES = 20
MAX_EPISODES = 100_000
SHORT = 1  # exit code: the suite's thresholds are not met


def load_builtin(name: Literal["zero", "random"], env: str) -> LoadedPolicy:
    """Return a policy that needs no file: zero actions, or uniformly random ones.

    Raises:
        InputError: no such environment.
    """
    from dime_robot.envs import make_env, spec_of
    from dime_robot.evaluation.rollout import random_policy, zero_policy
    from dime_robot.loaded_policy import LoadedPolicy

    made = make_env(env)
    spec = spec_of(made, env)
    made.close()
    policy = zero_policy if name == "zero" else random_policy
    return LoadedPolicy(policy, spec, env, (1, spec.n_act))


def _parser() -> Parser:
    parser = Parser(PROGRAM, "Evaluate a policy in the environment it was trained in.")
    add = parser.add_argument
    add(
        "file",
        type=Path,
        nargs="?",
        help="a checkpoint (ckpt.pt), an exported policy (policy.onnx), or a run folder: then its"
        " best.pt, or else its ckpt.pt",
    )
    text = "a policy without a file, to see what doing nothing earns; needs --env"
    add("--policy", choices=("zero", "random"), help=text)
    add(
        "--episodes",
        type=int,
        help=f"per noise mode ({EPISODES} by default), or with --suite per condition and command (4"
        " by default); 0 with --video: only the video",
    )
    add("--seed", type=int, default=0, help="starts and noises follow from it")
    text = "noise mode of the sampler; all: the three of them, one after the other"
    add("--noise", choices=(*NOISE_MODES, "all"), default="all", help=text)
    add("--env", help="another environment with the same spaces")
    text = "the file of the robot task that the policy was trained in, if it is not a shipped one"
    add("--config", type=Path, metavar="FILE", help=text)
    text = "try it on every robot of the task's configuration; exit code 1 where it falls short"
    add("--suite", action="store_true", help=text)
    add(
        "--model",
        type=Path,
        action="append",
        default=[],
        help="with --suite: another model of the robot (MJCF), joints matched by name, judged as"
        " the nominal one is; again for each further one",
    )
    text = "with --suite: only conditions with this in their names, and the nominal one"
    add("--only", default="", help=text)
    add("--json", action="store_true", help="print one JSON object instead of a table")
    add("--video", type=Path, help="MP4 file to record one episode with fresh noise to")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    arguments = _parser().parse_args(argv)
    arguments.env = typed_env(arguments.env, arguments.config)
    _check(arguments)
    from dime_robot.loaded_policy import require_fitting_env

    loaded, env = _load(arguments)
    require_fitting_env(env, loaded.spec, loaded.interpolation)
    if arguments.suite:
        return _suite(arguments, loaded, env)
    results = _episodes(arguments, loaded, env)
    if arguments.json:
        report = {mode: result.summary() for mode, result in results.items()}
        print(json.dumps({"env": env, "seed": arguments.seed, "noise": report}))
    elif len(results) > 1:
        print("\n".join(f"  {text}" for text in NOISE_LEGEND), file=sys.stderr)
    if arguments.video is not None:
        _video(arguments, loaded, env)
    return 0


def _episodes(arguments: Namespace, loaded: LoadedPolicy, env: str) -> dict[str, Any]:
    """Evaluate each noise mode and print its result; return noise mode -> evaluation."""
    from dime_robot.loaded_policy import run_episodes

    episodes = EPISODES if arguments.episodes is None else arguments.episodes
    modes = NOISE_MODES if arguments.noise == "all" else (arguments.noise,)
    if arguments.policy is not None:
        modes = ("fresh",)  # there is no sampler to compare
    results: dict[str, Any] = {}
    screen = ProgressLine(sys.stderr)

    def watch(ended: int, episodes: int, steps: int) -> None:
        if screen.due():
            screen.draw(f"{mode}: {ended} of {episodes} episodes ended, {steps:,} steps")

    for mode in modes if episodes else ():
        results[mode] = run_episodes(loaded, env, episodes, mode, arguments.seed, watch)
        screen.clear()
        if not arguments.json:
            print(f"{mode:6s}{results[mode]}", flush=True)
    return results


def _video(arguments: Namespace, loaded: LoadedPolicy, env: str) -> None:
    from dime_robot.evaluation.rollout import seed_of
    from dime_robot.evaluation.video import record_in_child, record_video, renders_in_this_process

    path: Path = arguments.video
    if renders_in_this_process():
        seed = seed_of(arguments.seed, 3)
        frames = record_video(env, loaded.act_with, loaded.noise_shape, seed, path)
        text = f"video  {path} ({frames} frames)"
    else:  # no display: the back ends are tried in separate processes
        options = ["--env", env]
        options += ["--policy", arguments.policy] if arguments.policy is not None else []
        reason = record_in_child(arguments.file, path, arguments.seed, options)
        if reason is not None:
            raise InputError(reason)
        text = f"video  {path}"
    if not arguments.json:
        print(text)


def _check(arguments: Namespace) -> None:
    """Refuse options that do not fit together, before anything is loaded."""
    min_episodes = 0 if arguments.video is not None and not arguments.suite else 1
    if arguments.episodes is not None and not min_episodes <= arguments.episodes <= MAX_EPISODES:
        raise InputError(
            f"--episodes: expected at least {min_episodes} and at most {MAX_EPISODES:,}, got"
            f" {arguments.episodes}"
        )
    if arguments.seed < 0:
        raise InputError(f"--seed: expected 0 or more, got {arguments.seed}")
    if (arguments.file is None) == (arguments.policy is None):
        raise InputError("expected a file (ckpt.pt or policy.onnx) or --policy, one of both")
    if (arguments.model or arguments.only) and not arguments.suite:
        raise InputError("--model and --only: expected --suite with them")
    if arguments.video is not None and arguments.suite:
        raise InputError("--video: expected without --suite, which records none")
    if arguments.video is not None:
        from dime_robot.evaluation.video import require_video_path

        require_video_path(arguments.video)
    if arguments.policy is not None and arguments.env is None:
        raise InputError(f"--policy {arguments.policy}: expected --env or --config with it")
    for model in arguments.model:
        if not model.is_file():
            raise InputError(f"--model {model}: expected a MJCF file, got no such file")


def _load(arguments: Namespace) -> tuple[LoadedPolicy, str]:
    """Load the policy; return it and the name of the environment to evaluate it in."""
    if arguments.policy is not None:
        return load_builtin(arguments.policy, arguments.env), arguments.env
    from dime_robot.loaded_policy import load_policy, policy_file

    path = policy_file(arguments.file)
    if path != arguments.file and not arguments.json:
        print(f"policy {path}", flush=True)
    loaded = load_policy(path)
    if arguments.config is not None:
        from dime_robot.sim.tasks.digest import require_recorded_task

        require_recorded_task(arguments.config, loaded.task, path)
    if arguments.env is None:
        require_file_may_name(loaded.env, path)
    return loaded, arguments.env or loaded.env


def _suite(arguments: Namespace, loaded: LoadedPolicy, env: str) -> int:
    from dime_robot.evaluation import robustness_suite as suite

    def log(text: str) -> None:
        if not arguments.json:
            print(text, flush=True)

    noise: NoiseMode = "fresh" if arguments.noise == "all" else arguments.noise
    rows, thresholds = suite.run_suite(
        env,
        loaded.act_with,
        loaded.noise_shape,
        suite.Sampling(arguments.episodes or suite.EPISODES, arguments.seed, noise, arguments.only),
        arguments.model,
        log,
    )
    found = suite.shortfalls(rows, thresholds)
    if arguments.json:
        print(json.dumps({"env": env, "seed": arguments.seed, **suite.report(rows, thresholds)}))
    log("\n".join(["", *found, f"FAIL: {len(found)} shortfalls"] if found else ["", "PASS"]))
    return SHORT if found else 0


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="gymnasium")  # e.g. "out of date"
    run_command(main)
