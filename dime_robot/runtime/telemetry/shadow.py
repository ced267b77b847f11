"""A shadow test on recorded topics: what would a policy have commanded, what was commanded?

The control loop itself runs on the recorded messages, at the times at which they were recorded: a
step begins with a reading or with a timer, as on the robot, and uses the newest values. What
differs from a robot: the policy takes no time, nothing is sent, there is no ramp at the beginning,
and a latched stop is released as soon as the readings allow it. `last_action` and a `commanded`
reference are the policy's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.contact_reading import ContactReading
from dime_robot.runtime.control.control_loop import ControlLoop, Mode, steps_by_reading
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import SafetyLevel
from dime_robot.runtime.control.flight_recorder import OTHER, FlightRecorder, Recording
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.message_values import (
    angular_velocity_of,
    command_values,
    joint_reading,
    orientation_of,
    read_signal,
    seconds,
    twist_values,
)
from dime_robot.runtime.control.observation import ActionDecoder
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.control.shadow import units_of
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.topic_files import read_topics
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy, Policy
from dime_robot.runtime.telemetry.ros_types import (
    IMU,
    JOINT_STATE,
    NUMBERS,
    command_type,
    decode,
    full_type,
)

MAX_SECONDS = 2 * 3600.0  # of a recording of topics
SHORTEST_WAIT = 1e-6  # [s] between two polls of the loop; a float has no smaller step after an hour
OTHER_CLOCK = 60.0  # [s] between stamps and times of recording from which on clocks differ


class Comparison(NamedTuple):
    """Two commands of the same steps."""

    joints: tuple[str, ...]
    units: tuple[str, ...]  # of each joint
    time: FloatArray  # since the first record, shape (K,) [s]
    policy: FloatArray  # what the policy would command, shape (K, n_act) [SI units]
    other: FloatArray  # what was commanded, the same shape

    @property
    def difference(self) -> FloatArray:
        """Its magnitude, shape (K, n_act) [SI units]."""
        found: FloatArray = np.abs(self.policy - self.other)
        return found

    def lines(self) -> list[str]:
        """Return a line of text for each joint."""
        off = self.difference
        return [
            f"  {joint:24s} mean {off[:, i].mean():.4g}  max {off[:, i].max():.4g}  {unit}"
            for i, (joint, unit) in enumerate(zip(self.joints, self.units, strict=True))
        ]


class ShadowTest(NamedTuple):
    """The result of a shadow test."""

    recording: Recording  # of the control loop, with the commands of the recording
    drive: str  # "observation" or "timer"
    same_clock: bool  # whether stamps are on the clock of the recorder
    starts: int  # how often the policy began, at the beginning and after stops
    unused: int  # commands in the recording that are not for the policy's joints


def compare_commands(recording: Recording) -> Comparison | None:
    """Compare a recording's commands with those of another controller in it.

    Returns:
        The steps in which the policy acted and the other commanded; None: there is none.

    Raises:
        InputError: the contract in the recording cannot be read.
    """
    records = recording.records
    if OTHER not in (records.dtype.names or ()):
        return None
    acted = records["inferred"] & (records["rung"] <= SafetyLevel.CLAMP)
    rows = records[acted & np.isfinite(records[OTHER]).all(1)]
    if not len(rows):
        return None
    spec = recording.spec
    time = rows["time"] - records["time"][0]
    return Comparison(spec.action_joints, units_of(spec), time, rows["command"], rows[OTHER])


def compare_actions(recording: Recording, actions: np.ndarray, spec: PolicySpec) -> Comparison:
    """Compare a policy's actions with the recorded ones, both times the policy's scale.

    Args:
        recording: with the actions of the policy that was recorded.
        actions: of the other one on the same observations and noise, shape (K, n_act).
        spec: of the other one.
    """
    records = recording.records
    rows, scale = records[records["inferred"]], ActionDecoder(spec).scale
    time = rows["time"] - records["time"][0]
    return Comparison(
        spec.action_joints, units_of(spec), time, scale * actions, scale * rows["action"]
    )


class _Topic(NamedTuple):
    type: str
    take: Callable[[Any], Decision | None]


class _ShadowLoop:
    """Runs a control loop on messages and records what it decides."""

    def __init__(
        self, policy: Policy, robot: RobotConfig, by_reading: bool, began: int, length: float
    ) -> None:
        self.now = 0.0  # since the first message [s]
        self._began = began / 1e9  # time of the first message [s]
        self.starts = self.unused = 0
        controller = Controller(policy, robot, clock=lambda: 0.0)  # the policy takes no time
        # one step more often than the rate allows: readings may come a little too fast
        self.recorder = FlightRecorder(policy, robot, 2.0 * length + 1.0)
        self.recorder.expect_other_commands()
        controller.recorder = self.recorder
        self.loop = ControlLoop(
            controller,
            by_reading,
            lambda: self.now,
            lambda: self._began + self.now,
            publishes=False,
        )
        self._mapping, self._feet = (
            JointMapping(policy.spec, robot),
            ContactReading(policy.spec, robot),
        )
        self._robot, self._period = robot, policy.spec.period

    def topics(self, namespace: str) -> dict[str, list[_Topic]]:
        """Return what is done with the messages of each topic."""
        robot, loop = self._robot, self.loop
        spec = loop.controller.policy.spec
        found: dict[str, list[_Topic]] = {}

        def add(topic: str, kind: str, take: Callable[[Any], Decision | None]) -> None:
            found.setdefault(resolved(topic, namespace), []).append(_Topic(kind, take))

        for name, signal in spec.signals.items():
            given = loop.signals.inputs[name]
            add(given.topic, full_type(given.type), partial(self._signal, name, signal.width))
        if loop.needs_imu and robot.imu is not None:
            add(robot.imu.topic, IMU, self._imu)
        if loop.needs_contact and robot.contact is not None:
            add(robot.contact.topic, NUMBERS, self._contact)
        if loop.needs_velocity and robot.command_velocity is not None:
            velocity = robot.command_velocity
            add(velocity.topic, full_type(velocity.type), self._velocity)
        add(robot.state.topic, JOINT_STATE, self._joint_state)
        add(robot.command.topic, command_type(robot.command), self._command)
        return found

    def advance(self, time: float) -> None:
        """Let the loop act until a time.

        Args:
            time: since the first message [s].
        """
        while True:
            wait = self.loop.wait()
            if np.isfinite(wait):  # else it is not active
                wait = min(max(wait, SHORTEST_WAIT), self._period)
            if self.now + wait >= time:
                break
            self.now += wait
            self._record(self.loop.poll())
        self.now = time

    def take(self, topic: _Topic, message: Any) -> None:
        """Give the loop a message."""
        self._record(topic.take(message))

    def _record(self, decision: Decision | None) -> None:
        if decision is not None:
            self.loop.record(decision)

    def _joint_state(self, message: Any) -> Decision | None:
        loop = self.loop
        reading = joint_reading(message, self._mapping, self._robot.state.effort)
        if reading is None:
            return None
        if isinstance(reading, str):
            return loop.unusable(reading)
        was_active = loop.mode == Mode.ACTIVE and not loop.latched
        if loop.mode == Mode.INACTIVE:
            loop.activate()
        if loop.latched:
            loop.reset()
        decision = loop.joint_state(reading)
        self.starts += not was_active and loop.mode == Mode.ACTIVE and not loop.latched
        return decision

    def _imu(self, message: Any) -> Decision | None:
        orientation, angular_velocity = orientation_of(message), angular_velocity_of(message)
        return self.loop.imu(seconds(message.header.stamp), orientation, angular_velocity)

    def _contact(self, message: Any) -> None:
        self.loop.contact(self._feet.contacts(np.array(message.data, dtype=float)))

    def _velocity(self, message: Any) -> None:
        self.loop.velocity(twist_values(message))

    def _signal(self, name: str, width: int, message: Any) -> None:
        try:
            reading = read_signal(message, self.loop.signals.inputs[name], width)
        except InputError as error:
            self.loop.signals[name].refuse(str(error))
            return
        self.loop.signal(name, *reading)

    def _command(self, message: Any) -> None:
        values = command_values(message, self._mapping)
        if values is None:
            self.unused += 1
        elif self.loop.mode == Mode.ACTIVE:
            self.recorder.other_command(self._mapping.commanded(values).value)


def resolved(topic: str, namespace: str) -> str:
    """Return the full name of a topic of a robot's file.

    Args:
        topic: as in the file.
        namespace: of the robot, as /left.
    """
    outer = "/" + namespace.strip("/") if namespace.strip("/") else ""
    if topic.startswith("/"):
        return topic
    if topic.startswith("~/"):
        return f"{outer}/policy_node/{topic[2:]}"
    return f"{outer}/{topic}"


def shadow_test(
    path: Path, policy: OnnxPolicy, robot: RobotConfig, drive: str = "auto", namespace: str = "/"
) -> ShadowTest:
    """Run a policy on a recording of topics.

    Args:
        path: of an MCAP file or a rosbag2 folder.
        policy: evaluated at each step.
        robot: the machine, whose topics are read.
        drive: what begins a step: "observation", "timer", or "auto".
        namespace: of the robot's topics.

    Raises:
        InputError: no such recording, topics of other types, or no reading or command in it.
    """
    by_reading = steps_by_reading(drive, robot.state.rate, policy.spec.rate)
    if drive == "observation" and not by_reading:
        raise InputError(
            f"--drive: expected timer, since robot {robot.name} publishes at {robot.state.rate:g}"
            f" Hz and the policy runs at {policy.spec.rate:g} Hz, got observation"
        )
    # what was recorded stood up, and had its operator, by itself
    changes = {"safety": robot.safety.model_copy(update={"ramp": 0.0})}
    robot = robot.model_copy(update={**changes, "phases": None, "joystick": None})
    # once without messages, to know the topics
    topics = _ShadowLoop(policy, robot, by_reading, 0, 1.0).topics(namespace)
    messages, types = read_topics(path, topics)
    state = resolved(robot.state.topic, namespace)
    command = resolved(robot.command.topic, namespace)
    for topic, uses in topics.items():
        for use in uses:
            if types.get(topic, use.type) != use.type:
                raise InputError(
                    f"{path}: expected {topic} of type {use.type}, as robot {robot.name} says, got"
                    f" {types[topic]!r}"
                )
    for topic in (state, command):
        if not any(message.topic == topic for message in messages):
            raise InputError(
                f"{path}: expected messages on {topic}, got none; its topics are"
                f" {', '.join(sorted(types)[:12]) or 'none'}: name another robot or namespace"
            )
    began, length = messages[0].time, (messages[-1].time - messages[0].time) / 1e9
    if length > MAX_SECONDS:
        raise InputError(
            f"{path}: expected a recording of up to {MAX_SECONDS:g} s, got {length:.0f} s: cut it"
            " with `ros2 bag convert`"
        )
    first = next(message for message in messages if message.topic == state)
    stamp = seconds(decode(first).header.stamp)
    same_clock = robot.state.same_clock and abs(stamp - first.time / 1e9) < OTHER_CLOCK
    update = {"state": robot.state.model_copy(update={"same_clock": same_clock})}
    shadow = _ShadowLoop(policy, robot.model_copy(update=update), by_reading, began, length)
    topics = shadow.topics(namespace)
    for message in messages:
        shadow.advance((message.time - began) / 1e9)
        fields = decode(message)
        for use in topics[message.topic]:
            shadow.take(use, fields)
    records = shadow.recorder.records()
    if not len(records):
        raise InputError(
            f"{path}: expected readings from which the policy can start, got none:"
            f" {shadow.loop.activation_problem() or 'too few'}"
        )
    recording = Recording(records, {**shadow.recorder.meta, "why": "shadow test"})
    driven = "observation" if by_reading else "timer"
    return ShadowTest(recording, driven, same_clock, shadow.starts, shadow.unused)
