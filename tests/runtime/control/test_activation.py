"""The states from which a policy may start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dime_robot.runtime.control.activation import StartPose
from tests.runtime.machines import UPRIGHT, make_robot, make_spec, make_state


def problem(state: Any, kind: str = "position", **robot: Any) -> str:
    return StartPose(make_spec(kind), make_robot(kind, **robot)).problem(state)


def tilted(degrees: float) -> np.ndarray:
    half = np.radians(degrees) / 2
    return np.array([np.cos(half), np.sin(half), 0.0, 0.0])


@pytest.mark.parametrize(
    ("pose", "words"),
    [
        ({}, ""),  # wrist 0.5, wheel 0, rail 0.25
        ({"wrist": 0.79}, ""),
        ({"wrist": 1.0}, ""),  # the safe pose
        ({"wrist": 1.29}, ""),
        ({"wrist": 1.31}, "wrist is 0.81 from its default position: expected at most 0.3"),
        ({"wrist": 0.1}, "wrist is 0.4 from its default"),
        ({"wheel": 2 * np.pi - 0.1}, ""),  # it turns freely
        ({"wheel": 1.0}, "wheel is 1 from its default"),
        ({"rail": 0.29}, ""),  # a tenth of a range of 0.5 m
        ({"rail": 0.31}, "rail is 0.06 from its default position: expected at most 0.05"),
        ({"velocity": [0.9, 0, 0]}, ""),
        ({"velocity": [0, 3.0, 0]}, "wheel moves at 3: expected at most 1 (activation.speed)"),
    ],
)
def test_a_position_robot_begins_near_its_default_or_its_safe_pose(
    pose: dict[str, Any], words: str
) -> None:
    got = problem(make_state(**pose))
    assert got.startswith(words) and bool(got) == bool(words), got


def test_the_robots_file_says_otherwise() -> None:
    far = make_state(wrist=1.9, velocity=[3.0, 0, 0])
    assert not problem(far, activation={"position_error": 1.5, "speed": 5.0})
    assert "at most 0.01" in problem(make_state(wrist=0.52), activation={"position_error": 0.01})


@pytest.mark.parametrize("kind", ["effort", "twist"])
def test_others_begin_anywhere_unless_told_otherwise(kind: str) -> None:
    far = make_state(wrist=1.9, velocity=[3.0, 0, 0])
    assert not problem(far, kind)
    assert "wrist moves at 3" in problem(far, kind, activation={"speed": 2.0})


@pytest.mark.parametrize("degrees", [14, 16, 29, 31])
def test_tilt(degrees: float) -> None:
    state = make_state(orientation=tilted(degrees), angular_velocity=np.zeros(3))
    assert not problem(state)  # nobody cares
    assert bool(problem(state, safety__tilt_limit=60.0)) == (degrees > 30)
    assert bool(problem(state, safety__tilt_limit=60.0, activation={"tilt": 15.0})) == (
        degrees > 15
    )
    upright = make_state(orientation=UPRIGHT, angular_velocity=np.zeros(3))
    assert not problem(upright, safety__tilt_limit=60.0)


def test_a_tilt_needs_an_imu() -> None:
    with pytest.raises(ValueError, match=r"activation\.tilt: expected an imu section"):
        make_robot(activation={"tilt": 10.0}, imu=None)
