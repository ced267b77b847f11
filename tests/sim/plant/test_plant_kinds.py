"""The simulated robot's other interfaces: a position drive, a base that takes speeds, an imu."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.observation import projected_gravity
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import SimConfig
from dime_robot.sim.model.loading import load_model
from dime_robot.sim.plant.plant import Plant

ARM = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <body>
      <joint name="a" type="hinge" axis="0 1 0" damping="0.05"/>
      <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.02" mass="1"/>
      <body pos="0.3 0 0">
        <joint name="b" type="hinge" axis="0 1 0" limited="true" range="-1 1"/>
        <geom type="capsule" fromto="0 0 0 0.2 0 0" size="0.02" mass="0.5"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor name="mb" joint="b" ctrllimited="true" ctrlrange="-3 3"/>
    <motor name="ma" joint="a" ctrllimited="true" ctrlrange="-9 9"/>
  </actuator>
</mujoco>
"""
BASE = """
<mujoco>
  <compiler angle="radian"/>
  <option gravity="0 0 0"/>
  <worldbody>
    <body name="base">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <joint name="yaw" type="hinge" axis="0 0 1"/>
      <geom type="box" size="0.2 0.1 0.05" mass="5"/>
    </body>
  </worldbody>
  <actuator>
    <velocity name="angular_z" joint="yaw" kv="5"/>
    <velocity name="linear_x" joint="x" kv="500"/>
    <velocity name="linear_y" joint="y" kv="500"/>
  </actuator>
</mujoco>
"""
FREE = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <body name="base" pos="0 0 1">
      <freejoint/>
      <site name="imu"/>
      <geom type="box" size="0.2 0.1 0.05" mass="5"/>
      {extra}
      <body pos="0.2 0 0">
        <joint name="arm" type="hinge" axis="0 1 0" limited="true" range="-1 1"/>
        <geom type="capsule" fromto="0 0 0 0.2 0 0" size="0.02" mass="0.5"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="arm" ctrllimited="true" ctrlrange="-3 3"/></actuator>
  <sensor><gyro site="imu"/><framequat objtype="site" objname="imu"/></sensor>
</mujoco>
"""
STEP, STEPS = 0.002, 5
Q = {"name": "q", "kind": "joint_position", "unit": "rad"}


def make(
    folder: Path, mjcf: str, spec: dict[str, Any], imu: str | None = None, **settings: Any
) -> Plant:
    path = folder / "model.xml"
    path.write_text(mjcf)
    names = [joint["name"] for joint in spec["joints"]]
    data = {
        "name": "plant",
        "rate": 1 / (STEP * STEPS),
        "observation": [{**Q, "joints": names, "size": len(names)}],
        **spec,
    }
    settings = {"timestep": STEP, "decimation": STEPS, **settings}
    sim = SimConfig(model="model.xml", imu=imu, **settings)
    return Plant(PolicySpec.model_validate(data), sim, path)


def arm(folder: Path, **changes: Any) -> Plant:
    b = {"name": "b", "type": "revolute", "position_limits": [-1.0, 1.0], "effort_limit": 3.0,
         "stiffness": 20.0, "damping": 0.5, **changes}  # fmt: skip
    a = {"name": "a", "type": "revolute", "effort_limit": 9.0, "stiffness": 60.0, "damping": 2.0}
    action = {"kind": "position", "size": 2, "scale": {"a": 1.0, "b": 1.0}}
    return make(folder, ARM, {"joints": [b, a], "action": action})


def servo(folder: Path, damping: float = 0.5, **settings: Any) -> Plant:
    """The arm with velocities as commands; a stiffness in its contract is without effect."""
    b = {"name": "b", "type": "revolute", "position_limits": [-1.0, 1.0], "effort_limit": 3.0,
         "stiffness": 20.0, "damping": damping}  # fmt: skip
    a = {"name": "a", "type": "revolute", "effort_limit": 9.0, "damping": 2.0}
    action = {"kind": "velocity", "size": 2, "scale": {"a": 1.0, "b": 1.0}}
    return make(folder, ARM, {"joints": [b, a], "action": action}, **settings)


def base(folder: Path, *axes: str, mjcf: str = BASE) -> Plant:
    joints = [
        {"name": "yaw", "type": "revolute"},
        *({"name": name, "type": "prismatic"} for name in "xy"),
    ]
    action = {"kind": "twist", "size": len(axes), "scale": dict.fromkeys(axes, 1.0)}
    return make(folder, mjcf, {"joints": joints, "action": action})


def free(folder: Path, extra: str = "", imu: str | None = "base") -> Plant:
    joint = {"name": "arm", "type": "revolute", "position_limits": [-1.0, 1.0], "effort_limit": 3}
    spec = {"joints": [joint], "action": {"kind": "effort", "size": 1, "scale": {"arm": 1.0}}}
    plant = make(folder, FREE.format(extra=extra), spec, imu)
    plant.reset({"arm": 0.3})
    plant.data.qvel[3:6] = [0.5, -1.0, 2.0]
    return plant


def drive(*values: float) -> JointCommand:
    return JointCommand(("b", "a"), np.array(values), "position")


def test_a_position_is_held_by_the_contracts_gains_at_every_simulation_step(tmp_path: Path) -> None:
    plant = arm(tmp_path)
    plant.reset({"a": 0.2, "b": -0.3})
    model = mujoco.MjModel.from_xml_string(ARM)
    model.opt.timestep = STEP
    data = mujoco.MjData(model)
    data.qpos[:] = [0.2, -0.3]
    for period in range(30):
        target_b, target_a = 0.1 * np.sin(period), 0.2 + 0.05 * period
        for _ in range(STEPS):
            a = 60.0 * (target_a - data.qpos[0]) - 2.0 * data.qvel[0]
            b = 20.0 * (target_b - data.qpos[1]) - 0.5 * data.qvel[1]
            data.ctrl[:] = [b, a]  # in the order of the actuators
            mujoco.mj_step(model, data)
        state = plant.step(drive(target_b, target_a))
        assert plant.data.qfrc_applied == pytest.approx([a, b], abs=1e-12)
        assert not plant.data.qfrc_actuator.any()  # the model's own motors are off
        assert state.joint_position == pytest.approx(data.qpos[::-1], abs=1e-12)
        assert state.joint_velocity == pytest.approx(data.qvel[::-1], abs=1e-12)
        assert state.stamp == pytest.approx((period + 1) * STEP * STEPS)


def test_a_velocity_is_followed_by_the_contracts_gain_at_every_simulation_step(
    tmp_path: Path,
) -> None:
    plant = servo(tmp_path)
    plant.reset({"a": 0.2, "b": -0.3})
    model = mujoco.MjModel.from_xml_string(ARM)
    model.opt.timestep = STEP
    data = mujoco.MjData(model)
    data.qpos[:] = [0.2, -0.3]
    for period in range(30):
        wanted_b, wanted_a = 4.0 * np.sin(period), 8.0 * np.cos(period)
        for _ in range(STEPS):
            a = np.clip(2.0 * (wanted_a - data.qvel[0]), -9.0, 9.0)
            b = np.clip(0.5 * (wanted_b - data.qvel[1]), -3.0, 3.0)
            data.ctrl[:] = [b, a]  # in the order of the actuators
            mujoco.mj_step(model, data)
        command = JointCommand(("b", "a"), np.array([wanted_b, wanted_a]), "velocity")
        state = plant.step(command)
        assert plant.data.qfrc_applied == pytest.approx([a, b], abs=1e-12)
        assert not plant.data.qfrc_actuator.any()
        assert state.joint_velocity == pytest.approx(data.qvel[::-1], abs=1e-12)


def test_a_velocity_servo_of_any_gain_follows_with_the_implicit_drive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set sim.drive: implicit.*|b \(inertia") as caught:
        servo(tmp_path, damping=300.0)
    assert "damping 300 N m s/rad, largest stable" in str(caught.value)
    plant = servo(tmp_path, damping=300.0, drive="implicit")
    plant.model.opt.gravity[:] = 0
    plant.reset({})
    for _ in range(30):
        state = plant.step(JointCommand(("b", "a"), np.array([0.5, -0.5]), "velocity"))
    assert state.joint_velocity == pytest.approx([0.5, -0.5], abs=0.02)
    assert np.abs(plant.efforts()).max() <= 9.0
    plant.reset({"b": 0.2})
    plant.advance(20)
    assert plant.state().joint_position == pytest.approx([0.2, 0.0])  # the velocity is forgotten
    assert plant.pose_errors() == {}
    assert plant.driven_joints == ["b", "a"]


def test_both_integrations_of_a_velocity_servo_agree_at_a_fine_step(tmp_path: Path) -> None:
    fine = {"timestep": STEP / 20, "decimation": STEPS * 20}
    ends = []
    for drive in ("explicit", "implicit"):
        plant = servo(tmp_path, **fine, drive=drive)
        plant.reset({"b": -0.5})
        for period in range(20):
            wanted = np.array([np.sin(period), 3.0])
            state = plant.step(JointCommand(("b", "a"), wanted, "velocity"))
        ends.append([*state.joint_position, *state.joint_velocity])
    assert ends[0] == pytest.approx(ends[1], abs=5e-3)


def test_a_target_far_off_asks_for_no_more_than_the_effort_limit(tmp_path: Path) -> None:
    plant = arm(tmp_path)
    plant.reset({})
    plant.command(drive(100.0, -100.0))
    plant.advance(1)
    assert plant.data.qfrc_applied == pytest.approx([-9.0, 3.0])


def test_after_reset_a_position_drive_keeps_the_pose(tmp_path: Path) -> None:
    plant = arm(tmp_path)
    plant.model.opt.gravity[:] = 0
    plant.step(drive(0.9, 0.9))
    plant.reset({"a": 0.2, "b": -0.3})
    plant.advance(200)
    assert plant.state().joint_position == pytest.approx([-0.3, 0.2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_limits": [-1.0, 0.5]}, "joint b: expected position limits"),
        ({"position_limits": None}, "joint b: expected position limits"),
    ],
)
def test_a_model_that_differs_from_the_contract_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        arm(tmp_path, **changes)


def test_a_motor_that_differs_from_the_contract_is_refused(tmp_path: Path) -> None:
    joint = {"name": "b", "type": "revolute", "position_limits": [-1.0, 1.0], "effort_limit": 4.0}
    action = {"kind": "effort", "size": 1, "scale": {"b": 1.0}}
    with pytest.raises(InputError, match="actuator mb of joint b: expected ctrlrange"):
        make(tmp_path, ARM, {"joints": [joint], "action": action})


@pytest.mark.parametrize(
    ("kind", "joints"), [("effort", ("b", "a")), ("position", ("a", "b")), ("position", ("b",))]
)
def test_a_command_for_something_else_is_refused(
    tmp_path: Path, kind: Any, joints: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match="expected a command of position for"):
        arm(tmp_path).step(JointCommand(joints, np.zeros(len(joints)), kind))


def test_a_command_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 2 numbers"):
        arm(tmp_path).step(JointCommand(("b", "a"), np.zeros(1), "position"))


def test_a_base_moves_at_the_speeds_of_the_twist(tmp_path: Path) -> None:
    plant = base(tmp_path, "angular_z", "linear_x")
    plant.reset({})
    command = JointCommand(("linear_x", "angular_z"), np.array([0.5, -1.0]), "twist")
    for _ in range(200):
        state = plant.step(command)
    assert state.joint_velocity == pytest.approx([-1.0, 0.5, 0.0], abs=1e-3)
    assert plant.data.ctrl.tolist() == [-1.0, 0.5, 0.0]
    plant.reset({})
    plant.advance(10)
    assert not plant.data.ctrl.any()  # the old command is forgotten


def test_a_base_without_an_actuator_for_an_axis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an actuator linear_y"):
        base(tmp_path, "linear_y", mjcf=BASE.replace('name="linear_y"', 'name="sideways"'))


@pytest.mark.parametrize(
    "extra",
    [
        "",
        '<geom type="capsule" fromto="0 0 0 0.2 0.3 0.3" size="0.02" mass="3"/>',
    ],
)
def test_the_imu_reads_what_mujocos_sensors_read(tmp_path: Path, extra: str) -> None:
    plant = free(tmp_path, extra)
    for _ in range(20):
        mujoco.mj_forward(plant.model, plant.data)
        state = plant.state()
        assert state.angular_velocity == pytest.approx(plant.data.sensordata[:3], abs=1e-9)
        assert state.orientation == pytest.approx(plant.data.sensordata[3:7], abs=1e-9)
        plant.step(JointCommand(("arm",), np.array([0.5])))
    down = plant.data.site_xmat[0].reshape(3, 3).T @ [0, 0, -1]
    assert state.orientation is not None
    assert projected_gravity(plant.data.xquat[1]) == pytest.approx(down)


def test_without_an_imu_there_is_none(tmp_path: Path) -> None:
    state = free(tmp_path, imu=None).state()
    assert (state.orientation, state.angular_velocity) == (None, None)
    with pytest.raises(InputError, match=r"sim.imu: expected a body of \['base'"):
        free(tmp_path, imu="trunk")


def test_a_reading_does_not_change_afterwards(tmp_path: Path) -> None:
    plant = free(tmp_path)
    state = plant.step(JointCommand(("arm",), np.array([0.0])))
    assert state.orientation is not None and state.angular_velocity is not None
    kept = [state.joint_position, state.joint_velocity, state.orientation, state.angular_velocity]
    before = [array.copy() for array in kept]
    plant.step(JointCommand(("arm",), np.array([1.0])))
    for array, old in zip(kept, before, strict=True):
        assert array.tolist() == old.tolist()


def test_the_imu_and_the_joints_are_read_at_the_same_instant(tmp_path: Path) -> None:
    plant = free(tmp_path)
    state = plant.step(JointCommand(("arm",), np.array([0.0])))
    assert state.orientation == pytest.approx(plant.data.qpos[3:7], abs=1e-9)
    assert state.angular_velocity == pytest.approx(plant.data.qvel[3:6], abs=1e-9)


def test_the_floor_of_a_hall_may_be_heavy(tmp_path: Path) -> None:
    hall = '<body name="hall"><geom type="box" size="50 50 1" pos="0 0 -9"/></body>'
    path = tmp_path / "hall.xml"
    path.write_text(ARM.replace("<worldbody>", f"<worldbody>{hall}"))
    assert load_model(path, STEP).body("hall").mass[0] > 1e6
    path.write_text(path.read_text().replace('mass="0.5"', 'mass="5e5"'))
    with pytest.raises(InputError, match=r"expected a mass in \[0, 100000\] kg, got 500000"):
        load_model(path, STEP)


def test_what_else_mujoco_warns_of_is_passed_on(tmp_path: Path) -> None:
    cloth = '<flexcomp name="cloth" type="grid" count="3 3 1" spacing=".1 .1 .1" mass="1"/>'
    path = tmp_path / "cloth.xml"
    path.write_text(ARM.replace("</worldbody>", f"{cloth}</worldbody>"))
    with pytest.warns(UserWarning, match=r"cloth.xml: .*flex 'cloth' is not rigid"):
        load_model(path, STEP)


def test_a_command_is_taken_as_it_was_given(tmp_path: Path) -> None:
    plant = arm(tmp_path)
    plant.reset({"a": 0.2, "b": -0.3})
    command = drive(-0.3, 0.2)
    plant.command(command)
    command.value[:] = 100.0
    plant.advance(1)
    assert plant.data.qfrc_applied == pytest.approx([0.0, 0.0])
