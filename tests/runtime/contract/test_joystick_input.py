"""The section `robot.joystick`: bounded, without two meanings of one index, and for this robot."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dime_robot.runtime.contract.config_files import read_config, shipped_names
from dime_robot.runtime.contract.joystick_input import JoystickAxis, JoystickInput
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig, require_compatible, robot_of
from tests.markdown import blocks
from tests.paths import ROOT, shipped_content
from tests.runtime.machines import make_robot, put

JOYSTICK: dict[str, Any] = {
    "timeout": 0.5,
    "deadman": 4,
    "estop": 1,
    "axes": {"linear_x": {"index": 1}, "angular_z": {"index": 2, "invert": True}},
    "buttons": {"next_policy": 5, "select": {"walk": 0, "turn": 7}},
}


def changed(**changes: Any) -> dict[str, Any]:
    data = copy.deepcopy(JOYSTICK)
    for path, value in changes.items():
        put(data, path.replace("__", "."), value)
    return data


def test_a_mapping_is_read_and_written_back_as_it_is() -> None:
    robot = make_robot(joystick=JOYSTICK)
    assert robot.joystick is not None and robot.joystick.topic == "joy"
    assert robot.joystick.buttons.by_place() == {
        "next_policy": 5,
        "select.walk": 0,
        "select.turn": 7,
    }
    assert RobotConfig.model_validate(robot.model_dump(mode="json")) == robot


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timeout": 500}, "is this really in s, not in ms"),
        ({"timeout": 0.0}, "greater than or equal to 0.1"),
        ({"timeout": None}, "Field required"),
        ({"timeout": "0.5"}, "expected a number, got '0.5'"),
        ({"deadman": None}, "Field required"),
        ({"estop": None}, "Field required"),
        ({"estop": -1}, "greater than or equal to 0"),
        ({"estop": 64}, "less than or equal to 63"),
        ({"estop": 1.5}, "valid integer"),
        ({"estop": True}, "expected a number, got True"),
        ({"estop": 4}, "estop: expected a button of its own, got 4, which is deadman already"),
        ({"buttons__select__turn": 5}, "got 5, which is buttons.next_policy already"),
        ({"axes__angular_z__index": 1}, "axes.angular_z: expected a axis of its own, got 1"),
        ({"axes__linear_x__dead_zone": 0.0}, "greater than or equal to 0.01"),
        ({"axes__linear_x__dead_zone": 0.9}, "less than or equal to 0.5"),
        ({"axes__linear_x__scale": 2.0}, "less than or equal to 1"),
        ({"axes__linear_x__scale": math.nan}, "finite number"),
        ({"axes__linear_z": {"index": 3}}, "'linear_x', 'linear_y' or 'angular_z'"),
        ({"buttons__jump": 3}, "Extra inputs"),
        ({"buttons__select__a\nb": 3}, "printable"),
        ({"topic": "a b"}, "topic"),
    ],
)
def test_what_makes_no_sense_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        JoystickInput.model_validate(changed(**changes))
    assert words.replace("a axis", "an axis") in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "robot", "words"),
    [
        ({}, {"command_velocity": None}, "joystick.axes: expected none of a robot without command"),
        ({"buttons__stand_up": 6}, {}, "buttons.stand_up: expected none of a robot without phases"),
        ({"buttons__run_policy": 6}, {}, "buttons.run_policy: expected none of a robot without"),
        ({"buttons__sit_down": 6}, {}, "buttons.sit_down: expected none of a robot without phases"),
        ({"sit_down_after": 5.0}, {}, "sit_down_after: expected none of a robot without phases"),
    ],
)
def test_what_this_robot_cannot_do_is_named(
    changes: dict[str, Any], robot: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        make_robot(joystick=changed(**changes), **robot)


def test_a_robot_with_phases_states_when_silence_sits_it_down() -> None:
    given = JoystickInput.model_validate(JOYSTICK)
    assert given.robot_problem(True, True).startswith("sit_down_after: expected the silence after")
    given = JoystickInput.model_validate(changed(sit_down_after=5.0, buttons__stand_up=6))
    assert given.robot_problem(True, True) == ""


@given(
    st.floats(0.01, 0.5), st.floats(0.05, 1.0), st.booleans(), st.floats(-1, 1), st.floats(-1, 1)
)
def test_full_deflection_is_the_limit_and_the_dead_zone_is_nothing(
    zone: float, scale: float, invert: bool, value: float, other: float
) -> None:
    axis = JoystickAxis(index=0, invert=invert, scale=scale, dead_zone=zone)
    sign = -1 if invert else 1
    assert axis.deflection(sign) == pytest.approx(scale)
    assert axis.deflection(-sign * 1.0005) == pytest.approx(-scale)
    found = axis.deflection(value)
    assert abs(found) <= scale
    assert (found == 0) == (abs(value) <= zone)
    assert found * value * sign >= 0
    if value < other:
        assert sign * (axis.deflection(other) - found) >= 0
    wanted = scale * value
    assert axis.deflection(axis.value(wanted)) == pytest.approx(wanted, abs=1e-12)


def test_the_example_of_the_page_on_robots_is_right(tmp_path: Path) -> None:
    (block,) = (b for b in blocks(ROOT / "docs/robot.md") if b.file == "go2_joystick.yaml")
    path = tmp_path / "go2_joystick.yaml"
    path.write_text(block.text)
    content = read_config(path)
    robot = robot_of(path, content)
    require_compatible(PolicySpec.model_validate(content["policy"]), robot)
    assert robot.joystick is not None and set(robot.joystick.axes) == {"linear_x", "angular_z"}
    for shipped in shipped_names():  # what has no joystick goes on as before
        assert "joystick" not in shipped_content(shipped)["robot"]
