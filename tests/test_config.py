"""The door to configurations: what `check` finds, what `diff` says and to whom it belongs."""

from __future__ import annotations

from pathlib import Path

import pytest

from dime_robot import config
from dime_robot.runtime.errors import InputError
from dime_robot.runtime.places import differences
from dime_robot.sim.config import load_robot_task
from tests.sim.test_cartpole import variant


def test_the_shipped_configuration_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert config.main(["check", "cartpole"]) == 0
    out = capsys.readouterr().out
    assert out.count("ok  ") == 3
    assert "5 observations, 1 effort actions, 50 Hz" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("position_limits: [-1.2, 1.2]   # [m]", "position_limits: [-1.3, 1.2]"), "not loosened"),
        (('range="-1.2 1.2"', 'range="-1.5 1.5"'), "position limits"),
        (("rate: 50.0, max_age", "rate: 25.0, max_age"), "max_age|at least the policy's rate"),
        (("timeout: 0.1", "timeout: -0.1"), "robot.command.timeout"),
        (("hold: 0.04 ", "hold: 40 "), "robot.safety.hold"),
        (("recover: 0.2", "recover: 0.01"), "at least two readings"),
        (("max_age: 0.035", "max_age: 0.02"), "more than the time between two readings"),
        (("topic: joint_states", "topic: joint states"), "robot.state.topic"),
        (("interface: effort", "interface: velocity"), "with interface effort or position"),
        (("velocity_limit: 60.0", "velocity_limit: .nan"), "robot.joints.1.velocity_limit"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as error:
        config.main(["check", str(variant(tmp_path, change))])
    assert "\n" not in str(error.value)


def test_a_difference_has_an_owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = variant(
        tmp_path,
        ("scale: {slider: 8.0}", "scale: {slider: 6.0}"),
        ("damping: 5.0  ", "damping: 4.0  "),
        ("position_width: 1.0 ", "position_width: 1.5 "),
    )
    assert config.main(["diff", "cartpole", str(changed)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [(line.split()[0], line.split()[1:4]) for line in lines[:3]] == [
        ("policy.action.scale.slider", ["8.0", "->", "6.0"]),
        ("robot.joints.slider.damping", ["5.0", "->", "4.0"]),
        ("task.position_width", ["1.0", "->", "1.5"]),
    ]
    assert "needs a new policy" in lines[0]
    assert "fact of the machine" in lines[1]
    assert lines[3] == "3 differences"


def test_no_difference_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert config.main(["diff", "cartpole", "cartpole"]) == 0
    assert capsys.readouterr().out == "no difference\n"


def test_the_order_of_joints_is_a_difference() -> None:
    ours, _ = load_robot_task("cartpole")
    robot = ours.robot.model_copy(update={"joints": ours.robot.joints[::-1]})
    theirs = ours.model_copy(update={"robot": robot})
    assert differences(ours, theirs) == [("robot.joints.order", "slider, hinge", "hinge, slider")]
