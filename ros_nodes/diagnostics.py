"""The entries of policy_node on /diagnostics (REP 107)."""

from __future__ import annotations

from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.telemetry.latency import LatencyRecorder, Percentiles

TOPIC = "/diagnostics"
WARNING_MISSES = 0.01  # share of steps since the last report
CONTROL, LATENCY = ENTRIES = "control", "latency"  # subjects of a node's entries
SHADOW = "shadow"  # subject of one more in a dry run
RESPONSE = "answer"  # value of the control entry: the level of the last step, none where inactive
FAULTY = tuple(level.name.lower() for level in SafetyLevel if level >= SafetyLevel.HOLD)
_SILENT_ROBOT = (Fault.OBSERVATION_STALE, Fault.JOINT_MISSING, Fault.IMU_STALE)


def entry_name(node: str, what: str) -> str:
    """Return the name of an entry on /diagnostics, as `/left/policy_node: control`.

    Args:
        node: its fully qualified name: /diagnostics is one topic for all namespaces.
        what: CONTROL, LATENCY or SHADOW.
    """
    return f"{node}: {what}"


def node_of(entry: DiagnosticStatus) -> str:
    """Return the fully qualified name of the node that an entry is about."""
    return str(entry.name.partition(": ")[0])


def response_of(entry: DiagnosticStatus) -> str:
    """Return the response that a control entry reports; empty: none."""
    return next((str(pair.value) for pair in entry.values if pair.key == RESPONSE), "")


def status(
    name: str, hardware: str, level: bytes, message: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    """Make an entry; floats get four digits."""
    shown = [
        KeyValue(key=key, value=f"{value:.4g}" if isinstance(value, float) else str(value))
        for key, value in values.items()
    ]
    return DiagnosticStatus(
        level=level, name=name, message=message, hardware_id=hardware, values=shown
    )


def control_level(
    decision: Decision | None, levels: Mapping[SafetyLevel, int], faults: Mapping[Fault, int]
) -> tuple[bytes, str]:
    """Return level and message of the control entry.

    `levels` and `faults`: number of steps with each since the last report.
    """
    if decision is None:
        return DiagnosticStatus.OK, "not active"
    names = ", ".join(fault.value for fault in decision.faults)
    if decision.level >= SafetyLevel.DAMP:
        # a silent robot and a stopped one are shown differently on a monitor
        silent = any(fault in _SILENT_ROBOT for fault in decision.faults)
        level = DiagnosticStatus.STALE if silent else DiagnosticStatus.ERROR
        return level, f"{decision.level.name.lower()}: {names}"
    if decision.level == SafetyLevel.HOLD:
        return DiagnosticStatus.WARN, f"hold: {names}"
    if not faults:
        return DiagnosticStatus.OK, "running"
    held = sum(count for level, count in levels.items() if level >= SafetyLevel.HOLD)
    seen = ", ".join(f"{fault.value} in {count} steps" for fault, count in faults.items())
    text = f"running; since the last report {seen}"
    return DiagnosticStatus.WARN, text + (f", {held} held or damped" if held else "")


def is_fault(entry: DiagnosticStatus) -> bool:
    """Whether an entry of policy_node reports a hold, an error or a silence, by its fields."""
    severe = entry.level in (DiagnosticStatus.ERROR, DiagnosticStatus.STALE)
    return severe or response_of(entry) in FAULTY


def is_refusal(entry: DiagnosticStatus) -> bool:
    """Whether an entry reports why a node refused to be configured or activated."""
    control = entry.name.endswith(f": {CONTROL}")
    return control and entry.level == DiagnosticStatus.ERROR and response_of(entry) not in FAULTY


def latency_level(
    percentiles: Mapping[str, Percentiles], steps: int, misses: int, period: float
) -> tuple[bytes, str]:
    """Return level and message of the latency entry.

    Args:
        percentiles: of each time.
        steps: since the last report.
        misses: deadlines missed since then.
        period: the control period [s].
    """
    if not percentiles:
        return DiagnosticStatus.OK, "no step yet"
    if not steps:
        return DiagnosticStatus.STALE, "no step since the last report"
    if percentiles["age_by_stamp"].p50 < 0:
        return DiagnosticStatus.WARN, "negative age: the robot's clock is ahead of this one"
    if misses > WARNING_MISSES * steps:
        return DiagnosticStatus.WARN, f"{misses} of {steps} deadlines of {1e3 * period:g} ms missed"
    return DiagnosticStatus.OK, f"{misses} of {steps} deadlines missed"


def latency_values(
    recorder: LatencyRecorder, percentiles: Mapping[str, Percentiles], period: float
) -> dict[str, object]:
    """Return percentiles in milliseconds, and counts since the activation.

    Args:
        recorder: of the activation.
        percentiles: of each time.
        period: the control period [s].
    """
    values: dict[str, object] = {
        "steps": recorder.steps,
        "missed": recorder.misses,
        "missed in a row": recorder.miss_streak,
        "longest row of misses": recorder.longest_miss_streak,
    }
    jitter = recorder.jitter(period)
    shown = percentiles if jitter is None else {**percentiles, "jitter": jitter}
    for name, row in shown.items():
        values[f"{name} p50 [ms]"] = 1e3 * row.p50
        values[f"{name} p99 [ms]"] = 1e3 * row.p99
        values[f"{name} max [ms]"] = 1e3 * row.max
    return values


def array(stamp: object, *entries: DiagnosticStatus) -> DiagnosticArray:
    """Make the message."""
    message = DiagnosticArray(status=list(entries))
    message.header.stamp = stamp
    return message
