"""Shorthand of configurations: what it stands for, that it is stable, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.contract.shorthand import is_pattern, matching, written_out
from dime_robot.runtime.io.errors import InputError
from tests.paths import shipped_content
from tests.runtime.machines import make_spec, robot_data

NAMES = ["left_hip", "left_knee", "right_hip", "right_knee"]
LIMITS = {"*_hip": [-1.0, 1.0], "*_knee": [-2.0, 0.0]}


def policy(**changes: Any) -> dict[str, Any]:
    """A contract of four joints in shorthand, written out."""
    given = {
        "name": "legs",
        "rate": 50.0,
        "joints": NAMES,
        "joint_defaults": {
            "*": {"type": "revolute", "effort_limit": 20.0, "stiffness": 40.0, "damping": 1.0},
            **{name: {"position_limits": limits} for name, limits in LIMITS.items()},
        },
        "observation": [{"kind": "joint_position"}, {"kind": "last_action"}],
        "action": {"kind": "position", "scale": 0.3},
    }
    result: dict[str, Any] = written_out({"policy": {**given, **changes}})["policy"]
    return result


def terms(*given: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = policy(observation=list(given), **changes)["observation"]
    return found


# ---- what it stands for


def test_a_contract_in_shorthand_is_the_same_contract_in_full() -> None:
    full = {
        "name": "legs",
        "rate": 50.0,
        "joints": [
            {
                "name": name,
                "type": "revolute",
                "effort_limit": 20.0,
                "stiffness": 40.0,
                "damping": 1.0,
                "position_limits": LIMITS["*_" + name.partition("_")[2]],
            }
            for name in NAMES
        ],
        "observation": [
            {"name": "joint_position", "kind": "joint_position", "joints": NAMES, "size": 4,
             "unit": "rad"},
            {"name": "last_action", "kind": "last_action", "size": 4, "unit": "1"},
        ],
        "action": {"kind": "position", "size": 4, "scale": dict.fromkeys(NAMES, 0.3)},
    }  # fmt: skip
    ours, theirs = PolicySpec.model_validate(policy()), PolicySpec.model_validate(full)
    assert ours.model_dump_json() == theirs.model_dump_json()


def test_a_later_pattern_wins_and_a_joints_own_entry_wins_over_all() -> None:
    joints = ["left_hip", {"name": "right_hip", "damping": 9.0}, "left_knee"]
    defaults = {"*": {"damping": 1.0, "type": "revolute"}, "*_hip": {"damping": 2.0}}
    found = policy(joints=joints, joint_defaults={**defaults, "left_knee": {"damping": 3.0}})
    assert [joint["damping"] for joint in found["joints"]] == [2.0, 9.0, 3.0]
    found = policy(joints=joints, joint_defaults=dict(reversed(defaults.items())))
    assert [joint["damping"] for joint in found["joints"]] == [1.0, 9.0, 1.0]


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (0.3, dict.fromkeys(NAMES, 0.3)),
        ({"*_hip": 0.1, "left_knee": 0.2}, {"left_hip": 0.1, "left_knee": 0.2, "right_hip": 0.1}),
        ({"*": 0.1, "right_*": 0.5}, dict(zip(NAMES, (0.1, 0.1, 0.5, 0.5), strict=True))),
        ({"right_hip": 0.1, "left_hip": 0.2}, {"right_hip": 0.1, "left_hip": 0.2}),  # in full
    ],
)
def test_a_scale_names_joints_in_the_contracts_order(scale: Any, expected: Any) -> None:
    action = policy(action={"kind": "position", "scale": scale})["action"]
    assert list(action["scale"].items()) == list(expected.items())
    assert action["size"] == len(expected)


def test_a_twist_of_one_scale_has_all_axes() -> None:
    action = policy(action={"kind": "twist", "scale": 0.5})["action"]
    assert action["scale"] == {"linear_x": 0.5, "linear_y": 0.5, "angular_z": 0.5}


@pytest.mark.parametrize(
    ("given", "joints", "size", "unit"),
    [
        ({"kind": "joint_velocity"}, NAMES, 4, "rad/s"),
        ({"kind": "joint_velocity", "joints": "*_hip"}, NAMES[::2], 2, "rad/s"),
        ({"kind": "joint_position", "joints": ["right_*", "left_hip"], "history": 3},
         ["right_hip", "right_knee", "left_hip"], 9, "rad"),
        ({"kind": "joint_position_cos", "joints": ["left_hip"]}, ["left_hip"], 1, "1"),
        ({"kind": "angular_velocity"}, None, 3, "rad/s"),
        ({"kind": "projected_gravity", "history": 2}, None, 6, "1"),
        ({"kind": "command_velocity"}, None, 3, "m/s, m/s, rad/s"),
        ({"kind": "last_action", "history": 2}, None, 8, "1"),
        ({"kind": "angular_velocity", "unit": "mixed", "size": 3}, None, 3, "mixed"),  # in full
    ],
)  # fmt: skip
def test_size_joints_and_unit_follow_from_the_kind(
    given: dict[str, Any], joints: list[str] | None, size: int, unit: str
) -> None:
    (term,) = terms(given)
    assert (term.get("joints"), term["size"], term["unit"]) == (joints, size, unit)
    assert term["name"] == given["kind"]


@pytest.mark.parametrize(
    ("types", "unit"),
    [("revolute", "rad/s"), ("prismatic", "m/s"), ("mixed", "rad/s or m/s")],
)
def test_the_unit_of_joints_follows_from_their_types(types: str, unit: str) -> None:
    kinds = {"mixed": ("revolute", "prismatic")}.get(types, (types, types))
    joints = [{"name": f"j{i}", "type": kind} for i, kind in enumerate(kinds)]
    changes = {"joints": joints, "joint_defaults": {}}
    (term,) = terms({"kind": "joint_velocity"}, **changes)
    assert term["unit"] == unit


def test_a_size_of_a_command_or_sensor_is_not_guessed() -> None:
    (term,) = terms({"kind": "sensor", "name": "ball", "unit": "m"})
    assert "size" not in term


def test_a_robots_limits_are_the_contracts_unless_it_states_its_own() -> None:
    robot = {
        "joints": ["right_hip", {"name": "left_hip", "effort_limit": 7.0}, "wheel"],
        "joint_defaults": {"*": {"velocity_limit": 9.0}},
    }
    content = {"policy": policy(), "robot": robot}
    right, left, wheel = written_out(content)["robot"]["joints"]
    assert right == {
        "name": "right_hip",
        "velocity_limit": 9.0,
        "position_limits": [-1.0, 1.0],
        "effort_limit": 20.0,
    }
    assert (left["effort_limit"], left["position_limits"]) == (7.0, [-1.0, 1.0])
    assert wheel == {"name": "wheel", "velocity_limit": 9.0}
    assert written_out({"robot": robot})["robot"]["joints"][0] == {
        "name": "right_hip",
        "velocity_limit": 9.0,
    }


def test_a_name_with_a_bracket_is_itself() -> None:
    assert is_pattern("leg[0]")
    assert matching("leg[0]", ["leg[0]", "leg0"], "x") == ["leg[0]"]
    assert matching("leg[01]", ["leg0", "leg1", "leg2"], "x") == ["leg0", "leg1"]
    assert matching("arm", ["leg"], "x") == ["arm"]  # whether it exists is asked later


# ---- errors


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"joint_defaults": {"*_e": {}}}, r"policy.joint_defaults: .* pattern .*, got \*_e"),
        ({"joint_defaults": {"elbow": {}}}, "policy.joint_defaults: .* joints .*, got elbow"),
        ({"joint_defaults": ["*"]}, r"policy.joint_defaults: expected patterns .*, got \['\*'\]"),
        ({"joint_defaults": {"*": 3}}, "policy.joint_defaults: expected patterns .*: 3"),
        ({"joint_defaults": None}, "policy.joint_defaults: expected patterns .*, got None"),
        ({"action": {"kind": "position", "scale": {"*_e": 1}}}, r"policy.action.scale: .*got \*_e"),
        ({"observation": [{"kind": "joint_velocity", "joints": "*_e"}]},
         r"policy.observation.joint_velocity.joints: .*, got \*_e"),
        ({"observation": [{"kind": "joint_velocity", "name": "v", "joints": ["left_hip", "?"]}]},
         r"policy.observation.v.joints: .*, got \?"),
    ],
)  # fmt: skip
def test_a_pattern_that_matches_none_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        policy(**changes)


# ---- properties


@pytest.mark.parametrize("name", ["cartpole", "go2"])
def test_what_is_written_out_stays_as_it_is(name: str) -> None:
    content = shipped_content(name)
    before = copy.deepcopy(content)
    assert written_out(content) == content == before


def test_content_in_full_stays_as_it_is() -> None:
    content = {"policy": make_spec().model_dump(mode="json"), "robot": robot_data()}
    again = written_out(content)
    assert PolicySpec.model_validate(again["policy"]) == make_spec()
    assert RobotConfig.model_validate(again["robot"]) == RobotConfig.model_validate(robot_data())


KEYS = [
    *("policy", "robot", "joints", "joint_defaults", "observation", "action", "scale", "kind"),
    *("name", "type", "size", "unit", "history", "position_limits", "effort_limit", "*", "j?"),
    *("limits", "default_position", "effort"),
    *("left", "[", "joint_position", "last_action", "position", "twist", "flat", "revolute"),
]
words = st.sampled_from(KEYS) | st.text(max_size=3)
leaves = words | st.none() | st.booleans() | st.integers() | st.floats()
shapes = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5),
    max_leaves=12,
)


def section(joints: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A section that is nearly right: each key may have any shape."""
    entry = words | st.fixed_dictionaries({"name": words}, optional={"type": words}) | shapes
    return st.fixed_dictionaries(
        {"joints": joints | st.lists(entry, max_size=4)},
        optional={
            "joint_defaults": shapes | st.dictionaries(words, st.dictionaries(words, leaves)),
            "observation": shapes
            | st.lists(
                st.fixed_dictionaries(
                    {"kind": words}, optional={"joints": shapes, "history": leaves, "name": leaves}
                ),
                max_size=3,
            ),
            "action": shapes | st.fixed_dictionaries({"scale": shapes}, optional={"kind": words}),
        },
    )


contents = st.dictionaries(words, shapes, max_size=4) | st.fixed_dictionaries(
    {"policy": section(shapes)}, optional={"robot": section(shapes)}
)


@given(contents)
def test_any_shape_is_written_out_once_and_for_all_or_refused(content: dict[str, Any]) -> None:
    before = repr(content)
    try:
        once = written_out(content)
    except InputError:
        pass
    else:
        assert repr(written_out(once)) == repr(once)
    assert repr(content) == before
