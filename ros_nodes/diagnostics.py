"""What policy_node says about itself on /diagnostics (REP 107)."""

from __future__ import annotations

from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.telemetry.latency import LatencyRecorder, Percentiles

TOPIC = "/diagnostics"
MISSES_WORTH_A_WARNING = 0.01  # share of steps since the last report
CONTROL, LATENCY = "control", "latency"  # what a node reports on
RESPONSE = "answer"  # value of the control entry: the level of the last step, none where inactive
TROUBLED = tuple(level.name.lower() for level in SafetyLevel if level >= SafetyLevel.HOLD)
_SILENT = (Fault.OBSERVATION_STALE, Fault.JOINT_MISSING, Fault.IMU_STALE)


def entry_name(node: str, what: str) -> str:
    """Of an entry on /diagnostics, as `/left/policy_node: control`.

    Args:
        node: its fully qualified name: /diagnostics is one topic for all namespaces.
        what: CONTROL or LATENCY.
    """
    return f"{node}: {what}"


def node_of(entry: DiagnosticStatus) -> str:
    """The fully qualified name of the node that an entry tells of."""
    return str(entry.name.partition(": ")[0])


def response_of(entry: DiagnosticStatus) -> str:
    """The control entry's answer; empty where the entry has none."""
    return next((str(pair.value) for pair in entry.values if pair.key == RESPONSE), "")


def status(
    name: str, hardware: str, level: bytes, message: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    """One entry; floats with four digits."""
    shown = [
        KeyValue(key=key, value=f"{value:.4g}" if isinstance(value, float) else str(value))
        for key, value in values.items()
    ]
    return DiagnosticStatus(
        level=level, name=name, message=message, hardware_id=hardware, values=shown
    )


def control_level(
    decision: Decision | None, levels: Mapping[SafetyLevel, int], reasons: Mapping[Fault, int]
) -> tuple[bytes, str]:
    """Level and message of the control loop.

    `levels` and `reasons`: in how many steps since the last report each was seen.
    """
    if decision is None:
        return DiagnosticStatus.OK, "not active"
    why = ", ".join(reason.value for reason in decision.reasons)
    if decision.level >= SafetyLevel.DAMP:
        # a robot that fell silent and one that was stopped look different on a monitor
        silent = any(reason in _SILENT for reason in decision.reasons)
        level = DiagnosticStatus.STALE if silent else DiagnosticStatus.ERROR
        return level, f"{decision.level.name.lower()}: {why}"
    if decision.level == SafetyLevel.HOLD:
        return DiagnosticStatus.WARN, f"hold: {why}"
    if not reasons:
        return DiagnosticStatus.OK, "running"
    troubled = sum(count for level, count in levels.items() if level >= SafetyLevel.HOLD)
    seen = ", ".join(f"{reason.value} in {count} steps" for reason, count in reasons.items())
    text = f"running; since the last report {seen}"
    return DiagnosticStatus.WARN, text + (f", {troubled} held or damped" if troubled else "")


def is_fault(entry: DiagnosticStatus) -> bool:
    """Does an entry of policy_node tell of a hold, an error or a silence? By its fields alone."""
    severe = entry.level in (DiagnosticStatus.ERROR, DiagnosticStatus.STALE)
    return severe or response_of(entry) in TROUBLED


def is_refusal(entry: DiagnosticStatus) -> bool:
    """Does an entry tell why a node that does not run would not go on?"""
    control = entry.name.endswith(f": {CONTROL}")
    return control and entry.level == DiagnosticStatus.ERROR and response_of(entry) not in TROUBLED


def latency_level(
    found: Mapping[str, Percentiles], steps: int, misses: int, period: float
) -> tuple[bytes, str]:
    """Level and message of the latency entry.

    Args:
        found: percentiles of each time.
        steps: since the last report.
        misses: deadlines missed since then.
        period: the control period [s].
    """
    if not found:
        return DiagnosticStatus.OK, "no step yet"
    if not steps:
        return DiagnosticStatus.STALE, "no step since the last report"
    if found["age_by_stamp"].p50 < 0:
        return DiagnosticStatus.WARN, "negative age: the robot's clock is ahead of this one"
    if misses > MISSES_WORTH_A_WARNING * steps:
        return DiagnosticStatus.WARN, f"{misses} of {steps} deadlines of {1e3 * period:g} ms missed"
    return DiagnosticStatus.OK, f"{misses} of {steps} deadlines missed"


def latency_values(
    recorder: LatencyRecorder, found: Mapping[str, Percentiles], period: float
) -> dict[str, object]:
    """Percentiles in milliseconds, and counts since the activation.

    Args:
        recorder: of the activation.
        found: percentiles of each time.
        period: the control period [s].
    """
    values: dict[str, object] = {
        "steps": recorder.steps,
        "missed": recorder.misses,
        "missed in a row": recorder.misses_in_a_row,
        "longest row of misses": recorder.longest_row,
    }
    jitter = recorder.jitter(period)
    shown = found if jitter is None else {**found, "jitter": jitter}
    for name, row in shown.items():
        values[f"{name} p50 [ms]"] = 1e3 * row.p50
        values[f"{name} p99 [ms]"] = 1e3 * row.p99
        values[f"{name} max [ms]"] = 1e3 * row.max
    return values


def array(stamp: object, *entries: DiagnosticStatus) -> DiagnosticArray:
    """The message."""
    message = DiagnosticArray(status=list(entries))
    message.header.stamp = stamp
    return message
