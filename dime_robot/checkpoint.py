"""Checkpoints: one versioned file, replaced atomically, loaded without running code from it."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from dime_robot.learning.config import TrainConfig
from dime_robot.learning.networks import Actor, make_actor
from dime_robot.runtime.errors import InputError, first_problem
from dime_robot.runtime.files import RUN_AGAIN, write_atomically
from dime_robot.runtime.spec import PolicySpec

FORMAT = "dime_robot checkpoint"
VERSION = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint.

    `state` holds tensors, numbers, strings, lists and dicts only; see `TrainingRun.state` for
    its keys.
    """
    buffer = io.BytesIO()  # so that a full disk is an OSError and not half a file
    torch.save({"format": FORMAT, "version": VERSION, **state}, buffer)
    write_atomically(path, buffer.getvalue(), RUN_AGAIN)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        InputError: missing, truncated, of another version, or no checkpoint of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: expected a checkpoint (ckpt.pt), got no such file") from None
    except IsADirectoryError:
        raise InputError(
            f"{path}: expected a checkpoint file, got a folder: {path / 'ckpt.pt'}?"
        ) from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError):
        raise InputError(
            f"{path}: expected a dime_robot checkpoint, got a file that cannot be read as one"
            " (truncated, or something else); copy it again or use another"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: expected a dime_robot checkpoint, got another torch file")
    if state["version"] != VERSION:
        raise InputError(
            f"{path}: expected checkpoint version {VERSION}, got {state['version']}; use the"
            " dime_robot release that wrote it"
        )
    return state


def config_of(state: dict[str, Any], path: Path) -> TrainConfig:
    """The training configuration inside a checkpoint."""
    try:
        return TrainConfig.model_validate(state["config"])
    except InputError as error:
        raise InputError(f"{path}: config: {error}") from None


def spec_in(state: dict[str, Any], path: Path) -> PolicySpec:
    """The contract inside a checkpoint."""
    try:
        return PolicySpec.model_validate_json(state["spec"])
    except ValidationError as error:
        raise InputError(f"{path}: spec: {first_problem(error)}") from None


def load_actor(path: Path) -> tuple[Actor, PolicySpec, TrainConfig, dict[str, Any]]:
    """The policy of a checkpoint, on the CPU: network, contract, configuration, whole state.

    Raises:
        InputError: as `load`.
    """
    state = load(path)
    config, spec = config_of(state, path), spec_in(state, path)
    if config.threads:
        torch.set_num_threads(config.threads)
    actor = make_actor(spec, config)
    try:
        actor.load_state_dict(state["actor"])
    except RuntimeError as error:
        what = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: its networks are not those its settings say: {what}") from None
    return actor, spec, config, state
