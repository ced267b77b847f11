"""FlightRecorder: records the last 30 s of a robot, step by step, for the analysis of faults."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
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
MAX_BYTES = 200 * 2**20  # of a recording in memory
MAX_WAITING = 2  # recordings being written or waiting for it; each is a copy in memory
MAX_FILES = 20  # of one node in a folder; older ones are removed
_FAULTS = tuple(Fault)
_BIT = {fault: 1 << i for i, fault in enumerate(_FAULTS)}


def record_type(n_joints: int, n_obs: int, noise: tuple[int, ...], n_act: int) -> np.dtype:
    """Return the type of one step in a recording. Its names are those in the file.

    Args:
        n_joints: of the policy's contract.
        n_obs: length of its observation.
        noise: shape of the noise of one action.
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
            ("inferred", "?"),  # whether the policy was evaluated; else the next three are NaN
            ("observation", "f4", (n_obs,)),
            ("noise", "f4", noise),
            ("action", "f4", (n_act,)),
            ("command", "f8", (n_act,)),
            ("rung", "u1"),
            ("reasons", "u8"),  # one bit per Fault, in their order
        ]
    )


RECORD_FIELDS: tuple[str, ...] = record_type(1, 1, (1,), 1).names or ()


@dataclass(frozen=True)
class Dump:
    """A recording that is being written in the background."""

    path: Path
    result: Future[str]  # why it could not be written; empty: it was

    @property
    def done(self) -> bool:
        """Whether it was written or has failed."""
        return self.result.done()

    @property
    def error(self) -> str:
        """Why it could not be written, once done; empty: it was."""
        return self.result.result() if self.done else ""


class FlightRecorder:
    """A ring buffer of steps, allocated once; `dump` writes it as one `.npz` file.

    Args:
        policy: recorded with its contract and digest.
        robot: the machine.
        seconds: length of the recording.
    """

    def __init__(self, policy: Policy, robot: RobotConfig, seconds: float = SECONDS) -> None:
        spec, noise = policy.spec, policy.noise.values[0]
        n_joints, n_act = len(spec.joints), spec.n_act
        record = record_type(n_joints, spec.n_obs, noise.shape, n_act)
        capacity = min(round(seconds * spec.rate), MAX_BYTES // record.itemsize)
        self._ring = np.zeros(max(2, capacity), dtype=record)
        self._ring.view(np.uint8)[:] = 0  # touch the pages now, not one by one while the robot runs
        self._noise = policy.noise
        self._count = 0
        self._writer = ThreadPoolExecutor(1, "flight recorder", _lower_priority)
        self._waiting: list[Future[str]] = []
        self.meta: dict[str, Any] = {
            "node": "",  # fully qualified name, set by the node that records
            "spec": spec.model_dump(mode="json"),
            "robot": robot.model_dump(mode="json"),
            "policy_digest": policy.file.policy_digest,
            "command_joints": list(spec.action_joints),
            "reasons": [fault.value for fault in _FAULTS],
        }

    def add(
        self,
        now: float,
        state: RobotState | None,
        observation: FloatArray | None,
        action: FloatArray,
        decision: Decision,
    ) -> None:
        """Record a step.

        Args:
            now: steady time [s].
            state: the reading of this step.
            observation: the policy's input, shape (n_obs,); None: it was not evaluated.
            action: shape (n_act,).
            decision: the command that was sent, and its faults.
        """
        row = self._ring[self._count % len(self._ring)]
        row["time"] = now
        if state is None:
            row["stamp"] = row["joint_position"] = row["joint_velocity"] = np.nan
        else:
            for name in ("stamp", "joint_position", "joint_velocity"):
                row[name] = getattr(state, name)
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
        row["reasons"] = sum(_BIT[fault] for fault in set(decision.faults))
        self._count += 1

    def records(self) -> np.ndarray:
        """Return a copy of the recorded steps, oldest first."""
        size = len(self._ring)
        if self._count <= size:
            return self._ring[: self._count].copy()
        return np.roll(self._ring, -(self._count % size))

    def dump(self, folder: Path, why: str) -> Dump:
        """Start writing the recording in the background.

        Args:
            folder: for the file; made if it is missing.
            why: part of the file's name.

        Returns:
            The file's path, and whether it is written yet.
        """
        now = time.time_ns()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now // 10**9))
        node = str(self.meta["node"]).strip("/").replace("/", ".")
        prefix = f"{node}-" if node else ""
        path = folder / f"flight-{stamp}-{now // 1000 % 10**6:06d}-{prefix}{why}.npz"
        self._waiting = [result for result in self._waiting if not result.done()]
        result: Future[str] = Future()
        if len(self._waiting) >= MAX_WAITING:
            result.set_result("two recordings are being written already")
        elif not self._count:
            result.set_result("nothing is recorded yet")
        else:
            meta = {**self.meta, "why": why}
            siblings = f"flight-*-{prefix}*.npz"
            result = self._writer.submit(_write, path, self.records(), meta, siblings)
            self._waiting.append(result)
        return Dump(path, result)

    def wait(self, timeout: float) -> None:
        """Wait until all dumps are written, at most `timeout` [s].

        Args:
            timeout: longest time to wait [s].
        """
        wait(self._waiting, timeout)


def _lower_priority() -> None:
    """Give up the priority of the control loop, in this thread."""
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _write(path: Path, records: np.ndarray, meta: dict[str, Any], siblings: str) -> str:
    """Write a recording and remove the oldest siblings; return why that failed, empty: it did not.

    Args:
        path: of the file.
        records: the steps.
        meta: stored with them.
        siblings: glob pattern of recordings of the same node.
    """
    try:
        text = np.array(json.dumps(meta))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npz(
            path,
            {"records": records, "meta": text},
            "make room or name another folder with -p recordings:=FOLDER",
        )
        # never the new one, which has the oldest name if the clock went back
        others = sorted(other for other in path.parent.glob(siblings) if other != path)
        for old in others[: -(MAX_FILES - 1)]:
            old.unlink(missing_ok=True)
    except InputError as error:  # a full disc must not stop the robot
        return str(error)
    except OSError as error:
        return f"{path}: {error.strerror}"
    except Exception as error:  # of any kind: the caller waits for a result
        return f"{path}: {error}"
    return ""


class RecordingMeta(StrictModel):
    """The metadata of a recording, by its names in the file. `spec` and `robot` stay unparsed."""

    node: str = ""  # fully qualified name; recordings of earlier versions have none
    spec: dict[str, Any]
    robot: dict[str, Any]
    policy_digest: Name
    command_joints: tuple[Name, ...]
    reasons: tuple[Name, ...] = Field(max_length=64)
    """Values of Fault, by the bits of `reasons` in a record."""
    why: Name


@dataclass(frozen=True)
class Recording:
    """A recording that was read from a file."""

    records: np.ndarray
    meta: dict[str, Any]

    def fault_names(self, row: int) -> list[str]:
        """Return the faults of one step."""
        bits = int(self.records["reasons"][row])
        return [name for i, name in enumerate(self.meta["reasons"]) if bits >> i & 1]

    @property
    def escalations(self) -> list[tuple[int, SafetyLevel, list[str]]]:
        """Rows at which the response rose to hold or above: (row, level, names of faults)."""
        levels = self.records["rung"].astype(int)
        rises = np.flatnonzero((np.diff(levels, prepend=0) > 0) & (levels >= SafetyLevel.HOLD))
        return [(int(i), SafetyLevel(int(levels[i])), self.fault_names(int(i))) for i in rises]


def read_recording(path: Path) -> Recording:
    """Read a `.npz` file of the flight recorder.

    Args:
        path: a regular file; its sizes are checked before it is unpacked.

    Raises:
        InputError: it is not a recording, or has a value that no recording has.
    """
    expected = "a recording of the flight recorder"
    arrays = read_npz(path, {"records": MAX_BYTES, "meta": MAX_META}, expected)
    try:
        meta = parse_text(arrays["meta"])
        RecordingMeta.model_validate(meta)
        _require_records(arrays["records"], len(meta["reasons"]))
    except ValidationError as error:
        raise InputError(f"{path}: expected {expected}, meta: {first_problem(error)}") from None
    except ValueError as error:
        raise InputError(f"{path}: expected {expected}, {error!s:.300}") from None
    return Recording(arrays["records"], meta)


def _require_records(records: np.ndarray, faults: int) -> None:
    """Refuse records that `FlightRecorder.add` cannot have written.

    Args:
        records: as they were read.
        faults: number of faults that the metadata name.

    Raises:
        ValueError: other fields, no record, or a value out of its range.
    """
    dtype = records.dtype
    if dtype.names is None or records.ndim != 1:
        raise ValueError("no records in it")
    if missing := [field for field in RECORD_FIELDS if field not in dtype.names]:
        raise ValueError(f"its records lack the fields {missing}")
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
    if int(records["reasons"].max()) >> faults:
        raise ValueError(f"its field reasons names more than the {faults} faults of its list")
