"""The arm: its kinematics against the published parameters, its drive, its contacts, its marker."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.examination import examine
from dime_robot.sim.plant.plant import Plant, make_plant

CONFIG, MODEL = load_robot_task("reach")
READY = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)  # [rad]
FLANGE = 0.107  # along the last axis [m]
PARAMETERS = (  # Craig's convention: a [m], d [m], alpha [rad]
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
)
LIMITS = [joint.position_limits or (0.0, 0.0) for joint in CONFIG.policy.joints]
POSES = st.tuples(*(st.floats(low, high) for low, high in LIMITS))


def at(pose: tuple[float, ...]) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_path(str(MODEL))
    data = mujoco.MjData(model)
    data.qpos[:] = pose
    mujoco.mj_forward(model, data)
    return model, data


def flange(pose: tuple[float, ...]) -> FloatArray:
    """Return the flange's pose by the published parameters, a homogeneous matrix."""
    product = np.eye(4)
    for (a, d, alpha), theta in zip(PARAMETERS, pose, strict=True):
        c, s, ca, sa = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha)
        product = product @ np.array(
            [
                [c, -s, 0, a],
                [s * ca, c * ca, -sa, -d * sa],
                [s * sa, c * sa, ca, d * ca],
                [0, 0, 0, 1],
            ]
        )
    product[:3, 3] += FLANGE * product[:3, 2]
    return product


def touching(model: mujoco.MjModel, data: mujoco.MjData) -> set[frozenset[str]]:
    owner = model.geom_bodyid
    return {frozenset(model.body(owner[i]).name for i in c.geom) for c in data.contact}


# ---- figures


def test_the_file_is_right() -> None:
    assert examine("reach").problems == []
    assert tuple(joint.default_position for joint in CONFIG.policy.joints) == READY


@given(POSES)
@settings(max_examples=50, deadline=None)
def test_the_tool_is_where_the_published_parameters_put_it(pose: tuple[float, ...]) -> None:
    tool, expected = at(pose)[1].site("tool"), flange(pose)
    assert tool.xpos == pytest.approx(expected[:3, 3], abs=1e-6)
    assert tool.xmat.reshape(3, 3) == pytest.approx(expected[:3, :3], abs=1e-6)


def test_the_mass_is_that_of_the_links() -> None:
    model, _ = at(READY)
    links = [model.body(f"link{i}").mass[0] for i in range(8)]
    assert links == pytest.approx([2.4, 2.9, 2.9, 2.2, 2.6, 2.3, 1.8, 0.65])
    assert model.body("link0").subtreemass[0] == pytest.approx(17.75)
    assert model.body("target").mass[0] == 0


# ---- holding a pose


def held(plant: Plant, seconds: float = 2.0) -> float:
    """Return the largest position error after some time at the default pose [rad]."""
    plant.reset(plant.default_pose)
    plant.advance(round(seconds / CONFIG.sim.timestep))
    return max(plant.pose_errors().values())


def test_it_holds_its_pose_with_and_without_compensation_of_its_weight() -> None:
    plant = make_plant(CONFIG, MODEL)
    assert held(plant) < 1e-3
    plant.model.body_gravcomp[:] = 0
    assert 0.01 < held(plant) < 0.03
    efforts = dict(zip(plant.driven_joints, np.abs(plant.efforts()), strict=True))
    limits = {joint.name: joint.effort_limit or 0.0 for joint in CONFIG.policy.joints}
    assert all(effort < 0.3 * limits[name] for name, effort in efforts.items())


# ---- contacts


def test_nothing_touches_in_the_ready_pose() -> None:
    assert touching(*at(READY)) == set()


@given(POSES)
@example((*READY[:5], LIMITS[5][0], READY[6]))
@example((*READY[:5], LIMITS[5][1], READY[6]))
@settings(max_examples=50, deadline=None)
def test_links_that_are_near_along_the_arm_never_touch(pose: tuple[float, ...]) -> None:
    model, data = at(pose)
    for pair in touching(model, data):
        if "world" not in pair:
            one, other = sorted(int(name.removeprefix("link")) for name in pair)
            assert other - one > 2


@pytest.mark.parametrize(
    ("pose", "pair"),
    [
        ((0.0, 1.6, 0.0, -0.5, 0.0, 1.6, 0.0), {"world", "link7"}),  # reaches into the floor
        ((0.0, 0.7, 0.0, -3.0, 0.0, 1.5, 0.0), {"link0", "link6"}),  # folded onto its own foot
    ],
)
def test_the_arm_touches_the_floor_and_itself(pose: tuple[float, ...], pair: set[str]) -> None:
    assert pair in touching(*at(pose))


def test_the_marker_moves_and_touches_nothing() -> None:
    plants = [make_plant(CONFIG, MODEL) for _ in range(2)]
    for plant, where in zip(plants, ([1.0, 1.0, 1.0], [0.0, 0.0, 0.3]), strict=True):
        plant.reset(plant.default_pose)
        plant.data.mocap_pos[plant.model.body("target").mocapid[0]] = where
        plant.advance(20)
        assert plant.data.geom("target").xpos == pytest.approx(where)
        assert plant.data.ncon == 0
    assert (plants[0].data.qpos == plants[1].data.qpos).all()
