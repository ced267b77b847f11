"""FlightRecorder: the last 30 s of a robot, step by step, for the morning after."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from dime_robot.runtime.contract.names import Name
from dime_robot.runtime.contract.policy_spec import FloatArray, StrictModel
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.control.state import RobotState
from dime_robot.runtime.io.errors import InputError, first_problem
from dime_robot.runtime.io.npz_files import MAX_META, parse_text, read_npz, write_npz
from dime_robot.runtime.policy.onnx_policy import Policy

SECONDS = 30.0
LARGEST = 200 * 2**20  # bytes a recording may take in memory
MOST_WRITERS = 2  # recordings being written, each of which is a copy in memory
KEPT_FILES = 20  # older recordings of ours in the same folder are removed
_FAULTS = tuple(Fault)
_BIT = {reason: 1 << i for i, reason in enumerate(_FAULTS)}


def record_type(n_joints: int, n_obs: int, noise: tuple[int, ...], n_act: int) -> np.dtype:
    """The type of one step in a recording.

    Args:
        n_joints: of the policy's contract.
        n_obs: length of its observation.
        noise: shape of what it draws for one action.
        n_act: length of its action.
    """
    return np.dtype(
        [
            ("time", "f8"),  # steady [s]
            ("stamp", "f8"),  # on the robot's clock [s]
            ("joint_position", "f8", (n_joints,)),
            ("joint_velocity", "f8", (n_joints,)),
            ("orientation", "f8", (4,)),
            ("angular_velocity", "f8", (3,)),
            ("command_velocity", "f8", (3,)),
            ("inferred", "?"),  # was the policy asked? else the next three are NaN
            ("observation", "f4", (n_obs,)),
            ("noise", "f4", noise),
            ("action", "f4", (n_act,)),
            ("command", "f8", (n_act,)),
            ("rung", "u1"),
            ("reasons", "u8"),  # one bit per Fault, in their order
        ]
    )


RECORD_FIELDS: tuple[str, ...] = record_type(1, 1, (1,), 1).names or ()


class Dump:
    """A recording that is being written in the background."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = False
        self.error = ""  # why it could not be written; empty: it is there once done


class FlightRecorder:
    """A ring of records, allocated once; `dump` writes it as one `.npz` file.

    Args:
        policy: recorded with its contract and digest.
        robot: the machine.
        seconds: how far back it remembers.
    """

    def __init__(self, policy: Policy, robot: RobotConfig, seconds: float = SECONDS) -> None:
        spec, noise = policy.spec, policy.noise.values[0]
        n_joints, n_act = len(spec.joints), spec.n_act
        record = record_type(n_joints, spec.n_obs, noise.shape, n_act)
        capacity = min(round(seconds * spec.rate), LARGEST // record.itemsize)
        self._ring = np.zeros(max(2, capacity), dtype=record)
        self._ring.view(np.uint8)[:] = 0  # the pages come now, not one by one while it runs
        self._noise = policy.noise
        self._count = 0
        self._writers: list[threading.Thread] = []
        self.meta: dict[str, Any] = {
            "node": "",  # fully qualified, where a node records
            "spec": spec.model_dump(mode="json"),
            "robot": robot.model_dump(mode="json"),
            "policy_digest": policy.file.policy_digest,
            "command_joints": list(spec.action_joints),
            "reasons": [reason.value for reason in _FAULTS],
        }

    def add(
        self,
        now: float,
        state: RobotState | None,
        observation: FloatArray | None,
        action: FloatArray,
        decision: Decision,
    ) -> None:
        """Remember a step.

        Args:
            now: steady time [s].
            state: the reading of this step.
            observation: what the policy saw, shape (n_obs,); None: it was not asked.
            action: shape (n_act,).
            decision: what was sent, and why.
        """
        row = self._ring[self._count % len(self._ring)]
        row["time"] = now
        if state is None:
            row["stamp"] = row["joint_position"] = row["joint_velocity"] = np.nan
        else:
            row["stamp"] = state.stamp
            row["joint_position"], row["joint_velocity"] = (
                state.joint_position,
                state.joint_velocity,
            )
        for name in ("orientation", "angular_velocity", "command_velocity"):
            value = getattr(state, name, None)
            row[name] = np.nan if value is None else value
        row["inferred"] = observation is not None
        if observation is None:
            row["observation"] = row["noise"] = row["action"] = np.nan
        else:
            row["observation"], row["action"] = observation, action
            row["noise"] = self._noise.values[0]
        row["command"] = decision.command.value
        row["rung"] = decision.level
        row["reasons"] = sum(_BIT[reason] for reason in set(decision.reasons))
        self._count += 1

    def records(self) -> np.ndarray:
        """A copy, oldest first."""
        size = len(self._ring)
        if self._count <= size:
            return self._ring[: self._count].copy()
        return np.roll(self._ring, -(self._count % size))

    def dump(self, folder: Path, why: str) -> Dump:
        """Begin to write the recording in the background; gives what becomes of it.

        Args:
            folder: where to; made if it is missing.
            why: part of the file's name.
        """
        now = time.time_ns()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now // 10**9))
        node = str(self.meta["node"]).strip("/").replace("/", ".")
        who = f"{node}-" if node else ""
        dump = Dump(folder / f"flight-{stamp}-{now // 1000 % 10**6:06d}-{who}{why}.npz")
        waiting = [writer for writer in self._writers if writer.is_alive()]
        if len(waiting) >= MOST_WRITERS:
            dump.error, dump.done = "two recordings are being written already", True
        elif not self._count:
            dump.error, dump.done = "nothing is recorded yet", True
        if dump.done:
            return dump
        writer = threading.Thread(
            target=_write,
            args=(dump, self.records(), {**self.meta, "why": why}, waiting, f"flight-*-{who}*.npz"),
            name="flight recorder",
        )
        self._writers = [*waiting, writer]
        writer.start()
        return dump

    def wait(self, timeout: float) -> None:
        """Let a dump that is under way finish.

        Args:
            timeout: at most so long [s].
        """
        for writer in self._writers:
            writer.join(timeout)


def _write(
    dump: Dump,
    records: np.ndarray,
    meta: dict[str, Any],
    before: list[threading.Thread],
    siblings: str,
) -> None:
    with suppress(OSError, AttributeError):  # not with the priority of the control loop
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    for writer in before:
        writer.join()
    text, path = np.array(json.dumps(meta)), dump.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npz(
            path,
            {"records": records, "meta": text},
            "make room or name another folder with -p recordings:=FOLDER",
        )
        # a clock that went back makes the newest look oldest: never that one
        others = sorted(other for other in path.parent.glob(siblings) if other != path)
        for old in others[: -(KEPT_FILES - 1)]:
            old.unlink(missing_ok=True)
    except InputError as error:  # a full disc must not hurt the robot
        dump.error = str(error)
    except OSError as error:
        dump.error = f"{path}: {error.strerror}"
    except Exception as error:  # whatever it is, somebody waits for the answer
        dump.error = f"{path}: {error}"
    dump.done = True


class RecordingMeta(StrictModel):
    """What a recording says of itself. `spec` and `robot` are kept as they were written."""

    node: str = ""  # fully qualified name; recordings of earlier versions have none
    spec: dict[str, Any]
    robot: dict[str, Any]
    policy_digest: Name
    command_joints: tuple[Name, ...]
    reasons: tuple[Name, ...] = Field(max_length=64, description="by the bits of a record")
    why: Name


@dataclass(frozen=True)
class Recording:
    """What `dump` wrote."""

    records: np.ndarray
    meta: dict[str, Any]

    def reasons(self, row: int) -> list[str]:
        """Reasons of one step."""
        bits = int(self.records["reasons"][row])
        return [name for i, name in enumerate(self.meta["reasons"]) if bits >> i & 1]

    @property
    def faults(self) -> list[tuple[int, SafetyLevel, list[str]]]:
        """Rows at which the answer rose to hold or above: (row, level, reasons)."""
        levels = self.records["rung"].astype(int)
        rises = np.flatnonzero((np.diff(levels, prepend=0) > 0) & (levels >= SafetyLevel.HOLD))
        return [(int(i), SafetyLevel(int(levels[i])), self.reasons(int(i))) for i in rises]


def read_recording(path: Path) -> Recording:
    """Read a `.npz` file of the flight recorder.

    Args:
        path: a regular file; its sizes are checked before it is unpacked.

    Raises:
        InputError: it is none, or a value in it that no recording has.
    """
    expected = "a recording of the flight recorder"
    arrays = read_npz(path, {"records": LARGEST, "meta": MAX_META}, expected)
    try:
        meta = parse_text(arrays["meta"])
        RecordingMeta.model_validate(meta)
        _require_records(arrays["records"], len(meta["reasons"]))
    except ValidationError as error:
        raise InputError(f"{path}: expected {expected}, meta: {first_problem(error)}") from None
    except ValueError as error:
        raise InputError(f"{path}: expected {expected}, {error!s:.300}") from None
    return Recording(arrays["records"], meta)


def _require_records(records: np.ndarray, reasons: int) -> None:
    """Refuse what `add` cannot have written.

    Args:
        records: as they were read.
        reasons: how many the recording names.

    Raises:
        ValueError: other fields, no record, or a value out of its range.
    """
    dtype = records.dtype
    if dtype.names is None or records.ndim != 1:
        raise ValueError("no records in it")
    fields = [field for field in RECORD_FIELDS if field not in dtype.names]
    if fields:
        raise ValueError(f"its records lack the fields {fields}")
    shapes = [dtype[field].shape for field in ("joint_position", "observation", "noise", "action")]
    (joints, observation, noise, action) = shapes
    if not all(len(shape) == 1 for shape in (joints, observation, action)) or (
        dtype != record_type(joints[0], observation[0], noise, action[0])
    ):
        raise ValueError("its records have fields of other types or sizes")
    if not len(records):
        raise ValueError("it holds no record")
    if not np.isfinite(records["time"]).all():
        raise ValueError("its field time holds a number that is not finite")
    if (records["inferred"].view(np.uint8) > 1).any():
        raise ValueError("its field inferred holds another value than 0 and 1")
    worst = int(records["rung"].max())
    if worst > max(SafetyLevel):
        raise ValueError(f"its field rung holds {worst}, expected 0 to {int(max(SafetyLevel))}")
    if int(records["reasons"].max()) >> reasons:
        raise ValueError(f"its field reasons names more than the {reasons} reasons of its list")
