"""Link: what the two processes of unitree_driver send each other.

The process on the robot's domain never waits for the other one: where the link is full, a reading
is dropped.
"""

from __future__ import annotations

import errno
import pickle
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_MESSAGE = 60_000  # bytes
MAX_RECEIVED = 50  # messages at once


@dataclass(frozen=True)
class Started:
    """ROS side: its node exists."""

    parameters: Any


@dataclass(frozen=True)
class Command:
    """ROS side: positions for the motors."""

    names: tuple[str, ...]
    positions: tuple[float, ...]
    at: float
    """When it arrived, steady [s]."""


@dataclass(frozen=True)
class Call:
    """ROS side: an operator called a service."""

    id: int
    what: str


@dataclass(frozen=True)
class Done:
    """Robot's side: how a call ended."""

    id: int
    success: bool
    text: str


@dataclass(frozen=True)
class Topics:
    """Robot's side: what the robot's file calls the topics."""

    state: str
    imu: str
    joystick: str
    command: str
    command_kind: str


@dataclass(frozen=True)
class Sample:
    """Robot's side: a reading. Arrays as tuples, in the order of the motors."""

    stamp: float
    """Of its arrival, on the system's clock [s]."""
    position: tuple[float, ...]
    velocity: tuple[float, ...]
    effort: tuple[float, ...]
    quaternion: tuple[float, ...]
    """w, x, y, z"""
    gyroscope: tuple[float, ...]
    accelerometer: tuple[float, ...]


@dataclass(frozen=True)
class Stick:
    """Robot's side: the wireless remote."""

    stamp: float
    axes: tuple[float, ...]
    buttons: tuple[int, ...]


@dataclass(frozen=True)
class Status:
    """Robot's side: its state, and whether commands are taken."""

    level: int
    """0 ok, 1 warning, 2 error"""
    text: str
    values: dict[str, str]
    takes_commands: bool


@dataclass(frozen=True)
class Log:
    """Robot's side: a sentence for the log."""

    level: str
    text: str


class Link:
    """One end of the link.

    Args:
        end: of a pair of sockets of whole messages.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self.dropped = 0
        self.closed = False  # the other process has ended

    def fileno(self) -> int:
        """Return the socket's number, to wait for it."""
        return self._end.fileno()

    def send(self, message: Any) -> bool:
        """Send a message; return whether it was not dropped."""
        data = pickle.dumps(message)
        if len(data) > MAX_MESSAGE:  # a command with any number of names
            self.dropped += 1
            return False
        try:
            self._end.send(data)
        except OSError as error:
            self.dropped += 1
            self.closed |= error.errno in (errno.EPIPE, errno.ECONNRESET, errno.EBADF)
            return False
        return True

    def receive(self) -> Iterator[Any]:
        """Yield what has arrived; sets `closed` where the other process has ended."""
        for _ in range(MAX_RECEIVED):
            try:
                data = self._end.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return
            yield pickle.loads(data)  # of our own child or parent only

    def close(self) -> None:
        """End it; the other process notices."""
        self._end.close()
