"""Train from a program: `train_policy`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dime_robot.envs import EnvLike, env_name
from dime_robot.learning.config import TrainConfig
from dime_robot.results.eval_csv import EvalRow
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.env_name import PYTHON
from dime_robot.sim.config.trust import typed_env
from dime_robot.training.logger import RunLogger
from dime_robot.training.presets import preset_config
from dime_robot.training.rollouts import RolloutMaker
from dime_robot.training.run import EvaluationEvent
from dime_robot.training.run_folder import RunFolder
from dime_robot.training.run_request import RunRequest
from dime_robot.training.start import (
    choose_device,
    require_resumable,
    resumed_config,
    start_run,
)

Callback = Callable[[EvaluationEvent], bool | None]


@dataclass(frozen=True)
class TrainedRun:
    """The result of `train_policy`.

    Attributes:
        folder: of the run; `RunFolder(folder)` has the paths of its files.
        evaluations: every evaluation of the run, in the order of their steps.
        finished: whether all steps and the final evaluation were made.
    """

    folder: Path
    evaluations: tuple[EvalRow, ...]
    finished: bool


def _path(name: str, given: Path | str | None) -> Path | None:
    """Return a path that an argument names, if any.

    Raises:
        InputError: an empty string, which would be the current folder.
    """
    if given == "":
        raise InputError(f"{name}: expected a path or None, got an empty string")
    return None if given is None else Path(given)


def train_policy(
    env: EnvLike | None = None,
    *,
    preset: str = "tiny",
    out: Path | str | None = None,
    resume: Path | str | None = None,
    init: Path | str | None = None,
    callback: Callback | None = None,
    quiet: bool = False,
    rollouts: RolloutMaker | None = None,
    **settings: Any,
) -> TrainedRun:
    """Train a policy as `python -m dime_robot.train` does, without video and report.

    A function or an object has no name by which a file could refer to it: the run's files contain
    python:NAME, which `--resume` and exports refuse. An object is only copied, for training and for
    each of the environments that evaluations run side by side, so that an evaluation never affects
    the training episode; the object itself is not changed.

    Args:
        env: name of the environment, a function without arguments that makes a new one at each
            call, or an environment object; with `resume` the run's environment by default.
        preset: tiny, laptop or official; ignored with `resume`.
        out: the run folder; none: a new one under runs/.
        resume: a run folder to continue.
        init: a checkpoint whose networks a new run begins with.
        callback: called after every evaluation; if it returns False the run saves and ends.
        quiet: print nothing.
        rollouts: with `ray=True`, `RemoteRollouts.on(ray)` of dime_robot.cluster.
        **settings: those of `TrainConfig` by name, e.g. `steps=3000, seed=1`.

    Returns:
        The folder and the evaluations.

    Raises:
        InputError: a setting, an environment or a folder that cannot be used.
    """
    if callback is not None and not callable(callback):
        raise InputError(f"callback: expected a function of an evaluation, got {callback!r:.60}")
    out, init, resume = _path("out", out), _path("init", init), _path("resume", resume)
    name = None if env is None else env_name(env)
    files = None if resume is None else RunFolder.to_resume(resume)
    typed_env(name)  # the program names it
    if files is not None:
        if out is not None or init is not None:
            raise InputError("resume goes on in its own folder: leave out `out` and `init`")
        start, saved = resumed_config(files, name)
    elif name is None:
        raise InputError("env: expected an environment or the name of one, or `resume`")
    else:
        start = saved = preset_config(preset, name)
    unknown = sorted(set(settings) - set(TrainConfig.model_fields))
    if unknown:
        raise InputError(f"{unknown[0]}: expected a setting of TrainConfig, got another name")
    config = TrainConfig.model_validate({**start.model_dump(), **settings})
    if files is not None:
        require_resumable(config, saved)
    request = RunRequest(
        config,
        out=out,
        resume=files.path if files is not None else None,
        init=init,
        env=env,
    )
    run = start_run(request, choose_device(config.device), rollouts)
    run.on_evaluation = callback
    logger = RunLogger(run.files, config.steps, run.step, quiet=quiet)
    with closing(run), closing(logger):
        if config.env.startswith(PYTHON):
            logger.line(
                f"note: no file can name {config.env}: this run goes on only with"
                " train_policy(env, resume=...), is evaluated with evaluate_policy(path, env=...)"
                " and is not exported; for these register the environment with Gymnasium and train"
                " by its id"
            )
        if not run.finished:
            run.train(logger)
    return TrainedRun(run.folder, tuple(run.rows), run.finished)
