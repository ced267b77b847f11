"""Terms of the crane's task: a command, a sensor, a reward and a termination of its own.

A term is a function of the view, and of parameters with types, which the YAML file gives. A class
has the parameters in its constructor and keeps something between steps.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dime_robot.sim.tasks.view import TaskView

Positive = Annotated[float, Field(gt=0)]


def berth(view: TaskView, places: tuple[float, ...]) -> NDArray[np.float64]:
    """Draw where the load has to go, one of several places, shape (1,) [m].

    Args:
        view: of the task.
        places: positions along the rail [m].
    """
    return np.array([view.rng.choice(places)])


def sway(view: TaskView) -> NDArray[np.float64]:
    """Return angle and angular velocity of the cable, as the camera sees them [rad, rad/s].

    Args:
        view: of the task.
    """
    cable = view.plant.data.joint("cable")
    return np.array([cable.qpos[0], cable.qvel[0]])


def load_at_berth(view: TaskView, width: Positive) -> float:
    """Return exp(-|x - c| / width), x the position of the load along the rail.

    Args:
        view: of the task.
        width: distance at which it falls to e^-1 [m].
    """
    off = view.site("hook")[0] - view.commanded("berth", 1)[0]
    return math.exp(-abs(float(off)) / width)


load_at_berth.largest = 1.0  # type: ignore[attr-defined]  # the critic's atoms follow from it


def swings(view: TaskView, angle: Annotated[float, Field(gt=0, lt=90)]) -> bool:
    """Return whether the load swings too far.

    Args:
        view: of the task.
        angle: of the cable that ends an episode [degrees].
    """
    return abs(float(view.plant.data.joint("cable").qpos[0])) > math.radians(angle)


class Delivered:
    """Whether the load has been near its place for some time.

    Args:
        view: of the task.
        distance: largest [m].
        window: for how long [s].
    """

    def __init__(self, view: TaskView, distance: Positive, window: Positive) -> None:
        self._distance, self._needed = distance, round(window * view.spec.rate)
        self._near = 0

    def reset(self, view: TaskView) -> None:
        """Begin an episode."""
        self._near = 0

    def __call__(self, view: TaskView) -> bool:
        """Return whether it has, at this step."""
        off = view.site("hook")[0] - view.commanded("berth", 1)[0]
        self._near = self._near + 1 if abs(off) <= self._distance else 0
        return self._near >= self._needed
