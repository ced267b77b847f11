"""A randomised plant: what its physics feels."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.randomization import RandomTerm
from dime_robot.sim.config.robot_task import SimConfig
from dime_robot.sim.plant.plant import Plant
from dime_robot.sim.randomization.randomizer import Randomizer
from tests.sim.randomization.randomized import (
    POSE,
    SPEC,
    go2,
    started,
    term,
)

WORLD = """
<mujoco>
  <worldbody>
    <geom name="floor" type="plane" size="9 9 1" friction="0.01"/>
    <body name="ball" pos="0 3 2">
      <freejoint/>
      <geom name="ball" type="sphere" size="0.1" mass="2"/>
    </body>
    <body name="box" pos="0 -3 0.1">
      <freejoint/>
      <geom name="box" type="box" size="0.1 0.1 0.1" mass="3" friction="0.5" priority="1"/>
    </body>
    <body name="stand" pos="0 0 1">
      <joint name="arm" axis="0 0 1" armature="0.1"/>
      <geom name="arm" type="capsule" size="0.02" fromto="0 0 0 0.3 0 0.1" mass="1"/>
      <site name="tip" pos="0.15 0 0.05"/>
    </body>
  </worldbody>
  <actuator><motor joint="arm" ctrlrange="-1 1"/></actuator>
</mujoco>
"""
ARM = PolicySpec.model_validate(
    {
        "name": "arm",
        "rate": 50.0,
        "joints": [{"name": "arm", "type": "revolute", "effort_limit": 1.0}],
        "observation": [
            {"name": "q", "kind": "joint_position", "size": 1, "unit": "rad", "joints": ["arm"]}
        ],
        "action": {"kind": "effort", "size": 1, "scale": {"arm": 1.0}},
    }
)


@pytest.fixture
def world(tmp_path: Path) -> Plant:
    path = tmp_path / "world.xml"
    path.write_text(WORLD)
    return Plant(ARM, SimConfig(model="world.xml", timestep=0.002, decimation=10), path)


def turned(plant: Plant, effort: float) -> float:
    """How far the arm turns in a period [rad]."""
    return float(plant.step(JointCommand(("arm",), np.array([effort]))).joint_position[0])


def test_a_force_moves_a_heavier_body_less(world: Plant) -> None:
    started(world, term("body_mass", "scale", (2, 2), targets=("ball",)), spec=ARM)
    world.reset({})
    world.data.xfrc_applied[world.model.body("ball").id] = [12, 0, 0, 0, 0, 0.1]
    mujoco.mj_forward(world.model, world.data)
    start = world.model.jnt_dofadr[world.model.body_jntadr[world.model.body("ball").id]]
    assert world.data.qacc[start] == pytest.approx(12 / (2 * 2))
    assert world.data.qacc[start + 2] == pytest.approx(-9.81)
    # inertia of a sphere grows with its mass
    assert world.data.qacc[start + 5] == pytest.approx(0.1 / (0.4 * 4 * 0.1**2))


def test_mass_and_armature_reach_the_inertia_matrix() -> None:
    def inertia(*terms: RandomTerm) -> np.ndarray:
        plant = go2()
        started(plant, *terms)
        plant.reset(POSE, 0.3)
        full = np.zeros((plant.model.nv, plant.model.nv))
        mujoco.mj_fullM(plant.model, plant.data, full)
        return full

    nominal = inertia()
    assert nominal[0, 0] == pytest.approx(16.087)
    heavy = inertia(term("body_mass", "add", (1, 1), targets=("base",)))
    assert heavy[2, 2] == pytest.approx(17.087) and heavy[4, 4] > 1.02 * nominal[4, 4]
    twice = inertia(
        term("body_mass", "scale", (2, 2)),
        term("armature", "scale", (2, 2)),
    )
    assert twice == pytest.approx(2 * nominal)
    rotor = inertia(term("armature", "add", (0.02, 0.02))) - nominal
    assert rotor == pytest.approx(np.diag([0.0] * 6 + [0.02] * 12), abs=1e-12)


def test_the_weight_on_the_floor_is_the_robots() -> None:
    plant = go2()
    started(plant, term("body_mass", "add", (2, 2), targets=("base",)))
    plant.reset(POSE, 0.3)
    pose = JointCommand(SPEC.action_joints, np.array(list(POSE.values())), "position")
    weights = []
    for _ in range(150):
        plant.step(pose)
        each = np.zeros(6)
        total = 0.0
        for contact in range(plant.data.ncon):
            mujoco.mj_contactForce(plant.model, plant.data, contact, each)
            total += each[0]
        weights.append(total)
    assert np.mean(weights[-50:]) == pytest.approx(18.087 * 9.81, rel=0.01)


def test_friction_brakes_a_sliding_box(world: Plant) -> None:
    def braking() -> float:
        start = world.model.jnt_dofadr[world.model.body_jntadr[world.model.body("box").id]]
        world.reset({})
        for _ in range(20):
            turned(world, 0.0)
        world.data.qvel[start] = 2.0
        for _ in range(10):
            turned(world, 0.0)
        return (2.0 - float(world.data.qvel[start])) / 0.2

    assert braking() == pytest.approx(0.5 * 9.81, rel=0.03)
    started(world, term("friction", "set", (0.2, 0.2), targets=("box",)), spec=ARM)
    assert braking() == pytest.approx(0.2 * 9.81, rel=0.03)


def test_the_centre_of_mass_moves_without_the_body_that_has_it(world: Plant) -> None:
    world.reset({})
    model, data = world.model, world.data
    body, geom = model.body("stand").id, model.geom("arm").id
    assert model.geom_sameframe[geom] == mujoco.mjtSameFrame.mjSAMEFRAME_INERTIA
    before = [data.geom_xpos[geom].copy(), data.site_xpos[0].copy(), data.xipos[body].copy()]
    started(world, term("center_of_mass", "add", (0.1, 0.1), targets=("stand",)), spec=ARM)
    world.reset({})
    assert data.geom_xpos[geom] == pytest.approx(before[0])
    assert data.site_xpos[0] == pytest.approx(before[1])
    assert data.xipos[body] == pytest.approx(before[2] + 0.1)


def test_joint_friction_holds_a_joint(world: Plant) -> None:
    world.reset({})
    free = turned(world, 0.5)
    assert free > 1e-4
    started(world, term("joint_friction", "set", (0.8, 0.8)), spec=ARM)
    world.reset({})
    assert abs(turned(world, 0.5)) < 0.1 * free  # MuJoCo's dry friction is soft
    world.reset({})
    assert turned(world, 1.0) > 1e-4


def test_joint_damping_brakes_a_joint_that_had_none(world: Plant) -> None:
    def speed() -> float:
        world.reset({})
        world.data.qvel[world.dofs[0]] = 1.0
        turned(world, 0.0)
        return float(world.data.qvel[world.dofs[0]])

    assert speed() == pytest.approx(1.0)
    started(world, term("joint_damping", "set", (0.5, 0.5)), spec=ARM)
    inertia = world.model.dof_M0[world.dofs[0]]
    assert speed() == pytest.approx(np.exp(-0.5 * 0.02 / inertia), rel=0.01)


def test_drive_terms_reach_the_torque_and_a_bias_only_the_reading() -> None:
    def torque(*terms: RandomTerm, speed: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        plant = go2()
        started(plant, *terms)
        state = plant.reset(POSE, 0.3)
        plant.data.qvel[6:] = speed
        target = np.array(list(POSE.values())) + 0.1
        plant.command(JointCommand(SPEC.action_joints, target, "position"))
        plant.advance(1)
        return plant.data.qfrc_applied[6:].copy(), state.joint_position

    nominal, reading = torque()
    assert nominal == pytest.approx([4.0] * 12)
    assert torque(term("motor_strength", "scale", (0.5, 0.5)))[0] == pytest.approx([2.0] * 12)
    assert torque(term("stiffness", "scale", (1.5, 1.5)))[0] == pytest.approx([6.0] * 12)
    assert torque(term("damping", "set", (3, 3)), speed=1.0)[0] == pytest.approx([1.0] * 12)
    one = torque(term("motor_strength", "set", (0.5, 0.5), targets=("FR_hip_joint",)))[0]
    assert one == pytest.approx([4.0] * 3 + [2.0] + [4.0] * 8)
    same, biased = torque(term("encoder_bias", "add", (0.02, 0.02)))
    assert np.array_equal(same, nominal) and biased == pytest.approx(reading + 0.02)


def test_a_body_that_mujoco_simplified_keeps_its_centre_of_mass(world: Plant) -> None:
    entry = term("center_of_mass", "add", (0, 0.1), targets=("ball",))
    with pytest.raises(InputError, match=r"did not simplify, got ball; give it simple="):
        Randomizer([entry], ARM, world)
