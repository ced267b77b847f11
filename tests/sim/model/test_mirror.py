"""Whether a model is its own mirror image: the shipped Go2 is, and each change of it is found."""

from __future__ import annotations

import re
from collections.abc import Callable

import mujoco
import numpy as np
import pytest

from dime_robot import config
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.config.symmetry import SymmetryConfig
from dime_robot.sim.model.loading import load_model
from dime_robot.sim.model.mirror import asymmetry
from tests.paths import ROBOTS

GO2, PATH = load_robot_task(ROBOTS / "go2_mirrored.yaml")
assert GO2.symmetry is not None
JOINTS = GO2.symmetry.joints


def found(change: Callable[[mujoco.MjModel], None], **joints: str) -> str | None:
    model = load_model(PATH, GO2.sim.timestep)
    change(model)
    symmetry = SymmetryConfig(joints={**JOINTS, **joints})
    return asymmetry(model, GO2.policy, GO2.sim, symmetry)


def same(_: mujoco.MjModel) -> None:
    pass


def test_the_shipped_robot_is_symmetric(capsys: pytest.CaptureFixture[str]) -> None:
    assert found(same) is None
    assert config.main(["check", str(ROBOTS / "go2_mirrored.yaml")]) == 0
    assert "ok  policy go2" in capsys.readouterr().out


def test_wrong_signs_and_partners_are_found() -> None:
    problem = found(same, FL_thigh_joint="-FR_thigh_joint")
    assert problem is not None and "FL_thigh_joint: expected what FR_thigh_joint moves" in problem
    problem = found(same, FL_hip_joint="FR_hip_joint")
    assert problem is not None and "check the sign" in problem
    crossed = {f"{a}_{part}_joint": f"{'-' if part == 'hip' else ''}{b}_{part}_joint"
               for a, b in (("FL", "RR"), ("FR", "RL"))
               for part in ("hip", "thigh", "calf")}  # fmt: skip
    model = load_model(PATH, GO2.sim.timestep)
    problem = asymmetry(model, GO2.policy, GO2.sim, SymmetryConfig(joints=crossed))
    assert problem is not None and "in the base's frame" in problem


def heavier(model: mujoco.MjModel) -> None:
    model.body("FL_calf").mass *= 1.1
    mujoco.mj_setConst(model, mujoco.MjData(model))


def shifted(model: mujoco.MjModel) -> None:
    model.body("base").ipos[1] = 0.03
    mujoco.mj_setConst(model, mujoco.MjData(model))


def turned(model: mujoco.MjModel) -> None:
    model.body("base").inertia *= [1.0, 5.0, 1.0]
    quaternion = np.zeros(4)
    mujoco.mju_euler2Quat(quaternion, np.array([0.0, 0.0, 0.7]), "xyz")
    model.body("base").iquat = quaternion


def stiffer(model: mujoco.MjModel) -> None:
    model.dof_damping[model.joint("RR_hip_joint").dofadr[0]] = 0.5


def lower(model: mujoco.MjModel) -> None:
    model.body("RL_thigh").pos[2] -= 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (heavier, "the same mass behind FL_calf_joint"),
        (shifted, "energy of a mirrored state"),
        (turned, "kinetic energy of a mirrored state"),
        (stiffer, "RR_hip_joint with the damping of RL_hip_joint, 0.1, got 0.5"),
        (lower, "RL_.*_joint: expected what RR_.*_joint moves"),
    ],
)
def test_a_model_that_is_not_symmetric_is_found(
    change: Callable[[mujoco.MjModel], None], message: str
) -> None:
    problem = found(change)
    assert problem is not None and re.search(message, problem), problem
    assert "\n" not in problem
