"""Autostart: lifecycle transitions that a node makes by itself at its start."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.lifecycle import TransitionCallbackReturn

REFUSED, NO_ROBOT = 2, 3  # exit codes where configuring or activating fails


class Autostart:
    """Configures and activates a node, until an operator makes a transition.

    Args:
        mode: none, configure or activate.
        timeout: how long activation may be refused after configuring [s].
        configure: the transition.
        activate: the transition.
        activation_problem: returns why the node cannot be activated now; empty: it can.
    """

    def __init__(
        self,
        mode: str,
        timeout: float,
        configure: Callable[[], TransitionCallbackReturn],
        activate: Callable[[], TransitionCallbackReturn],
        activation_problem: Callable[[], str],
    ) -> None:
        self._mode, self._timeout = mode, timeout
        self._configure, self._activate = configure, activate
        self._activation_problem = activation_problem
        self._until: float | None = None  # set once configured, steady [s]

    @property
    def activates(self) -> bool:
        """Whether it will still activate the node."""
        return self._mode == "activate"

    def cancel(self) -> None:
        """Make no further transition: an operator has made one."""
        self._mode = "none"

    def poll(self) -> tuple[int | None, str]:
        """Make the next transition if it is possible.

        Returns:
            If it has finally failed, the exit code of the process and the reason.
        """
        if self._mode == "none":
            return None, ""
        if self._until is None:
            mode = self._mode
            if self._configure() != TransitionCallbackReturn.SUCCESS:
                return REFUSED, ""
            self._until = time.monotonic() + self._timeout
            self._mode = "none" if mode == "configure" else mode
            return None, ""
        problem = self._activation_problem()
        if not problem:
            self._activate()
        elif time.monotonic() > self._until:
            return NO_ROBOT, problem
        return None, ""
