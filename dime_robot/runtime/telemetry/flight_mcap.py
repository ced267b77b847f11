"""A flight recording as an MCAP file, for Foxglove and PlotJuggler.

The robot's topics have the names and types that they have on the robot, so the file is also a
recording of topics. What only the recorder knows is on topics of the node: `observation`, `action`,
`noise` (while the policy was evaluated), `level`, and `command` where the robot's own topic shows
another controller's. The recording itself is an attachment, from which it is read back bit for bit.
"""

from __future__ import annotations

import io
import json
import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.control.faults import SafetyLevel
from dime_robot.runtime.control.flight_recorder import (
    MAX_BYTES,
    OTHER,
    Recording,
    read_recording,
)
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.message_values import signal_fields, stamp_fields, twist_fields
from dime_robot.runtime.control.state import CommandKind, JointCommand, RobotState
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.mcap_files import MAX_NAME, is_mcap, mcap_attachment
from dime_robot.runtime.io.npz_files import MAX_ARCHIVE_EXTRA, MAX_META
from dime_robot.runtime.io.regular_files import write_atomically
from dime_robot.runtime.io.untrusted_files import read_bytes
from dime_robot.runtime.telemetry.ros_types import (
    DIAGNOSTICS,
    IMU,
    JOINT_STATE,
    NUMBERS,
    STRING,
    command_type,
    definition,
    full_type,
)
from dime_robot.runtime.telemetry.shadow import resolved

ATTACHMENT = METADATA = "dime_robot/flight.npz"
MAX_RECORDING = MAX_BYTES + MAX_META + MAX_ARCHIVE_EXTRA
MAX_TIME = 2.0**62 / 1e9  # [s]
NOT_MEASURED = -1.0  # first number of a covariance (REP 145)
_DIAGNOSED = {SafetyLevel.RUN: 0, SafetyLevel.CLAMP: 0, SafetyLevel.HOLD: 1}  # others: an error


class _Message(NamedTuple):
    topic: str
    type: str
    fields: dict[str, Any]


def flight_content(path: Path) -> bytes | None:
    """Return the bytes of a flight recording; None: an MCAP file without one.

    Args:
        path: of a .npz that the flight recorder wrote, or of its MCAP file.

    Raises:
        InputError: no such file, a damaged or a too large one.
    """
    if is_mcap(path):
        return mcap_attachment(path, ATTACHMENT, MAX_RECORDING)
    return read_bytes(path, "a recording of the flight recorder", MAX_RECORDING)


def write_flight_mcap(path: Path, content: bytes, source: Path) -> Recording:
    """Write a flight recording as an MCAP file.

    Args:
        path: of the new file.
        content: of the recording's file.
        source: path of that, for messages.

    Returns:
        The recording.

    Raises:
        InputError: it is no recording, its times cannot be stored, or the file cannot be written.
    """
    recording = read_recording(source, content)
    packed = io.BytesIO()
    try:
        _write(packed, recording, content)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    write_atomically(path, packed.getvalue())
    return recording


def _write(file: io.BytesIO, recording: Recording, content: bytes) -> None:
    from mcap_ros2.writer import Writer

    meta, records = recording.meta, recording.records
    flight = _Flight(recording)
    times = _times(records)
    writer, schemas = Writer(file), {}
    types: dict[str, str] = {}
    facts = {key: value for key, value in meta.items() if isinstance(value, str)}
    facts |= {key: json.dumps(meta[key]) for key in meta.keys() - facts.keys()}
    writer.add_metadata(METADATA, {**facts, "steps": str(len(records))})
    writer.add_attachment(times[0], times[0], ATTACHMENT, "application/octet-stream", content)
    for row, time in zip(range(len(records)), times, strict=True):
        for topic, kind, fields in flight.messages(row, time / 1e9):
            if types.setdefault(topic, kind) != kind:
                raise InputError(
                    f"expected topics of one type each, {topic} has {types[topic]} and {kind}"
                )
            if kind not in schemas:
                schemas[kind] = writer.register_msgdef(kind, definition(kind))
            writer.write_message(topic, schemas[kind], fields, log_time=time, sequence=row)
    writer.finish()


def _times(records: np.ndarray) -> list[int]:
    """Return the time of each step on the robot's clock [ns]; on the steady one if it has none."""
    steady = records["time"] - records["time"][0]
    finite = np.isfinite(records["stamp"])
    offset = 0.0
    if finite.any():  # the median: stamps jump where the robot's clock was set
        offset = max(0.0, float(np.median(records["stamp"][finite] - steady[finite])))
    if not (np.isfinite(steady) & (steady >= 0) & (steady + offset < MAX_TIME)).all():
        raise InputError("expected times that grow, within what an MCAP file can hold, got others")
    return [round(1e9 * time) for time in (steady + offset).tolist()]


class _Flight:
    """Turns the steps of a recording into messages."""

    def __init__(self, recording: Recording) -> None:
        self._recording, self._records = recording, recording.records
        self._spec, self._robot = recording.spec, recording.robot
        self._node = str(recording.meta.get("node") or "/policy_node")
        if len(self._node) > MAX_NAME:
            raise InputError(f"expected a node with a name of up to {MAX_NAME} characters")
        self._namespace = self._node.rpartition("/")[0] or "/"
        try:
            self._mapping = JointMapping(self._spec, self._robot)
        except (StopIteration, ValueError, AssertionError):
            raise InputError("expected a recording whose robot has the policy's joints") from None
        sizes = {"joint_position": len(self._spec.joints), "command": self._spec.n_act}
        for name, size in sizes.items():
            if self._records[name].shape[1:] != (size,):
                raise InputError(f"expected {size} numbers in {name}, as its contract says")
        self._shown: tuple[int, int] | None = None  # level and faults of the last diagnostics
        self._commander = ""  # phase and policy of the last message on them

    def messages(self, row: int, time: float) -> Iterator[_Message]:
        """Yield the messages of a step: inputs, the reading, what followed from it.

        Args:
            row: of the step.
            time: of the step [s].
        """
        record, robot = self._records[row], self._robot
        names = self._records.dtype.names or ()
        stamp = float(record["stamp"])
        stamp = stamp if math.isfinite(stamp) and 0 <= stamp < 2**31 else time
        header = {"stamp": stamp_fields(stamp), "frame_id": ""}
        if robot.command_velocity is not None and np.isfinite(record["command_velocity"]).all():
            velocity = robot.command_velocity
            kind = full_type(velocity.type)
            yield self._message(
                velocity.topic, kind, _twist(kind, record["command_velocity"].tolist(), header)
            )
        if "signals" in names:
            yield from self._signals(record["signals"], stamp)
        if robot.imu is not None and (imu := _imu(record, header)):
            yield self._message(robot.imu.topic, IMU, imu)
        if "foot_contact" in names:
            yield self._numbers("foot_contact", record["foot_contact"], self._spec.feet)
        if not np.isnan(record["joint_position"]).all():
            yield self._message(robot.state.topic, JOINT_STATE, self._joints(record, header))
        if (commander := self._recording.commander(row)) != self._commander:
            self._commander = commander
            yield _Message(f"{self._node}/phase", STRING, {"data": commander})
        if record["inferred"]:
            terms = tuple(f"{term.name}[{term.size}]" for term in self._spec.observation)
            if "policy" in names:  # terms of several policies; the longest sets the size
                terms = ()
            yield self._numbers("observation", record["observation"], terms)
            yield self._numbers("noise", record["noise"], ())
            yield self._numbers("action", record["action"], self._spec.action_joints)
        if OTHER in names:
            yield self._numbers("command", record["command"], self._spec.action_joints)
            if np.isfinite(record[OTHER]).all():
                yield self._command(record[OTHER], header)
        else:
            yield self._command(record["command"], header)
        yield self._numbers("level", np.array([float(record["rung"])]), ())
        shown = (int(record["rung"]), int(record["reasons"]))
        if shown != self._shown:
            self._shown = shown
            yield self._diagnostics(row, header)

    def _message(self, topic: str, kind: str, fields: dict[str, Any]) -> _Message:
        return _Message(resolved(topic, self._namespace), kind, fields)

    def _numbers(self, name: str, values: np.ndarray, labels: tuple[str, ...]) -> _Message:
        dimension = {"label": ",".join(labels), "size": values.size, "stride": values.size}
        fields = {"layout": {"dim": [dimension], "data_offset": 0}, "data": _array(values)}
        return _Message(f"{self._node}/{name}", NUMBERS, fields)

    def _joints(self, record: np.void, header: dict[str, Any]) -> dict[str, Any]:
        state = RobotState(0.0, record["joint_position"], record["joint_velocity"])
        names, position, velocity = self._mapping.readings(state)
        fields: dict[str, Any] = {"header": header, "name": names, "effort": []}
        fields |= {"position": _array(position), "velocity": _array(velocity)}
        if "joint_effort" in (self._records.dtype.names or ()):
            fields["effort"] = _array(self._mapping.effort_readings(record["joint_effort"]))
        return fields

    def _signals(self, values: FloatArray, stamp: float) -> Iterator[_Message]:
        kinds, place = self._spec.signals, 0
        for name, size in self._recording.meta["signals"].items():
            value = values[place : place + size]
            place += size
            given = None
            if name in kinds:
                given = self._robot.signal(kinds[name].kind, name)
            if given is None or given.size_problem(size):
                yield self._numbers(name, value, ())
            elif np.isfinite(value).all():
                fields = signal_fields(given, value, stamp)
                yield self._message(given.topic, full_type(given.type), fields)

    def _command(self, value: FloatArray, header: dict[str, Any]) -> _Message:
        output, mapping = self._robot.command, self._mapping
        action: Any = self._spec.action.kind
        kind: CommandKind = action
        values = mapping.command(JointCommand(self._spec.action_joints, value, kind))
        fields: dict[str, Any]
        if output.kind == "forward":
            fields = {"data": _array(values)}
        elif output.kind == "trajectory":
            whole = stamp_fields(self._spec.period)
            point = {"positions": _array(values), "time_from_start": whole}
            fields = {"joint_names": list(mapping.command_names), "points": [point]}
        else:
            given = dict(zip(mapping.command_names, values.tolist(), strict=True))
            axes = ("linear_x", "linear_y", "angular_z")
            numbers = [given.get(axis, 0.0) for axis in axes]
            fields = _twist(command_type(output), numbers, header)
        return self._message(output.topic, command_type(output), fields)

    def _diagnostics(self, row: int, header: dict[str, Any]) -> _Message:
        level = SafetyLevel(int(self._records["rung"][row]))
        faults = self._recording.fault_names(row)
        name = level.name.lower()
        status = {
            "level": _DIAGNOSED.get(level, 2),
            "name": f"{self._node}: control",
            "message": f"{name}: {', '.join(faults)}" if faults else name,
            "hardware_id": self._robot.name,
            "values": [{"key": "answer", "value": name}],
        }
        return _Message("/diagnostics", DIAGNOSTICS, {"header": header, "status": [status]})


def _array(values: np.ndarray) -> array[float]:
    return array("d", values.astype(np.float64).ravel().tolist())


def _twist(kind: str, numbers: list[float], header: dict[str, Any]) -> dict[str, Any]:
    twist = twist_fields(numbers)
    return {"header": header, "twist": twist} if kind.endswith("Stamped") else dict(twist)


def _imu(record: np.void, header: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an Imu; empty: nothing was measured."""
    orientation, rate = record["orientation"].tolist(), record["angular_velocity"].tolist()
    fields: dict[str, Any] = {"linear_acceleration_covariance": [NOT_MEASURED] + [0.0] * 8}
    measured = False
    for name, axes, values in (
        ("orientation", "wxyz", orientation),
        ("angular_velocity", "xyz", rate),
    ):
        if all(map(math.isfinite, values)):
            fields[name] = dict(zip(axes, values, strict=True))
            measured = True
        else:
            fields[f"{name}_covariance"] = [NOT_MEASURED] + [0.0] * 8
    return {"header": header, **fields} if measured else {}
