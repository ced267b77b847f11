"""Terms of `task.success`: whether the criterion holds at this step, asked after every step."""

from __future__ import annotations

import math
from collections import deque
from typing import Annotated

import numpy as np
from pydantic import Field

from dime_robot.runtime.contract.units import lower_bound
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.quantities import Seconds, Share
from dime_robot.sim.tasks.view import TaskView

Distance = Annotated[float, Field(gt=0)]
Window = Annotated[Seconds, Field(gt=0)]
StandingAngle = Annotated[float, lower_bound(1, "degrees", "rad"), Field(gt=0, lt=90)]


def _steps(view: TaskView, window: float) -> int:
    if window > view.episode_seconds:
        raise InputError(
            f"window: expected up to episode_seconds = {view.episode_seconds:g} s, got {window:g} s"
        )
    return max(1, round(window * view.spec.rate))


class Stands:
    """Whether a pole stood for a share of the last seconds.

    Args:
        view: of the task.
        joint: revolute, 0 = upright.
        angle: below which it counts as standing [degrees].
        window: length of the time at the end that counts [s].
        share: of the window for which it has to stand.
    """

    def __init__(
        self,
        view: TaskView,
        joint: str,
        angle: StandingAngle,
        window: Window,
        share: Annotated[Share, Field(gt=0)] = 0.8,
    ) -> None:
        self._joint = view.joint(joint, "revolute")
        self._cos, self._share = math.cos(math.radians(angle)), share
        self._standing: deque[bool] = deque(maxlen=_steps(view, window))

    def reset(self, view: TaskView) -> None:
        """Begin an episode."""
        self._standing.clear()

    def __call__(self, view: TaskView) -> bool:
        """Return whether it did, at this step."""
        self._standing.append(math.cos(view.joint_position[self._joint]) >= self._cos)
        full = len(self._standing) == self._standing.maxlen
        return full and sum(self._standing) >= self._share * len(self._standing)


class VelocityTracked:
    """Whether the mean velocity of the base so far is near the mean of the commanded one.

    Args:
        view: of the task.
        error: largest length of the mean difference [m/s].
    """

    def __init__(self, view: TaskView, error: Distance) -> None:
        self._error = error
        self._offset, self._steps = np.zeros(2), 0

    def reset(self, view: TaskView) -> None:
        """Begin an episode."""
        self._offset, self._steps = np.zeros(2), 0

    def __call__(self, view: TaskView) -> bool:
        """Return whether it is, at this step."""
        self._offset += view.base.velocity[:2] - view.commanded("velocity", 3)[:2]
        self._steps += 1
        x, y = self._offset.tolist()
        return float(np.hypot(x, y)) / self._steps <= self._error


class PointReached:
    """Whether a site has been near the commanded point for some time.

    Args:
        view: of the task.
        site: in the model.
        command: name of the command: a point in the frame of the robot's base [m].
        distance: largest distance [m].
        window: for how long without interruption [s].
    """

    def __init__(
        self, view: TaskView, site: str, command: str, distance: Distance, window: Window = 0.5
    ) -> None:
        self._site, self._command, self._distance = site, command, distance
        self._needed, self._near = _steps(view, window), 0

    def reset(self, view: TaskView) -> None:
        """Begin an episode."""
        self._near = 0

    def __call__(self, view: TaskView) -> bool:
        """Return whether it has, at this step."""
        off = view.site(self._site) - view.commanded(self._command, 3)
        self._near = self._near + 1 if float(off.dot(off)) <= self._distance**2 else 0
        return self._near >= self._needed


class JointsTracked:
    """Whether all joints are near their commanded positions.

    Args:
        view: of the task.
        command: name of the command: a position for each of the policy's joints [rad or m].
        error: largest difference of a joint [rad or m].
    """

    def __init__(self, view: TaskView, command: str, error: Distance) -> None:
        self._command, self._error = command, error

    def __call__(self, view: TaskView) -> bool:
        """Return whether they are, at this step."""
        target = view.commanded(self._command, len(view.joint_position))
        return bool((np.abs(view.joint_position - target) <= self._error).all())
