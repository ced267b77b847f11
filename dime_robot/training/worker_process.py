"""A worker: a process that steps some of a run's environments and nothing else.

`workers.py` starts it. Requests and answers are pickled on a socket that only the two processes
have; actions, observations, rewards and flags are in memory that they share. It ends when the
socket closes, however the learner's process ended.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from mmap import mmap
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, NamedTuple

import dime_robot.envs  # noqa: F401  imports MuJoCo, and has to be before the environment
from dime_robot.runtime.io.errors import InputError, in_one_line
from dime_robot.training.env_group import EnvGroup, Sizes, StepArrays


class Failure(NamedTuple):
    """An exception of a request, with its traceback as text."""

    error: BaseException
    text: str


class Server:
    """Answers the requests to one group of environments.

    Args:
        memory: file descriptor of the memory that is shared.
    """

    def __init__(self, memory: int) -> None:
        self._memory, self._group = memory, EnvGroup(_none_is_made, range(0))

    def make(self, maker: bytes, numbers: range) -> None:
        """Make the environments.

        Args:
            maker: pickled function that makes an environment by its number.
            numbers: of the environments.

        Raises:
            InputError: they cannot be made, or the function needs a module that is not found.
        """
        try:
            make = pickle.loads(maker).fn
        except Exception as error:  # what an import or a user's class raises
            raise InputError(
                "--workers: expected an environment that another process can load, got one that it"
                f" cannot ({in_one_line(error)}); put it into a module that can be imported, or"
                " leave out --workers"
            ) from error
        self._group = EnvGroup(make, numbers)

    def attach(self, sizes: Sizes) -> None:
        """Share the arrays of every step."""
        self._group.attach(sizes, mmap(self._memory, StepArrays.bytes_for(sizes)))

    def respond(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Return the answer to a request, or a Failure."""
        group = self._group
        known: dict[str, Callable[..., Any]] = {
            "make": self.make,
            "attach": self.attach,
            "query": group.query,
            "reset": group.reset,
            "step": group.step_wait,
        }
        try:
            return known[name](*arguments)
        except BaseException as error:  # as in the learner's process: also SystemExit
            return failure_of(error)

    def close(self) -> None:
        """Close the environments."""
        self._group.close()


def _none_is_made(i: int) -> Any:
    raise NotImplementedError(i)


def failure_of(error: BaseException) -> Failure:
    """Return an exception in a form that another process can raise again."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception of a user's class may have any arguments
        error = RuntimeError(in_one_line(error))
    return Failure(error, text)


def _let_the_learner_decide(signum: int, frame: FrameType | None) -> None:
    """Ignore a signal to all processes of a run; SIG_IGN would pass on to an environment's own."""


def main() -> None:
    """Serve until the socket closes; the first arguments are file descriptors."""
    socket, memory = (int(word) for word in sys.argv[1:3])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _let_the_learner_decide)
    for descriptor in (socket, memory):
        os.set_inheritable(descriptor, False)
    # the learner makes the same environments for evaluations, and shows their warnings
    warnings.filterwarnings("ignore", module="gymnasium")
    server = Server(memory)
    # until the learner closes the socket, or is gone
    with Connection(socket) as connection, suppress(EOFError, OSError):
        while True:
            connection.send(server.respond(*connection.recv()))
    server.close()
