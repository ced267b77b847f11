"""Through which actuators of a model an effort, or a twist, reaches a joint; all others by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dime_robot import config as config_command
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.plant.plant import Plant
from dime_robot.sim.robot_env import RobotEnv
from tests.sim.plant.test_plant_kinds import BASE, base, make
from tests.sim.test_cartpole import variant

WORLD = """
<mujoco>
  <compiler angle="radian" autolimits="true"/>
  <option gravity="0 0 0"/>
  {option}
  <worldbody>
    <body name="link">
      <joint name="a" type="hinge" axis="0 1 0" {joint}/>
      <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.02" mass="1"/>
      <site name="tip" pos="0.3 0 0"/>
    </body>
    <body name="other" pos="0 2 0">
      <joint name="z" type="hinge" axis="0 1 0"/>
      <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.02" mass="1"/>
      <site name="far" pos="0.3 0 0"/>
    </body>
  </worldbody>
  <tendon>
    <fixed name="first"><joint joint="z" coef="1"/></fixed>
    <fixed name="both"><joint joint="a" coef="1"/><joint joint="z" coef="1"/></fixed>
    <spatial name="string"><site site="tip"/><site site="far"/></spatial>
  </tendon>
  <actuator>{actuators}</actuator>
</mujoco>
"""
M = 'name="m" joint="a" ctrlrange="-3 3"'
MOTOR = f"<motor {M}/>"
X = '<velocity name="linear_x" joint="x" kv="500"/>'
SPEC: dict[str, Any] = {
    "joints": [{"name": "a", "type": "revolute", "effort_limit": 3.0}],
    "action": {"kind": "effort", "size": 1, "scale": {"a": 3.0}},
}


def plant(folder: Path, actuators: str, joint: str = "", option: str = "") -> Plant:
    return make(folder, WORLD.format(actuators=actuators, joint=joint, option=option), SPEC)


@pytest.mark.parametrize(
    ("actuators", "joint", "option"),
    [
        (MOTOR, "", ""),
        (MOTOR.replace("/>", ' gear="1 0 0 0 0 0"/>'), "", ""),
        (MOTOR.replace("/>", ' forcerange="-3 3"/>'), "", ""),
        (MOTOR.replace("/>", ' forcerange="-4 3.5" group="3"/>'), 'actuatorfrcrange="-3 3"', ""),
        (f"<general {M}/>", "", ""),
        (
            '<general joint="a" ctrlrange="-3 3" gainprm="1" biastype="affine" biasprm="0 0 0"/>',
            "",
            "",
        ),
        (MOTOR, 'stiffness="5" springref="0.3" damping="0.1" armature="0.1"', ""),
        (MOTOR.replace("/>", ' group="-2"/>'), "", '<option actuatorgroupdisable="3"/>'),
        # what moves other bodies of the world may be anything, several controls wide
        ('<pid joint="z" kp="3"/><position tendon="first" kp="9"/>' + MOTOR, "", ""),
        (MOTOR + '<motor joint="z" gear="50" ctrlrange="-9 9"/>', "", ""),
    ],
)
def test_an_effort_arrives_at_the_joint_as_it_is(
    tmp_path: Path, actuators: str, joint: str, option: str
) -> None:
    robot = plant(tmp_path, actuators, joint, option)
    robot.reset({})
    robot.command(JointCommand(("a",), np.array([2.5])))
    robot.advance(1)
    assert robot.data.qfrc_actuator[robot.dofs] == pytest.approx([2.5])


REFUSED = [
    ("gear 10", MOTOR.replace("/>", ' gear="10"/>'), "", "", "got gear 10"),
    ("gear -1", MOTOR.replace("/>", ' gear="-1"/>'), "", "", "got gear -1"),
    ("position", f'<position {M} kp="100"/>', "", "", "got gain 100"),
    ("position kp 1", '<position name="m" joint="a" kp="1" ctrlrange="-3 3"/>', "", "",
     "got a bias .0 -1 0., as position"),
    ("velocity", '<velocity name="m" joint="a" kv="1" ctrlrange="-3 3"/>', "", "",
     "got a bias .0 0 -1., as position"),
    ("damper", '<damper name="m" joint="a" kv="1" ctrlrange="0 3"/>', "", "",
     "a gain of kind affine"),
    ("gain 2", f'<general {M} gainprm="2"/>', "", "", "got gain 2"),
    ("bias", f'<general {M} biastype="affine" biasprm="1 0 0"/>',
     "", "", "got a bias .1 0 0."),
    ("damping bias",
     f'<general {M} biastype="affine" biasprm="0 0 -2"/>', "", "",
     "got a bias .0 0 -2."),
    ("affine gain",
     f'<general {M} gaintype="affine" gainprm="1 0 0"/>', "", "",
     "a gain of kind affine"),
    ("filter",
     f'<general {M} dyntype="filter" dynprm="0.1"/>', "", "",
     "dynamics of kind filter"),
    ("intvelocity", '<intvelocity name="m" joint="a" kp="1" actrange="-1 1" ctrlrange="-3 3"/>', "",
     "", "dynamics of kind integrator"),
    ("muscle", '<muscle name="m" joint="a" lengthrange="0 1"/>', "", "", "dynamics of kind muscle"),
    ("cylinder", f'<cylinder {M}/>', "", "", "dynamics of kind filter"),
    ("dcmotor", '<dcmotor name="m" joint="a" motorconst="1" resistance="1"/>', "", "",
     "a gain of kind dcmotor|dynamics of kind dcmotor"),
    ("pid", '<pid name="m" joint="a" kp="3"/>', "", "", "dynamics of kind pid|2 controls"),
    ("delay", MOTOR.replace("/>", ' delay="0.02" nsample="12"/>'), "", "", "a delay of 0.02 s"),
    # the tendon's number is that of the joint, and so compared without its kind it was a motor
    ("tendon of another joint", '<motor name="m" tendon="first" ctrlrange="-3 3"/>', "", "",
     "expected a motor on joint a, got none"),
    ("tendon through the joint", '<motor name="m" tendon="both" ctrlrange="-3 3"/>', "", "",
     "a transmission of kind tendon"),
    ("spatial tendon", '<motor name="m" tendon="string" ctrlrange="-3 3"/>', "", "",
     "a transmission of kind tendon"),
    ("in parent", '<motor name="m" jointinparent="a" ctrlrange="-3 3"/>', "", "",
     "a transmission of kind jointinparent"),
    ("site", '<motor name="m" site="tip" gear="0 0 1 0 0 0" ctrlrange="-3 3"/>', "", "",
     "a transmission of kind site"),
    ("slider-crank",
     '<general name="m" cranksite="tip" slidersite="far" cranklength="3" ctrlrange="-3 3"/>', "",
     "", "a transmission of kind slider-crank"),
    ("body", '<adhesion name="m" body="link" ctrlrange="0 3"/>', "", "",
     "a transmission of kind body"),
    ("force range", MOTOR.replace("/>", ' forcerange="-2 3"/>'), "", "",
     "forcerange at least as wide as the contract's effort"),
    ("joint's force range", MOTOR, 'actuatorfrcrange="-3 2.9"', "", "actuatorfrcrange at least"),
    ("ctrlrange", MOTOR.replace("-3 3", "-3 4"), "", "", "expected ctrlrange .-3, 3."),
    ("not limited", '<motor name="m" joint="a"/>', "", "", "ctrllimited false"),
    ("range not applied",
     f'<motor {M} ctrllimited="false"/>', "", "",
     "ctrllimited false"),
    ("second motor", MOTOR + '<motor name="n" joint="a" ctrlrange="-3 3"/>', "", "",
     "actuator n of joint a: expected only m to move the joint, got a second one"),
    ("second, through a tendon", '<position name="n" tendon="both" kp="9"/>' + MOTOR, "", "",
     "actuator n .* only m .* second one .transmission: tendon."),
    ("second, through a site", MOTOR + '<motor name="n" site="tip" gear="0 0 1 0 0 0"/>', "", "",
     "actuator n .* second one .transmission: site."),
    ("group off", MOTOR.replace("/>", ' group="2"/>'), "",
     '<option actuatorgroupdisable="2"/>', "group 2, which the model disables"),
    ("all off", MOTOR, "", '<option><flag actuation="disable"/></option>',
     "actuation disabled"),
    ("never clamped", MOTOR, "", '<option><flag clampctrl="disable"/></option>', "clampctrl off"),
    ("none", "", "", "", "expected a motor on joint a, got none"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("actuators", "joint", "option", "sentence"),
    [row[1:] for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
def test_anything_but_a_plain_motor_is_refused_by_name(
    tmp_path: Path, actuators: str, joint: str, option: str, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        plant(tmp_path, actuators, joint, option)
    message = str(caught.value)
    assert "expected" in message and "got" in message and "joint a" in message
    assert "\n" not in message and len(message) < 330


def test_gravity_compensation_on_top_of_the_contract_is_refused(tmp_path: Path) -> None:
    mjcf = WORLD.format(actuators=MOTOR, joint='actuatorgravcomp="true"', option="")
    make(tmp_path, mjcf, SPEC)  # nothing is compensated
    with pytest.raises(InputError, match=r"gravity compensation on top .actuatorgravcomp."):
        make(tmp_path, mjcf.replace('<body name="link"', '<body name="link" gravcomp="1"'), SPEC)


def test_the_command_goes_to_the_motors_own_control(tmp_path: Path) -> None:
    # a pid has two controls, so that the motor's control has another number than the motor
    robot = plant(tmp_path, '<pid joint="z" kp="3"/>' + MOTOR)
    robot.reset({})
    robot.step(JointCommand(("a",), np.array([1.0])))
    assert robot.data.ctrl.tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ((X, X.replace("/>", ' gear="2"/>')),
         "actuator linear_x of axis linear_x: expected a velocity servo of gear 1 .*, got gear 2"),
        ((X, '<motor name="linear_x" joint="x"/>'),
         "got gain 1 with a bias of .0 0 0., no velocity servo"),
        ((X, '<position name="linear_x" joint="x"/>'),
         "got gain 1 with a bias of .0 -1 0., no velocity servo"),
        ((X, '<intvelocity name="linear_x" joint="x" actrange="-1 1"/>'),
         "dynamics of kind integrator"),
        (('joint="x" kv="500"/>', 'joint="x" kv="500" ctrllimited="true" ctrlrange="-0.5 0.5"/>'),
         r"ctrlrange \[-0.5, 0.5\] narrower than the contract's 1"),
        (('joint="x" kv="500"/>', 'joint="yaw" kv="500"/>'), "on a hinge joint where a slide"),
        (("</actuator>", '<motor name="push" joint="x"/></actuator>'),
         "actuator push of joint x: expected only linear_x to move the joint"),
    ],
)  # fmt: skip
def test_a_twist_goes_through_velocity_servos(
    tmp_path: Path, change: tuple[str, str], sentence: str
) -> None:
    assert change[0] in BASE
    base(tmp_path, "linear_x", "angular_z")
    with pytest.raises(InputError, match=sentence):
        base(tmp_path, "linear_x", "angular_z", mjcf=BASE.replace(*change))


def test_check_and_training_refuse_alike(tmp_path: Path) -> None:
    path = variant(tmp_path, ('gear="1" ctrllimited="true"', 'gear="10" ctrllimited="true"'))
    for use in (
        lambda: config_command.main(["check", str(path)]),
        lambda: RobotEnv(str(path)),
    ):
        with pytest.raises(InputError, match=r"actuator slider of joint slider: .*, got gear 10"):
            use()
