"""Train a diffusion policy: `python -m dime_robot.train` (without arguments: the cart-pole)."""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(train=("torch", "gymnasium", "mujoco", "scipy", "matplotlib", "tensorboard"))

import shlex
import signal
import sys
import warnings
from argparse import BooleanOptionalAction
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from dime_robot import __version__
from dime_robot.learning.config import GROUPS, SettingError, TrainConfig, changes, option
from dime_robot.runtime.io.command import INTERRUPTED, interruption_as_itself, run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.env_name import env_options
from dime_robot.sim.config.trust import typed_env
from dime_robot.training.presets import preset_config, task_settings
from dime_robot.training.run_folder import RunFolder
from dime_robot.training.run_request import RunRequest

if TYPE_CHECKING:  # torch takes seconds to load: functions import the modules that need it
    import torch

    from dime_robot.training.logger import RunLogger
    from dime_robot.training.run import TrainingRun

DEFAULT_PRESET, DEFAULT_ENV = "tiny", "sim:cartpole"
PROGRAM = "python -m dime_robot.train"
RAY_ADDRESS = (
    "; ADDRESS is host:port of the cluster's head, or auto; without it that of RAY_ADDRESS, or a"
    " cluster of this machine alone"
)
PATIENCE = 2.0  # [s] from a stop request until a step that does not end is interrupted


def _parser(default: TrainConfig) -> Parser:
    parser = Parser(
        PROGRAM,
        "Train DIME in MuJoCo. Without arguments: the cart-pole swing-up, in a few minutes. The"
        f" defaults shown are those of --preset {default.preset} and --env {default.env}; --preset"
        " official has the paper's sizes.",
    )
    group = parser.add_argument_group("folders", "Where a run begins and what it leaves.")
    add = group.add_argument
    add("--out", type=Path, help="the run folder itself; by default a new one under runs/")
    add(
        "--resume",
        type=Path,
        help="go on with this run folder; a larger --steps extends it; another --env of the same"
        " contract goes on there with networks, optimisers and replay as they are (a curriculum)",
    )
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="the file of your own robot's task, as --env sim:FILE; with --resume the file that the"
        " run was begun with",
    )
    text = "start from the networks of this checkpoint (same sizes, new data, new optimisers)"
    add("--init", type=Path, help=text)
    text = "record a video of the trained policy where rendering works"
    add("--video", action=BooleanOptionalAction, default=True, help=text)
    for name, field in TrainConfig.model_fields.items():
        if name in GROUPS:
            group = parser.add_argument_group(*GROUPS[name])
        form: dict[str, Any] = {"type": field.annotation}
        if field.annotation is bool:
            form = {"action": BooleanOptionalAction}
        elif get_origin(field.annotation) is Literal:
            form = {"choices": get_args(field.annotation)}
        if name == "ray":
            form = {"nargs": "?", "const": "", "metavar": "ADDRESS"}
        default_value = getattr(default, name)
        more = RAY_ADDRESS if name == "ray" else ""
        text = f"{field.description}{more}"
        group.add_argument(option(name), default=default_value, help=text, **form)
    return parser


def _read(argv: Sequence[str], default: TrainConfig, resume: Path | None = None) -> RunRequest:
    given = vars(_parser(default).parse_args(argv))
    address = given["ray"] if isinstance(given["ray"], str) else None  # else it was not typed
    given["ray"] = default.ray or address is not None
    try:
        config = TrainConfig(**{name: given[name] for name in TrainConfig.model_fields})
    except SettingError as error:
        raise InputError(f"{option(error.name)}: {error.problem}") from None
    return RunRequest(
        config,
        given["out"],
        resume,
        given["init"],
        given["video"],
        config_file=given["config"] if resume is not None else None,
        ray_address=address or None,
    )


def parse(argv: Sequence[str]) -> RunRequest:
    """Read a command line; defaults come from preset and task, or from the run to resume.

    Raises:
        InputError: a value that does not fit, or an option that differs from the resumed run's.
    """
    first = Parser(PROGRAM, add_help=False)
    first.add_argument("--env")
    first.add_argument("--preset", default=DEFAULT_PRESET)
    first.add_argument("--resume", type=Path)
    first.add_argument("--config", type=Path)
    known = first.parse_known_args(argv)[0]
    env = typed_env(known.env, known.config)
    if known.resume is None:
        return _read(argv, preset_config(known.preset, env or DEFAULT_ENV))
    from dime_robot.training.start import require_resumable, resumed_config

    files = RunFolder.to_resume(known.resume)
    default, saved = resumed_config(files, env)
    request = _read(argv, default, files.path)
    if request.out is not None or request.init is not None:
        raise InputError("--resume goes on in its own folder: leave out --out and --init")
    require_resumable(request.config, saved)
    return request


def header(run: TrainingRun, device: torch.device) -> list[str]:
    """Describe the run in at most 9 lines."""
    import torch

    from dime_robot.learning.networks import parameter_count
    from dime_robot.training.privileged import total

    config, spec = run.config, run.spec
    preset = preset_config(config.preset, config.env)
    values = {name: getattr(preset, name) for name in task_settings(config.env)}
    task = "  ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:g}"
        for name, value in values.items()
    )
    threads = torch.get_num_threads()
    more = total(run.privileged)
    privileged = f" and {more} privileged values for the critics" if more else ""
    if config.actor == "gaussian":
        policy = "a Gaussian"
    else:
        policy = f"{config.diffusion_steps} diffusion steps"
    lines = [
        f"dime_robot {__version__}  torch {torch.__version__}  {device}"
        f"  {threads} thread{'s' * (threads > 1)}",
        f"env     {config.env}: {spec.n_obs} observations{privileged}, {spec.n_act} actions,"
        f" {spec.rate:g} Hz",
        f"task    {task}",
        f"preset  {config.preset}: actor {parameter_count(run.agent.actor):,} parameters,"
        f" {policy}; critics"
        f" {parameter_count(run.agent.critic):,}",
        f"run     {config.steps:,} steps, seed {config.seed}, into {run.folder}",
    ]
    if run.curriculum is not None:
        names, number = run.curriculum.names, run.curriculum.number
        lines.append(f"levels  {', '.join(names)}; now {names[number]}")
    if config.compile:
        lines.append("compile about a minute, when the first update comes")
    settings = changes(config, preset)
    if run.rollouts.description:
        lines.append(f"ray     {run.rollouts.description}")
    changed = [f"{k} {v}" for k, v in settings.items() if k not in ("seed", "device", "ray")]
    if changed:
        lines.append(f"changed {'  '.join(changed)}")
    return lines


class StopSignals:
    """Handles SIGINT and SIGTERM.

    While the run steps, the first signal requests a stop: the run ends after its current step and
    saves. A second signal, a step that takes longer than `PATIENCE`, and a signal at any other time
    end the process at once: the last good checkpoint stays.
    """

    def __init__(self) -> None:
        self.run: TrainingRun | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        run = self.run
        late = signum == signal.SIGALRM
        if run is not None and run.stepping and not run.stop_requested and not late:
            run.stop_requested = True
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        elif not late or (run is not None and run.stepping and not run.busy):
            raise KeyboardInterrupt

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals while this context is active."""
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
        except (KeyboardInterrupt, BrokenPipeError) as error:
            files = _resumable(arguments, signals)
            if files is None:
                raise
            command = _resume_command(files, arguments)
            if isinstance(error, BrokenPipeError):
                print(f"stopped: the reader of the output is gone; {command}", file=sys.stderr)
                raise
            print(
                f"interrupted; the last good checkpoint is {files.checkpoint}: {command}",
                file=sys.stderr,
            )
            return INTERRUPTED


def _resumable(arguments: RunRequest | None, signals: StopSignals) -> RunFolder | None:
    """Return the run that was interrupted, if it has a checkpoint."""
    files = signals.run.files if signals.run is not None else None
    if files is None and arguments is not None and arguments.resume is not None:
        files = RunFolder(arguments.resume)
    return files if files is not None and files.checkpoint.exists() else None


def _resume_command(files: RunFolder, arguments: RunRequest | None) -> str:
    """Return the command that resumes a run."""
    options = [] if arguments is None else env_options(arguments.config.env)
    return f"{PROGRAM} --resume {shlex.join([str(files.path), *options])}"


def _train(arguments: RunRequest, signals: StopSignals) -> int:
    print(f"dime_robot {__version__}: loading PyTorch and the environment", flush=True)
    from dime_robot.training.start import choose_device, start_run

    device = choose_device(arguments.config.device)
    with ExitStack() as connections:
        rollouts = None
        if arguments.config.ray:
            from dime_robot.cluster.connection import connected
            from dime_robot.cluster.remote_rollouts import RemoteRollouts

            ray = connections.enter_context(
                connected(arguments.ray_address, arguments.config.workers)
            )
            rollouts = RemoteRollouts.on(ray)
        signals.run = run = start_run(arguments, device, rollouts)
        return _run(run, arguments, device)


def _run(run: TrainingRun, arguments: RunRequest, device: torch.device) -> int:
    from dime_robot.report import write_report
    from dime_robot.training.logger import RunLogger

    if run.finished:
        run.close()
        if not run.files.report.exists():  # killed between checkpoint and report
            write_report(run.folder)
        print(f"{run.folder} is finished ({run.step:,} steps); --steps N extends it")
        return 0
    with closing(run), closing(RunLogger(run.files, run.config.steps, run.step)) as logger:
        for line in header(run, device):
            logger.line(line)
        if arguments.resume is not None:
            logger.line(f"resumed at step {run.step:,}")
        run.train(logger)
    _last_lines(run, logger, arguments)
    return 0


def _last_lines(run: TrainingRun, logger: RunLogger, arguments: RunRequest) -> None:
    from dime_robot.evaluation.video import record_in_child
    from dime_robot.report import write_report

    report = write_report(run.folder)  # before the video, which may take a while
    files, video = run.files, run.files.video
    if run.finished and arguments.video:
        options = env_options(run.config.env)
        reason = record_in_child(files.checkpoint, video, run.config.seed, options)
        if reason:
            logger.line(reason)
        else:
            write_report(run.folder)
    written = {"checkpoint": files.checkpoint, "report": report}
    written |= {name: p for name, p in (("best", files.best), ("video", video)) if p.exists()}
    for name, path in written.items():
        logger.line(f"{name:11s}{path}")
    if run.finished:
        words = shlex.join([str(files.checkpoint), *env_options(run.config.env)])
        logger.line(f"next       python -m dime_robot.evaluate {words}")
    else:
        logger.line(f"stopped at step {run.step:,} of {run.config.steps:,}")
        logger.line(f"next       {_resume_command(files, arguments)}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="gymnasium")  # e.g. "out of date"
    run_command(main)
