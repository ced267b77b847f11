"""The task commands that a simulated robot's task follows, and the sensors that it publishes.

policy_node receives the same task commands on the same topics, so that the task is evaluated with
what the policy was told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from rclpy.node import Node

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig, signal_problems
from dime_robot.runtime.contract.signal_input import SignalInput
from dime_robot.runtime.control.signals import SignalStream
from dime_robot.runtime.io.errors import InputError
from ros_nodes.conversions import STATE_QOS
from ros_nodes.signal_messages import SIGNAL_TYPES, SignalMessage, read_signal, write_signal
from ros_nodes.sim_states import Outgoing


class SimSignals:
    """Subscribes to task commands, and writes the messages of sensors.

    Args:
        node: owner of the topics.
        spec: the contract, which names the signals.
        robot: has their topics and types.
        clock: steady time [s], of the time-outs.

    Raises:
        InputError: the robot lacks one of the signals, or gives another number of values.
    """

    def __init__(
        self, node: Node, spec: PolicySpec, robot: RobotConfig, clock: Callable[[], float]
    ) -> None:
        for problem in signal_problems(spec, robot):
            raise problem
        self._node, self._clock = node, clock
        self.topics: list[tuple[str, type, str]] = []  # topic, type and section of each signal
        self._streams: dict[str, SignalStream] = {}
        self._sensors = {}  # name -> publisher and input
        for name, signal in spec.signals.items():
            given = robot.signal(signal.kind, name)
            assert given is not None
            kind = SIGNAL_TYPES[given.type]
            self.topics.append((given.topic, kind, f"robot.{signal.section}.{name}"))
            if signal.kind == "sensor":
                self._sensors[name] = (node.create_publisher(kind, given.topic, 10), given)
                continue
            stream = self._streams[name] = SignalStream(name, signal, given, same_clock=True)
            callback = partial(self._on_command, stream, given, signal.width)
            node.create_subscription(kind, given.topic, callback, STATE_QOS)

    def _on_command(
        self, stream: SignalStream, given: SignalInput, width: int, message: SignalMessage
    ) -> None:
        now = self._clock()
        try:
            values, stamp, frame = read_signal(message, given, width)
            stream.receive(values, now, now, stamp, frame)
        except InputError as error:
            stream.refuse(str(error))
        if stream.refused:
            text = f"{stream.title} on {given.topic}: {stream.refused}"
            self._node.get_logger().warning(text, throttle_duration_sec=5.0)

    def commands(self) -> dict[str, FloatArray]:
        """Return the task commands that have come, as policy_node shows them to the policy."""
        now = self._clock()
        found = {name: stream.value(now, now) for name, stream in self._streams.items()}
        return {name: value for name, value in found.items() if value is not None}

    def messages(self, values: Mapping[str, FloatArray], stamp: float) -> list[Outgoing]:
        """Return the sensors' messages.

        Args:
            values: name -> value, shape (width,) [SI units]; a missing sensor sends nothing.
            stamp: when they were measured, on the robot's clock [s].
        """
        return [
            (publisher, write_signal(given, values[name], stamp))
            for name, (publisher, given) in self._sensors.items()
            if name in values
        ]

    @property
    def has_sensors(self) -> bool:
        """Whether there is a sensor to publish."""
        return bool(self._sensors)
