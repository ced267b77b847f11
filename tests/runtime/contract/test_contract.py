"""The contract in a robot's file: the policy's own, or that of another policy, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dime_robot.runtime.contract.config_files import config_folder
from dime_robot.runtime.contract.robot_config import load_robot, require_compatible
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import load_robot_task
from tests.runtime.machines import make_robot, make_spec, put, robot_data, spec_data

CHANGES: list[tuple[str, Any, str]] = [
    ("rate", 64.0, "rate: expected 128.0, .*, got 64.0;"),
    ("joints.0.stiffness", 20.0, r"joints.wrist.stiffness: expected 16.0, .*, got 20.0;"),
    ("joints.0.damping", None, r"joints.wrist.damping: expected 1.0, .*, got None;"),
    ("joints.2.effort_limit", 30.0, "joints.rail.effort_limit: expected 40.0, .*, got 30.0;"),
    ("action.scale.rail", 0.4, "action.scale.rail: expected 0.5, .*, got 0.4;"),
    ("action.low_pass", 0.5, "action.low_pass: expected 1.0, .*, got 0.5;"),
    ("observation.0.scale", 2.0, "observation.q.scale: expected 1.0, .*, got 2.0;"),
    ("observation.0.joints", ["wheel", "wrist", "rail"], r"0: .* got wheel \(1 more differ\);"),
    ("action.kind", "torque", "action.kind"),  # none that could be read
    ("name", None, "policy.name: Field required"),
]


def robot_file(folder: Path, **sections: Any) -> Path:
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump({"robot": robot_data("position"), **sections}))
    return path


@pytest.mark.parametrize(("place", "value", "message"), CHANGES)
def test_a_contract_that_is_not_the_policys_is_refused(
    place: str, value: Any, message: str, tmp_path: Path
) -> None:
    written = spec_data("position")
    put(written, place, value)
    with pytest.raises(InputError, match=message) as caught:
        load_robot(robot_file(tmp_path, policy=written), make_spec("position"))
    assert caught.value.code == "contract"
    assert str(caught.value).startswith(f"{tmp_path / 'robot.yaml'}: policy.")
    assert "\n" not in str(caught.value)


def test_the_refusal_of_a_contract_says_what_to_do(tmp_path: Path) -> None:
    written = spec_data("position")
    put(written, "joints.0.stiffness", 20.0)
    with pytest.raises(InputError, match="train a new policy for another value, or put it back"):
        load_robot(robot_file(tmp_path, policy=written), make_spec("position"))


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"policy": spec_data("position")},
        {"policy": {**spec_data("effort"), "name": "another", "rate": 1.0}},
        {"policy": {"name": "another"}, "task": {"kind": "unknown"}},
    ],
)
def test_the_same_contract_and_that_of_another_policy_are_accepted(
    sections: dict[str, Any], tmp_path: Path
) -> None:
    robot = load_robot(robot_file(tmp_path, **sections), make_spec("position"))
    assert robot == make_robot("position")


def test_a_file_that_extends_a_robot_may_tighten_it_and_not_touch_the_contract(
    tmp_path: Path,
) -> None:
    spec = make_spec("position")
    robot_file(tmp_path, policy=spec_data("position"))
    path = tmp_path / "mine.yaml"
    path.write_text("extends: robot.yaml\nrobot: {safety: {ramp: 2.0}}\n")
    assert load_robot(path, spec) == make_robot("position", safety__ramp=2.0)
    path.write_text("extends: robot.yaml\npolicy: {rate: 64.0}\n")
    with pytest.raises(InputError, match=r"policy.rate: expected 128.0, .* got 64.0") as caught:
        load_robot(path, spec)
    assert caught.value.code == "contract"


@pytest.mark.parametrize("name", ["cartpole", "go2", "go2-walk"])
def test_the_shipped_contracts_are_those_of_their_own_robots(name: str) -> None:
    spec = load_robot_task(name)[0].policy
    for path in (None, config_folder() / f"{name}.yaml"):
        require_compatible(spec, load_robot(path, spec))
