"""What the pose check finds, beyond what was refused before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dime_robot.sim.plant.plant import Plant
from dime_robot.sim.pose_check import hold_default_pose
from tests.sim.plant.test_drive import SPOT, SPOT_POSE, UR5E, UR5E_LIMITS, UR5E_POSE
from tests.sim.plant.test_drive import robot as driven
from tests.sim.plant.test_other_joints import BALL, robot, world


def test_a_drive_that_pushes_to_and_fro_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gains = (2000.0, 100.0)
    calm = hold_default_pose(
        lambda: driven(tmp_path, UR5E, UR5E_POSE, gains, UR5E_LIMITS, drive="implicit"), None
    )
    assert calm.problems == []
    assert 0 < calm.error < 0.02
    # the limits keep it from exploding; without the refusal at construction it would go unseen
    monkeypatch.setattr(Plant, "require_stable", lambda _: None)
    shaken = hold_default_pose(lambda: driven(tmp_path, UR5E, UR5E_POSE, gains, UR5E_LIMITS), None)
    assert any("an effort that changes its sign at" in text for text in shaken.problems)
    exploded = hold_default_pose(lambda: driven(tmp_path, UR5E, UR5E_POSE, gains), None)
    assert len(exploded.problems) == 1
    assert "expected a default pose that can be simulated for 2 s, got a speed" in str(exploded)


def test_a_standing_robot_is_judged_hung_up_by_its_base(tmp_path: Path) -> None:
    gains = (300.0, 10.0)
    stands = hold_default_pose(
        lambda: driven(tmp_path, SPOT, SPOT_POSE, gains, timestep=0.001), 0.5
    )
    assert stands.problems == []
    # the legs' own weight, not the robot's, and no fall: a lower leg of 0.4 kg and an upper one
    assert 0.001 < stands.error < 0.03
    weak = hold_default_pose(
        lambda: driven(tmp_path, SPOT, SPOT_POSE, (20.0, 2.0), timestep=0.001), 0.5
    )
    (problem,) = weak.problems
    assert "where its drive holds it hung up by its base, got" in problem


def test_a_held_arm_of_a_robot_that_falls_is_judged_too(tmp_path: Path) -> None:
    def make(stiffness: float, base: str = "<freejoint/>") -> Plant:
        gains = {"stiffness": stiffness, "damping": 5.0, "effort_limit": 20.0}
        return robot(tmp_path, world(base=base, after=BALL), "effort", gains=gains)

    fine = hold_default_pose(lambda: make(300.0), None)
    assert fine.problems == [] and fine.error_joint == "right_elbow"
    (problem,) = hold_default_pose(lambda: make(15.0), None).problems
    assert problem.startswith("joint right_elbow: expected at most 0.05 rad or m")
    (fixed,) = hold_default_pose(lambda: make(15.0, ""), None).problems
    assert "hung up" not in fixed


def test_what_mujoco_warns_of_is_a_problem(tmp_path: Path) -> None:
    # room for few contacts only: MuJoCo ignores the others, with a warning
    pile = "".join(
        f'<body pos="3 {0.05 * i} 0.04"><freejoint/><geom type="box" size="0.05 0.05 0.05"/></body>'
        for i in range(12)
    )
    floor = '<geom type="plane" size="9 9 1"/>'
    mjcf = world(after=floor + pile).replace("<worldbody>", '<size memory="40K"/><worldbody>')
    held = hold_default_pose(lambda: robot(tmp_path, mjcf), None)
    assert any(
        "expected a simulation that MuJoCo does not warn of, got" in p for p in held.problems
    )
