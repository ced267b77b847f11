"""What a simulated robot measures beside joints and imu: efforts, and forces on its feet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import RobotTaskConfig, SimConfig, load_robot_task
from dime_robot.sim.plant.plant import Plant
from tests.paths import ROBOTS

STILTS = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <geom name="floor" type="plane" size="0 0 1"/>
    <body name="base" pos="0 0 0.51">
      <freejoint/>
      <geom type="box" size="0.2 0.2 0.02" mass="4" contype="0" conaffinity="0"/>
      <geom name="front" type="sphere" size="0.02" pos="0.2 0.2 -0.49" mass="0"/>
      <geom name="front_right" type="sphere" size="0.02" pos="0.2 -0.2 -0.49" mass="0"/>
      <geom name="rear" type="sphere" size="0.02" pos="-0.2 0 -0.49" mass="0"/>
      <body>
        <joint name="arm" type="hinge" axis="0 1 0"/>
        <geom type="capsule" fromto="0 0 0 0 0 0.1" size="0.02" mass="1" contype="0"
              conaffinity="0"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="arm" ctrllimited="true" ctrlrange="-3 3"/></actuator>
</mujoco>
"""
FEET = {"f": "front", "fr": "front_right", "r": "rear"}


def stilts(folder: Path, kind: str, threshold: float = 0.0, **sim: Any) -> Plant:
    path = folder / "model.xml"
    path.write_text(STILTS)
    joint = {"name": "arm", "type": "revolute", "effort_limit": 3.0, "stiffness": 20.0,
             "damping": 0.1}  # fmt: skip
    spec = PolicySpec.model_validate(
        {
            "name": "stilts",
            "rate": 100.0,
            "joints": [joint],
            "observation": [
                {"name": "e", "kind": "joint_effort", "joints": ["arm"], "size": 1, "unit": "N m"},
                {"name": "c", "kind": "foot_contact", "feet": ["r", "f"], "size": 2, "unit": "1"},
            ],
            "action": {"kind": kind, "size": 1, "scale": {"arm": 1.0}},
        }
    )
    settings = {"timestep": 0.002, "decimation": 5, "feet": FEET, **sim}
    return Plant(spec, SimConfig(model="model.xml", **settings), path, None, threshold)


@pytest.mark.parametrize(
    ("kind", "drive"),
    [("effort", "explicit"), ("position", "explicit"), ("position", "implicit"),
     ("velocity", "implicit")],
)  # fmt: skip
def test_the_effort_is_what_the_joint_is_driven_with(tmp_path: Path, kind: Any, drive: str) -> None:
    plant = stilts(tmp_path, kind, drive=drive)
    assert plant.reset({"arm": 0.1}).joint_effort == pytest.approx([0.0])
    for k in range(10):
        state = plant.step(JointCommand(("arm",), np.array([0.5 - 0.1 * k]), kind))
        assert state.joint_effort is not None
        expected = plant.data.ctrl if kind == "effort" else plant.efforts()
        assert state.joint_effort == pytest.approx(expected)
    assert state.joint_effort[0] != 0


def test_a_foot_is_in_contact_where_it_carries_the_threshold(tmp_path: Path) -> None:
    plant = stilts(tmp_path, "position", threshold=15.0)
    high = plant.reset({}, height=0.8)
    assert high.foot_contact is not None
    assert high.foot_contact.tolist() == [0.0, 0.0]
    plant.reset({}, height=0.51)
    hold = JointCommand(("arm",), np.zeros(1), "position")
    for _ in range(100):
        state = plant.step(hold)
    forces = plant.foot_forces(["f", "fr", "r"])
    assert forces == pytest.approx(np.array([0.25, 0.25, 0.5]) * 5 * 9.81, rel=0.02)
    assert state.foot_contact is not None
    assert state.foot_contact.tolist() == [1.0, 0.0]  # rear carries 24.5 N, front 12.3 N


def test_a_foot_without_a_geom_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sim.feet.f: expected a geom of \['floor', .*, got toe"):
        stilts(tmp_path, "effort", feet={**FEET, "f": "toe"})
    config, _ = load_robot_task(ROBOTS / "arm_effort.yaml")
    content = config.model_dump(exclude_none=True)
    content["robot"]["contact"] = {"feet": ["hand"], "threshold": 1.0, "max_age": 0.1}
    with pytest.raises(ValueError, match=r"sim.feet: expected the geom of each foot .*'hand'"):
        RobotTaskConfig.model_validate(content)
