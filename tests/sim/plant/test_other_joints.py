"""A robot is more than the policy's joints, and a world more than a robot: who holds what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from dime_robot.runtime.contract.config_files import config_folder
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.state import CommandKind, JointCommand
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import SimConfig, load_robot_task
from dime_robot.sim.model.loading import base_body
from dime_robot.sim.plant.plant import Plant, make_plant
from tests.paths import shipped_content

# Two legs and two arms on a trunk; the arms' elbows stick out, so that they fall where nobody holds
BODY = """
<body name="trunk" pos="0 0 1">
  {base}
  <geom type="box" size="0.1 0.1 0.2" mass="10"/>
  <body pos="0 0.1 -0.2">
    <joint name="left_hip" type="hinge" axis="0 1 0"/>
    <geom type="capsule" fromto="0 0 0 0 0 -0.4" size="0.03" mass="2"/>
  </body>
  <body pos="0 -0.1 -0.2">
    <joint name="right_hip" type="hinge" axis="0 1 0"/>
    <geom type="capsule" fromto="0 0 0 0 0 -0.4" size="0.03" mass="2"/>
  </body>
  <body pos="0 0.2 0.1">
    <joint name="left_elbow" type="hinge" axis="0 1 0" range="-2 2"/>
    <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.03" mass="1"/>
    {wrist}
  </body>
  <body pos="0 -0.2 0.1">
    <joint name="right_elbow" type="hinge" axis="0 1 0" range="-2 2"/>
    <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.03" mass="1"/>
  </body>
</body>
"""
BALL = '<body name="ball" pos="3 0 1"><freejoint name="roll"/><geom size="0.1" mass="1"/></body>'
WRIST = """<body pos="0.3 0 0"><joint name="wrist" type="ball"/>
           <geom size="0.02" mass="0.1"/></body>"""
MOTORS = """<motor joint="left_hip" ctrlrange="-50 50"/>
            <motor joint="right_hip" ctrlrange="-50 50"/>
            <position joint="left_elbow" kp="500"/><motor joint="right_elbow" ctrlrange="-5 5"/>"""
WORLD = """
<mujoco>
  <compiler angle="radian" autolimits="true"/>
  <worldbody>{before}{body}{after}</worldbody>
  <actuator>{motors}</actuator>
</mujoco>
"""
HIPS = ("left_hip", "right_hip")
HELD = {"left_elbow": 0.3, "right_elbow": -0.2}
GAINS = {"stiffness": 300.0, "damping": 10.0, "effort_limit": 20.0}


def world(
    base: str = "", wrist: str = "", before: str = "", after: str = "", motors: str = MOTORS
) -> str:
    body = BODY.format(base=base, wrist=wrist)
    return WORLD.format(before=before, body=body, after=after, motors=motors)


def contract(kind: str, held: dict[str, float]) -> PolicySpec:
    joint = {"type": "revolute", "effort_limit": 50.0, "stiffness": 200.0, "damping": 5.0}
    return PolicySpec.model_validate(
        {
            "name": "walker",
            "rate": 100.0,
            "joints": [{"name": name, **joint} for name in HIPS],
            "observation": [
                {"name": "q", "kind": "joint_position", "unit": "rad", "joints": HIPS, "size": 2}
            ],
            "action": {"kind": kind, "size": 2, "scale": dict.fromkeys(HIPS, 1.0)},
            "held_joints": held,
        }
    )


def robot(
    folder: Path,
    mjcf: str,
    kind: str = "position",
    held: dict[str, float] | None = None,
    gains: dict[str, float] = GAINS,
    **sim: Any,
) -> Plant:
    path = folder / "model.xml"
    path.write_text(mjcf)
    held = HELD if held is None else held
    settings = {"model": "model.xml", "timestep": 0.002, "decimation": 5, **sim}
    hold = dict.fromkeys(held, gains)
    return Plant(contract(kind, held), SimConfig.model_validate({**settings, "hold": hold}), path)


@pytest.mark.parametrize("drive", ["explicit", "implicit"])
@pytest.mark.parametrize("kind", ["position", "effort"])
def test_arms_outside_the_policy_stay_where_the_contract_holds_them(
    tmp_path: Path, kind: CommandKind, drive: str
) -> None:
    plant = robot(tmp_path, world(), kind, drive=drive)
    plant.reset({})
    assert plant.positions(list(HELD)).tolist() == list(HELD.values())
    command = JointCommand(HIPS, np.array([0.5, -0.5]), kind)
    for _ in range(200):
        plant.step(command)
    # 1 kg at 0.15 m of gravity over 300 N m/rad
    errors = plant.pose_errors()
    sag = 9.81 * 0.15 / 300
    assert errors["left_elbow"] == pytest.approx(sag * np.cos(0.3), rel=0.1)
    assert errors["right_elbow"] == pytest.approx(sag * np.cos(0.2), rel=0.1)
    assert ("left_hip" in errors) == (kind == "position")
    assert plant.positions(["right_elbow", "left_hip"])[0] == pytest.approx(-0.2, abs=0.01)
    assert plant.default_pose == {"left_hip": 0.0, "right_hip": 0.0, **HELD}


def test_the_effort_that_holds_is_limited(tmp_path: Path) -> None:
    plant = robot(tmp_path, world(), gains={**GAINS, "effort_limit": 0.5})
    plant.reset({})
    plant.advance(150)
    assert min(plant.pose_errors()[name] for name in HELD) > 0.3


def test_a_held_joints_own_actuator_is_off_and_a_policys_motor_on(tmp_path: Path) -> None:
    plant = robot(tmp_path, world(), "effort")
    plant.reset({})
    plant.step(JointCommand(HIPS, np.array([7.0, 0.0])))
    force = plant.data.qfrc_actuator
    assert force[plant.model.joint("left_hip").dofadr[0]] == pytest.approx(7.0)
    assert force[plant.model.joint("left_elbow").dofadr[0]] == 0.0  # not the servo's, to angle 0


def test_an_unstable_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"left_elbow .inertia 0.03\S* kg m.2, damping 500"):
        robot(tmp_path, world(), "effort", gains={"stiffness": 300.0, "damping": 500.0})


@pytest.mark.parametrize("kind", ["position", "effort"])
def test_joints_that_nobody_holds_are_refused_together(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=r"expected every joint of the robot") as caught:
        robot(tmp_path, world(base="<freejoint/>", wrist=WRIST, after=BALL), kind, held={})
    assert "['left_elbow', 'wrist', 'right_elbow']" in str(caught.value)
    assert "sim.hold" in str(caught.value) and "sim.free" in str(caught.value)
    with pytest.raises(InputError, match=r"got \['wrist'\], which nothing holds"):
        robot(tmp_path, world(wrist=WRIST), kind)
    robot(tmp_path, world(wrist=WRIST), kind, free=["wrist"])
    robot(tmp_path, world(), kind, held={}, free=list(HELD))


def test_a_free_joint_hangs(tmp_path: Path) -> None:
    plant = robot(tmp_path, world(), "effort", held={}, free=list(HELD))
    plant.reset({})
    plant.advance(200)
    assert plant.positions(["left_elbow"])[0] > 0.5  # and no servo of the model pulls it to 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"held": {"knee": 0.0, **HELD}}, "expected a joint knee, got"),
        ({"held": {**HELD, "left_elbow": 2.5}}, r"left_elbow of policy.held_joints: expected a po"),
        ({"free": ["knee"]}, "expected a joint knee, got"),
        (
            {"free": ["wrist", "roll"]},
            "joint roll: expected a joint of the robot in sim.hold and sim.free",
        ),
        (
            {"held": {**HELD, "wrist": 0.1}, "free": []},
            "joint wrist of policy.held_joints: expected a revolute",
        ),
        ({"imu": "ball"}, "sim.imu: expected a body of the robot, got ball"),
    ],
)
def test_what_cannot_be_held_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        robot(tmp_path, world(wrist=WRIST, after=BALL), **{"free": ["wrist"], **changes})


def test_positions_of_what_is_no_joint_are_refused(tmp_path: Path) -> None:
    plant = robot(tmp_path, world(wrist=WRIST), free=["wrist"])
    for name in ("knee", "wrist"):
        with pytest.raises(InputError, match=f"revolute or prismatic joint {name}, got none"):
            plant.positions([name])
    assert plant.positions([]).shape == (0,)


# ---- the contract


def test_the_contract_records_what_is_held_and_older_ones_read_as_before() -> None:
    spec = contract("position", HELD)
    assert PolicySpec.model_validate_json(spec.model_dump_json()).held_joints == HELD
    plain = contract("position", {})
    assert "held_joints" not in plain.model_dump_json()
    assert PolicySpec.model_validate_json(plain.model_dump_json()) == plain


@pytest.mark.parametrize(
    ("held", "sentence"),
    [
        ({"left_hip": 0.0}, "held_joints: expected joints that are not among the policy's own"),
        ({"left_elbow": 45.0}, "is this really in rad or m, not in degrees or mm"),
        ({"left_elbow": float("nan")}, "finite number"),
    ],
)
def test_a_contract_holds_what_it_can(held: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        contract("effort", held)


@pytest.mark.parametrize(
    ("held", "sim", "sentence"),
    [
        ("  held_joints: {tail: 0.1}\n", "", r"sim.hold: expected the joints of policy.held_joints"
         r", \['tail'\], got \[\]"),
        ("", "  hold: {tail: {stiffness: 5.0, damping: 0.1}}\n", r"\[\], got \['tail'\]"),
        ("", "  free: [hinge]\n", r"sim.free: expected joints that the policy does not name"),
        ("", "  free: [a, a]\n", "free: expected each joint once"),
        ("  held_joints: {tail: 0.1}\n",
         "  hold: {tail: {stiffness: 5.0, damping: 0.1}}\n  free: [tail]\n",
         r"either in hold or in free, got \['tail'\] in both"),
        ("", "  drive: sideways\n", "sim.drive: .*'explicit' or 'implicit'"),
    ],
)  # fmt: skip
def test_contract_and_simulation_hold_the_same_joints(
    tmp_path: Path, held: str, sim: str, sentence: str
) -> None:
    content = shipped_content("cartpole")
    content["policy"] |= yaml.safe_load(held) or {}
    content["sim"] |= yaml.safe_load(sim) or {}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=sentence):
        load_robot_task(path)


def test_a_plant_whose_contract_holds_otherwise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    path.write_text(world())
    sim = SimConfig(model="model.xml", timestep=0.002, decimation=5)
    with pytest.raises(InputError, match=r"sim.hold: expected the joints of policy.held_joints"):
        Plant(contract("position", HELD), sim, path)


# ---- the base


GO2 = (config_folder() / "models/go2.xml").read_text()


def with_ball(folder: Path, where: str) -> Path:
    path = folder / f"{where}.xml"
    if where == "before":
        text = GO2.replace('    <body name="base"', f'    {BALL}\n    <body name="base"', 1)
    else:
        text = GO2.replace("  </worldbody>", f"    {BALL}\n  </worldbody>", 1)
    assert text != GO2
    path.write_text(text)
    return path


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_ball_in_the_world_changes_nothing(tmp_path: Path, where: str) -> None:
    config, model = load_robot_task("go2")
    other = with_ball(tmp_path, where)
    assert base_body(model, config.policy) == base_body(other, config.policy) == "base"
    plants = [make_plant(config, model), make_plant(config, other)]
    states = [plant.reset(plant.default_pose, 0.3) for plant in plants]
    target = np.array([0.0, 0.9, -1.8] * 4)
    random = np.random.default_rng(0)
    for _ in range(25):
        pushed = random.uniform(-0.1, 0.1, 2)
        command = target + random.uniform(-0.2, 0.2, 12)
        for i, plant in enumerate(plants):
            plant.push(pushed)
            states[i] = plant.step(JointCommand(config.policy.action_joints, command, "position"))
        ours, theirs = (plant.base() for plant in plants)
        assert ours.height == pytest.approx(theirs.height, abs=1e-9)
        assert ours.velocity == pytest.approx(theirs.velocity, abs=1e-9)
        for field in ("joint_position", "joint_velocity", "orientation", "angular_velocity"):
            mine, got = (getattr(state, field) for state in states)
            assert mine == pytest.approx(got, abs=1e-9), field


def test_a_fixed_robot_beside_a_free_ball_has_no_free_base(tmp_path: Path) -> None:
    plant = robot(tmp_path, world(before=BALL))
    assert not plant.has_free_base
    with pytest.raises(InputError, match="expected a model with a free joint"):
        plant.base()
    assert robot(tmp_path, world(base="<freejoint/>", before=BALL)).has_free_base
    path = tmp_path / "fixed.xml"
    path.write_text(world(before=BALL))
    with pytest.raises(InputError, match="expected a free joint on trunk, the robot's root, got n"):
        base_body(path, contract("position", HELD))
    path.write_text(world(base="<freejoint/>").replace(' name="trunk"', ""))
    with pytest.raises(InputError, match="expected a name of the body that the robot's free joint"):
        base_body(path, contract("position", HELD))


def test_a_height_is_that_of_the_robots_base(tmp_path: Path) -> None:
    plant = robot(tmp_path, world(base="<freejoint/>", before=BALL))
    plant.reset({}, height=1.7)
    assert plant.base().height == 1.7
    ball = plant.model.joint("roll").qposadr[0]
    assert plant.data.qpos[ball + 2] == 1.0


def test_joints_of_two_robots_are_no_robot(tmp_path: Path) -> None:
    second = re.sub(r'name="(\w+)"', r'name="second_\1"', BODY.format(base="", wrist=""))
    spread = world(after=second).replace("second_right_hip", "x").replace("right_hip", "y")
    both = spread.replace('"x"', '"right_hip"')
    with pytest.raises(InputError, match=r"left_hip on trunk, right_hip on second_trunk"):
        robot(tmp_path, both)
    assert mujoco.MjModel.from_xml_string(both).njnt == 8
    robot(tmp_path, world(after=second))  # the other one is scenery
