"""RobotConfig: what it refuses. A policy on a robot: what may differ. JointMapping by name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig, load_robot, require_compatible
from dime_robot.runtime.control.faults import Fault
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.state import CommandKind, JointCommand
from dime_robot.runtime.io.errors import InputError, first_problem
from dime_robot.sim.config.robot_task import load_robot_task
from tests.learning.toy import flat_spec
from tests.runtime.machines import (
    KINDS,
    Run,
    make_robot,
    make_spec,
    make_state,
    put,
    robot_data,
)

REFUSED: list[tuple[str, str, Any, str]] = [
    ("effort", "colour", "red", "Extra inputs"),
    ("effort", "joints", [], "at least 1 item"),
    ("effort", "joints.1.name", "rail", r"each joint once, got \['rail'\]"),
    ("effort", "joints.1.wire_name", "axis_6", r"each hardware name once, got \['axis_6'\]"),
    ("effort", "joints.0.sign", 2, "1 or -1"),
    ("effort", "joints.0.sign", 0, "1 or -1"),
    ("effort", "joints.0.offset", float("nan"), "finite"),
    ("effort", "joints.0.position_limits", [0.5, 0.0], "joint rail: .* lower < upper"),
    ("effort", "joints.0.position_limits", [0.0, float("inf")], "finite"),
    ("effort", "joints.0.safe_position", 0.6, "joint rail: expected safe_position in"),
    ("effort", "joints.0.velocity_limit", None, "joints.0.velocity_limit: Field required"),
    ("effort", "joints.0.velocity_limit", 0.0, "greater than 0"),
    ("effort", "joints.0.effort_limit", -1.0, "greater than 0"),
    ("effort", "joints.0.effort_rate_limit", 0.0, "greater than 0"),
    ("effort", "joints.0.damping", -1.0, "greater than or equal to 0"),
    ("effort", "state.rate", 0, "greater than 0"),
    ("effort", "state.max_age", None, "state.max_age: Field required"),
    ("effort", "imu.max_age", 0, "greater than 0"),
    ("effort", "command.timeout", None, "command.timeout: Field required"),
    ("effort", "command.timeout", 0, "greater than 0"),
    ("effort", "command.topic", None, "command.topic: Field required"),
    ("position", "command.interface", "velocity", "trajectory command with interface position"),
    ("twist", "command.interface", "effort", "twist command with interface velocity"),
    ("velocity", "joints.0.acceleration_limit", 0.0, "acceleration_limit"),
    ("position", "command.interface", "effort", "trajectory command with interface position"),
    ("twist", "command.interface", "position", "twist command with interface velocity"),
    ("twist", "command.limits", {"linear_z": 1.0}, "expected axes out of"),
    ("twist", "command.acceleration", 0, "greater than 0"),
    ("twist", "command_velocity.limits", {"linear_x": 1.0}, "for each of"),
    ("twist", "command_velocity.limits.linear_x", -1.0, "or equal to 0"),
    ("twist", "command_velocity.timeout", 0, "greater than 0"),
    ("effort", "safety.soft_margin", 0.5, "less than 0.5"),
    ("effort", "safety.hold", None, "safety.hold: Field required"),
    ("effort", "safety.damp", -0.1, "greater than or equal to 0"),
    ("effort", "safety.ramp", None, "safety.ramp: Field required"),
    ("effort", "safety.safe_speed", 0, "greater than 0"),
    ("effort", "safety.safe_speed", 1.5, "less than or equal to 1"),
    ("effort", "safety.tilt_limit", 180, "less than 180"),
    ("effort", "safety.consecutive_misses", 0, "greater than 0"),
    ("twist", "command.limits.linear_x", -1.0, "0 or more|greater than"),
]


@pytest.mark.parametrize(("kind", "path", "value", "message"), REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(
    kind: str, path: str, value: Any, message: str
) -> None:
    data = robot_data(kind)
    put(data, path, value)
    with pytest.raises(ValidationError) as caught:
        RobotConfig.model_validate(data)
    sentence = first_problem(caught.value)
    assert re.search(message, sentence), sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("kind", KINDS)
def test_the_machines_of_these_tests_are_sound(kind: str) -> None:
    require_compatible(make_spec(kind), make_robot(kind))


def test_a_tilt_limit_needs_an_imu() -> None:
    with pytest.raises(ValidationError, match="expected an imu section"):
        make_robot(imu=None, safety__tilt_limit=30.0)


def test_a_configuration_survives_json() -> None:
    robot = make_robot("twist")
    assert RobotConfig.model_validate_json(robot.model_dump_json()) == robot


def test_the_shipped_robot_is_found_by_the_policys_name() -> None:
    spec = load_robot_task("cartpole")[0].policy
    require_compatible(spec, load_robot(None, spec))
    with pytest.raises(InputError, match="-p robot:=FILE"):
        load_robot(None, make_spec())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("a: [", "expected YAML"),
        ("policy: {}", "section `robot:`"),
        ("- 1", "section `robot:`"),
        ("robot: {name: x}", "robot.joints: Field required"),
        ("robot: 3", "robot"),
    ],
)
def test_a_file_that_is_none_is_one_sentence(tmp_path: Any, text: str | None, message: str) -> None:
    path = tmp_path / "robot.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_robot(path, make_spec())
    assert "\n" not in str(caught.value)


# ---- may this policy run on this robot?

TWIST = {"topic": "commands", "timeout": 0.1, "kind": "twist", "interface": "velocity"}
FORWARD = {**TWIST, "kind": "forward"}
GRAVITY = [{"name": "g", "kind": "projected_gravity", "size": 3, "unit": "1"}]
COMMANDED = [{"name": "v", "kind": "command_velocity", "size": 3, "unit": "mixed"}]
OMEGA = [{"name": "w", "kind": "angular_velocity", "size": 3, "unit": "rad/s"}]


@pytest.mark.parametrize(
    ("kind", "spec", "robot", "code", "message"),
    [
        ("effort", {}, {"joints__2": None}, "joints", r"lacks \['wheel'\]"),
        ("effort", {}, {"joints__0__name": "Rail"}, "joints", r"lacks \['rail'\]"),
        ("effort", {}, {"command__interface": "position"}, "command-kind", "takes position"),
        ("velocity", {}, {"command": TWIST}, "command-kind", "of joints, .* velocity of the base"),
        ("twist", {}, {"command": FORWARD}, "command-kind", "of the base, .* velocity of joints"),
        ("effort", {}, {"state__rate": 125.0}, "rate", "128 Hz"),
        ("effort", {"observation": GRAVITY}, {"imu": None}, "sensors", "imu"),
        ("effort", {"observation": OMEGA}, {"imu": None}, "sensors", "imu"),
        ("twist", {"observation": COMMANDED}, {"command_velocity": None}, "sensors", "velocity"),
        ("effort", {}, {"joints__0__position_limits": [0, 0.51]}, "limits", "joint rail"),
        ("effort", {}, {"joints__0__position_limits": [-0.1, 0.5]}, "limits", "joint rail"),
        ("effort", {}, {"joints__3__position_limits": None}, "limits", "anything"),
        ("twist", {}, {"joints__3__position_limits": None}, "limits", "joint wrist"),
        ("effort", {}, {"joints__0__effort_limit": 40.5}, "limits", "up to 40, .* allows 40.5"),
        ("effort", {}, {"joints__2__effort_limit": None}, "limits", "allows anything"),
        ("position", {}, {"joints__2__effort_limit": 5.0}, "limits", "joint wheel"),
        ("position", {}, {"joints__2__safe_position": None}, "limits", "a safe_position"),
        ("twist", {}, {"command__limits": {"linear_x": 1.0}}, "limits", "for angular_z"),
    ],
)
def test_a_policy_that_was_not_made_for_the_robot_is_refused(
    kind: str, spec: dict[str, Any], robot: dict[str, Any], code: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        require_compatible(make_spec(kind, **spec), make_robot(kind, **robot))
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_a_flat_policy_fits_no_robot() -> None:
    with pytest.raises(InputError) as caught:
        require_compatible(flat_spec(3, 1).model_copy(update={"rate": 10.0}), make_robot())
    assert caught.value.code == "command-kind"


@pytest.mark.parametrize(
    "changes",
    [
        {"state__rate": 126.0},  # within 2 %
        {"state__rate": 1000.0},
        {"imu": None, "command_velocity": None},  # nobody looks at them
        {"joints__1__effort_limit": 1e6},  # not one of the policy's joints
    ],
)
def test_what_does_not_matter_may_differ(changes: dict[str, Any]) -> None:
    require_compatible(make_spec(), make_robot(**changes))


def test_a_tightened_position_limit_is_accepted_and_holds() -> None:
    run = Run("position", joints__3__position_limits=[0.0, 1.0], safety__soft_margin=0.0).arm()
    for wanted, stop in ((2.0, 1.0), (-1.0, 0.0)):
        for _ in range(40):
            run.state = make_state(wrist=run.step([wanted, 0.0, 0.25]).command.value[0])
        assert run.state.joint_position[0] == stop
    assert run.filter.faults_in(make_state(wrist=1.5)) == [Fault.OBSERVATION_OUT_OF_RANGE]


def test_a_robots_limit_on_a_joint_the_policy_knows_as_free_holds() -> None:
    run = Run("effort", joints__2__position_limits=[-1.0, 1.0]).arm()
    got = run.step([0.0, 4.0, 0.0], state=make_state(wheel=1.0))
    assert got.command.value.tolist() == [0.0, 0.0, 0.0]


def test_a_tightened_twist_is_accepted_and_holds() -> None:
    run = Run("twist", command__limits={"linear_x": 0.25, "angular_z": 0.0}).arm()
    for _ in range(50):
        decision = run.step([2.0, 3.0])
    assert decision.command.value.tolist() == [0.25, 0.0]


# ---- mapping

NAMES = ["axis_1", "wheel", "axis_6"]  # the robot's own order


def make_mapping(kind: str = "effort") -> JointMapping:
    return JointMapping(make_spec(kind), make_robot(kind))


def test_readings_are_followed_by_name_sign_and_offset() -> None:
    mapping = make_mapping()
    assert mapping.set_order(["spare", "axis_6", "axis_1", "wheel"]) is False
    readings = np.array([9.0, 1.0, 0.0, 3.0])
    assert mapping.positions(readings).tolist() == [1.0 - -0.5, 3.0, -(0.0 - 0.125)]
    assert mapping.velocities(np.array([9.0, 1.0, 2.0, 3.0])).tolist() == [1.0, 3.0, -2.0]


def test_a_new_order_is_noticed_once_and_followed() -> None:
    mapping = make_mapping()
    orders = [NAMES, NAMES, ["wheel", "axis_6", "axis_1"], ["wheel", "axis_6", "axis_1"]]
    assert [mapping.set_order(names) for names in orders] == [False, False, True, False]
    assert mapping.velocities(np.array([1.0, 2.0, 3.0])).tolist() == [2.0, 1.0, -3.0]


@pytest.mark.parametrize(
    "names", [[], ["axis_1", "wheel"], ["rail", "wheel", "wrist"], [*NAMES, "wheel"]]
)
def test_a_message_without_each_joint_once_is_refused(names: list[str]) -> None:
    mapping = make_mapping()
    mapping.set_order(NAMES)
    with pytest.raises(InputError, match="once") as caught:
        mapping.set_order(names)
    assert caught.value.code == "joints"
    assert mapping.set_order(NAMES) is False


def test_commands_are_in_hardware_order_with_sign_and_offset() -> None:
    for kind, offsets in (("effort", [0.0, 0.0, 0.0]), ("position", [0.125, 0.0, -0.5])):
        mapping = make_mapping(kind)
        value = JointCommand(("wrist", "wheel", "rail"), np.array([1.0, 2.0, 3.0]))
        assert mapping.command_names == ("axis_1", "wheel", "axis_6")
        assert mapping.command(value).tolist() == (np.array([-3.0, 2.0, 1.0]) + offsets).tolist()
    mapping = make_mapping("twist")
    assert mapping.command_names == ("linear_x", "angular_z")
    value = JointCommand(("linear_x", "angular_z"), np.array([1.0, 2.0]))
    assert mapping.command(value).tolist() == [1.0, 2.0]


numbers = st.integers(-(2**20), 2**20).map(lambda n: n / 1024)  # sums with the offsets are exact


@settings(deadline=None)
@given(
    st.sampled_from(KINDS),
    st.tuples(*[numbers] * 6),
    st.permutations(range(4)),
    st.sampled_from([1, -1]),
    numbers,
)
def test_the_simulated_robots_side_is_the_exact_inverse(
    kind: CommandKind, values: tuple[float, ...], order: list[int], sign: int, offset: float
) -> None:
    data = robot_data(kind)
    data["joints"] = [data["joints"][i] for i in order]
    data["joints"][0].update(sign=sign, offset=offset)
    spec: PolicySpec = make_spec(kind)
    mapping = JointMapping(spec, RobotConfig.model_validate(data))
    state = make_state(*values[:3], velocity=values[3:])
    names, position, velocity = mapping.readings(state)
    mapping.set_order(names)
    assert mapping.positions(position).tolist() == list(values[:3])
    assert mapping.velocities(velocity).tolist() == list(values[3:])
    joints = spec.action_joints
    command = JointCommand(joints, np.array(values[: len(joints)]), kind)
    back = mapping.commanded(mapping.command(command))
    assert (back.joints, back.kind) == (joints, kind)
    assert back.value.tolist() == command.value.tolist()
