"""Endpoints of a topic, and the publisher of each message.

A second publisher is harmless until it sends a message. The metadata of each message has its
publisher's id, but the events executor of rclpy 9.1.2 fails on callbacks that take these metadata,
so messages are taken directly by a hidden node without an executor, only while a topic has more
than one publisher.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from dime_robot.runtime.control.plausibility import JUMP_SLACK
from dime_robot.runtime.control.safety_filter import SPEED_TOLERANCE

GID_BYTES = 16  # of a publisher's id that endpoints and messages have in common
WATCH_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=50, reliability=ReliabilityPolicy.BEST_EFFORT
)
MAX_MESSAGES = 200  # taken at once: a flood must not delay the control loop
# nodes that subscribe to everything and command nothing; rclpy hides names that begin with _
TOOLS: tuple[str, ...] = ("_", "rosbag2", "ros2bag", "mcap", "foxglove", "rosbridge", "webviz")
TOOLS += ("plotjuggler", "rqt", "rviz", "rerun", "latency_monitor")
RECORDER = "recorder"  # anywhere in a name
WATCH_TIME = 1.0  # [s] of monitoring two publishers before they are compared
SENDER_TIMEOUT = 1.0  # [s] after its last message a publisher no longer counts as sending


class Endpoint(NamedTuple):
    """A publisher or subscriber of a topic."""

    node: str  # fully qualified
    type: str  # as geometry_msgs/msg/Twist
    gid: bytes


def full_name(namespace: str, name: str) -> str:
    """Return a node's fully qualified name."""
    return f"{namespace.rstrip('/')}/{name}"


def endpoints(infos: Sequence[Any]) -> list[Endpoint]:
    """Make a topic's endpoints from rclpy's result."""
    return [
        Endpoint(
            full_name(info.node_namespace, info.node_name),
            info.topic_type,
            bytes(info.endpoint_gid)[:GID_BYTES],
        )
        for info in infos
    ]


def is_tool(node: str) -> bool:
    """Whether a node's fully qualified name shows that it only records or displays."""
    name = node.rpartition("/")[2]
    return name.startswith(TOOLS) or RECORDER in name


class TopicWatch:
    """Takes the messages of one topic with their publishers' ids, while it is open.

    Args:
        owner: its context and namespace are used.
        kind: message type.
        topic: fully resolved.
    """

    def __init__(self, owner: Node, kind: type, topic: str) -> None:
        self._owner, self._kind, self.topic = owner, kind, topic
        self._node: Node | None = None
        self._subscription: Any = None
        self.since = 0.0  # when it was opened [s]

    @property
    def is_open(self) -> bool:
        """Whether it takes messages."""
        return self._node is not None

    def keep_open(self, needed: bool) -> None:
        """Subscribe to the topic if this is needed, else end the subscription."""
        if not needed:
            self.close()
        if not needed or self._node is not None:
            return
        self._node = Node(
            f"_{self._owner.get_name()}_watch",
            namespace=self._owner.get_namespace(),
            context=self._owner.context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self._subscription = self._node.create_subscription(
            self._kind, self.topic, lambda _: None, WATCH_QOS
        )
        self.since = time.monotonic()

    def close(self) -> None:
        """End the subscription."""
        if self._node is not None:
            self._node.destroy_node()
        self._node = self._subscription = None

    def take(self) -> list[tuple[bytes | None, Any]]:
        """Return messages since the last call, with their publishers' ids if rclpy has them."""
        found: list[tuple[bytes | None, Any]] = []
        if self._subscription is None:
            return found
        with self._subscription.handle:
            while len(found) < MAX_MESSAGES:
                taken = self._subscription.handle.take_message(self._kind, False)
                if taken is None:
                    break
                gid = taken[1].get("publisher_gid")
                found.append((None if gid is None else bytes(gid["data"])[:GID_BYTES], taken[0]))
        return found


class StatePublishers:
    """Compares the messages of all publishers of the joint states.

    Args:
        names: the policy's joints by their names on the topic.
        speed: their largest speeds, shape (n_joints,) [rad/s or m/s].
        turning: which of them turn without limits, shape (n_joints,).
    """

    def __init__(self, names: Sequence[str], speed: np.ndarray, turning: np.ndarray) -> None:
        self._names, self._speed, self._turning = list(names), SPEED_TOLERANCE * speed, turning
        self._seen: dict[bytes | None, tuple[float, float, np.ndarray]] = {}

    def restart(self) -> None:
        """Drop all received messages."""
        self._seen.clear()

    def take(
        self, publisher: bytes | None, names: Sequence[str], position: Sequence[float],
        stamp: float, now: float,
    ) -> str:  # fmt: skip
        """Compare a message with those of other publishers.

        Args:
            publisher: its id.
            names: of the message's joints.
            position: of these joints [rad or m].
            stamp: of the message [s].
            now: steady time [s].

        Returns:
            How it contradicts another publisher's message, as a phrase; empty: it does not.
        """
        given = dict(zip(names, position, strict=False))
        values = np.array([given.get(name, np.nan) for name in self._names])
        if np.isnan(values).all():  # a gripper's
            return ""
        self._seen[publisher] = (now, stamp, values)
        for other, (_, their_stamp, theirs) in self._senders(now).items():
            if other == publisher:
                continue
            off = values - theirs
            off = np.where(self._turning, np.remainder(off + np.pi, 2 * np.pi) - np.pi, off)
            excess = np.abs(off) - JUMP_SLACK - self._speed * abs(stamp - their_stamp)
            if (excess > 0).any():  # a joint that only one publisher sends is NaN
                worst = int(np.nanargmax(excess))
                return f"{self._names[worst]} is {values[worst]:.3g} and {theirs[worst]:.3g}"
        return ""

    def shared(self, now: float) -> list[str]:
        """Return the joints that more than one publisher sends.

        Args:
            now: steady time [s].
        """
        sent = [np.isfinite(values) for _, _, values in self._senders(now).values()]
        count = np.sum(sent, axis=0) if sent else np.zeros(len(self._names))
        return [name for name, times in zip(self._names, count, strict=True) if times > 1]

    def _senders(self, now: float) -> dict[bytes | None, tuple[float, float, np.ndarray]]:
        return {gid: seen for gid, seen in self._seen.items() if now - seen[0] <= SENDER_TIMEOUT}
