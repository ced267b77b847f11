"""Checkpoints: one file with a digest, replaced as a whole, and unable to run code.

A file of version 2 is the output of `torch.save` for

    {"format", "version", "record": JSON of `Record`, "tensors": those of the learner}

followed by a seal (`runtime/io/sealed_files.py`); `torch.load` reads it too. Files of version 1
have neither seal nor record and are still read.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import torch
from pydantic import ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from dime_robot.learning.config import TrainConfig
from dime_robot.learning.learner_state import LearnerState, require_alike
from dime_robot.learning.networks import Actor, make_actor
from dime_robot.learning.replay_file import ReplayRecord, row_sizes
from dime_robot.runtime.contract.policy_spec import PolicySpec, StrictModel
from dime_robot.runtime.io.errors import InputError, first_problem
from dime_robot.runtime.io.regular_files import RUN_AGAIN, write_atomically
from dime_robot.runtime.io.sealed_files import check_seal, seal_of
from dime_robot.runtime.io.untrusted_files import read_bytes
from dime_robot.runtime.policy.noise import NoiseMode
from dime_robot.training.curriculum import CurriculumState
from dime_robot.training.episode import OpenEpisode
from dime_robot.training.lineage import Lineage
from dime_robot.training.privileged import PrivilegedTerms
from dime_robot.training.run_folder import RunFolder

FORMAT, VERSION = "dime_robot checkpoint", 2
_MAX_BYTES = 16 << 30
_MAX_PICKLE_BYTES = 32 << 20  # of the part that describes the structure of the tensors
_warned: set[Path] = set()


class FinalEvaluation(StrictModel):
    """A final evaluation in one noise mode; further entries are the task's metrics."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    return_mean: float
    return_std: float = Field(ge=0)
    return_iqm: float
    interval_95: tuple[float, float] = Field(description="of the mean return")
    episodes: int = Field(gt=0)
    success_rate: float | None
    action_rate: float
    survival: float = Field(ge=0, le=1)
    effort_peak: float | None


class PostMortem(StrictModel):
    """The reason why a run stopped at a NaN, and its metrics at that time."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="constants")

    reason: str
    metrics: dict[str, float]


class Record(StrictModel):
    """Everything in a checkpoint that is not a tensor."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # metrics of a post-mortem

    lineage: Lineage = Field(min_length=1, description="oldest first; the last is this run's own")
    spec: PolicySpec
    step: int = Field(ge=0, lt=2**53)
    episodes: tuple[OpenEpisode, ...] = Field(
        description="the episode under way in each environment; with Ray none is known"
    )
    restarts: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        (), max_length=4096, description="how often each worker of a run with Ray has begun"
    )
    updates: int = Field(ge=0, lt=2**53, description="critic updates done")
    best_mean: float | None = Field(description="highest mean return in this environment so far")
    replay: ReplayRecord
    curriculum: CurriculumState | None = Field(None, description="none: there are no levels")
    privileged: PrivilegedTerms = Field(
        (), max_length=1000, description="what only the critics see; empty: nothing"
    )
    wall_seconds: float = Field(ge=0)
    final: dict[NoiseMode, FinalEvaluation]
    provenance: dict[str, str] = Field(description="commit, versions, machine")
    post_mortem: PostMortem | None = None

    @property
    def config(self) -> TrainConfig:
        """The settings of the run."""
        return self.lineage[-1].config

    @model_validator(mode="before")
    @classmethod
    def _of_one_environment(cls, given: Any) -> Any:
        """Read the record of a run from before several environments could step side by side."""
        old = {"episode": "number", "episode_step": "steps", "episode_return": "total"}
        if not isinstance(given, dict) or not old.keys() <= given.keys():
            return given
        rest = {name: value for name, value in given.items() if name not in old}
        return {**rest, "episodes": [{new: given[name] for name, new in old.items()}]}

    @model_validator(mode="after")
    def _counters_agree(self) -> Record:
        own = self.lineage[-1]
        bounds = {
            "episodes.number": max((episode.number for episode in self.episodes), default=0),
            "episodes.steps": max((episode.steps for episode in self.episodes), default=0),
            "replay.added": self.replay.added,
            "lineage.until": own.until,
            "lineage.since": own.since,
        }
        for name, value in bounds.items():
            if value > self.step:
                raise ValueError(f"{name}: expected at most step {self.step}, got {value}")
        largest = self.step * self.config.update_to_data
        if self.updates > largest:
            raise ValueError(
                f"updates: expected at most {largest:g} at step {self.step}, got {self.updates}"
            )
        if self.config.ray:
            if self.episodes:
                raise ValueError(f"episodes: expected none with ray, got {len(self.episodes)}")
        elif len(self.episodes) != self.config.num_envs:
            raise ValueError(
                f"episodes: expected one for each of {self.config.num_envs} environments"
                f" (num_envs), got {len(self.episodes)}"
            )
        if bool(self.privileged) != self.config.asymmetric_critic:
            raise ValueError(
                "privileged: expected terms if and only if asymmetric_critic is set, got"
                f" {len(self.privileged)} with {self.config.asymmetric_critic}"
            )
        return self


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read."""

    path: Path
    record: Record
    learner: LearnerState
    digest: str  # SHA-256 of the whole file, as sha256sum prints it

    @property
    def config(self) -> TrainConfig:
        """The settings of the run."""
        return self.record.config

    @property
    def spec(self) -> PolicySpec:
        """The contract."""
        return self.record.spec


def save(path: Path, record: Record, learner: LearnerState) -> None:
    """Write a checkpoint, after its bytes have been read back.

    Raises:
        InputError: the disk is full, or the written bytes could not be read back; `path` is
            unchanged.
    """
    buffer = io.BytesIO()  # so that a full disk is an OSError and not a partial file
    content = {"format": FORMAT, "version": VERSION, "record": record.model_dump_json()}
    torch.save({**content, "tensors": learner.tensors()}, buffer)
    payload = buffer.getbuffer()
    _contents(path, payload, sealed=True)

    def write(file: BinaryIO) -> None:
        file.write(payload)
        file.flush()
        with ThreadPoolExecutor(max_workers=1) as pool:  # hash while the disk writes
            digest = pool.submit(hashlib.sha256, payload)
            os.fsync(file.fileno())
            file.write(seal_of(digest.result().hexdigest()))

    write_atomically(path, write, RUN_AGAIN)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Values of tensors are not checked here: `DIME.load_state_dict` and `load_actor` do that.

    Raises:
        InputError: missing, truncated, changed, of another version, or not a checkpoint.
    """
    content = _read(path)
    found = check_seal(path, io.BytesIO(content))
    record, learner = _contents(path, memoryview(content)[: found.payload], sealed=found.sealed)
    return Checkpoint(path, record, learner, found.digest)


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(
            f"{path}: expected a checkpoint file, got a folder: {RunFolder(path).checkpoint}?"
        )
    if not path.exists():
        raise InputError(f"{path}: expected a checkpoint (ckpt.pt), got no such file")
    return read_bytes(path, "a checkpoint", _MAX_BYTES)


def _contents(path: Path, payload: memoryview, *, sealed: bool) -> tuple[Record, LearnerState]:
    """Read record and tensors from a payload; `sealed`: whether it has a digest."""
    content = _unpickled(path, payload)
    found = content.get("format") if isinstance(content, dict) else None
    if not isinstance(found, str) or found != FORMAT:
        raise InputError(f"{path}: expected a dime_robot checkpoint, got another torch file")
    version = content.get("version")
    if type(version) is not int or version not in (1, VERSION):
        raise InputError(
            f"{path}: expected a checkpoint of version 1 or {VERSION}, got {version!r:.40}; use the"
            " dime_robot release that wrote it"
        )
    try:
        if version == 1:
            if sealed:
                raise InputError("version 1 has no digest")
            record, tensors = _migrated(content)
            _warn_once(path)
        else:
            if not sealed:
                raise InputError("its digest is missing (truncated, or something else)")
            if content.keys() != {"format", "version", "record", "tensors"}:
                raise InputError(f"expected record and tensors, got {sorted(map(str, content))}")
            record, tensors = content["record"], content["tensors"]
        if not isinstance(record, str):
            raise InputError("record: expected JSON text")
        parsed = Record.model_validate_json(record)
        if version > 1 and (
            parsed.replay.version == 1 or len(parsed.replay.digests) != len(parsed.replay.chunks())
        ):
            raise InputError("replay: expected a digest for every chunk")
        return parsed, LearnerState.of(tensors, parsed.updates)
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None
    except InputError as error:
        raise InputError(f"{path}: expected a dime_robot checkpoint: {error}") from None


def _unpickled(path: Path, payload: memoryview) -> Any:
    """Unpickle torch's output, after a check that it needs no more memory than the file's size."""
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            entries = archive.infolist()
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            size = sum(entry.file_size for entry in entries)
            pickles = [e.file_size for e in entries if e.filename.endswith("/data.pkl")]
            if not stored or size > len(payload) or max(pickles, default=0) > _MAX_PICKLE_BYTES:
                raise ValueError("it would grow when it is unpacked")
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception:  # torch can raise anything for a damaged archive or pickle
        raise InputError(
            f"{path}: expected a dime_robot checkpoint, got a file that cannot be read as one"
            " (truncated, or something else); copy it again or use another"
        ) from None


def _warn_once(path: Path) -> None:
    if path not in _warned:
        _warned.add(path)
        print(
            f"note: {path} is from an earlier release: its bytes carry no digest, and --init and"
            " earlier environments were not recorded",
            file=sys.stderr,
        )


def load_actor(path: Path) -> tuple[Actor, Checkpoint]:
    """Load the policy of a checkpoint onto the CPU.

    Raises:
        InputError: as `load`; or its networks do not match its settings, or contain NaN.
    """
    loaded = load(path)
    config, spec = loaded.config, loaded.spec
    width, layers = config.actor_width, config.actor_depth
    min_bytes = 4 * width * (spec.n_obs + (layers - 1) * width)
    if min_bytes > path.stat().st_size:  # a file must not require more memory than its size
        raise InputError(
            f"{path}: its networks are not those its settings say: actor_width {width} and"
            f" actor_depth {layers} need {min_bytes / 1e6:.1f} MB at least"
        )
    if config.threads:
        torch.set_num_threads(config.threads)
    actor = make_actor(spec, config)
    try:
        require_alike("actor", loaded.learner.actor, actor.state_dict())
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    actor.load_state_dict(loaded.learner.actor)
    return actor, loaded


# -- version 1 -----------------------------------------------------------------------------------

_V1_KEYS = frozenset(
    {"format", "version", "actor", "critic", "log_alpha", "actor_optimizer", "critic_optimizer"}
    | {"temperature_optimizer", "generator", "updates", "config", "spec", "step", "episode"}
    | {"episode_step", "episode_return", "replay_added", "wall_seconds", "final", "provenance"}
)
_V1_PLAIN = (
    *("step", "episode", "episode_step", "episode_return", "updates"),
    *("wall_seconds", "final", "provenance"),
)
_V1_OPTIONAL = frozenset({"env_since", "best_mean", "reason", "metrics"})


def _migrated(old: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Make record (JSON) and tensors from the flat dictionary of version 1."""
    missing, unknown = _V1_KEYS - old.keys(), old.keys() - _V1_KEYS - _V1_OPTIONAL
    if missing or unknown:
        raise InputError(
            f"expected the entries of version 1, missing {sorted(missing)}, unknown"
            f" {sorted(map(str, unknown))}"
        )
    optimizers = {}
    for name in ("actor", "critic", "temperature"):
        state = old[f"{name}_optimizer"]
        if not isinstance(state, dict):
            raise InputError(f"{name}_optimizer: expected a dictionary")
        optimizers[name] = state.get("state")
    tensors = {name: old[name] for name in ("actor", "critic", "log_alpha", "generator")}
    config, added = _plain(old["config"]), old["replay_added"]
    spec = PolicySpec.model_validate_json(old["spec"] if isinstance(old["spec"], str) else "")
    settings = TrainConfig.model_validate(config)
    if not isinstance(added, int):
        raise InputError(f"replay_added: expected a number, got {added!r:.40}")
    replay = RunFolder(Path()).replay.name
    kept = {"version": 1, "file": replay, "run": "0" * 32, "added": added}
    sizes = {
        "width": sum(row_sizes(spec.n_obs, spec.n_act)),
        "ring": settings.buffer_size + settings.checkpoint_interval,
        "first": max(0, added - settings.buffer_size),
    }
    best = _plain(old.get("best_mean", float("-inf")))
    stage = {
        "begins": "unknown",
        "since": _plain(old.get("env_since", 0)),
        "until": _plain(old["step"]),
        "config": config,
    }
    record: dict[str, Any] = {name: _plain(old[name]) for name in _V1_PLAIN}
    record |= {
        "lineage": [stage],
        "spec": spec,
        "best_mean": None if best == float("-inf") else best,
        "replay": {**kept, **sizes},
    }
    if "reason" in old:
        record["post_mortem"] = {
            "reason": _plain(old["reason"]),
            "metrics": _plain(old.get("metrics")),
        }
    return Record.model_validate(record).model_dump_json(), {**tensors, "optimizers": optimizers}


def _plain(value: Any) -> Any:
    """Refuse everything but plain data, at any depth that a version 1 file has."""

    def check(node: Any, depth: int) -> None:
        if depth > 4:
            raise InputError("expected settings and results, got nested data")
        if isinstance(node, dict):
            for key, item in node.items():
                check(key, depth + 1)
                check(item, depth + 1)
        elif isinstance(node, (list, tuple)):
            for item in node:
                check(item, depth + 1)
        elif isinstance(node, Tensor) or not isinstance(node, (str, int, float, bool, type(None))):
            raise InputError(f"expected plain values, got {type(node).__name__}")

    check(value, 0)
    return value
