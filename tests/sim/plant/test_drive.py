"""The two kinds of drive: which gains a simulation step bears, and that the implicit is right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import SimConfig
from dime_robot.sim.plant import stability
from dime_robot.sim.plant.drive import PositionDrive
from dime_robot.sim.plant.plant import Plant

# A robot arm of 18 kg with the masses and lengths of a UR5e; rotors as its public models have them
UR5E = """
<mujoco>
  <compiler angle="radian" autolimits="true"/>
  <default><joint type="hinge" range="-6.2831 6.2831" armature="0.1"/></default>
  <worldbody>
    <body pos="0 0 0.163">
      <joint name="pan" axis="0 0 1"/>
      <geom type="cylinder" size="0.06 0.05" mass="3.7"/>
      <body pos="0 0.138 0">
        <joint name="lift" axis="0 1 0"/>
        <geom type="capsule" fromto="0 0 0 0.425 0 0" size="0.05" mass="8.39"/>
        <body pos="0.425 -0.131 0">
          <joint name="elbow" axis="0 1 0" range="-3.1415 3.1415"/>
          <geom type="capsule" fromto="0 0 0 0.392 0 0" size="0.04" mass="2.27"/>
          <body pos="0.392 0 0">
            <joint name="wrist_1" axis="0 1 0"/>
            <geom type="cylinder" fromto="0 0 0 0 0.127 0" size="0.035" mass="1.22"/>
            <body pos="0 0.127 0">
              <joint name="wrist_2" axis="0 0 1"/>
              <geom type="cylinder" fromto="0 0 0 0 0 0.1" size="0.035" mass="1.22"/>
              <body pos="0 0 0.1">
                <joint name="wrist_3" axis="0 1 0"/>
                <geom type="cylinder" fromto="0 0 0 0 0.04 0" size="0.03" mass="0.19"/>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>
  </worldbody>
</mujoco>
"""
UR5E_LIMITS = {"pan": 150, "lift": 150, "elbow": 150, "wrist_1": 28, "wrist_2": 28, "wrist_3": 28}
UR5E_POSE = {"pan": 0.0, "lift": -1.57, "elbow": 1.57, "wrist_1": -1.57, "wrist_2": -1.57}
LEG = """
<body name="{n}_hip" pos="{x} {y} 0">
  <joint name="{n}_hx" axis="1 0 0" range="-0.785 0.785"/>
  <inertial mass="1.68" pos="0 0 0" diaginertia="0.003 0.003 0.003"/>
  <body pos="0 {w} 0">
    <joint name="{n}_hy" axis="0 1 0" range="-0.9 2.3"/>
    <geom type="capsule" fromto="0 0 0 0.02 0 -0.32" size="0.04" mass="2.34"/>
    <body pos="0.02 0 -0.32">
      <joint name="{n}_kn" axis="0 1 0" range="-2.8 -0.25"/>
      <geom type="capsule" fromto="0 0 0 0 0 -0.33" size="0.02" mass="0.33"/>
      <geom type="sphere" pos="0 0 -0.34" size="0.03" mass="0.06" contype="1" friction="0.8"/>
    </body>
  </body>
</body>
"""
LEGS = {"fl": (0.3, 0.055, 0.11), "fr": (0.3, -0.055, -0.11),
        "hl": (-0.3, 0.055, 0.11), "hr": (-0.3, -0.055, -0.11)}  # fmt: skip
# A four-legged robot of 34 kg with the masses and lengths of a Spot
SPOT = (
    """
<mujoco>
  <compiler angle="radian" autolimits="true"/>
  <default><joint type="hinge"/><geom contype="0" conaffinity="0"/></default>
  <worldbody>
    <geom name="floor" type="plane" size="0 0 0.1" conaffinity="1"/>
    <body name="body" pos="0 0 0.6">
      <freejoint/>
      <inertial mass="16.7" pos="0 0 0" diaginertia="0.07 0.73 0.76"/>
"""
    + "".join(LEG.format(n=n, x=x, y=y, w=w) for n, (x, y, w) in LEGS.items())
    + "</body></worldbody></mujoco>"
)
SPOT_POSE = {f"{leg}_{part}": q for leg in LEGS for part, q in (("hx", 0), ("hy", 1), ("kn", -1.8))}
SECONDS = 2.0


def robot(
    folder: Path,
    mjcf: str,
    pose: dict[str, float],
    gains: tuple[float, float],
    limits: dict[str, float] | None = None,
    timestep: float = 0.005,
    **sim: Any,
) -> Plant:
    path = folder / "model.xml"
    path.write_text(mjcf)
    model = mujoco.MjModel.from_xml_string(mjcf)
    joints = []
    for i in range(model.njnt):
        joint = model.joint(i)
        if joint.type[0] == mujoco.mjtJoint.mjJNT_FREE:
            continue
        joints.append(
            {
                "name": joint.name,
                "type": "revolute",
                "default_position": pose.get(joint.name, 0.0),
                "stiffness": gains[0],
                "damping": gains[1],
                "position_limits": joint.range.tolist() if model.jnt_limited[i] else None,
                "effort_limit": None if limits is None else limits[joint.name],
            }
        )
    names = [joint["name"] for joint in joints]
    spec = PolicySpec.model_validate(
        {
            "name": "own",
            "rate": 50.0,
            "joints": joints,
            "observation": [{"name": "q", "kind": "joint_position", "unit": "rad",
                             "joints": names, "size": len(names)}],
            "action": {"kind": "position", "size": len(names), "scale": dict.fromkeys(names, 0.5)},
        }
    )  # fmt: skip
    settings = SimConfig(model="model.xml", timestep=timestep, decimation=4, **sim)
    return Plant(spec, settings, path, dict.fromkeys(names, 2.0))


def held(plant: Plant, height: float | None = None) -> float:
    """Largest error within 2 s of holding the default pose [rad]."""
    plant.reset(plant.default_pose, height)
    worst = 0.0
    for _ in range(round(SECONDS / plant.model.opt.timestep)):
        plant.advance(1)
        worst = max(worst, *plant.pose_errors().values())
    assert np.isfinite(plant.data.qpos).all()
    return worst


def test_a_ur5e_of_strong_gains_is_held_by_the_implicit_drive_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set sim.drive: implicit, or lower") as caught:
        robot(tmp_path, UR5E, UR5E_POSE, (2000, 100), UR5E_LIMITS)
    named = re.search(
        r"wrist_3 \(inertia (0.1\d*) kg m\^2, damping 100 N m s/rad, largest stable (\S+)\)",
        str(caught.value),
    )
    assert named is not None, caught.value
    # its rotor is nearly all of its inertia: 2 I / h - h k / 2, shared with its neighbours
    alone = 2 * float(named[1]) / 0.005 - 0.005 * 2000 / 2
    assert 0.5 * alone < float(named[2]) <= alone * 1.001
    plant = robot(tmp_path, UR5E, UR5E_POSE, (2000, 100), UR5E_LIMITS, drive="implicit")
    assert held(plant) < 0.02


def test_a_spot_of_its_models_gains_stands_with_the_implicit_drive_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"_kn .inertia .*damping 40 .*largest stable"):
        robot(tmp_path, SPOT, SPOT_POSE, (500, 40))
    plant = robot(tmp_path, SPOT, SPOT_POSE, (500, 40), drive="implicit")
    assert held(plant, 0.5) < 0.06  # what its weight, and the fall on its feet, push in
    assert np.abs(plant.data.qvel).max() < 0.01  # and it stands still
    # as the same gains do at a step that is short enough for them
    fine = robot(tmp_path, SPOT, SPOT_POSE, (500, 40), timestep=0.0002)
    held(fine, 0.5)
    assert plant.joint_position() == pytest.approx(fine.joint_position(), abs=1e-3)
    assert plant.base().height == pytest.approx(fine.base().height, abs=1e-4)


def chain(joints: int) -> str:
    """Links that turn about vertical axes, so that gravity does not matter."""
    links = ""
    for n in range(joints, 0, -1):
        links = (
            f'<body pos="0.2 0 0"><joint name="j{n}" type="hinge" axis="0 0 1" armature="0.01"/>'
            f'<geom type="capsule" fromto="0 0 0 0.2 0 0" size="0.02" mass="0.5"/>{links}</body>'
        )
    flag = '<option><flag contact="disable"/></option>'
    return f"<mujoco>{flag}<worldbody>{links}</worldbody></mujoco>"


@pytest.mark.parametrize("share", [0.97, 1.03])
@pytest.mark.parametrize("joints", [1, 3])
def test_the_largest_stable_damping_is_the_largest(
    tmp_path: Path, joints: int, share: float
) -> None:
    mjcf = chain(joints)
    stretched = dict.fromkeys((f"j{n}" for n in range(1, joints + 1)), 0.0)
    with pytest.raises(InputError) as caught:
        robot(tmp_path, mjcf, stretched, (20.0, 900.0))
    found = re.findall(r"(j\d) \(inertia \S+ kg m\^2, .*?largest stable (\S+)\)", str(caught.value))
    assert len(found) == joints
    # one model without the refusal, driven with the reported gains: is it stable?
    model = mujoco.MjModel.from_xml_string(mjcf)
    model.opt.timestep = 0.005
    dofs = [int(model.joint(name).dofadr[0]) for name, _ in found]
    damping = np.array([float(largest) for _, largest in found])
    worst = 0.0
    for start in range(20):  # the pose the inertia is smallest at is among many
        data = mujoco.MjData(model)
        random = np.random.default_rng(start)
        data.qpos[:] = pose = random.uniform(-3, 3, model.nq)
        data.qvel[:] = 1e-3
        for _ in range(400):
            effort = 20.0 * (pose[dofs] - data.qpos[dofs]) - share * damping * data.qvel[dofs]
            data.qfrc_applied[dofs] = effort
            mujoco.mj_step(model, data)
            if np.abs(data.qvel).max() > 1.0:
                break
        worst = max(worst, float(np.abs(data.qvel).max()))
    assert (worst < 1.0) if share < 1 else (worst > 1.0)


def test_what_is_said_to_be_stable_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        robot(tmp_path, chain(1), {}, (20.0, 900.0))
    largest = float(str(caught.value).split("largest stable ")[1].split(")")[0])
    robot(tmp_path, chain(1), {}, (20.0, 0.99 * largest))
    with pytest.raises(InputError, match="largest stable"):
        robot(tmp_path, chain(1), {}, (20.0, 1.01 * largest))


def test_other_poses_than_the_default_one_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # bent by 90 degrees two links are easiest to follow for each other's drive, stretched hardest
    pose = {"j1": 0.0, "j2": 1.57}
    robot(tmp_path, chain(2), pose, (20.0, 3.0))
    monkeypatch.setattr(stability, "POSES", 0)
    robot(tmp_path, chain(2), pose, (20.0, 5.3))
    monkeypatch.undo()
    with pytest.raises(InputError, match="largest stable"):
        robot(tmp_path, chain(2), pose, (20.0, 5.3))


def servo(timestep: float, stiffness: float, damping: float, limit: float) -> mujoco.MjModel:
    """The UR5e with MuJoCo's own position servos, integrated implicitly."""
    servos = "".join(
        f'<general joint="{name}" gainprm="{stiffness}" biastype="affine"'
        f' biasprm="0 {-stiffness} {-damping}" forcerange="{-limit} {limit}"/>'
        for name in UR5E_LIMITS
    )
    model = mujoco.MjModel.from_xml_string(
        UR5E.replace("</mujoco>", f"<actuator>{servos}</actuator></mujoco>")
    )
    model.opt.timestep = timestep
    model.opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    return model


def test_within_its_limits_it_is_mujocos_own_servo(tmp_path: Path) -> None:
    plant = robot(tmp_path, UR5E, UR5E_POSE, (2000, 100), drive="implicit")
    model = servo(0.005, 2000, 100, 1e6)
    data = mujoco.MjData(model)
    state = plant.reset(plant.default_pose)
    data.qpos[:] = state.joint_position
    random = np.random.default_rng(0)
    for _ in range(50):
        target = state.joint_position + random.uniform(-0.3, 0.3, 6)
        data.ctrl[:] = target
        plant.step(JointCommand(tuple(UR5E_LIMITS), target, "position"))
        mujoco.mj_step(model, data, nstep=4)
        assert plant.data.qpos == pytest.approx(data.qpos, abs=1e-9)
        assert plant.data.qvel == pytest.approx(data.qvel, abs=1e-9)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_at_its_limits_it_follows_the_same_drive_at_a_fine_step(
    tmp_path: Path, strength: float
) -> None:
    """And never gives more than the limit: not of the stiffness, nor of both parts together."""
    jump = {**UR5E_POSE, "wrist_3": 0.0, "elbow": 1.2, "wrist_1": -1.2}
    runs = []
    for timestep, drive in ((0.005, "implicit"), (0.0002, "explicit")):
        plant = robot(
            tmp_path, UR5E, UR5E_POSE, (2000, 100), UR5E_LIMITS, timestep=timestep, drive=drive
        )
        assert plant.drive is not None
        plant.drive.strength[:] = strength
        plant.reset(plant.default_pose)
        target = np.array([jump[name] for name in UR5E_LIMITS])
        plant.command(JointCommand(tuple(UR5E_LIMITS), target, "position"))
        path = []
        for _ in range(100):
            plant.advance(round(0.005 / timestep))
            path.append(plant.joint_position())
        limit = strength * np.array(list(UR5E_LIMITS.values()))
        assert (plant.drive.peak <= limit * (1 + 1e-9)).all()
        assert plant.drive.peak[3] == pytest.approx(limit[3])  # it was at its limit
        runs.append(np.array(path))
    assert np.abs(runs[0] - runs[1]).max() < 0.02


def test_a_strongly_damped_joint_at_its_limit_does_not_jump_between_both(tmp_path: Path) -> None:
    plant = robot(tmp_path, UR5E, UR5E_POSE, (2000, 100), UR5E_LIMITS, drive="implicit")
    assert plant.drive is not None
    plant.model.opt.gravity[:] = 0.0
    plant.reset({})
    target = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.5])
    plant.command(JointCommand(tuple(UR5E_LIMITS), target, "position"))
    efforts = []
    for _ in range(100):
        plant.advance(1)
        efforts.append(plant.drive.applied[5])
    signs = np.sign(efforts)[np.abs(efforts) > 14]
    assert np.count_nonzero(np.diff(signs)) <= 1  # it speeds up once, then slows down


def test_a_motors_fade_reaches_the_implicit_drive(tmp_path: Path) -> None:
    plant = robot(
        tmp_path, UR5E, UR5E_POSE, (200, 1), UR5E_LIMITS, drive="implicit", full_torque_speed=0.5
    )
    plant.model.opt.gravity[:] = 0.0
    assert plant.drive is not None
    for speed, share in ((0.5, 1.0), (1.5, 0.5), (2.5, 0.0), (-1.5, 1.0)):
        plant.reset({})
        target = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 3.0])
        plant.command(JointCommand(tuple(UR5E_LIMITS), target, "position"))
        plant.data.qvel[5] = speed  # of 2 rad/s at most
        plant.advance(1)
        assert plant.drive.applied[5] == pytest.approx(share * 28)


def test_randomised_gains_reach_the_implicit_drive(tmp_path: Path) -> None:
    plant = robot(tmp_path, UR5E, UR5E_POSE, (200, 10), UR5E_LIMITS, drive="implicit")
    plant.model.opt.gravity[:] = 0.0
    assert plant.drive is not None

    def after(change: str, factor: float) -> float:
        values = getattr(plant.drive, change)
        kept = values.copy()
        values *= factor
        plant.reset({})
        target = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.01])
        plant.command(JointCommand(tuple(UR5E_LIMITS), target, "position"))
        plant.advance(1)
        values[:] = kept
        return float(plant.data.qvel[5])

    nominal = after("stiffness", 1.0)
    assert after("stiffness", 2.0) == pytest.approx(2 * nominal, rel=1e-6)
    assert after("damping", 2.0) == pytest.approx(nominal * (0.1 + 0.05) / (0.1 + 0.1), rel=0.01)
    # half the strength is half of both gains
    assert after("strength", 0.5) == pytest.approx(
        0.5 * nominal * (0.1 + 0.05) / (0.1 + 0.025), rel=0.01
    )


def test_too_stiff_for_the_implicit_drive_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected stiffness that a simulation step") as caught:
        robot(tmp_path, UR5E, UR5E_POSE, (60000, 10), drive="implicit")
    assert "set sim.drive" not in str(caught.value)
    assert re.search(r"wrist_3 .inertia 0.1\S* kg m.2, stiffness 60000 N m/rad, largest \d+", str(caught.value))  # fmt: skip  # noqa: E501


def test_bounds_without_a_speed_limit_hold_for_a_speed_that_is_no_number() -> None:
    drive = PositionDrive([10.0, 10.0], [1.0, 1.0], [5.0, 6.0])
    low, high = drive.bounds(np.array([np.nan, 0.0]))
    assert (low == [-5.0, -6.0]).all()
    assert (high == [5.0, 6.0]).all()


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.999])
def test_slow_motors_have_exactly_their_full_effort_and_others_what_is_left(share: float) -> None:
    limit, fastest = np.array([23.7, 45.43, 3.1]), np.array([30.1, 15.7, 0.3])
    drive = PositionDrive([0.0] * 3, [0.0] * 3, limit.tolist(), share, fastest.tolist())
    rng = np.random.default_rng(0)
    fade = 1 / ((1 - share) * fastest)
    speeds = [scale * rng.uniform(-1, 1, 3) * fastest for scale in np.geomspace(1e-6, 4.0, 60)]
    for ratio in (0.99, 0.9995, 1.0, 1.0005, 1.01, 1.1):  # a single motor, around where it fades
        speeds += [*(ratio * share * np.diag(fastest)), *(-ratio * share * np.diag(fastest))]
    for speed in speeds:
        low, high = drive.bounds(speed)
        # bit for bit: the bounds of slow motors are not computed
        assert (high == limit * np.clip((fastest - speed) * fade, 0.0, 1.0)).all()
        assert (low == -limit * np.clip((fastest + speed) * fade, 0.0, 1.0)).all()


def test_gains_that_are_changed_in_place_apply_to_the_next_effort() -> None:
    drive = PositionDrive([10.0], [1.0], [100.0], 0.7, [20.0])
    at = np.array([1.0]), np.array([0.0]), np.array([2.0])
    assert drive.effort(*at) == pytest.approx([10.0 - 2.0])
    drive.stiffness[:], drive.damping[:], drive.strength[:] = 20.0, 2.0, 0.5
    assert drive.effort(*at) == pytest.approx([0.5 * (20.0 - 4.0)])
