"""Begin a new run, one from a checkpoint's networks, or go on with a run folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from dime_robot.learning.config import TrainConfig, differences
from dime_robot.runtime.contract.config_files import read_config
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.env_name import require_file_may_name
from dime_robot.training import checkpoint
from dime_robot.training.checkpoint import Checkpoint
from dime_robot.training.lineage import Origin
from dime_robot.training.run import TrainingRun
from dime_robot.training.run_lock import LOCK, RunLock
from dime_robot.training.run_request import RunRequest


def run_folder(path: Path) -> Path:
    """The run that `--resume` names, by its folder or its ckpt.pt.

    Raises:
        InputError: another file, which no run goes on from.
    """
    if path.name == "ckpt.pt":
        return path.parent
    if path.suffix == ".pt" and not path.is_dir():
        raise InputError(
            f"--resume {path}: a run goes on from its ckpt.pt: --resume {path.parent}; to start a"
            f" new one from this file use --init {path}"
        )
    return path


def resumed_config(folder: Path, env: str | None) -> tuple[TrainConfig, TrainConfig]:
    """The settings that a run folder goes on with, and those of its checkpoint.

    What was changed in its config.yaml since counts like an option; a real option goes before it.

    Args:
        folder: the run folder.
        env: the environment that the user named, if any.

    Raises:
        InputError: no usable run, a change that a run cannot take, or an environment that a file
            must not choose.
    """
    path = folder / "ckpt.pt"
    saved = checkpoint.load(path).config
    config = _with_written(folder / "config.yaml", saved)
    require_resumable(config, saved.model_copy(update={"env": config.env}), f"{folder}/config.yaml")
    if env is None:
        require_file_may_name(config.env, path)
    named = {"env": env or config.env}
    return config.model_copy(update=named), saved.model_copy(update=named)


def _with_written(path: Path, saved: TrainConfig) -> TrainConfig:
    """The settings with what stands in a run's config.yaml, if it is there."""
    if not path.exists():
        return saved
    content = read_config(path)
    try:
        return TrainConfig.model_validate({**saved.model_dump(), **content})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def require_resumable(config: TrainConfig, saved: TrainConfig, source: str = "") -> None:
    """Only the number of steps may change, and only grow."""
    for name, (asked, had) in differences(config, saved).items():
        if name == "steps" and asked > had:
            continue
        where = f"{source}: {name}" if source else "--" + name.replace("_", "-")
        hint = "a larger one" if name == "steps" else f"{had}, or a new run"
        raise InputError(f"{where} {asked}: the resumed run has {had}; expected {hint}")


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: not to be had here ({reason}); try auto") from None
    return device


def new_folder(out: Path | None, config: TrainConfig) -> Path:
    """The run folder: `out`, or a free name under runs/.

    Raises:
        InputError: `out` already holds something.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or any(path.name != LOCK for path in out.iterdir())):
            raise InputError(
                f"--out {out}: expected a new or empty folder; to go on with the run in it use"
                f" --resume {out}"
            )
        return out
    name = f"{config.env.replace(':', '-').replace('/', '-')}-{config.preset}-seed{config.seed}"
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder


def require_compiler(device: torch.device) -> None:
    """`--compile` needs a C++ compiler; say so before anything is started."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"--compile: needs the C++ compiler {compiler}, which is not installed (Debian: apt"
            f" install g++); without --compile the run works on {device} as it is"
        )


def _check_init(state: Checkpoint, run: TrainingRun) -> None:
    """The networks may only go on under the same contract, sampler and atoms."""
    path, ours = state.path, run.config
    for name in ("observation", "action"):
        if getattr(state.spec, name) != getattr(run.spec, name):
            raise InputError(
                f"--init {path}: its policy's {name} terms differ from those of {ours.env}"
            )
    for name in ("diffusion_steps", "v_min", "v_max", "atoms", "reward_scale"):
        had, asked = getattr(state.config, name), getattr(ours, name)
        if had != asked:
            option = "--" + name.replace("_", "-")
            why = "" if name == "diffusion_steps" else ": its critics would mean other returns"
            raise InputError(
                f"--init {path}: it was trained with {option} {had}, this run has {asked}{why};"
                f" give {option} {had}, or train it again with {option} {asked}"
            )


def start_run(request: RunRequest, device: torch.device) -> TrainingRun:
    """Build a new run or the resumed one, its folder in place and locked."""
    if request.config.compile:
        require_compiler(device)
    if request.resume is not None:
        with _locked(request.resume) as lock:
            return _resumed(request, device, lock)
    folder = new_folder(request.out, request.config)
    with _locked(folder) as lock:
        new_folder(folder, request.config)  # nobody was faster
        return _begun(request, folder, device, lock)


@contextmanager
def _locked(folder: Path) -> Iterator[RunLock]:
    """A lock that is given back where the run cannot be built."""
    lock = RunLock(folder)
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def _resumed(request: RunRequest, device: torch.device, lock: RunLock) -> TrainingRun:
    config, folder = request.config, lock.folder
    run = TrainingRun(config, folder, device, lock=lock)
    state = checkpoint.load(run.checkpoint_path)
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
        run.save()  # a kill must not send it back to the environment before
    return run


def _begun(request: RunRequest, folder: Path, device: torch.device, lock: RunLock) -> TrainingRun:
    if request.init is None:
        run = TrainingRun(request.config, folder, device, lock=lock)
    else:
        state = checkpoint.load(request.init)
        origin = Origin(state.record.lineage, state.digest)
        run = TrainingRun(request.config, folder, device, origin, lock=lock)
        _check_init(state, run)
        try:
            run.agent.load_weights(state.learner)
        except InputError as error:
            raise InputError(f"--init {request.init}: {error}") from None
    run.create_folder()
    return run
