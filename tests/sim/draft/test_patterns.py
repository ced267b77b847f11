"""Patterns of joint names: few lines, of which the last that matches a joint is its own."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from dime_robot.runtime.contract.shorthand import written_out
from dime_robot.sim.draft.patterns import (
    Cell,
    Fields,
    name_text,
    number_text,
    patterns_of,
    shared_fields,
)

PARTS = st.sampled_from(["l", "left", "right", "hip", "knee", "pitch", "a[0]", "x*", "joint", "1"])
NAMES = st.lists(
    st.lists(PARTS, min_size=1, max_size=3).map("_".join), min_size=1, max_size=8, unique=True
)


@st.composite
def joints(draw: st.DrawFn) -> dict[str, Fields]:
    values = st.sampled_from(["1.0", "2.0", "3.0"])
    return {
        name: {
            "velocity_limit": Cell(draw(values)),
            **({"damping": Cell(draw(values), "why")} if draw(st.booleans()) else {}),
        }
        for name in draw(NAMES)
    }


@given(joints())
def test_shorthand_gives_every_joint_its_own_fields(given_joints: dict[str, Fields]) -> None:
    rows = shared_fields(given_joints)
    text = yaml.safe_dump(
        {
            "joints": list(given_joints),
            "joint_defaults": {
                pattern: {field: float(cell.text) for field, cell in fields.items()}
                for pattern, fields in rows.items()
            },
        },
        sort_keys=False,
    )
    written = written_out({"robot": yaml.safe_load(text)})["robot"]["joints"]
    for joint, (name, fields) in zip(written, given_joints.items(), strict=True):
        assert joint == {"name": name, **{f: float(cell.text) for f, cell in fields.items()}}
        for pattern, row in rows.items():  # a guess is marked wherever it is written
            if pattern == name and "damping" in row:
                assert row["damping"].why == "why"


def test_legs_need_one_pattern_per_part() -> None:
    names = [f"{leg}_{part}_joint" for leg in ("FL", "FR", "RL", "RR") for part in ("hip", "calf")]
    assert patterns_of([name for name in names if "hip" in name], names) == ["*hip_joint"]
    assert patterns_of(["FL_hip_joint", "FL_calf_joint"], names) == ["FL*"]
    assert patterns_of(["FL_hip_joint"], names) == ["FL_hip_joint"]


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=9))
def test_names_stay_names_in_yaml(name: str) -> None:
    assert yaml.safe_load(f"- {name_text(name)}\n") == [name]
    assert yaml.safe_load(f"{{{name_text(name)}: 1}}") == {name: 1}


@given(st.floats(-1e6, 1e6))
def test_numbers_stay_numbers(value: float) -> None:
    read = yaml.safe_load(number_text(value).replace("e", ".0e") if "." not in
                          number_text(value) else number_text(value))  # fmt: skip
    assert abs(float(read) - value) <= 1e-6 * abs(value)
