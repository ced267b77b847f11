"""Sentences about a robot that is tilted too far, or moves too fast, for something to begin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dime_robot.runtime.control.observation import tilt_of
from dime_robot.runtime.control.state import RobotState


def tilt_problem(state: RobotState, limit: float | None, field: str) -> str:
    """Return why the base is tilted too far, as a sentence; empty: it is not, or not measured.

    Args:
        state: the reading.
        limit: largest tilt [degrees]; None: any.
        field: of the robot's file that states it.
    """
    if limit is None or state.orientation is None:
        return ""
    tilt = tilt_of(state.orientation)
    if tilt <= limit:
        return ""
    return f"the base is tilted by {tilt:.0f} degrees: expected at most {limit:g} ({field})"


def speed_problem(state: RobotState, names: Sequence[str], limit: float | None, field: str) -> str:
    """Return which joint moves too fast, as a sentence; empty: none.

    Args:
        state: the reading.
        names: of its joints.
        limit: largest speed [rad/s or m/s]; None: any.
        field: of the robot's file that states it.
    """
    speed = np.abs(state.joint_velocity)
    if limit is None or speed.max(initial=0.0) <= limit:
        return ""
    worst = int(speed.argmax())
    return (
        f"{names[worst]} moves at {speed[worst]:.3g}: expected at most {limit:g} ({field}), let the"
        " robot come to rest first"
    )
