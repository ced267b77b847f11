"""The contract: what it refuses, what it derives, and that it survives JSON exactly."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.observation import ActionDecoder, ObservationEncoder
from dime_robot.runtime.control.state import RobotState
from dime_robot.runtime.io.errors import InputError
from tests.learning.toy import flat_spec

ARM: dict[str, Any] = {
    "name": "arm",
    "rate": 100.0,
    "joints": [
        {"name": "shoulder", "type": "revolute", "effort_limit": 10.0},
        {"name": "elbow", "type": "revolute", "position_limits": [-1.0, 2.0], "effort_limit": 4.0},
        {"name": "rail", "type": "prismatic", "effort_limit": 50.0},
    ],
    "observation": [
        {"name": "v", "kind": "joint_velocity", "joints": ["rail", "shoulder"], "size": 2,
         "unit": "mixed", "scale": 0.1, "clip": 30.0},
        {"name": "q", "kind": "joint_position", "joints": ["elbow"], "size": 1, "unit": "rad"},
        {"name": "c", "kind": "joint_position_cos", "joints": ["shoulder"], "size": 1, "unit": "1"},
        {"name": "s", "kind": "joint_position_sin", "joints": ["shoulder"], "size": 1, "unit": "1"},
    ],
    "action": {"kind": "effort", "size": 2, "scale": {"rail": 40.0, "shoulder": 0.1}},
}  # fmt: skip


def test_encode_selects_orders_and_leaves_si_units() -> None:
    spec = PolicySpec.model_validate(ARM)
    state = RobotState(0.0, np.array([0.5, 1.5, 2.5]), np.array([10.0, 20.0, 30.0]))
    got = ObservationEncoder(spec).encode(state)
    assert got.dtype == np.float32
    assert got.tolist() == pytest.approx([30, 10, 1.5, np.cos(0.5), np.sin(0.5)])
    assert spec.observation_scale().tolist() == [0.1, 0.1, 1, 1, 1]
    assert spec.observation_clip().tolist() == [30, 30, np.inf, np.inf, np.inf]


def test_decode_goes_by_joint_order_not_by_the_scales_order() -> None:
    spec = PolicySpec.model_validate(ARM)
    command = ActionDecoder(spec).decode(np.array([1.0, -0.5]))
    assert command.joints == ("shoulder", "rail")
    assert command.value.tolist() == pytest.approx([0.1, -20.0])


def test_decode_never_exceeds_the_scale() -> None:
    spec = PolicySpec.model_validate(ARM)
    assert ActionDecoder(spec).decode(np.array([9.0, -9.0])).value.tolist() == [0.1, -40.0]


def test_json_round_trip_is_exact() -> None:
    spec = PolicySpec.model_validate({**ARM, "rate": 1 / 0.0123456789012345})
    assert PolicySpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("rate",), 0, "greater than 0"),
        (("rate",), float("nan"), "finite"),
        (("colour",), "red", "Extra inputs"),
        (("version",), 2, "Input should be 1"),
        (("joints", 1, "name"), "shoulder", "more than once"),
        (("joints", 1, "position_limits"), [2.0, -1.0], "lower < upper"),
        (("observation", 0, "size"), 3, "expected size 2"),
        (("observation", 0, "joints"), ["rail", "wrist"], "'wrist'"),
        (("observation", 1, "name"), "v", "more than once"),
        (("observation", 2, "joints"), ["rail"], "revolute"),
        (("action", "scale"), {"rail": 40.0, "wrist": 1.0}, "'wrist'"),
        (("action", "scale"), {"rail": 60.0, "shoulder": 1.0}, "effort_limit"),
        (("action", "size"), 3, "expected 2"),
    ],
)
def test_what_does_not_fit_is_refused(path: tuple[Any, ...], value: Any, message: str) -> None:
    data = copy.deepcopy(ARM)
    node: Any = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(ValidationError, match=message):
        PolicySpec.model_validate(data)


def test_a_flat_policy_cannot_drive_a_robot() -> None:
    with pytest.raises(InputError, match="flat vector"):
        ObservationEncoder(flat_spec(3, 1))
    with pytest.raises(InputError, match="names no joints"):
        ActionDecoder(flat_spec(3, 1))
