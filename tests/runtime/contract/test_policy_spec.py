"""The contract: what it refuses, what it derives, and that it survives JSON exactly."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dime_robot.runtime.contract.policy_spec import ObservationTerm, PolicySpec
from dime_robot.runtime.control.observation import ActionDecoder, ObservationEncoder
from dime_robot.runtime.control.state import RobotState
from dime_robot.runtime.io.errors import InputError
from tests.learning.toy import flat_spec
from tests.runtime.machines import make_state, spec_data

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


def signal_term(name: str, kind: str, size: int, **fields: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "size": size, "unit": "m", **fields}


def test_terms_of_one_signal_agree_and_others_name_none() -> None:
    base = spec_data()
    terms = [
        signal_term("goal", "command", 3),
        signal_term("goals", "command", 6, signal="goal", history=2),
        signal_term("ball", "sensor", 2),
    ]
    spec = PolicySpec.model_validate({**base, "observation": terms})
    assert spec.signals == {"goal": ("command", 3), "ball": ("sensor", 2)}
    assert [signal.section for signal in spec.signals.values()] == ["task_commands", "sensors"]
    for other in (
        signal_term("x", "sensor", 3, signal="goal"),
        signal_term("x", "command", 2, signal="goal"),
    ):
        with pytest.raises(ValidationError, match="expected signal goal to be a command of 3"):
            PolicySpec.model_validate({**base, "observation": [*terms, other]})
    with pytest.raises(ValidationError, match="only command and sensor terms show one"):
        ObservationTerm.model_validate(
            {"name": "g", "kind": "projected_gravity", "size": 3, "unit": "1", "signal": "goal"}
        )
    with pytest.raises(ValidationError, match="names no joints"):
        ObservationTerm.model_validate(signal_term("x", "command", 1, joints=["a"]))


def test_a_signal_is_written_only_where_it_is_named() -> None:
    without = ObservationTerm.model_validate(signal_term("goal", "command", 3))
    named = ObservationTerm.model_validate(signal_term("goal", "command", 3, signal="goal"))
    assert "signal" not in without.model_dump(mode="json")
    assert named.model_dump(mode="json")["signal"] == "goal"
    for term in (without, named):
        assert ObservationTerm.model_validate_json(term.model_dump_json()) == term


def test_a_signal_is_encoded_by_its_name_with_history_and_never_by_another_shape() -> None:
    data = {**spec_data(), "observation": [
        signal_term("goals", "command", 4, signal="goal", history=2, history_fill="zero"),
        signal_term("ball", "sensor", 1),
    ]}  # fmt: skip
    encoder = ObservationEncoder(PolicySpec.model_validate(data))
    state = make_state(signals={"goal": np.array([1.0, 2.0]), "ball": np.array([3.0])})
    np.testing.assert_array_equal(encoder.encode(state), [0, 0, 1, 2, 3])
    later = state._replace(signals={"goal": np.array([4.0, 5.0]), "ball": np.array([6.0])})
    np.testing.assert_array_equal(encoder.encode(later), [1, 2, 4, 5, 6])
    with pytest.raises(ValueError, match="goals: the state has no command goal"):
        encoder.encode(make_state())
    with pytest.raises(ValueError, match=r"expected goal of shape \(2,\), got \(1,\)"):
        encoder.encode(state._replace(signals={"goal": np.zeros(1), "ball": np.zeros(1)}))
