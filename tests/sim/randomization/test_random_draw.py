"""Validation of random terms and delays."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from dime_robot.runtime.io.errors import first_problem
from dime_robot.sim.config.randomization import KINDS, Delay, LatencyConfig, RandomKind, RandomTerm
from dime_robot.sim.randomization.randomizer import extremes, pinned

GOOD: dict[RandomKind, dict[str, Any]] = {
    "friction": {"operation": "set", "range": (0.4, 1.2), "mode": "reset"},
    "body_mass": {"operation": "add", "range": (-1, 2), "mode": "reset", "targets": ("base",)},
    "center_of_mass": {"operation": "add", "range": (-0.03, 0.03), "mode": "startup"},
    "motor_strength": {"operation": "scale", "range": (0.9, 1.1), "mode": "reset"},
    "stiffness": {"operation": "scale", "range": (0.9, 1.1), "mode": "reset", "shared": True},
    "damping": {"operation": "set", "range": (0.5, 2), "mode": "reset"},
    "armature": {"operation": "scale", "range": (0.7, 1.5), "mode": "startup"},
    "joint_friction": {"operation": "scale", "range": (0.5, 2), "mode": "reset"},
    "joint_damping": {"operation": "add", "range": (0, 2), "mode": "reset"},
    "encoder_bias": {"operation": "add", "range": (-0.02, 0.02), "mode": "reset"},
    "observation_noise": {
        "operation": "add",
        "range": (-0.2, 0.2),
        "mode": "interval",
        "interval": (0, 0),
        "targets": ("gyro",),
    },
    "gravity_direction": {"operation": "set", "range": (0, 3), "mode": "reset"},
    "imu_mounting": {"operation": "add", "range": (0, 2), "mode": "startup"},
    "push": {"operation": "add", "range": (0, 0.5), "mode": "interval", "interval": (4, 6)},
}


def term(kind: RandomKind, **changes: Any) -> RandomTerm:
    return RandomTerm.model_validate({"kind": kind, **GOOD[kind], **changes})


def complaint(model: type[RandomTerm | Delay | LatencyConfig], values: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    return first_problem(caught.value)


def is_one_sentence(text: str) -> bool:
    return "\n" not in text and ". " not in text and len(text) < 320


def test_every_kind_has_its_row_and_a_good_term() -> None:
    assert tuple(KINDS) == get_args(RandomKind) == tuple(GOOD)
    for kind in GOOD:
        assert term(kind).kind == kind


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("friction", {"range": (1.2, 0.4)}, r"lower <= upper, got \[1.2, 0.4\]"),
        ("friction", {"range": (-0.1, 0.4)}, r"values \[1\] of 0 or more, got \[-0.1, 0.4\]"),
        ("friction", {"range": (50, 80)}, "is this really in 1"),
        ("friction", {"distribution": "log_uniform", "range": (0, 1)}, "log_uniform range above 0"),
        ("friction", {"distribution": "normal", "range": (0.8, -0.1)}, "deviation of 0 or more"),
        ("friction", {"distribution": "normal", "range": (0.8, 0.3)}, "4 standard deviations"),
        ("friction", {"interval": (1, 2)}, "an interval only with mode interval"),
        ("friction", {"mode": "interval"}, "an interval .* in s for mode interval, got none"),
        ("friction", {"mode": "interval", "interval": (2, 1)}, "0 <= lower <= upper"),
        ("friction", {"mode": "interval", "interval": (-1, 1)}, "0 <= lower <= upper"),
        ("friction", {"targets": ("a", "b", "a")}, "each target once"),
        ("body_mass", {"operation": "set", "range": (-1, 2)}, r"values \[kg\] of 0 or more"),
        ("body_mass", {"operation": "scale", "range": (0, 2)}, "above 0"),
        ("body_mass", {"range": (0, 2000)}, "is this really in kg"),
        ("body_mass", {"mode": "interval", "interval": (1, 1)}, "mode startup or reset, got int"),
        ("center_of_mass", {"range": (-30, 30)}, r"0.5 or less, got \[-30, 30\]: .* in m"),
        ("center_of_mass", {"operation": "set"}, "operation add, got set"),
        ("motor_strength", {"range": (-0.5, 1)}, "factors of 0 or more"),
        ("motor_strength", {"range": (90, 110)}, "is this really a factor"),
        ("stiffness", {"range": (20, 60)}, "factors of magnitude 10 or less"),
        ("damping", {"range": (-1, 1)}, "of 0 or more"),
        ("armature", {"operation": "set", "range": (-0.01, 0.01)}, "of 0 or more"),
        ("encoder_bias", {"range": (-2, 2)}, "is this really in rad or m"),
        ("encoder_bias", {"operation": "scale"}, "operation set or add, got scale"),
        ("observation_noise", {"mode": "reset", "interval": None}, "mode interval, got reset"),
        ("observation_noise", {"interval": (1, 1)}, r"interval \[0, 0\]"),
        ("observation_noise", {"shared": True}, "shared only for"),
        ("gravity_direction", {"range": (0, 60)}, "is this really in degrees"),
        ("gravity_direction", {"targets": ("base",)}, r"no targets, got \['base'\]"),
        ("imu_mounting", {"range": (0, 60)}, "is this really in degrees"),
        ("imu_mounting", {"operation": "scale"}, "operation set or add, got scale"),
        ("joint_damping", {"operation": "set", "range": (-1, 1)}, "of 0 or more"),
        ("push", {"mode": "reset", "interval": None}, "mode interval, got reset"),
        ("push", {"range": (0, 50)}, "is this really in m/s"),
        ("push", {"range": (-1, 1)}, "of 0 or more"),
        ("push", {"targets": ("base",)}, "no targets"),
    ],
)
def test_a_malformed_term_is_one_sentence(
    kind: RandomKind, changes: dict[str, Any], expected: str
) -> None:
    text = complaint(RandomTerm, {"kind": kind, **GOOD[kind], **changes})
    assert text.startswith(f"{kind}: expected ") and ", got " in text and is_one_sentence(text)
    assert re.search(expected, text), text


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "colour"},
        {"operation": "multiply"},
        {"distribution": "cauchy"},
        {"range": (0.1,)},
        {"range": (0.1, float("nan"))},
        {"range": (0.1, float("inf"))},
        {"mode": "always"},
        {"target": "base"},
    ],
)
def test_a_value_of_the_wrong_type_is_one_sentence(changes: dict[str, Any]) -> None:
    assert is_one_sentence(
        complaint(RandomTerm, {"kind": "friction", **GOOD["friction"], **changes})
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "either range or file, got neither"),
        ({"range": (0, 0.01), "file": "a.json"}, "either range or file, got both"),
        ({"range": (0.02, 0.01)}, "0 <= lower <= upper"),
        ({"range": (-0.01, 0.01)}, "0 <= lower <= upper"),
        ({"range": (5, 20)}, "seconds, not milliseconds"),
        ({"range": (0, 0.01), "hold": 1}, "less than 1"),
        ({"range": (0, 0.01), "hold": -0.1}, "greater than or equal to 0"),
        ({"range": (0, 0.01), "redraw": "always"}, "'episode' or 'step'"),
        ({"range": (0, float("inf"))}, "finite"),
    ],
)
def test_a_malformed_delay_is_one_sentence(values: dict[str, Any], expected: str) -> None:
    text = complaint(LatencyConfig, {"action": values})
    assert text.startswith("action") and expected in text and is_one_sentence(text)


def test_a_normal_draw_has_ends_and_a_cut() -> None:
    normal = term("friction", distribution="normal", range=(0.8, 0.1))
    assert extremes(normal) == pytest.approx((0.6, 1.0))
    assert normal.bounds == pytest.approx((0.4, 1.2))
    assert extremes(term("friction")) == (0.4, 1.2)


@pytest.mark.parametrize("kind", GOOD)
def test_a_pinned_term_draws_one_value(kind: RandomKind) -> None:
    for end in extremes(term(kind)):
        assert pinned(term(kind), end) == term(kind, range=(end, end))
    normal = term(kind, distribution="normal", range=(0.1, 0.01))
    assert pinned(normal, 0.05).bounds == (0.05, 0.05)
