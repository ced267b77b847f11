"""Train a diffusion policy: `python -m dime_robot.train` (without arguments: the cart-pole)."""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(
        train=("torch", "gymnasium", "mujoco", "tyro", "rich", "scipy", "matplotlib", "tensorboard")
    )

import argparse
import contextlib
import io
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dime_robot import __version__, command_line
from dime_robot.learning.config import GROUP_HELP, GROUPS, TrainConfig, differences
from dime_robot.runtime.io.command import INTERRUPTED, interruption_as_itself, run_command
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.env_name import env_options
from dime_robot.training.presets import preset_config, task_settings
from dime_robot.training.run_request import RunRequest

if TYPE_CHECKING:  # torch takes seconds to load: functions import what stands on it
    import torch

    from dime_robot.training.logger import RunLogger
    from dime_robot.training.run import TrainingRun

DEFAULT_PRESET, DEFAULT_ENV = "tiny", "sim:cartpole"
PROGRAM = "python -m dime_robot.train"
PATIENCE = 2.0  # [s] from a stop request until a step that does not end is left


@dataclass(frozen=True)
class Folders:
    """Where a run begins and what it leaves."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The run folder itself; by default a new one under runs/."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Go on with this run folder. A larger --steps extends it; another --env of the same contract
    goes on there with networks, optimisers and replay as they are (a curriculum)."""
    init: Annotated[Path | None, tyro.conf.arg(metavar="CKPT")] = None
    """Start from the networks of this checkpoint (same sizes, new data, new optimisers)."""
    video: bool = True
    """Record a video of the trained policy where rendering works."""


def _group(title: str, names: Sequence[str]) -> type[Any]:
    """A dataclass of some settings, as `train --help` shows them together."""
    fields = TrainConfig.model_fields
    made = make_dataclass(
        title.capitalize(),
        [
            (name, Annotated[fields[name].annotation, tyro.conf.arg(help=fields[name].description)])
            for name in names
        ],
        frozen=True,
    )
    made.__doc__ = GROUP_HELP[title]
    return made


def _from_command_line(argv: Sequence[str], default: TrainConfig) -> RunRequest:
    groups = {title: _group(title, names) for title, names in GROUPS.items()}
    line = make_dataclass(
        "CommandLine",
        [
            ("folders", tyro.conf.OmitArgPrefixes[Folders], field(default_factory=Folders)),
            *(
                (title, Annotated[kind, tyro.conf.OmitArgPrefixes])
                for title, kind in groups.items()
            ),
        ],
        kw_only=True,
    )
    line.__doc__ = (
        "Train DIME in MuJoCo. Without arguments: the cart-pole swing-up, in a few minutes.\n\n"
        f"The defaults shown are those of --preset {default.preset} and --env {default.env};"
        " --preset official has the paper's sizes."
    )
    values = default.model_dump()
    shown = {
        title: kind(**{name: values[name] for name in GROUPS[title]})
        for title, kind in groups.items()
    }
    typed = command_line.parse(line, argv, PROGRAM, line(**shown))
    settings = {
        name: getattr(getattr(typed, title), name) for title in GROUPS for name in GROUPS[title]
    }
    folders = typed.folders
    return RunRequest(
        TrainConfig(**settings), folders.out, folders.resume, folders.init, folders.video
    )


def parse(argv: Sequence[str]) -> RunRequest:
    """Options over what they start from: the preset and the task, or the run to resume.

    Raises:
        InputError: a value that does not fit, or an option that differs from the resumed run's.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--env")
    first.add_argument("--preset", default=DEFAULT_PRESET)
    first.add_argument("--resume", type=Path)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            known = first.parse_known_args(argv)[0]
    except SystemExit:  # an option without its value: tyro says it better
        known = first.parse_known_args([])[0]
    if known.resume is None:
        return _from_command_line(argv, preset_config(known.preset, known.env or DEFAULT_ENV))
    from dime_robot.training.start import resumed_config, run_folder

    folder = run_folder(known.resume)
    default, saved = resumed_config(folder, known.env)
    arguments = replace(_from_command_line(argv, default), resume=folder)
    _check_resumed(arguments, saved)
    return arguments


def _check_resumed(arguments: RunRequest, saved: TrainConfig) -> None:
    if arguments.out is not None or arguments.init is not None:
        raise InputError("--resume goes on in its own folder: leave out --out and --init")
    from dime_robot.training.start import require_resumable

    require_resumable(arguments.config, saved)


def header(run: TrainingRun, device: torch.device) -> list[str]:
    """What the run is, in at most 8 lines."""
    import torch

    from dime_robot.learning.networks import parameter_count

    config, spec = run.config, run.spec
    task = "  ".join(f"{name} {value:g}" for name, value in task_settings(config.env).items())
    changed = differences(config, preset_config(config.preset, config.env))
    changed = {name: pair for name, pair in changed.items() if name not in ("seed", "device")}
    threads = torch.get_num_threads()
    if config.actor == "gaussian":
        policy = "a Gaussian"
    else:
        policy = f"{config.diffusion_steps} diffusion steps"
    lines = [
        f"dime_robot {__version__}  torch {torch.__version__}  {device}"
        f"  {threads} thread{'s' * (threads > 1)}",
        f"env     {config.env}: {spec.n_obs} observations, {spec.n_act} actions, {spec.rate:g} Hz",
        f"task    {task}",
        f"preset  {config.preset}: actor {parameter_count(run.agent.actor):,} parameters,"
        f" {policy}; critics"
        f" {parameter_count(run.agent.critic):,}",
        f"run     {config.steps:,} steps, seed {config.seed}, into {run.folder}",
    ]
    if config.compile:
        lines.append("compile about a minute, when the first update comes")
    if changed:
        text = "  ".join(f"{name} {value}" for name, (value, _) in changed.items())
        lines.append(f"changed {text}")
    return lines


class StopSignals:
    """SIGINT and SIGTERM: between two steps from the run's making to its last one, else at once.

    The first one asks the run to stop, which then saves. A second one, or a step that
    takes longer than `PATIENCE`, leaves at once: the last good checkpoint stays.
    """

    def __init__(self) -> None:
        self.run: TrainingRun | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """The handler."""
        run = self.run
        late = signum == signal.SIGALRM
        if run is not None and run.stepping and not run.stop_requested and not late:
            run.stop_requested = True
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        elif not late or (run is not None and run.stepping and not run.saving):
            raise KeyboardInterrupt

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals meanwhile."""
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
        previous = {each: signal.signal(each, self) for each in signals}
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for each, handler in previous.items():
                signal.signal(each, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    signals = StopSignals()
    arguments: RunRequest | None = None
    with signals.handled():
        try:
            with interruption_as_itself():
                arguments = parse(sys.argv[1:] if argv is None else argv)
                return _train(arguments, signals)
        except KeyboardInterrupt:
            folder = _resumable(arguments, signals)
            if folder is None:
                raise
            print(
                f"interrupted; the last good checkpoint is {folder / 'ckpt.pt'}:"
                f" {_resume_command(folder, arguments)}",
                file=sys.stderr,
            )
            return INTERRUPTED
        except BrokenPipeError:
            folder = _resumable(arguments, signals)
            if folder is not None:
                print(
                    "stopped: nobody reads the output any more;"
                    f" {_resume_command(folder, arguments)}",
                    file=sys.stderr,
                )
            raise


def _resumable(arguments: RunRequest | None, signals: StopSignals) -> Path | None:
    """The folder of the run that was interrupted, where it has a checkpoint."""
    folder = arguments.resume if arguments is not None else None
    if signals.run is not None:
        folder = signals.run.folder
    return folder if folder is not None and (folder / "ckpt.pt").exists() else None


def _resume_command(folder: Path, arguments: RunRequest | None) -> str:
    """What to type to go on."""
    options = [] if arguments is None else env_options(arguments.config.env)
    return f"{PROGRAM} --resume {shlex.join([str(folder), *options])}"


def _train(arguments: RunRequest, signals: StopSignals) -> int:
    print(f"dime_robot {__version__}: loading PyTorch and the environment", flush=True)
    from dime_robot.report import write_report
    from dime_robot.training.logger import RunLogger
    from dime_robot.training.start import choose_device, start_run

    device = choose_device(arguments.config.device)
    signals.run = run = start_run(arguments, device)
    if run.finished:
        run.close()
        if not (run.folder / "report.html").exists():  # killed between the two
            write_report(run.folder)
        print(f"{run.folder} is finished ({run.step:,} steps); --steps N extends it")
        return 0
    logger = RunLogger(run.folder, run.config.steps, run.step)
    try:
        for line in header(run, device):
            logger.line(line)
        if arguments.resume is not None:
            logger.line(f"resumed at step {run.step:,}")
        run.train(logger)
    finally:
        logger.close()
        run.close()
    _last_lines(run, logger, arguments)
    return 0


def _last_lines(run: TrainingRun, logger: RunLogger, arguments: RunRequest) -> None:
    from dime_robot.evaluation.video import record_in_child
    from dime_robot.report import write_report

    report = write_report(run.folder)  # before the video, which may take a while
    video = run.folder / "video.mp4"
    if run.finished and arguments.video:
        reason = record_in_child(
            run.checkpoint_path, video, run.config.seed, env_options(run.config.env)
        )
        if reason:
            logger.line(reason)
        else:
            write_report(run.folder)
    written = {"checkpoint": run.checkpoint_path, "report": report}
    if run.best_path.exists():
        written["best"] = run.best_path
    if video.exists():
        written["video"] = video
    for name, path in written.items():
        logger.line(f"{name:11s}{path}")
    if run.finished:
        words = shlex.join([str(run.checkpoint_path), *env_options(run.config.env)])
        logger.line(f"next       python -m dime_robot.evaluate {words}")
    else:
        logger.line(f"stopped at step {run.step:,} of {run.config.steps:,}")
        logger.line(f"next       {_resume_command(run.folder, arguments)}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="gymnasium")  # e.g. "out of date"
    run_command(main)
