"""Contracts and robots hold names that can be printed and numbers that a machine can have."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from dime_robot.runtime.contract.config_files import config_folder, read_config
from dime_robot.runtime.contract.policy_spec import MAX_NUMBERS, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.io.errors import InputError
from tests.runtime.machines import make_robot, make_spec

NAMES = [
    ("spec", "name"),
    ("spec", "joints__0__name"),
    ("spec", "observation__0__name"),
    ("spec", "observation__0__joints__0"),
    ("robot", "name"),
    ("robot", "joints__0__name"),
    ("robot", "joints__0__wire_name"),
    ("robot", "command__topic"),
    ("robot", "state__topic"),
    ("robot", "command__listener"),
]


def make(what: str, **changes: Any) -> BaseModel:
    return make_spec("position", **changes) if what == "spec" else make_robot("position", **changes)


@pytest.mark.parametrize(("what", "place"), NAMES)
@pytest.mark.parametrize("bad", ["a\0b", "a\nb", "a\x1b[2Jb", "a\u202eb", "", "a" * 1000, "\ud800"])
def test_a_name_is_short_and_printable(what: str, place: str, bad: str) -> None:
    with pytest.raises(ValidationError) as raised:
        make(what, **{place: bad})
    assert place.split("__")[-1].rstrip("0123456789") in str(raised.value)


@given(st.text(max_size=40))
def test_whatever_name_is_taken_can_be_printed(name: str) -> None:
    try:
        spec = make_spec("effort", name=name)
    except ValidationError:
        assert not name or not name.isprintable()
    else:
        assert spec.name == name
        assert name.isprintable()


UNITS = ["rad", "rad/s", "m", "m/s", "1", "mixed", "m/s, rad/s", "m/s, m/s, rad/s", "rad or m"]
UNITS += ["N m", "N m s/rad", "m/s^2", "m/s2", "kg m^2", "rad/s or m/s"]


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_of_si_is_taken(unit: str) -> None:
    assert make_spec("effort", observation__0__unit=unit).observation[0].unit == unit


@pytest.mark.parametrize("unit", ["", "deg", "degrees", "mm", "ft/s", "rad\n", "r\0ad", "m" * 80])
def test_any_other_unit_is_refused(unit: str) -> None:
    with pytest.raises(ValidationError, match=r"observation\.0\.unit"):
        make_spec("effort", observation__0__unit=unit)


@pytest.mark.parametrize(
    ("what", "place", "largest"),
    [
        ("spec", "rate", 1e5),
        ("spec", "joints__0__stiffness", 1e6),
        ("spec", "joints__0__damping", 1e5),
        ("spec", "joints__0__effort_limit", 1e3),  # of a revolute joint
        ("spec", "joints__2__effort_limit", 1e6),
        ("spec", "joints__1__default_position", 12.5),  # two turns
        ("spec", "action__scale__rail", 1e3),
        ("spec", "observation__0__scale", 1e9),
        ("spec", "observation__0__clip", 1e9),
        ("robot", "joints__1__velocity_limit", 1e4),
        ("robot", "joints__0__effort_limit", 1e6),
        ("robot", "joints__0__effort_rate_limit", 1e9),
        ("robot", "joints__0__damping", 1e5),
        ("robot", "joints__0__offset", 1e6),
        ("robot", "joints__2__safe_position", 1e3),
        ("robot", "state__rate", 1e5),
        ("robot", "state__dead_band", 10),
        ("robot", "imu__max_rate", 1e4),
        ("robot", "command__acceleration", 1e3),
        ("robot", "safety__consecutive_misses", 1000),
        ("robot", "safety__consecutive_jumps", 1000),
        ("robot", "safety__rest_speed", 100),
        ("robot", "activation__speed", 1e4),
    ],
)
def test_a_magnitude_has_a_bound(what: str, place: str, largest: float) -> None:
    whole = "consecutive" in place
    changes: dict[str, Any] = {"activation": {}} if "activation" in place else {}
    make(what, **changes, **{place: int(largest) if whole else largest})
    beyond = int(largest) + 1 if whole else 1.01 * largest
    for number in (beyond, 10**18 if whole else 1e18):
        with pytest.raises(ValidationError) as raised:
            make(what, **changes, **{place: number})
        assert place.split("__")[-1] in str(raised.value)


@pytest.mark.parametrize("place", ["position_limits"])
def test_a_rail_of_kilometres_is_refused(place: str) -> None:
    with pytest.raises(ValidationError, match="is this really in m, not in mm"):
        make_spec("effort", **{f"joints__2__{place}": [0.0, 1e4]})
    with pytest.raises(ValidationError, match="is this really in rad or m, not in"):
        make_robot("effort", **{f"joints__0__{place}": [0.0, 1e4]})


def test_a_vector_has_a_bound() -> None:
    assert PolicySpec.flat("x", MAX_NUMBERS, 1).n_obs == MAX_NUMBERS
    for name, n_obs, rate in (("x", MAX_NUMBERS + 1, 50.0), ("x\n", 3, 50.0), ("x", 3, 1e9)):
        with pytest.raises(InputError, match="environment x"):
            PolicySpec.flat(name, n_obs, 1, rate)


def test_a_list_has_a_bound() -> None:
    joint = make_spec().joints[0].model_dump()
    joints = [{**joint, "name": f"j{i}"} for i in range(257)]
    data = make_spec("effort").model_dump(mode="json")
    with pytest.raises(ValidationError, match="at most 256"):
        PolicySpec.model_validate({**data, "joints": joints})


def test_shipped_contracts_and_robots_are_within_the_bounds() -> None:
    for path in config_folder().glob("*.yaml"):
        content = read_config(path)
        PolicySpec.model_validate(content["policy"])
        RobotConfig.model_validate(content["robot"])
