"""FlightRecorder: records the last 30 s of a robot, step by step, for the analysis of faults."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, model_validator

from dime_robot.runtime.contract.names import Name, require_unique
from dime_robot.runtime.contract.policy_spec import MAX_NUMBERS, FloatArray, PolicySpec, StrictModel
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.phases import Phase
from dime_robot.runtime.control.policy_set import MAX_POLICIES, by_name, combined
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


def record_type(
    n_joints: int,
    n_obs: int,
    noise: tuple[int, ...],
    n_act: int,
    n_signals: int = 0,
    effort: bool = False,
    n_feet: int = 0,
    other: bool = False,
    marks: Sequence[str] = (),
) -> np.dtype:
    """Return the type of one step in a recording. Its names are those in the file.

    Args:
        n_joints: of the policy's contract.
        n_obs: length of its observation.
        noise: shape of the noise of one action.
        n_act: length of its action.
        n_signals: numbers in all task commands and sensors that it observes.
        effort: whether it observes the joints' efforts.
        n_feet: feet whose contacts it observes.
        other: whether it has the commands of another controller, beside a dry run.
        marks: those of MARKS that it has.
    """
    extra = [("joint_effort", "f8", (n_joints,))] if effort else []
    extra += [("foot_contact", "f8", (n_feet,))] if n_feet else []
    signals = [("signals", "f8", (n_signals,))] if n_signals else []
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
            *signals,  # recordings of policies without signals keep their format
            *extra,  # as do those of policies without these sensors
            *((name, "u1") for name in MARKS if name in marks),  # and of robots without phases
            *([(OTHER, "f8", (n_act,))] if other else []),
        ]
    )


OTHER = "other_command"  # what another controller commanded before the next step; NaN: nothing
OPTIONAL_FIELDS = ("joint_effort", "foot_contact")  # of policies that observe them
# which phase and which policy acted, as numbers of PHASES and of `policies` in the metadata
MARKS = ("phase", "policy")
PHASES = tuple(Phase)
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
        policy: recorded with its contract and digest; several by name.
        robot: the machine.
        seconds: length of the recording.
    """

    def __init__(
        self,
        policy: Policy | Mapping[str, Policy],
        robot: RobotConfig,
        seconds: float = SECONDS,
    ) -> None:
        policies = by_name(policy)
        spec = combined({name: each.spec for name, each in policies.items()})
        self._policies = list(policies)
        self._noise = {name: policy.noise for name, policy in policies.items()}
        n_joints, n_act = len(spec.joints), spec.n_act
        n_obs = max(policy.spec.n_obs for policy in policies.values())
        # of several policies the longest; shorter observations and noises are filled with NaN
        rows = max(len(noise.values[0]) for noise in self._noise.values())
        noise_shape = (rows, *policies[self._policies[0]].noise.values.shape[2:])
        marks = ["phase"] if robot.phases is not None else []
        marks += ["policy"] if len(policies) > 1 else []
        self._signals = {name: signal.width for name, signal in spec.signals.items()}
        n_signals = sum(self._signals.values())
        effort, n_feet = spec.needs("joint_effort"), len(spec.feet)
        record = record_type(
            n_joints, n_obs, noise_shape, n_act, n_signals, effort, n_feet, False, marks
        )
        self._marks = marks
        self._optional = [name for name in OPTIONAL_FIELDS if name in (record.names or ())]
        capacity = min(round(seconds * spec.rate), MAX_BYTES // record.itemsize)
        self._ring = np.zeros(max(2, capacity), dtype=record)
        self._ring.view(np.uint8)[:] = 0  # touch the pages now, not one by one while the robot runs
        self._other: FloatArray | None = None  # as the ring; None: not in a dry run
        self._count = 0
        self._writer = ThreadPoolExecutor(1, "flight recorder", _lower_priority)
        self._waiting: list[Future[str]] = []
        first = policies[self._policies[0]]
        self.meta: dict[str, Any] = {
            "node": "",  # fully qualified name, set by the node that records
            "spec": first.spec.model_dump(mode="json"),
            "robot": robot.model_dump(mode="json"),
            "policy_digest": first.file.policy_digest,
            "command_joints": list(spec.action_joints),
            "reasons": [fault.value for fault in _FAULTS],
        }
        if self._signals:
            self.meta["signals"] = self._signals
        if len(policies) > 1:
            self.meta["policies"] = [
                {
                    "name": name,
                    "spec": policy.spec.model_dump(mode="json"),
                    "policy_digest": policy.file.policy_digest,
                }
                for name, policy in policies.items()
            ]

    def expect_other_commands(self) -> None:
        """Record the commands of another controller too: this is a dry run beside it."""
        self._other = np.full(self._ring["command"].shape, np.nan)

    def other_command(self, value: FloatArray) -> None:
        """Record what another controller commanded after the newest step.

        Args:
            value: in the policy's order, shape (n_act,).
        """
        if self._other is not None and self._count:
            self._other[(self._count - 1) % len(self._ring)] = value

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
            decision: its faults, and the command that was sent; with an interpolation the one to
                which the commands until the next step lead.
        """
        row = self._ring[self._count % len(self._ring)]
        if self._other is not None:
            self._other[self._count % len(self._ring)] = np.nan
        row["time"] = now
        if state is None:
            row["stamp"] = row["joint_position"] = row["joint_velocity"] = np.nan
        else:
            for name in ("stamp", "joint_position", "joint_velocity"):
                row[name] = getattr(state, name)
        for name in ("orientation", "angular_velocity", "command_velocity", *self._optional):
            value = getattr(state, name, None)
            row[name] = np.nan if value is None else value
        if self._signals:
            given = (None if state is None else state.signals) or {}
            row["signals"] = np.concatenate(
                [given.get(name, np.full(size, np.nan)) for name, size in self._signals.items()]
            )
        row["inferred"] = observation is not None
        row["observation"] = row["noise"] = row["action"] = np.nan
        if observation is not None:
            noise = self._noise[decision.policy or self._policies[0]].values[0]
            row["observation"][: len(observation)], row["action"] = observation, action
            row["noise"][: len(noise)] = noise
        if "phase" in self._marks:
            row["phase"] = PHASES.index(decision.phase)
        if "policy" in self._marks:
            row["policy"] = self._policies.index(decision.policy or self._policies[0])
        row["command"] = decision.of_step.value
        row["rung"] = decision.level
        row["reasons"] = sum(_BIT[fault] for fault in set(decision.faults))
        self._count += 1

    def records(self) -> np.ndarray:
        """Return a copy of the recorded steps, oldest first."""
        records = _in_order(self._ring, self._count)
        if self._other is None or np.isnan(others := _in_order(self._other, self._count)).all():
            return records
        joined = np.empty(len(records), [*records.dtype.descr, (OTHER, "f8", others.shape[1:])])
        for name in records.dtype.names or ():
            joined[name] = records[name]
        joined[OTHER] = others
        return joined[-(MAX_BYTES // joined.itemsize) :]

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


def _in_order(ring: np.ndarray, count: int) -> np.ndarray:
    """Return a copy of what a ring buffer holds after `count` entries, oldest first."""
    return ring[:count].copy() if count <= len(ring) else np.roll(ring, -(count % len(ring)), 0)


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


class RecordedPolicy(StrictModel):
    """One of several policies of a recording. `spec` stays unparsed."""

    name: Name
    spec: dict[str, Any]
    policy_digest: Name


class RecordingMeta(StrictModel):
    """The metadata of a recording, by its names in the file. `spec` and `robot` stay unparsed."""

    node: str = ""  # fully qualified name; recordings of earlier versions have none
    spec: dict[str, Any]
    robot: dict[str, Any]
    policy_digest: Name
    command_joints: tuple[Name, ...]
    reasons: tuple[Name, ...] = Field(max_length=64)
    """Values of Fault, by the bits of `reasons` in a record."""
    policies: tuple[RecordedPolicy, ...] = Field(default=(), max_length=MAX_POLICIES)
    """Those between which the robot was switched, by the numbers of `policy` in a record; none: the
    one of `spec`."""
    signals: dict[Name, Annotated[int, Field(gt=0, le=MAX_NUMBERS)]] = Field(default_factory=dict)
    """Task commands and sensors -> number of values, in their order in `signals` in a record."""
    why: Name

    @model_validator(mode="after")
    def _has_one_policy_of_each_name(self) -> RecordingMeta:
        require_unique("name of a policy", [policy.name for policy in self.policies], "policies: ")
        return self


@dataclass(frozen=True)
class Recording:
    """A recording that was read from a file."""

    records: np.ndarray
    meta: dict[str, Any]

    @property
    def spec(self) -> PolicySpec:
        """The contract of the policy that was recorded.

        Raises:
            InputError: this release cannot read it.
        """
        try:
            return PolicySpec.model_validate(self.meta["spec"])
        except ValidationError as error:
            raise InputError(f"the recording's contract: {first_problem(error)}") from None

    @property
    def robot(self) -> RobotConfig:
        """The machine that was recorded.

        Raises:
            InputError: this release cannot read it.
        """
        try:
            return RobotConfig.model_validate(self.meta["robot"])
        except ValidationError as error:
            raise InputError(f"the recording's robot: {first_problem(error)}") from None

    @property
    def policies(self) -> dict[str, str]:
        """Digests of the recorded policies by name, in the order of `policy` in the records."""
        several = self.meta.get("policies")
        if several:
            return {each["name"]: each["policy_digest"] for each in several}
        return {str(self.meta["spec"].get("name")): self.meta["policy_digest"]}

    def commander(self, row: int) -> str:
        """Return phase and policy of one step, as on `~/phase`; empty: it has neither."""
        names, record = self.records.dtype.names or (), self.records[row]
        phase = PHASES[record["phase"]].value if "phase" in names else ""
        policy = list(self.policies)[record["policy"]] if "policy" in names else ""
        return " ".join(filter(None, (phase, policy)))

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


def read_recording(path: Path, content: bytes | None = None) -> Recording:
    """Read a `.npz` file of the flight recorder.

    Args:
        path: a regular file; its sizes are checked before it is unpacked.
        content: of such a file inside `path`; None: `path` itself is read.

    Raises:
        InputError: it is not a recording, or has a value that no recording has.
    """
    expected = "a recording of the flight recorder"
    arrays = read_npz(path, {"records": MAX_BYTES, "meta": MAX_META}, expected, content)
    try:
        meta = parse_text(arrays["meta"])
        checked = RecordingMeta.model_validate(meta)
        _require_records(arrays["records"], checked)
    except ValidationError as error:
        raise InputError(f"{path}: expected {expected}, meta: {first_problem(error)}") from None
    except ValueError as error:
        raise InputError(f"{path}: expected {expected}, {error!s:.300}") from None
    return Recording(arrays["records"], meta)


def _require_records(records: np.ndarray, meta: RecordingMeta) -> None:
    """Refuse records that `FlightRecorder.add` cannot have written.

    Args:
        records: as they were read.
        meta: stored with them.

    Raises:
        ValueError: other fields, no record, or a value out of its range.
    """
    faults, signals = len(meta.reasons), sum(meta.signals.values())
    dtype = records.dtype
    if dtype.names is None or records.ndim != 1:
        raise ValueError("no records in it")
    if missing := [field for field in RECORD_FIELDS if field not in dtype.names]:
        raise ValueError(f"its records lack the fields {missing}")
    shapes = [dtype[field].shape for field in ("joint_position", "observation", "noise", "action")]
    (joints, observation, noise, action) = shapes
    effort = "joint_effort" in dtype.names
    feet = dtype["foot_contact"].shape if "foot_contact" in dtype.names else (0,)
    other = OTHER in dtype.names
    marks = [name for name in MARKS if name in dtype.names]
    sizes = (joints[0], observation[0], noise, action[0], signals, effort, feet[0], other, marks)
    if not all(len(shape) == 1 for shape in (joints, observation, action, feet)) or (
        dtype != record_type(*sizes)
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
    if meta.policies and "policy" not in marks:
        raise ValueError("its records lack the field policy, which says which one of them acted")
    for name, count in (("phase", len(PHASES)), ("policy", len(meta.policies))):
        if name in marks and (worst := int(records[name].max())) >= count:
            raise ValueError(f"its field {name} holds {worst}, expected less than {count}")
    if int(records["reasons"].max()) >> faults:
        raise ValueError(f"its field reasons names more than the {faults} faults of its list")
