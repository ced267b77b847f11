"""Terms beyond a joint's reading: histories, the last action, the base's sensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.observation import (
    ActionDecoder,
    ObservationEncoder,
    projected_gravity,
)
from dime_robot.runtime.control.state import RobotState
from tests.runtime.machines import UPRIGHT, make_spec, make_state, put, spec_data


def term(kind: str, size: int, **fields: Any) -> dict[str, Any]:
    return {"name": kind, "kind": kind, "size": size, "unit": "1", **fields}


def encoder(*terms: dict[str, Any]) -> ObservationEncoder:
    return ObservationEncoder(make_spec(observation=list(terms)))


def pairs(values: list[float]) -> list[RobotState]:
    return [make_state(wrist=v, rail=10 * v) for v in values]


@pytest.mark.parametrize(
    ("fill", "first"),
    [("first", [1, 10, 1, 10, 1, 10]), ("zero", [0, 0, 0, 0, 1, 10])],
)
def test_a_history_is_oldest_first_and_starts_anew_at_reset(fill: str, first: list[float]) -> None:
    joints = {"joints": ["wrist", "rail"], "history": 3, "history_fill": fill}
    encode = encoder(term("joint_position", 6, **joints), term("last_action", 3))
    got = [encode.encode(state)[:6].tolist() for state in pairs([1, 2, 3, 4])]
    assert got[0] == first
    assert got[1] == [*first[2:], 2, 20]
    assert got[2] == [1, 10, 2, 20, 3, 30]
    assert got[3] == [2, 20, 3, 30, 4, 40]
    encode.reset()
    assert encode.encode(pairs([1])[0])[:6].tolist() == first


def test_histories_of_several_terms_do_not_mix() -> None:
    encode = encoder(
        term("joint_position", 2, joints=["wrist"], history=2),
        term("last_action", 6, history=2, history_fill="zero"),
        term("joint_velocity", 1, joints=["rail"]),
    )
    encode.encode(make_state(wrist=1.0), np.array([0.1, 0.2, 0.3]))
    got = encode.encode(make_state(wrist=2.0, velocity=[0, 0, 7]), np.array([0.4, 0.5, 0.6]))
    assert got.dtype == np.float32
    assert got.tolist() == pytest.approx([1, 2, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 7])


def test_what_was_encoded_is_not_changed_by_the_next_reading() -> None:
    encode = encoder(term("joint_position", 2, joints=["wrist"], history=2))
    first = encode.encode(make_state(wrist=1.0))
    encode.encode(make_state(wrist=2.0))
    assert first.tolist() == [1.0, 1.0]


def test_the_last_action_is_zero_until_there_is_one() -> None:
    encode = encoder(term("last_action", 3))
    assert encode.encode(make_state()).tolist() == [0.0, 0.0, 0.0]
    action = np.array([0.25, -0.5, 1.0], dtype=np.float32)
    assert encode.encode(make_state(), action).tolist() == action.tolist()


def test_the_bases_sensors_come_through_as_they_are() -> None:
    encode = encoder(term("angular_velocity", 3), term("command_velocity", 3))
    state = make_state(
        angular_velocity=np.array([1.0, 2.0, 3.0]), command_velocity=np.array([4.0, 5.0, 6.0])
    )
    assert encode.encode(state).tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("kind", ["angular_velocity", "command_velocity", "projected_gravity"])
def test_a_missing_sensor_is_said_and_not_guessed(kind: str) -> None:
    with pytest.raises(ValueError, match=f"the state has no {kind}"):
        encoder(term(kind, 3)).encode(make_state())


def rotation(q: np.ndarray) -> np.ndarray:
    """Base to world, by Rodrigues' formula from axis and angle."""
    q = q / np.linalg.norm(q)
    angle, size = 2 * np.arctan2(np.linalg.norm(q[1:]), q[0]), np.linalg.norm(q[1:])
    axis = q[1:] / size if size > 0 else np.array([1.0, 0.0, 0.0])
    cross = np.cross(np.eye(3), axis)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@settings(deadline=None)
@given(hnp.arrays(float, 4, elements={"min_value": -4, "max_value": 4}))
def test_projected_gravity_is_the_rotation_of_gravity_into_the_base(q: np.ndarray) -> None:
    assume(np.linalg.norm(q) > 0.1)
    down = rotation(q).T @ [0.0, 0.0, -1.0]
    assert projected_gravity(q) == pytest.approx(down, abs=1e-9)


@pytest.mark.parametrize(
    ("q", "down"),
    [
        (UPRIGHT, [0, 0, -1]),
        (np.array([1.0, 1.0, 0.0, 0.0]), [0, -1, 0]),  # on its left side: y points up
        (np.array([1.0, 0.0, 1.0, 0.0]), [1, 0, 0]),  # nose down: x points down
        (np.array([0.0, 1.0, 0.0, 0.0]), [0, 0, 1]),  # on its back
        (np.array([1.0, 0.0, 0.0, 1.0]), [0, 0, -1]),  # yaw changes nothing
    ],
)
def test_gravity_of_poses_one_can_picture(q: np.ndarray, down: list[float]) -> None:
    got = encoder(term("projected_gravity", 3)).encode(make_state(orientation=q))
    assert got.tolist() == pytest.approx(down, abs=1e-7)


def test_a_position_action_is_about_the_default_pose() -> None:
    command = ActionDecoder(make_spec("position")).decode(np.array([0.5, -1.0, 9.0]))
    assert (command.kind, command.joints) == ("position", ("wrist", "wheel", "rail"))
    assert command.value.tolist() == [0.5 + 1.5, -20.0, 0.25 + 0.5]


def test_a_twist_action_has_the_axes_own_order() -> None:
    command = ActionDecoder(make_spec("twist")).decode(np.array([0.5, -9.0]))
    assert (command.kind, command.joints) == ("twist", ("linear_x", "angular_z"))
    assert command.value.tolist() == [1.0, -3.0]


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"),
    [
        ("effort", "observation.0.history", 2, r"expected size 6 .* times a history of 2"),
        ("effort", "observation.0.history", 0, "greater than 0"),
        ("effort", "observation.0.history_fill", "last", "'first' or 'zero'"),
        ("effort", "observation.0", term("projected_gravity", 4), "size 3 .a vector of 3"),
        ("effort", "observation.0", term("angular_velocity", 3, history=2), "expected size 6"),
        ("effort", "observation.0", term("last_action", 2), "expected 3 numbers a reading"),
        ("effort", "observation.0", term("last_action", 5, history=2), "expected size 4"),
        ("effort", "observation.0", term("last_action", 3, joints=["rail"]), "names no joints"),
        ("twist", "action.scale", {"linear_x": 1.0, "linear_z": 1.0}, "axes .* got 'linear_z'"),
        ("twist", "action.scale", {"linear_x": 1.0, "rail": 1.0}, "axes .* got 'rail'"),
        ("twist", "action.scale.linear_x", 0.0, "greater than 0"),
        ("twist", "action.size", 3, "expected 2"),
        ("position", "joints.0.stiffness", None, "joint wrist: expected a stiffness"),
        ("position", "joints.0.stiffness", -1.0, "greater than 0"),
        ("position", "joints.0.damping", -1.0, "greater than or equal to 0"),
        ("position", "joints.0.default_position", float("inf"), "finite"),
        ("position", "action.scale.rail", -0.5, "greater than 0"),
        ("effort", "action.scale.wheel", 4.5, "effort_limit = 4"),
        ("effort", "joints.1.effort_limit", None, "effort_limit = None"),
    ],
)
def test_a_contract_that_does_not_fit_is_refused(
    kind: str, path: str, value: Any, message: str
) -> None:
    data = spec_data(kind)
    put(data, path, value)
    with pytest.raises(ValidationError, match=message):
        PolicySpec.model_validate(data)
