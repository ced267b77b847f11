"""FlightRecorder: the last 30 s of a robot, step by step, for the morning after."""

from __future__ import annotations

import json
import os
import threading
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dime_robot.runtime.errors import InputError
from dime_robot.runtime.files import write_atomically
from dime_robot.runtime.policy import Policy
from dime_robot.runtime.reasons import Reason, Rung
from dime_robot.runtime.robot import RobotConfig
from dime_robot.runtime.safety import Decision
from dime_robot.runtime.spec import FloatArray
from dime_robot.runtime.state import RobotState

SECONDS = 30.0
LARGEST = 200 * 2**20  # bytes a recording may take in memory
MOST_WRITERS = 2  # recordings being written, each of which is a copy in memory
KEPT_FILES = 20  # older recordings of ours in the same folder are removed
_REASONS = tuple(Reason)
_BIT = {reason: 1 << i for i, reason in enumerate(_REASONS)}


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
        record = np.dtype(
            [
                ("time", "f8"),  # steady [s]
                ("stamp", "f8"),  # on the robot's clock [s]
                ("joint_position", "f8", (n_joints,)),
                ("joint_velocity", "f8", (n_joints,)),
                ("orientation", "f8", (4,)),
                ("angular_velocity", "f8", (3,)),
                ("command_velocity", "f8", (3,)),
                ("inferred", "?"),  # was the policy asked? else the next three are NaN
                ("observation", "f4", (spec.n_obs,)),
                ("noise", "f4", noise.shape),
                ("action", "f4", (n_act,)),
                ("command", "f8", (n_act,)),
                ("rung", "u1"),
                ("reasons", "u8"),  # one bit per Reason, in their order
            ]
        )
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
            "reasons": [reason.value for reason in _REASONS],
        }

    def add(
        self,
        now: float,
        state: RobotState | None,
        observation: FloatArray | None,
        action: FloatArray,
        decision: Decision,
    ) -> None:
        """Remember a step."""
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
        row["rung"] = decision.rung
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
        """Let a dump that is under way finish [s]."""
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
        write_atomically(
            path,
            lambda file: np.savez(file, records=records, meta=text),
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
    def faults(self) -> list[tuple[int, Rung, list[str]]]:
        """Rows at which the answer rose to hold or above: (row, rung, reasons)."""
        rungs = self.records["rung"].astype(int)
        rises = np.flatnonzero((np.diff(rungs, prepend=0) > 0) & (rungs >= Rung.HOLD))
        return [(int(i), Rung(int(rungs[i])), self.reasons(int(i))) for i in rises]


def read_recording(path: Path) -> Recording:
    """Read a `.npz` file of the flight recorder.

    Raises:
        InputError: it is none.
    """
    try:
        # not np.load, which leaves the file open where it is not a recording
        with path.open("rb") as raw, np.lib.npyio.NpzFile(raw, allow_pickle=False) as file:
            recording = Recording(file["records"], json.loads(str(file["meta"])))
        if recording.records.dtype.names is None or "noise" not in recording.records.dtype.names:
            raise ValueError("no records in it")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: expected a recording of the flight recorder, {reason}") from None
    return recording
