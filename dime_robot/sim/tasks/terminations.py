"""Terms of `task.terminations`: whether the episode has failed, after each control step."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from dime_robot.sim.config.quantities import Metres, Tilt
from dime_robot.sim.tasks.view import TaskView


def tilted(view: TaskView, angle: Annotated[Tilt, Field(gt=0, lt=180)]) -> bool:
    """Return whether the base is tilted too far.

    Args:
        view: of the task.
        angle: that ends an episode [degrees].
    """
    return bool(-view.base.gravity[2] < math.cos(math.radians(angle)))


def sunk(view: TaskView, height: Annotated[Metres, Field(gt=0)]) -> bool:
    """Return whether the base is too low.

    Args:
        view: of the task.
        height: of the base that ends an episode [m].
    """
    return view.base.height < height
