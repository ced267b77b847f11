"""SignalStreams: the newest value of each task command and sensor that a policy observes.

Pure: every time is passed in. A value that cannot be used is refused, never repaired; the one
before it stays until its own time-out.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec, Signal
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.contract.signal_input import (
    POSITION_SIZE,
    STAMPED,
    SensorInput,
    SignalInput,
    TaskCommandInput,
)
from dime_robot.runtime.control.faults import Fault
from dime_robot.runtime.control.watchdog import Arrival, StreamWatchdog

NORM_TOLERANCE = 0.01  # of a unit quaternion: float32 and six printed digits are much nearer
MAX_VALUE = float(np.finfo(np.float32).max)  # of an observation
RESPONSES = {
    "hold": (Fault.TASK_COMMAND_LOST, ", its last value is held"),
    "zero": (Fault.TASK_COMMAND_LOST, ", it is 0 now"),
    "escalate": (Fault.SENSOR_LOST, ""),
    "stop": (Fault.SIGNAL_LOST, ""),
}


class SignalStream:
    """The messages of one signal.

    Args:
        name: of the signal.
        signal: what the contract expects.
        given: where its messages come from, found compatible.
        same_clock: stamps and this machine's wall clock agree.
    """

    def __init__(self, name: str, signal: Signal, given: SignalInput, same_clock: bool) -> None:
        assert isinstance(given, TaskCommandInput | SensorInput)
        self.title = f"{signal.kind} {name}"
        self._name, self._kind, self._width, self._given = name, signal.kind, signal.width, given
        low, high = given.bounds(signal.width)
        self._low, self._high = np.array(low), np.array(high)
        self._watchdog: StreamWatchdog | None = None
        # commands are timed by their arrival: the stamp of a target is often 0
        if signal.kind == "sensor" and given.timeout is not None and given.type in STAMPED:
            self._watchdog = StreamWatchdog(given.timeout, same_clock)
        self.restart()

    def restart(self) -> None:
        """Forget the value: the next activation needs one of its own."""
        self.refused = ""  # why the last message was refused; empty: it was not
        self._newly_refused = False
        self._value: FloatArray | None = None
        self._received = -np.inf  # steady time [s]
        if self._watchdog is not None:
            self._watchdog.restart()

    def receive(
        self,
        values: FloatArray,
        now: float,
        robot_now: float,
        stamp: float | None = None,
        frame: str | None = None,
    ) -> None:
        """Take a message.

        Args:
            values: its numbers, shape (n,) [SI units].
            now: steady time [s].
            robot_now: the robot's clock [s].
            stamp: its own [s, the robot's clock]; None: it has none.
            frame: its frame_id; None: it has none.
        """
        if why := self._problem(values, frame):
            self.refuse(why)
            return
        self.refused = ""
        if self._watchdog is not None:
            measured = robot_now if stamp is None else stamp
            arrival = self._watchdog.arrive(measured, now, robot_now)
            if arrival == Arrival.WENT_BACK:  # of this sensor's clock alone: its values go on
                self._watchdog.restart()
                arrival = self._watchdog.arrive(measured, now, robot_now)
            if arrival != Arrival.NEW:
                return
        # the caller may use its array again
        self._value, self._received = np.clip(values, self._low, self._high), now

    def refuse(self, why: str) -> None:
        """Take a message that cannot be used; `why` is a phrase."""
        self.refused, self._newly_refused = why, True

    def _problem(self, values: FloatArray, frame: str | None) -> str:
        """Return why a message cannot be used, as a phrase; empty: it can."""
        expected = self._given.frame
        if frame != expected and expected is not None:
            return (
                f"expected numbers in the frame {expected!r}, got {frame!r}: transform them before"
                " they are published, no frames are transformed here"
            )
        if values.shape != (self._width,):
            return f"expected {self._width} numbers, got {values.size}"
        if not (np.abs(values) <= MAX_VALUE).all():  # NaN compares false
            return f"expected finite numbers, got {_short(values)}"
        if self._given.type == "PoseStamped":
            norm = float(np.linalg.norm(values[POSITION_SIZE:]))
            if abs(norm - 1) > NORM_TOLERANCE:
                return f"expected a quaternion of norm 1, got {_short(values[POSITION_SIZE:])}"
        beyond = (values < self._low) | (values > self._high)
        if self._kind == "sensor" and beyond.any():  # what no sensor can measure is no measurement
            i = int(beyond.argmax())
            return (
                f"expected number {i} in {[float(self._low[i]), float(self._high[i])]}, its limits,"
                f" got {values[i]:.4g}"
            )
        return ""

    def has_come(self) -> bool:
        """Whether a usable value has come."""
        return self._value is not None

    def is_lost(self, now: float, robot_now: float) -> bool:
        """Whether the newest value is older than the time-out.

        Args:
            now: steady time [s].
            robot_now: the robot's clock [s].
        """
        if self._watchdog is not None:
            return self._watchdog.is_stale(now, robot_now)
        timeout = self._given.timeout
        return timeout is not None and now - self._received > timeout

    def value(self, now: float, robot_now: float) -> FloatArray | None:
        """Return the value now, shape (width,); None: none has come.

        Args:
            now: steady time [s].
            robot_now: the robot's clock [s].
        """
        zero = self._given.when_lost == "zero" and self.has_come() and self.is_lost(now, robot_now)
        return np.zeros(self._width) if zero else self._value

    def faults(self, now: float, robot_now: float, sender: str) -> Iterator[tuple[Fault, str]]:
        """Yield its faults, each with a phrase; a refused message once.

        Args:
            now: steady time [s].
            robot_now: the robot's clock [s].
            sender: the nodes that publish it, or did; empty: not known.
        """
        where = f"{self.title} on {self._given.topic}" + (f" from {sender}" if sender else "")
        if self.has_come() and self.is_lost(now, robot_now):
            fault, response = RESPONSES[self._given.when_lost]
            why = f"no usable message for {now - self._received:.3f} s"
            if self._watchdog is not None:
                why = self._watchdog.describe_age(now, robot_now)
            yield fault, f"{where}: {why}{response}"
        if self._newly_refused:
            self._newly_refused = False
            yield Fault.SIGNAL_REFUSED, f"{where}: {self.refused}"

    def problem(self) -> str:
        """Return why a policy cannot start without it, as a sentence; empty: it has come."""
        if self.has_come():
            return ""
        note = self.refused
        if not note and self._watchdog is not None:
            note = self._watchdog.stamp_error
        text = f"expected a value of the {self.title} on {self._given.topic}, got none yet"
        return f"{text}: {note}" if note else text


class SignalStreams:
    """All signals of a policy.

    Args:
        spec: the policy's contract.
        robot: the machine, found compatible.
    """

    def __init__(self, spec: PolicySpec, robot: RobotConfig) -> None:
        self.inputs: dict[str, SignalInput] = {}
        self._streams: dict[str, SignalStream] = {}
        for name, signal in spec.signals.items():
            given = robot.signal(signal.kind, name)
            assert given is not None
            self.inputs[name] = given
            self._streams[name] = SignalStream(name, signal, given, robot.state.same_clock)
        self._spec = spec

    def __getitem__(self, name: str) -> SignalStream:
        """Return the stream of that name."""
        return self._streams[name]

    def restart(self) -> None:
        """Forget all values."""
        for stream in self._streams.values():
            stream.restart()

    def values(self, now: float, robot_now: float) -> dict[str, FloatArray] | None:
        """Return what `RobotState.signals` shows; None: the policy observes no signal.

        Args:
            now: steady time [s].
            robot_now: the robot's clock [s].
        """
        if not self._streams:
            return None
        found = {name: stream.value(now, robot_now) for name, stream in self._streams.items()}
        return {name: value for name, value in found.items() if value is not None}

    def faults(
        self, now: float, robot_now: float, senders: Mapping[str, str], needed: Container[str]
    ) -> dict[Fault, str]:
        """Return the faults of the signals that are needed, each with a phrase.

        Args:
            now: steady time [s].
            robot_now: the robot's clock [s].
            senders: signal -> the nodes that publish it, or did.
            needed: their names.
        """
        found: dict[Fault, str] = {}
        for name, stream in self._streams.items():
            if name not in needed:
                continue
            for fault, phrase in stream.faults(now, robot_now, senders.get(name, "")):
                found[fault] = f"{found[fault]}; {phrase}" if fault in found else phrase
        return found

    def problem(self, mismatches: tuple[str, ...], needed: Container[str]) -> str:
        """Return which needed signal has not come, as a sentence; empty: all have.

        Args:
            mismatches: sentences about nodes with another message type; one may be the reason.
            needed: names of the signals.
        """
        for name, stream in self._streams.items():
            if name in needed and (problem := stream.problem()):
                section = f"robot.{self._spec.signals[name].section}.{name}"
                why = next((s for s in mismatches if f"{section}." in s), "")
                return f"{problem}: {why}" if why else problem
        return ""


def _short(values: FloatArray) -> str:
    """Return numbers for a message."""
    shown = ", ".join(f"{value:.4g}" for value in values[:7])
    return f"[{shown}{', ...' if len(values) > 7 else ''}]"
