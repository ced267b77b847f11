"""Where task commands and sensors come from: what is refused, and what a type gives."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from dime_robot.runtime.contract.robot_config import RobotConfig, incompatibilities
from dime_robot.runtime.contract.signal_input import SensorInput, TaskCommandInput
from dime_robot.runtime.io.errors import first_problem
from tests.runtime.machines import make_robot, make_spec, robot_data

POINT = {"topic": "target", "type": "PointStamped", "frame": "base", "when_lost": "hold"}
POSE = {**POINT, "type": "PoseStamped"}
TWIST = {"topic": "t", "type": "Twist", "when_lost": "zero", "timeout": 0.5}
ARRAY = {"topic": "t", "type": "Float64MultiArray", "when_lost": "zero", "timeout": 0.5}
JOINTS = {"topic": "t", "type": "JointState", "joints": ["a", "b"], "when_lost": "hold"}

REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (POINT, {"colour": 1}, "Extra inputs"),
    (POINT, {"topic": "has space"}, "should match pattern"),
    (POINT, {"type": "Point"}, "'Twist', 'TwistStamped'"),
    (POINT, {"frame": None}, "frame: expected the frame_id of its PointStamped"),
    ({**TWIST, "type": "TwistStamped"}, {}, "frame: expected the frame_id"),
    (TWIST, {"frame": "base"}, "frame: expected none of a Twist"),
    (ARRAY, {"frame": "base"}, "frame: expected none of a Float64MultiArray"),
    (JOINTS, {"frame": "base"}, "frame: expected none of a JointState"),
    (JOINTS, {"joints": []}, "joints: expected the names of joints"),
    (JOINTS, {"joints": ["a", "a"]}, "each joint once"),
    (POINT, {"joints": ["a"]}, "joints: expected none"),
    (POINT, {"when_lost": None}, "when_lost: Input should be"),
    (POINT, {"when_lost": "zero", "timeout": 1.0}, "got zero: 0 is a place"),
    (POSE, {"when_lost": "zero", "timeout": 1.0}, "got zero: 0 is a place"),
    (JOINTS, {"when_lost": "zero", "timeout": 1.0}, "got zero: 0 is a place"),
    (ARRAY, {"limits": [1.0, 2.0]}, "got zero, which is beyond them"),
    (TWIST, {"when_lost": "hold"}, "got hold: a velocity"),
    (ARRAY, {"timeout": None}, "timeout: expected one with when_lost: zero"),
    (POINT, {"when_lost": "stop"}, "timeout: expected one with when_lost: stop"),
    (POINT, {"timeout": 0}, "greater than 0"),
    (POINT, {"timeout": 5000}, "in s, not in ms"),
    (POINT, {"limits": [1.0, 0.0]}, "lower <= upper"),
    (POINT, {"limits": [0.0, math.inf]}, "finite"),
    (POINT, {"limits": [[0, 1], [0, 1]]}, "limits are of 2 numbers, expected 1 or 3"),
    (POSE, {"limits": [[0, 1]] * 7}, "limits are of 7 numbers, expected 1 or 3"),
    (JOINTS, {"limits": [[0, 1]] * 3}, "limits are of 3 numbers, expected 1 or 2"),
    (TWIST, {"limits": [[-1, 1]] * 4}, "limits are of 4 numbers"),
    (POINT, {"limits": ["0", 1.0]}, "expected a number"),
    (POINT, {"limits": [0, 1500]}, "up to 1000 m, got 1500: is this really in m, not in mm"),
    (TWIST, {"limits": [[-1, 1], [-1, 1], [-180, 180]]}, "not in mm/s or degrees/s"),
    (POINT, {"second_publisher": "ignore"}, "'warn' or 'refuse'"),
]


@pytest.mark.parametrize(("base", "changes", "words"), REFUSED)
def test_an_input_that_cannot_work_is_refused(
    base: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError) as error:
        TaskCommandInput.model_validate({**base, **changes})
    assert words in first_problem(error.value)


@pytest.mark.parametrize("base", [POINT, POSE, TWIST, ARRAY, JOINTS])
def test_an_input_survives_its_file(base: dict[str, Any]) -> None:
    given = TaskCommandInput.model_validate(base)
    assert TaskCommandInput.model_validate(given.model_dump(mode="json")) == given


def test_a_sensor_needs_a_time_out_and_escalates_unless_told_otherwise() -> None:
    given = {"topic": "ball", "type": "PointStamped", "frame": "base"}
    with pytest.raises(ValidationError, match="timeout"):
        SensorInput.model_validate(given)
    assert SensorInput.model_validate({**given, "timeout": 0.1}).when_lost == "escalate"
    for refused in ("hold", "zero"):  # a measurement that has ended is not shown as if it went on
        with pytest.raises(ValidationError, match="when_lost"):
            SensorInput.model_validate({**given, "timeout": 0.1, "when_lost": refused})


def test_one_pair_of_limits_counts_for_all_and_those_of_a_pose_for_its_position() -> None:
    point = TaskCommandInput.model_validate({**POINT, "limits": [-1, 2]})
    assert point.bounds(3) == ([-1, -1, -1], [2, 2, 2])
    pose = TaskCommandInput.model_validate({**POSE, "limits": [[-1, 1], [0, 2], [0.5, 0.5]]})
    free = [math.inf] * 4
    assert pose.bounds(7) == ([-1, 0, 0.5, *(-x for x in free)], [1, 2, 0.5, *free])
    two = TaskCommandInput.model_validate({**ARRAY, "limits": [[-1, 1], [-2, 2]]})
    assert two.bounds(2) == ([-1, -2], [1, 2])
    assert TaskCommandInput.model_validate(ARRAY).bounds(2) == ([-math.inf] * 2, [math.inf] * 2)


def observing(kind: str, size: int, **fields: Any) -> dict[str, Any]:
    return {"name": "x", "kind": kind, "size": size, "unit": "1", **fields}


@pytest.mark.parametrize(
    ("section", "given", "kind", "size", "words"),
    [
        ("task_commands", POINT, "command", 3, ""),
        ("task_commands", POSE, "command", 7, ""),
        ("task_commands", TWIST, "command", 3, ""),
        ("task_commands", TWIST, "command", 6, ""),
        ("task_commands", ARRAY, "command", 11, ""),
        ("task_commands", JOINTS, "command", 2, ""),
        ("task_commands", POINT, "command", 7, "task_commands.x: a PointStamped gives 3 numbers"),
        ("task_commands", TWIST, "command", 4, "a Twist gives 3 or 6 numbers"),
        ("task_commands", JOINTS, "command", 3, "a JointState gives 2 numbers"),
        ("task_commands", {**ARRAY, "limits": [[-1, 1]] * 2}, "command", 3, "limits are of 2"),
        ("task_commands", POINT, "sensor", 3, "observes the sensor x of 3 numbers"),
        ("sensors", {**POINT, "when_lost": "stop", "timeout": 1.0}, "sensor", 3, ""),
        ("sensors", {**POINT, "when_lost": "stop", "timeout": 1.0}, "command", 3, "is missing"),
    ],
)
def test_a_policy_finds_its_signals_or_is_refused(
    section: str, given: dict[str, Any], kind: str, size: int, words: str
) -> None:
    robot = RobotConfig.model_validate({**robot_data(), section: {"x": given}})
    spec = make_spec(observation=[observing(kind, size)])
    problems = [p for p in incompatibilities(spec, robot) if p.code == "sensors"]
    assert bool(problems) == bool(words), problems
    for problem in problems:
        assert words in str(problem)
    [problem] = incompatibilities(spec, make_robot())
    assert problem.code == "sensors" and "is missing" in str(problem)


def test_history_and_the_name_of_the_signal_count() -> None:
    robot = RobotConfig.model_validate({**robot_data(), "task_commands": {"goal": POINT}})
    term = observing("command", 6, signal="goal", history=2)
    assert not list(incompatibilities(make_spec(observation=[term]), robot))
    assert not make_robot().task_commands
