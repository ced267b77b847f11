"""latency_monitor: record a policy's latency. `ros2 run dime_robot latency_monitor`.

It runs as a separate process: it records every step that policy_node publishes on `~/latency` and
every fault on /diagnostics, and at its end writes the record, the two distributions that training
draws from, and, if matplotlib is installed, a page with figures.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(ros=("rclpy",))

import math
import sys
import tempfile
import time
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.exceptions import InvalidTopicNameException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.validate_full_topic_name import validate_full_topic_name
from std_msgs.msg import Float64MultiArray, String

from dime_robot.runtime.contract.names import MAX_NAME
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.telemetry.latency import SAMPLE_LABEL, LatencySample
from dime_robot.runtime.telemetry.machine import cpu_model
from ros_nodes import diagnostics
from ros_nodes.conversions import PHASE_QOS
from ros_nodes.latency_page import write_page
from ros_nodes.latency_record import (
    MAX_FAULTS,
    MAX_NUMBERS,
    MAX_PHASES,
    LatencyRecord,
    RecordHeader,
    Samples,
    SeenFault,
    SeenPhase,
    distributions,
    latency_table,
    lost_samples,
    measured_rate,
    phase_table,
    write_distribution,
    write_record,
)
from ros_nodes.parameters import (
    MonitorParameters,
    existing_path,
    help_asked,
    help_of,
    read_parameters,
    require_known_parameters,
)
from ros_nodes.process import MAX_WAIT, run_node

FIELDS = len(LatencySample._fields)
NO_SAMPLE = 1  # exit code
UNKNOWN = "unknown"


class SampleStore:
    """Samples in memory.

    Args:
        max_count: maximum number of samples; later ones are dropped.
    """

    def __init__(self, max_count: int = MAX_NUMBERS // FIELDS) -> None:
        self._numbers, self._max_count = array("d"), max_count

    @property
    def count(self) -> int:
        """Number of stored samples."""
        return len(self._numbers) // FIELDS

    @property
    def full(self) -> bool:
        """Whether further samples are dropped."""
        return self.count >= self._max_count

    def add(self, values: Sequence[float]) -> None:
        """Store a sample, unless full."""
        if not self.full:
            self._numbers.extend(values)

    def samples(self) -> Samples:
        """Return a copy of all samples so far. Shape (n, fields of LatencySample)."""
        return np.array(self._numbers, dtype=np.float64).reshape(-1, FIELDS)


class FaultLog:
    """The faults on /diagnostics, each once when it begins.

    Args:
        node: fully qualified name of the watched node; other nodes are ignored.
    """

    def __init__(self, node: str) -> None:
        self.policies: dict[str, str] = {}  # "name digest" -> selected, in the order they ran
        self.robot = UNKNOWN
        self._node = node
        self._now: dict[str, str] = {}  # message by status, while it is a fault
        self._seen: list[tuple[float, float | None, str]] = []

    def add(self, entry: DiagnosticStatus, now: float, offset: float | None) -> None:
        """Record a status.

        Args:
            entry: any node's.
            now: steady time of this process [s].
            offset: the samples' clock minus that one [s], if already known.
        """
        if diagnostics.node_of(entry) != self._node:
            return
        values = {pair.key: pair.value for pair in entry.values}
        if "policy" in values:
            self.policies.setdefault(values["policy"], values.get("selected", UNKNOWN))
        self.robot = entry.hardware_id or self.robot
        if not diagnostics.is_fault(entry):
            self._now.pop(entry.name, None)
        elif self._now.get(entry.name) != entry.message:
            self._now[entry.name] = entry.message
            if len(self._seen) < MAX_FAULTS:
                self._seen.append((now, offset, f"{entry.name}: {entry.message}"))

    def faults(self, offset: float) -> tuple[SeenFault, ...]:
        """Return all faults; `offset` of the clocks for those before the first sample [s].

        Args:
            offset: time of those that came before the first sample [s].
        """
        return tuple(
            SeenFault(time=now + (offset if then is None else then), text=text)
            for now, then, text in self._seen
        )


class PhaseLog:
    """The phases on ~/phase, each with the time of its first step.

    policy_node publishes a phase just before the sample of its first step, so that is the next
    sample to arrive.
    """

    def __init__(self) -> None:
        self._seen: list[SeenPhase] = []
        self._waiting: list[tuple[float, str]] = []  # for their first step

    def enter(self, text: str, now: float) -> None:
        """Record a phase, unless full.

        Args:
            text: as published.
            now: steady time of this process [s].
        """
        if len(self._seen) + len(self._waiting) < MAX_PHASES:
            self._waiting.append((now, text[:MAX_NAME]))

    def step(self, time: float, offset: float) -> None:
        """Take the sample of a step.

        Args:
            time: its own, finite [s].
            offset: the samples' clock minus the one of this process [s].
        """
        if self._waiting:
            self._seen = [
                *self.phases(offset)[:-1],
                SeenPhase(time=time, text=self._waiting[-1][1]),
            ]
            self._waiting.clear()

    def phases(self, offset: float) -> tuple[SeenPhase, ...]:
        """Return all phases; those without a step have the time of their arrival.

        Args:
            offset: the samples' clock minus the one of this process [s].
        """
        rest = [SeenPhase(time=now + offset, text=text) for now, text in self._waiting]
        return (*self._seen, *rest)


class LatencyMonitor(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("latency_monitor")
        self.exit_code: int | None = None
        given = read_parameters(self, MonitorParameters)
        require_known_parameters(self)
        self.folder = writable_folder(existing_path(given.folder, "folder"))
        self._seconds, self._began = given.seconds, time.monotonic()
        self.node = self._full_name(given.node)
        self._store, self._log, self._phases = SampleStore(), FaultLog(self.node), PhaseLog()
        self._offset: float | None = None  # the samples' clock minus this process's [s]
        self._first_offset = 0.0
        self._refused = self._cut_short = False
        # before the samples, so that those of the current phase follow it
        self.create_subscription(String, f"{self.node}/phase", self._on_phase, PHASE_QOS)
        subscription = self.create_subscription(
            Float64MultiArray, f"{self.node}/latency", self._on_sample, QoSProfile(depth=1000)
        )
        self.topic = str(subscription.topic_name)
        self.create_subscription(DiagnosticArray, diagnostics.TOPIC, self._on_diagnostics, 100)
        until = f"for {self._seconds:g} s" if self._seconds else "until Ctrl-C"
        self.get_logger().info(f"waiting for {self.topic}, recording into {self.folder} {until}")

    def _full_name(self, node: str) -> str:
        """Return a node's full name; a relative name is in this node's namespace."""
        wrong = f"parameter node: expected a node's name, got {node!r}"
        if not node:
            raise InputError(wrong, code="parameter")
        try:
            full = expand_topic_name(node, self.get_name(), self.get_namespace())
            validate_full_topic_name(full)
        except (InvalidTopicNameException, ValueError) as error:
            text = " ".join(str(error).split())
            raise InputError(f"{wrong}: {text}", code="parameter") from None
        return str(full)

    def _on_phase(self, message: String) -> None:
        self._phases.enter(message.data, time.monotonic())

    def _on_sample(self, message: Float64MultiArray) -> None:
        label = message.layout.dim[0].label if message.layout.dim else "none"
        if label != SAMPLE_LABEL or len(message.data) != FIELDS:
            if not self._refused:
                self._refused = True
                self.get_logger().error(
                    f"{self.topic}: expected samples of {SAMPLE_LABEL}, got {label} with"
                    f" {len(message.data)} numbers: run one version of dime_robot on both sides"
                )
            return
        offset = message.data[0] - time.monotonic()
        if math.isfinite(offset):
            self._offset = offset
            self._phases.step(message.data[0], offset)
        if self._store.count == 0:
            self._first_offset = self._offset or 0.0
            self.get_logger().info("recording")
        if self._store.full and not self._cut_short:
            self._cut_short = True
            self.get_logger().warning(
                f"the memory for {self._store.count:,} samples is full: later samples are not"
                " recorded"
            )
        self._store.add(message.data)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for entry in message.status:
            self._log.add(entry, time.monotonic(), self._offset)

    def record(self) -> LatencyRecord | None:
        """Return the record; None: no sample was received."""
        samples = self._store.samples()
        if not len(samples):
            return None
        policies = [text.rpartition(" ") for text in self._log.policies]
        digests = [digest for _, _, digest in policies]
        if len(policies) > 1:
            selected = self._log.policies.values()
            digests = [f"{digest} ({name})" for digest, name in zip(digests, selected, strict=True)]
            text = f"more than one policy is in this record: {' and '.join(self._log.policies)}"
            print(f"warning: {text}; percentiles are of all of them", file=sys.stderr)
        header = RecordHeader(
            fields=LatencySample._fields,
            node=self.node,
            topic=self.topic,
            policy=" and ".join(dict.fromkeys(name for name, _, _ in policies)) or UNKNOWN,
            policy_digest=" and ".join(digests) or UNKNOWN,
            robot=self._log.robot,
            cpu=cpu_model(),
            rate=measured_rate(samples),
            lost=lost_samples(samples),
            cut_short=self._cut_short,
            faults=self._log.faults(self._first_offset),
            phases=self._phases.phases(self._offset or 0.0),
        )
        return LatencyRecord(samples, header)

    def no_sample_problem(self) -> str:
        """Return a sentence for a run without a sample."""
        return (
            f"no sample came on {self.topic} within {time.monotonic() - self._began:.1f} s: start"
            " and activate the node in the same ROS domain, or name it with -p node:=NAME"
        )

    def wait(self) -> float:
        """See `process.Running`."""
        if not self._seconds:
            return MAX_WAIT
        return self._began + self._seconds - time.monotonic()

    def tick(self) -> None:
        """See `process.Running`."""
        if self._seconds and time.monotonic() - self._began >= self._seconds:
            self.exit_code = 0

    def close(self) -> None:
        """See `process.Running`."""


def writable_folder(folder: Path) -> Path:
    """Make a folder and test it now, so that no run is lost at its end.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(
            f"parameter folder: expected a folder to write in, {folder}: {error.strerror}: name"
            " another one with -p folder:=FOLDER",
            code="parameter",
        ) from None


def write_all(record: LatencyRecord, folder: Path) -> list[str]:
    """Write record, distributions and page, each replaced as a whole.

    Returns:
        The paths as text; if matplotlib is missing, instructions instead of the page's path.

    Raises:
        InputError: one cannot be written.
    """
    path = write_record(record, folder / "latency.npz")
    written = [str(path)]
    for name, distribution in distributions(record).items():
        written.append(str(write_distribution(distribution, folder / name)))
    try:
        written.append(str(write_page(record, folder / "latency.html")))
    except ImportError as error:  # missing, or built for another numpy
        written.append(
            f"no page, as matplotlib cannot be imported here ({error}); where it is installed, this"
            f" makes the page: python -m ros_nodes.latency_page {path}"
        )
    return written


def describe(record: LatencyRecord) -> str:
    """Format the run as lines for a console."""
    began, faults = float(record.column("time")[0]), record.header.faults
    about = [f"{name:20s}{text}" for name, text in record.about()]
    listed = [f"{'fault':20s}{fault.time - began:+9.2f} s  {fault.text}" for fault in faults]
    listed = listed or [f"{'faults':20s}none on /diagnostics"]
    milliseconds = {
        name: {column: 1e3 * seconds for column, seconds in row.items()}
        for name, row in record.summary().items()
    }
    phases = phase_table(record.phase_rows())
    return "\n".join([*about, *latency_table(milliseconds), *phases, *listed])


def main() -> int:
    """Run until a signal, then write the record."""
    if help_asked(sys.argv[1:]):
        print(help_of(__doc__ or "", MonitorParameters))
        return 0
    made: list[LatencyMonitor] = []

    def make() -> LatencyMonitor:
        made.append(LatencyMonitor())
        return made[0]

    code = run_node(make)
    if not made:
        return code
    try:  # the node has ended, so a slow disk delays nothing and no more messages arrive
        record = made[0].record()
        if record is None:
            print(f"error: {made[0].no_sample_problem()}", file=sys.stderr)
            return code or NO_SAMPLE
        written = write_all(record, made[0].folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe(record), *written, sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
