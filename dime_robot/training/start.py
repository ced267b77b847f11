"""Start a new run, one from a checkpoint's networks, or resume a run folder."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from dime_robot.learning.config import FREE, TrainConfig, option, option_words
from dime_robot.runtime.contract.config_diff import differences
from dime_robot.runtime.contract.config_files import read_yaml
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.env_name import require_file_may_name
from dime_robot.sim.tasks.digest import require_recorded_task
from dime_robot.training import checkpoint
from dime_robot.training.checkpoint import Checkpoint
from dime_robot.training.lineage import Origin
from dime_robot.training.privileged import total
from dime_robot.training.provenance import TASK
from dime_robot.training.rollouts import RolloutMaker
from dime_robot.training.run import TrainingRun
from dime_robot.training.run_folder import RunFolder
from dime_robot.training.run_lock import RunLock
from dime_robot.training.run_request import RunRequest

DEVICES = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")


def resumed_config(files: RunFolder, env: str | None) -> tuple[TrainConfig, TrainConfig]:
    """Return the settings with which a run folder is resumed, and those of its checkpoint.

    A change in its config.yaml has the effect of an option; a command-line option takes precedence.

    Args:
        files: of the run.
        env: the environment that the user named, if any.

    Raises:
        InputError: no usable run, a setting that cannot change in a run, or an environment that a
            file must not choose.
    """
    saved = checkpoint.load(files.checkpoint).config
    config = _with_written(files.config, saved)
    require_resumable(config, saved.model_copy(update={"env": config.env}), str(files.config))
    if env is None:
        require_file_may_name(config.env, files.checkpoint)
    named = {"env": env or config.env}
    return config.model_copy(update=named), saved.model_copy(update=named)


def _with_written(path: Path, saved: TrainConfig) -> TrainConfig:
    """Return the settings, overridden by the run's config.yaml, if it exists."""
    if not path.exists():
        return saved
    content = read_yaml(path)  # it extends no other file, which a run folder may not choose
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of settings, got {content!r:.40}")
    try:
        return TrainConfig.model_validate({**saved.model_dump(), **content})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def require_resumable(config: TrainConfig, saved: TrainConfig, source: str = "") -> None:
    """Refuse every changed setting except a larger number of steps and those without effect."""
    for name, wanted, had in differences(config, saved):
        if name in FREE or (name == "steps" and config.steps > saved.steps):
            continue
        where = f"{source}: {name}" if source else option(name)
        hint = "a larger one" if name == "steps" else f"{had}, or a new run"
        raise InputError(f"{where} {wanted}: the resumed run has {had}; expected {hint}")


def choose_device(name: str) -> torch.device:
    """Return the device of a name; `auto` is the GPU if there is one.

    Raises:
        InputError: another kind of device, or one that this machine does not have.
    """
    if not DEVICES.fullmatch(name):
        raise InputError(f"--device {name:.60}: expected auto, cpu, cuda or cuda:N, N from 0")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: not available here ({reason}); try auto") from None
    return device


def require_compiler(device: torch.device) -> None:
    """Refuse `--compile` without a C++ compiler, before anything is started."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"--compile: needs the C++ compiler {compiler}, which is not installed (Debian: apt"
            f" install g++); without --compile the run works on {device} as it is"
        )


def _check_init(state: Checkpoint, run: TrainingRun) -> None:
    """Refuse networks of another contract, sampler or atoms."""
    path, ours = state.path, run.config
    for name in ("observation", "action"):
        if getattr(state.spec, name) != getattr(run.spec, name):
            raise InputError(
                f"--init {path}: its policy's {name} terms differ from those of {ours.env}"
            )
    if state.config.normalize_observations != ours.normalize_observations:
        had = state.config.normalize_observations
        (given,) = option_words({"normalize_observations": had})
        raise InputError(
            f"--init {path}: it was trained {'with' if had else 'without'} statistics of its"
            f" observations, as its first layer expects; give {given}, or train it again"
        )
    for name in ("diffusion_steps", "v_min", "v_max", "atoms", "reward_scale"):
        had, wanted = getattr(state.config, name), getattr(ours, name)
        if had != wanted:
            why = "" if name == "diffusion_steps" else ": its critics would mean other returns"
            raise InputError(
                f"--init {path}: it was trained with {option(name)} {had}, this run has"
                f" {wanted}{why}; give {option(name)} {had}, or train it again with"
                f" {option(name)} {wanted}"
            )


def _critics_fit(state: Checkpoint, run: TrainingRun) -> bool:
    """Whether a checkpoint's critics see what this run's do; if not, print a note."""
    had, now = state.record.privileged, run.privileged
    if had == now:
        return True
    print(
        f"note: --init {state.path}: its critics see other privileged values ({total(had)} numbers)"
        f" than those of this run ({total(now)}): its actor and temperature are taken, the critics"
        " start anew; --actor-start N keeps the actor as it is until they have learned",
        file=sys.stderr,
    )
    return False


def start_run(
    request: RunRequest, device: torch.device, rollouts: RolloutMaker | None = None
) -> TrainingRun:
    """Build a new or resumed run, with its folder made and locked.

    Args:
        request: what to run.
        device: of the learner.
        rollouts: makes what gives the transitions of a run with `ray`.

    Raises:
        InputError: settings, an environment or a folder that cannot be used.
    """
    if request.config.compile:
        require_compiler(device)
    if request.resume is not None:
        with _locked(RunFolder(request.resume)) as lock:
            return _resumed(request, device, lock, rollouts)
    files = RunFolder.for_new_run(request.out, request.config)
    with _locked(files) as lock:
        RunFolder.for_new_run(files.path, request.config)  # check that no other process took it
        return _begun(request, device, lock, rollouts)


@contextmanager
def _locked(files: RunFolder) -> Iterator[RunLock]:
    """Lock a folder; release it if the run cannot be built."""
    lock = RunLock(files)
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def _resumed(
    request: RunRequest, device: torch.device, lock: RunLock, rollouts: RolloutMaker | None
) -> TrainingRun:
    config, folder = request.config, lock.files.path
    state = checkpoint.load(lock.files.checkpoint)
    if request.config_file is not None:  # before its own terms are imported
        require_recorded_task(
            request.config_file, state.record.provenance.get(TASK), lock.files.checkpoint
        )
    run = TrainingRun(config, folder, device, lock=lock, env=request.env, rollouts=rollouts)
    with _closed_on_error(run):
        if state.spec != run.spec:
            raise InputError(
                f"--resume {folder}: its contract ({state.spec.name}) is not that of"
                f" {config.env} ({run.spec.name}); expected an environment of the same contract"
            )
        run.load(state)
        moved = run.env_since == run.step > 0
        if moved and run.step >= config.steps:
            raise InputError(f"--env {config.env}: expected --steps above {run.step:,} with it")
        run.write_config()
        if moved:
            run.save()  # so that a killed run resumes in the new environment
    return run


@contextmanager
def _closed_on_error(run: TrainingRun) -> Iterator[None]:
    """Leave no environment and no worker of a run that cannot begin."""
    try:
        yield
    except BaseException:
        run.close()
        raise


def _begun(
    request: RunRequest, device: torch.device, lock: RunLock, rollouts: RolloutMaker | None
) -> TrainingRun:
    state = None if request.init is None else checkpoint.load(request.init)
    origin = None if state is None else Origin(state.record.lineage, state.digest)
    folder = lock.files.path
    run = TrainingRun(
        request.config, folder, device, origin, lock=lock, env=request.env, rollouts=rollouts
    )
    with _closed_on_error(run):
        if state is not None:
            _check_init(state, run)
            try:
                run.agent.load_weights(state.learner, critics=_critics_fit(state, run))
            except InputError as error:
                raise InputError(f"--init {request.init}: {error}") from None
        run.create_folder()
    return run
