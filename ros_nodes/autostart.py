"""The transitions a node goes through by itself, until it is there or an operator makes one."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.lifecycle import TransitionCallbackReturn

REFUSED, NO_ROBOT = 2, 3  # exit codes where it cannot do what it was asked for


class Autostart:
    """Configures and activates as the parameter `autostart` wishes.

    Args:
        wish: none, configure or activate.
        patience: how long activation may be refused after configuring [s].
        configure: the transition.
        activate: the transition.
        why_not: what stands against activating, empty: nothing.
    """

    def __init__(
        self,
        wish: str,
        patience: float,
        configure: Callable[[], TransitionCallbackReturn],
        activate: Callable[[], TransitionCallbackReturn],
        why_not: Callable[[], str],
    ) -> None:
        self._wish, self._patience = wish, patience
        self._configure, self._activate, self._why_not = configure, activate, why_not
        self._until: float | None = None  # set once configured, steady [s]

    @property
    def activates(self) -> bool:
        """Is activation still to come by itself?"""
        return self._wish == "activate"

    def cancel(self) -> None:
        """Somebody made a transition: from now on the lifecycle is theirs."""
        self._wish = "none"

    def look(self) -> tuple[int | None, str]:
        """Go on if possible. An exit code and why, where it has failed for good."""
        if self._wish == "none":
            return None, ""
        if self._until is None:
            wish = self._wish
            if self._configure() != TransitionCallbackReturn.SUCCESS:
                return REFUSED, ""
            self._until = time.monotonic() + self._patience
            self._wish = "none" if wish == "configure" else wish
            return None, ""
        problem = self._why_not()
        if not problem:
            self._activate()
        elif time.monotonic() > self._until:
            return NO_ROBOT, problem
        return None, ""
