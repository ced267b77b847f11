"""Train from a program: `train_policy`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dime_robot.learning.config import TrainConfig
from dime_robot.results.eval_csv import EvalRow
from dime_robot.runtime.io.errors import InputError
from dime_robot.training.logger import RunLogger
from dime_robot.training.presets import preset_config
from dime_robot.training.run import EvaluationEvent
from dime_robot.training.run_request import RunRequest
from dime_robot.training.start import (
    choose_device,
    require_resumable,
    resumed_config,
    run_folder,
    start_run,
)

Callback = Callable[[EvaluationEvent], bool | None]


@dataclass(frozen=True)
class TrainedRun:
    """What a call of `train_policy` leaves.

    Attributes:
        folder: of the run: `ckpt.pt`, `best.pt`, `eval.csv`, `config.yaml`.
        evaluations: every evaluation of the run, in the order of their steps.
        finished: whether all steps and the final evaluation were made.
    """

    folder: Path
    evaluations: tuple[EvalRow, ...]
    finished: bool


def train_policy(
    env: str | None = None,
    *,
    preset: str = "tiny",
    out: Path | str | None = None,
    resume: Path | str | None = None,
    init: Path | str | None = None,
    callback: Callback | None = None,
    quiet: bool = False,
    **settings: Any,
) -> TrainedRun:
    """Train a policy as `python -m dime_robot.train` does, without video and report.

    Args:
        env: name of the environment; with `resume` by default that of the run.
        preset: tiny, laptop or official; ignored with `resume`.
        out: the run folder; none: a new one under runs/.
        resume: a run folder to go on with.
        init: a checkpoint whose networks a new run begins with.
        callback: sees every evaluation; where it returns False the run saves and ends.
        quiet: print nothing.
        **settings: those of `TrainConfig` by name, e.g. `steps=3000, seed=1`.

    Returns:
        The folder and the evaluations.

    Raises:
        InputError: a setting, an environment or a folder that cannot be used.
    """
    folder = None if resume is None else run_folder(Path(resume))
    if folder is not None:
        if out is not None or init is not None:
            raise InputError("resume goes on in its own folder: leave out `out` and `init`")
        start, saved = resumed_config(folder, env)
    elif env is None:
        raise InputError("env: expected the name of an environment, or `resume`")
    else:
        start = preset_config(preset, env)
    unknown = sorted(set(settings) - set(TrainConfig.model_fields))
    if unknown:
        raise InputError(f"{unknown[0]}: expected a setting of TrainConfig, got another name")
    config = TrainConfig.model_validate({**start.model_dump(), **settings})
    if folder is not None:
        require_resumable(config, saved)
    request = RunRequest(
        config, Path(out) if out else None, folder, Path(init) if init else None, video=False
    )
    run = start_run(request, choose_device(config.device))
    run.on_evaluation = callback
    logger = RunLogger(run.folder, config.steps, run.step, quiet=quiet)
    try:
        if not run.finished:
            run.train(logger)
    finally:
        logger.close()
        run.close()
    return TrainedRun(run.folder, tuple(run.rows), run.finished)
