"""`scale: limits`: what it stands for, that it reaches every position, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.shorthand import written_out
from dime_robot.runtime.control.observation import ActionDecoder
from dime_robot.runtime.control.state import RobotState
from dime_robot.runtime.io.errors import InputError

KNEE = {"position_limits": [-2.7, -0.8], "default_position": -1.5}
STATE = RobotState(stamp=0.0, joint_position=np.zeros(2), joint_velocity=np.zeros(2))


def policy(action: dict[str, Any], *joints: dict[str, Any]) -> dict[str, Any]:
    given = {
        "name": "legs",
        "rate": 50.0,
        "joints": [{"name": f"j{i}", **joint} for i, joint in enumerate(joints)],
        "joint_defaults": {
            "*": {"type": "revolute", "effort_limit": 20.0, "stiffness": 40.0, "damping": 1.0}
        },
        "observation": [{"kind": "joint_position"}],
        "action": {"kind": "position", **action},
    }
    result: dict[str, Any] = written_out({"policy": given})["policy"]
    return result


def spec(action: dict[str, Any], *joints: dict[str, Any]) -> PolicySpec:
    return PolicySpec.model_validate(policy(action, *joints))


WHEEL: dict[str, Any] = {}  # without stops


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("limits", {"j0": 1.2, "j1": 1.0}),
        ({"limits": 0.5}, {"j0": 0.6, "j1": 0.5}),
        ({"j0": "limits", "j1": 0.3}, {"j0": 1.2, "j1": 0.3}),
        ({"*": {"limits": 1}, "j1": {"limits": 0.1}}, {"j0": 1.2, "j1": 0.1}),
    ],
)
def test_it_is_the_larger_distance_from_the_default_position(scale: Any, expected: Any) -> None:
    found = spec({"scale": scale}, KNEE, {"position_limits": [-1, 1]})
    assert found.action.scale == pytest.approx(expected)
    assert found.action.within_limits
    assert found.action.size == 2


def test_the_contract_has_plain_numbers_and_says_that_targets_are_kept_within() -> None:
    text = spec({"scale": "limits"}, KNEE).model_dump_json()
    assert '"scale":{"j0":1.2000000000000002}' in text
    assert '"within_limits":true' in text
    assert PolicySpec.model_validate_json(text) == spec({"scale": "limits"}, KNEE)
    plain = spec({"scale": 0.3}, KNEE)
    assert "within_limits" not in plain.model_dump_json()
    free = spec({"scale": "limits", "within_limits": False}, KNEE)
    assert "within_limits" not in free.model_dump_json()
    assert ActionDecoder(free).decode(np.ones(1)).value[0] == pytest.approx(-0.3)
    assert ActionDecoder(spec({"scale": "limits"}, KNEE)).decode(np.ones(1)).value[0] == -0.8


def test_an_effort_goes_up_to_the_effort_limit() -> None:
    found = spec({"kind": "effort", "scale": "limits"}, WHEEL, {"effort_limit": 7.0})
    assert found.action.scale == {"j0": 20.0, "j1": 7.0}
    assert not found.action.within_limits
    found = spec({"kind": "effort", "scale": {"limits": 0.25}}, WHEEL)
    assert found.action.scale == {"j0": 5.0}


def test_mirrored_joints_have_the_same_scale() -> None:
    left = {"position_limits": [-0.7, 1.3], "default_position": 0.1}
    right = {"position_limits": [-1.3, 0.7], "default_position": -0.1}
    found = spec({"scale": "limits"}, left, right)
    assert found.action.scale["j0"] == found.action.scale["j1"]
    decoder = ActionDecoder(found)
    for action in (-1.0, -0.3, 0.6, 1.0):
        one, other = decoder.decode(np.array([action, -action])).value
        assert one == -other


def test_a_joint_of_this_name_is_a_joint() -> None:
    named = [{"name": "limits", "position_limits": [-1.0, 2.0]}]
    assert policy({"scale": {"limits": 0.5}}, *named)["action"]["scale"] == {"limits": 0.5}
    assert policy({"scale": "limits"}, *named)["action"]["scale"] == {"limits": 2.0}


@pytest.mark.parametrize(
    ("action", "joint", "sentence"),
    [
        ({"scale": "limits"}, WHEEL, r"scale.j0: expected position_limits .* got None .* state"),
        ({"scale": "limits"}, {"position_limits": [1]}, r"scale.j0: expected position_limits"),
        ({"scale": "limits"}, {"position_limits": ["a", 1]}, "scale.j0: expected position_limits"),
        ({"scale": "limits", "kind": "effort"}, {"effort_limit": None}, "expected an effort_limit"),
        ({"scale": "limits", "kind": "velocity"}, KNEE, "expected a number, .* kind velocity"),
        ({"scale": "limits", "kind": "twist"}, KNEE, "linear_x: expected a number, .* kind twist"),
        ({"scale": "limits", "kind": "flat"}, KNEE, "expected a number, .* kind flat"),
        ({"scale": "limits", "reference": "measured"}, KNEE, "a number, .* reference measured"),
        ({"scale": {"elbow": "limits"}}, KNEE, r"expected one of the joints \['j0'\], got elbow"),
        *(
            ({"scale": {"limits": factor}}, KNEE, r"a factor in \(0, 1\], got")
            for factor in (0, -0.5, 1.01, float("nan"), True, "half", None, 10**400)
        ),
    ],
)
def test_what_has_no_range_is_one_sentence(
    action: dict[str, Any], joint: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        policy(action, joint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "action", [{"kind": "effort"}, {"kind": "position", "reference": "commanded"}]
)
def test_only_positions_around_the_default_are_kept_within_limits(action: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="within_limits: expected true only with"):
        spec({**action, "scale": 0.3, "within_limits": True}, KNEE)


# ---- properties

SHARES = st.floats(0, 1)


@st.composite
def ranges(draw: st.DrawFn) -> dict[str, Any]:
    """A joint's limits, and a default position between them."""
    low = draw(st.floats(-6, 5.9))
    high = draw(st.floats(low + 1e-3, 6))
    default = low + draw(SHARES) * (high - low)
    return {"position_limits": [low, high], "default_position": min(max(default, low), high)}


@given(joints=st.lists(ranges(), min_size=1, max_size=3), share=SHARES, action=st.floats(-1, 1))
def test_every_position_within_the_limits_is_reached_and_no_other(
    joints: list[dict[str, Any]], share: float, action: float
) -> None:
    contract = spec({"scale": "limits"}, *joints)
    decoder = ActionDecoder(contract)
    low, high = np.array([joint["position_limits"] for joint in joints]).T
    wanted = low + share * (high - low)
    for position in (wanted, low, high):
        command = decoder.action_of(position, STATE)
        assert (np.abs(command) <= 1).all()
        np.testing.assert_allclose(decoder.decode(command).value, position, atol=1e-12)
    reached = decoder.decode(np.full(len(joints), action)).value
    assert (reached >= low).all() and (reached <= high).all()
