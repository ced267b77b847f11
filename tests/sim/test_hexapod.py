"""The hexapod: its model, that it stands, and what its simulation leaves out."""

from __future__ import annotations

import itertools

import mujoco
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis.extra import numpy as hnp

from dime_robot.runtime.control.state import JointCommand
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task, require_task
from dime_robot.sim.examination import examine
from dime_robot.sim.plant.plant import Plant, make_plant
from dime_robot.sim.robot_env import RobotEnv
from dime_robot.sim.tasks.task import largest_reward

LEGS, PARTS = ("LF", "LM", "LR", "RF", "RM", "RR"), ("coxa", "femur", "tibia")
NAMES = [f"{leg}_{part}_joint" for leg in LEGS for part in PARTS]
FEET = [f"{leg}_foot" for leg in LEGS]
CONFIG, MODEL = load_robot_task("hexapod-walk")
TASK = require_task(CONFIG)


def make_model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(MODEL))


def settled(pose: dict[str, float], height: float, seconds: float = 2.0) -> Plant:
    """Return the robot after some time with constant targets [rad], dropped at a height [m]."""
    plant = make_plant(CONFIG, MODEL)
    plant.reset(pose, height)
    joints = CONFIG.policy.action_joints
    plant.command(JointCommand(joints, np.array([pose[name] for name in joints]), "position"))
    plant.advance(round(seconds / CONFIG.sim.timestep))
    return plant


def default_pose(config: RobotTaskConfig) -> dict[str, float]:
    return {joint.name: joint.default_position for joint in config.policy.joints}


def touching(plant: Plant) -> set[str]:
    names = [plant.model.geom(i).name for c in plant.data.contact for i in c.geom]
    return set(names) - {"floor"}


# ---- the model


def test_the_file_is_right() -> None:
    assert examine("hexapod-walk").problems == []
    assert list(CONFIG.policy.action_joints) == NAMES


def test_the_mass_is_that_of_its_parts() -> None:
    model = make_model()
    servo = 0.082
    leg = [0.02 + servo, 0.03 + servo, 0.02 + 0.01 + 0.006]
    for name in LEGS:
        assert [model.body(f"{name}_{part}").mass[0] for part in PARTS] == pytest.approx(leg)
    assert model.body("base").mass[0] == pytest.approx(0.45 + 0.1 + 0.05 + 6 * servo)
    assert model.body("base").subtreemass[0] == pytest.approx(2.592)


def test_left_and_right_are_mirror_images() -> None:
    model = make_model()
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    for row, part in itertools.product("FMR", PARTS):
        left, right = data.body(f"L{row}_{part}"), data.body(f"R{row}_{part}")
        assert left.xipos * [1, -1, 1] == pytest.approx(right.xipos, abs=1e-6)


def test_only_feet_and_belly_touch_the_ground_and_nothing_else() -> None:
    model = make_model()
    sides = {
        flag: {model.geom(i).name for i in range(model.ngeom) if getattr(model, flag)[i]}
        for flag in ("geom_contype", "geom_conaffinity")
    }
    assert sides == {"geom_contype": {"floor"}, "geom_conaffinity": {"belly", *FEET}}


# ---- at rest


def test_it_stands_on_its_feet_at_action_0() -> None:
    start = TASK.reset["base"].parameters["height"]
    plant = settled(default_pose(CONFIG), start)
    assert touching(plant) == set(FEET)
    assert 0.9 * start <= plant.base().height <= start
    assert plant.base().gravity[2] < -0.9999
    assert np.abs(plant.data.qvel).max() < 2e-3
    assert max(plant.pose_errors().values()) < 0.03
    # a servo's share of the weight is far below its limit, so that three legs can carry it
    assert np.abs(plant.efforts()).max() < 3.0 / 4


def test_at_its_safe_positions_it_lies_on_its_belly() -> None:
    rest = {joint.name: joint.safe_position for joint in CONFIG.robot.joints}
    plant = settled({name: position or 0.0 for name, position in rest.items()}, 0.05)
    assert touching(plant) == {"belly"}
    assert plant.base().height == pytest.approx(0.03, abs=2e-3)
    assert plant.base().height < TASK.terminations["sunk"].parameters["height"]


def test_the_environment_begins_level_and_lasts_when_nothing_is_done() -> None:
    env = RobotEnv("hexapod-walk")
    observation, _ = env.reset(seed=0)
    assert observation.shape == (63,)
    assert observation[3:9] == pytest.approx([0, 0, -1, 0.25, 0, 0])
    rewards = []
    for _ in range(500):
        _, reward, terminated, _, info = env.step(np.zeros(18, np.float32))
        assert not terminated
        rewards.append(reward)
    assert not info["is_success"]  # it stands, and was told to walk
    # a step ahead is rewarded: standing gives little more than half of what walking does
    assert np.mean(rewards) < 0.65 * largest_reward(CONFIG)


# ---- what is not simulated: that one leg touches another, or the body


def clearance(pose: np.ndarray) -> tuple[float, str]:
    """Return the smallest distance of links that no joint connects [m], and which they are."""
    model = make_model()
    data = mujoco.MjData(model)
    for name, position in zip(NAMES, pose, strict=True):
        data.joint(name).qpos = position
    mujoco.mj_kinematics(model, data)
    owner, found = model.geom_bodyid, [(1.0, "")]
    for one, other in itertools.combinations(range(1, model.ngeom), 2):
        first, second = int(owner[one]), int(owner[other])
        parents = model.body_parentid[[first, second]]
        if first != second and first != parents[1] and second != parents[0]:
            distance = mujoco.mj_geomDistance(model, data, one, other, 0.1, None)
            names = f"{model.body(first).name}, {model.body(second).name}"
            found.append((distance, names))
    return min(found)


@settings(max_examples=20, deadline=None)
@example(np.kron([1, -1, -1, -1, 1, 1], [1, 0, 0]))  # front and middle feet towards each other
@example(np.kron([1, 1, -1, -1, -1, 1], [1, 0, 0]))  # middle and rear feet
@given(hnp.arrays(float, 18, elements=hnp.from_dtype(np.dtype(float), min_value=-1, max_value=1)))
def test_no_action_lets_a_leg_touch_another(action: np.ndarray) -> None:
    spec = CONFIG.policy
    scale = np.array([spec.action.scale[name] for name in NAMES])
    pose = np.array([spec.joint(name).default_position for name in NAMES])
    distance, links = clearance(pose + scale * action)
    assert distance > 0.01, links


def test_the_clearance_would_show_legs_that_cross() -> None:
    pose = np.tile([0.0, 0.5, -1.9], (6, 1))
    assert clearance(pose.ravel())[0] > 0.02
    pose[0, 0], pose[1, 0] = 0.8, -0.8  # left front leg back, left middle leg ahead
    distance, links = clearance(pose.ravel())
    assert distance <= 0 and "LF" in links and "LM" in links
