"""Lowest points of geoms, against MuJoCo's own distance to a plane."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dime_robot.sim.model.ground import feet_of, lowest_points, touches_ground

SHAPES = {
    "sphere": "0.05",
    "capsule": "0.03 0.08",
    "cylinder": "0.04 0.06",
    "box": "0.03 0.05 0.07",
    "ellipsoid": "0.03 0.05 0.07",
}


def falling(shape: str, size: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(
        f'<mujoco><worldbody><geom name="floor" type="plane" size="1 1 1"/><body pos="0 0 1">'
        f'<freejoint/><geom name="it" type="{shape}" size="{size}"/></body></worldbody></mujoco>'
    )


@pytest.mark.parametrize("shape", SHAPES)
@given(turned=st.lists(st.floats(-1, 1), min_size=4, max_size=4))
def test_the_lowest_point_touches_the_ground(shape: str, turned: list[float]) -> None:
    quaternion = np.array(turned)
    if np.linalg.norm(quaternion) < 1e-3:
        return
    model = falling(shape, SHAPES[shape])
    data = mujoco.MjData(model)
    data.qpos[3:] = quaternion / np.linalg.norm(quaternion)
    mujoco.mj_kinematics(model, data)
    (point,) = lowest_points(model, data, 1).values()
    data.qpos[2] -= point[2]  # now it only just touches
    mujoco.mj_forward(model, data)
    ends = np.zeros(6)
    between = mujoco.mj_geomDistance(
        model, data, model.geom("floor").id, model.geom("it").id, 1.0, ends
    )
    assert between == pytest.approx(0.0, abs=1e-4)


def test_feet_are_the_lowest_bodies_that_a_joint_moves() -> None:
    leg = (
        '<body name="{0}" pos="{1} 0 0"><joint/><geom type="capsule" fromto="0 0 0 0 0 -0.2"'
        ' size="0.02" mass="1"/></body>'
    )
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><body name="base" pos="0 0 1"><freejoint/>'
        '<geom type="box" size="0.2 0.1 0.05"/>'
        + leg.format("left", 0.1)
        + leg.format("right", -0.1)
        + '<body name="tail" pos="-0.2 0 0.1"><joint/><geom size="0.02"/></body>'
        + "</body></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    assert [model.body(body).name for body in feet_of(model, data, 1)] == ["left", "right"]
    assert not touches_ground(model)
    assert touches_ground(falling("sphere", "0.1"))
