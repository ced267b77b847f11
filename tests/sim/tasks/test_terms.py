"""Each term of the package against numbers that are computed in another way."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
import pytest

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.plant.plant import make_plant
from dime_robot.sim.tasks import lookup
from dime_robot.sim.tasks.view import TaskView

HIPS, ROLL, PITCH, YAW = [0, 3, 6, 9], 0.2, 0.3, 0.5  # [rad]
IMU = np.array([-0.02557, 0.0, 0.04232])  # of the Go2's site, in the frame of its base [m]
EPISODE = 20.0  # [s]
DRAWS = 400
WORLD_VELOCITY, RATE = np.array([0.4, 0.1, -0.2]), np.array([0.1, -0.2, 0.3])  # [m/s], [rad/s]


def turn(axis: int, angle: float) -> FloatArray:
    """Rotation about a coordinate axis, shape (3, 3)."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix


ROTATION = turn(2, YAW) @ turn(1, PITCH) @ turn(0, ROLL)  # base to world
LEVEL_VELOCITY = turn(2, YAW).T @ WORLD_VELOCITY


def go2() -> TaskView:
    """A Go2 that is tilted and moves, in the second step of an episode."""
    config, model = load_robot_task("go2")
    plant, rng = make_plant(config, model), np.random.default_rng(0)
    view = TaskView(config.policy, plant, EPISODE)
    plant.reset(plant.default_pose, 0.4)
    view.begin(rng)
    view.commands["velocity"] = np.array([0.3, 0.0, -0.1])
    view.advance(
        JointCommand(config.policy.action_joints, 0.1 * rng.uniform(-1, 1, 12), "position")
    )
    data = plant.data
    mujoco.mju_mat2Quat(data.qpos[3:7], ROTATION.ravel())
    data.qpos[7:] += rng.uniform(-0.1, 0.1, 12)
    data.qvel[:3], data.qvel[3:6] = WORLD_VELOCITY, RATE
    data.qvel[6:] = rng.uniform(-1, 1, 12)
    view.advance(
        JointCommand(config.policy.action_joints, 0.1 * rng.uniform(-1, 1, 12), "position")
    )
    return view


def cartpole(x: float, angle: float, effort: float = 0.0) -> TaskView:
    """A cart-pole at a place, at 0.5 m/s and 2 rad/s, after a step with an effort."""
    config, model = load_robot_task("cartpole")
    plant = make_plant(config, model)
    view = TaskView(config.policy, plant, EPISODE)
    plant.reset({"slider": x, "hinge": angle})
    plant.data.qvel[:] = 0.5, 2.0
    view.begin(np.random.default_rng(0))
    view.advance(JointCommand(("slider",), np.array([effort])))
    return view


def term(section: str, name: str, view: TaskView, **parameters: Any) -> Callable[[], Any]:
    """A term with its parameters validated, as a task calls it."""
    return lookup.bound(getattr(lookup.OURS[section], name), parameters, view)


def value(section: str, name: str, view: TaskView, **parameters: Any) -> Any:
    return term(section, name, view, **parameters)()


# ---- documentation


ALL = [(section, name) for section in lookup.OURS for name in lookup.our_terms(section)]
UNIT = re.compile(r"\[[^\[\]]+\]")
NUMBERS = ("rewards", "metrics")  # whose first sentence ends with the unit of the value
VECTORS = ("commands", "observations", "privileged")


@pytest.mark.parametrize(("section", "name"), ALL)
def test_a_term_says_what_it_is_and_in_which_unit(section: str, name: str) -> None:
    found = getattr(lookup.OURS[section], name)
    text = inspect.getdoc(found)
    assert text is not None and text == (found.__doc__ and inspect.cleandoc(found.__doc__))
    first = " ".join(text.partition("\n\n")[0].split())
    assert first.endswith(".")
    target = found.__init__ if inspect.isclass(found) else found
    parameters = [name for name in inspect.signature(target).parameters if name != "self"]
    assert parameters[0] == "view"
    assert all(f"{each}: " in text for each in parameters[1:]), text
    if section in NUMBERS:
        assert first.endswith("].") and UNIT.search(first[:-1]), text
    if section in VECTORS:
        assert UNIT.search(text) or "in the command's unit." in text, text


def test_there_is_a_test_of_every_term() -> None:
    tested = inspect.getsource(inspect.getmodule(test_there_is_a_test_of_every_term))  # type: ignore[arg-type]
    for _, name in ALL:
        assert f'"{name}"' in tested, name


def test_what_is_bounded_says_so() -> None:
    largest = {
        name: getattr(lookup.OURS["rewards"], name).largest for name in lookup.our_terms("rewards")
    }
    costs = {name for name, bound in largest.items() if bound == math.inf}
    assert set(largest.values()) == {1.0, math.inf}
    assert costs == {
        *("vertical_speed", "roll_pitch_rate", "tilt", "action_change", "effort"),
        *("joint_deviation", "joint_speed", "action_size", "near_stops", "base_height_error"),
    }


# ---- rewards and metrics of a base


def test_rewards_of_a_base_in_motion() -> None:
    view = go2()
    off, yaw_off = LEVEL_VELOCITY[:2] - [0.3, 0.0], RATE[2] + 0.1
    gravity = ROTATION.T @ [0, 0, -1]
    expected = {
        "track_linear_velocity": math.exp(-(off[0] ** 2 + off[1] ** 2) / 0.4**2),
        "track_yaw_rate": math.exp(-(yaw_off**2) / 0.4**2),
        "alive": 1.0,
        "vertical_speed": 0.04,
        "roll_pitch_rate": 0.05,
        "tilt": 1 - gravity[2] ** 2,
    }
    for name, number in expected.items():
        given = {"width": 0.4} if name.startswith("track") else {}
        assert value("rewards", name, view, **given) == pytest.approx(number, abs=1e-9), name
    assert value("metrics", "velocity_error", view) == pytest.approx(math.hypot(*off))
    assert value("metrics", "yaw_rate_error", view) == pytest.approx(abs(yaw_off))


def test_rewards_of_joints_and_actions() -> None:
    view, rng = go2(), np.random.default_rng(0)
    data, spec = view.plant.data, view.spec
    actions = []
    for _ in range(2):
        actions.append(0.1 * rng.uniform(-1, 1, 12) / 0.3)
        rng.uniform(size=24 if len(actions) == 1 else 0)
    change = sum((actions[1] - actions[0]) ** 2)
    assert value("rewards", "action_change", view) == pytest.approx(change)
    off = np.abs(data.qpos[7:] - [joint.default_position for joint in spec.joints])
    assert value("rewards", "joint_deviation", view) == pytest.approx(sum(off))
    hips = value("rewards", "joint_deviation", view, joints="*_hip_joint")
    assert hips == pytest.approx(sum(off[HIPS]))
    assert value("rewards", "joint_speed", view) == pytest.approx(sum(data.qvel[6:] ** 2))
    one = value("rewards", "joint_speed", view, joints=["FL_hip_joint", "RR_hip_joint"])
    assert one == pytest.approx(data.qvel[6] ** 2 + data.qvel[15] ** 2)


def test_costs_of_a_pose_and_of_an_action() -> None:
    view = go2()
    assert value("rewards", "action_size", view) == pytest.approx(view.action @ view.action)
    height = view.base.height
    assert value("rewards", "base_height_error", view, height=0.5) == (height - 0.5) ** 2
    assert value("rewards", "near_stops", view, margin=0.0) == 0
    joint, data = view.spec.joints[1], view.plant.data
    assert joint.position_limits is not None
    low, high = joint.position_limits
    data.qpos[view.plant.qpos_indices[1]] = high - 0.1
    view.forget()
    got = value("rewards", "near_stops", view, margin=0.05, joints=[joint.name])
    assert got == pytest.approx(0.05 * (high - low) - 0.1)
    free = cartpole(0.0, 3.0)
    assert value("rewards", "near_stops", free, margin=0.4, joints="hinge") == 0


def test_a_foot_earns_its_time_in_the_air_where_it_lands() -> None:
    config, model = load_robot_task("hexapod-walk")
    feet = {name: f"{name}_foot" for name in ("LF", "RF")}
    config = config.model_copy(update={"sim": config.sim.model_copy(update={"feet": feet})})
    plant = make_plant(config, model)
    view = TaskView(config.policy, plant, EPISODE)
    air = term("rewards", "FeetAirTime", view, wanted=0.1, feet=["LF", "RF"], force=0.5)
    plant.reset(plant.default_pose, 0.103)
    plant.advance(200)
    assert air() == 0  # standing
    plant.data.qpos[2] += 0.1
    mujoco.mj_forward(plant.model, plant.data)
    assert [air() for _ in range(10)] == [0] * 10  # in the air
    plant.reset(plant.default_pose, 0.103)
    plant.advance(200)
    assert air() == pytest.approx(2 * (10 * 0.02 - 0.1))
    assert air() == 0
    with pytest.raises(InputError, match=r"feet of sim.feet, \['LF', 'RF'\], got 'X'"):
        term("rewards", "FeetAirTime", view, wanted=0.1, feet=["X"])


def test_the_first_action_of_an_episode_changes_nothing() -> None:
    view = cartpole(0.0, 0.0, effort=8.0)
    assert value("rewards", "action_change", view) == 0
    view.advance(JointCommand(("slider",), np.array([-8.0])))
    assert value("rewards", "action_change", view) == pytest.approx(4.0)


def test_effort_is_the_mean_of_the_steps_of_a_period() -> None:
    view = go2()
    plant, squares = view.plant, []
    assert plant.drive is not None
    plant.drive.take_squares()
    target = np.array([0.0, 0.9, -1.8] * 4) + 0.2
    command = JointCommand(view.spec.action_joints, target, "position")
    plant.command(command)
    for _ in range(plant.decimation):
        plant.advance(1)
        squares.append(float((plant.drive.applied**2).sum()))
    view.advance(command)
    assert value("rewards", "effort", view) == pytest.approx(np.mean(squares))
    assert value("rewards", "effort", view) == pytest.approx(np.mean(squares))  # asked twice
    view.forget()  # as sensors that are read within a period do
    assert value("rewards", "effort", view) == pytest.approx(np.mean(squares))
    view.advance(command)  # without a simulation step
    assert value("rewards", "effort", view) == 0


def test_a_metric_adds_rewards_of_the_step() -> None:
    view = go2()
    view.rewards.update(a=1.0, b=-0.25, c=9.0)
    assert value("metrics", "reward_of", view, rewards=["a", "b"]) == 0.75
    assert value("metrics", "reward_of", view, rewards="c") == 9.0
    with pytest.raises(InputError, match=r"rewards: .*\['a', 'b', 'c'\], got 'd'"):
        value("metrics", "reward_of", view, rewards=["a", "d"])


# ---- targets


def test_terms_of_a_point() -> None:
    view = go2()
    view.commands["point"] = IMU + np.array([0.0, 0.3, 0.4])
    at = {"site": "imu", "command": "point"}
    assert value("observations", "site_position", view, site="imu") == pytest.approx(IMU)
    assert value("metrics", "point_error", view, **at) == pytest.approx(0.5)
    assert value("rewards", "near_point", view, **at, width=0.25) == pytest.approx(math.exp(-2))
    reached = term("success", "PointReached", view, **at, distance=0.1, window=0.06)  # 3 steps
    near, far = IMU + np.array([0.0, 0.0, 0.099]), IMU + np.array([0.101, 0.0, 0.0])
    seen = []
    for place in (near, near, far, near, near, near, near, far):
        view.commands["point"] = place
        seen.append(reached())
    assert seen == [False] * 5 + [True, True, False]


def test_terms_of_joint_targets() -> None:
    view = go2()
    off = np.linspace(-0.2, 0.3, 12)
    view.commands["pose"] = view.joint_position - off
    assert value("metrics", "joint_error", view, command="pose") == pytest.approx(0.3)
    tracked = value("rewards", "track_joints", view, command="pose", width=0.2)
    assert tracked == pytest.approx(math.exp(-np.mean(off**2) / 0.04))
    assert value("success", "JointsTracked", view, command="pose", error=0.31)
    assert not value("success", "JointsTracked", view, command="pose", error=0.29)
    view.commands["hips"] = view.joint_position[HIPS] - [0.1, 0.1, -0.1, 0.2]
    hips = value("rewards", "track_joints", view, command="hips", width=0.2, joints="*_hip_joint")
    assert hips == pytest.approx(math.exp(-0.07 / 4 / 0.04))
    with pytest.raises(InputError, match="a command of 12 numbers, hips has 4"):
        value("rewards", "track_joints", view, command="hips", width=0.2)


# ---- a pole on a cart


def test_rewards_of_a_cart_pole() -> None:
    view = cartpole(0.6, 2.0, effort=4.0)
    expected = {
        ("upright", "hinge", ()): math.cos(1.0) ** 2,  # (1 + cos 2) / 2
        ("centred", "slider", (("width", 0.6),)): (1 + 1 / math.e) / 2,
        ("slow", "hinge", (("width", 4.0),)): (1 + math.exp(-0.25)) / 2,
        ("slow", "slider", (("width", 0.5),)): (1 + 1 / math.e) / 2,
        ("gentle", "slider", ()): (4 + 0.75) / 5,
    }
    for (name, joint, given), number in expected.items():
        got = value("rewards", name, view, joint=joint, **dict(given))
        assert got == pytest.approx(number), name
    assert value("rewards", "gentle", cartpole(0, 0, effort=16.0), joint="slider") == 0.8
    for name, joint, sentence in (
        ("upright", "slider", r"a revolute joint .* out of \['hinge'\], got 'slider'"),
        ("gentle", "hinge", r"of action.scale, \['slider'\], got 'hinge'"),
    ):
        with pytest.raises(InputError, match=sentence):
            value("rewards", name, view, joint=joint)


def test_a_pole_stands_for_a_share_of_the_window() -> None:
    view = cartpole(0.0, 0.0)
    given = {"joint": "hinge", "angle": 10.0, "window": 0.1, "share": 0.6}  # 3 of 5 steps
    stands, seen = term("success", "Stands", view, **given), []
    for degrees in (0, 0, 9, -9, 11, 350, 11, 11, 11, 0, 0):
        view.plant.data.qpos[1] = math.radians(degrees)
        view.forget()
        seen.append(stands())
    assert seen == [False] * 4 + [True] * 3 + [False] * 4
    stands.func.reset(view)  # type: ignore[attr-defined]
    view.plant.data.qpos[1] = 0.0
    view.forget()
    assert [stands() for _ in range(5)] == [False] * 4 + [True]


def test_the_mean_velocity_is_tracked() -> None:
    view = go2()
    tracked = term("success", "VelocityTracked", view, error=0.1)
    base = LEVEL_VELOCITY[:2]
    seen = []
    for off in (0.09, 0.12, -0.5):  # means 0.09, 0.105, -0.097
        view.commands["velocity"] = np.array([base[0] - off, base[1], 0.0])
        seen.append(tracked())
    assert seen == [True, False, True]


# ---- the end and the start of an episode


def test_a_base_is_tilted_or_sunk() -> None:
    view = go2()
    angle = math.degrees(math.acos(ROTATION[2, 2]))
    assert value("terminations", "tilted", view, angle=angle - 0.01)
    assert not value("terminations", "tilted", view, angle=angle + 0.01)
    assert value("terminations", "sunk", view, height=0.401)
    assert not value("terminations", "sunk", view, height=0.399)


def test_an_episode_starts_near_the_pose_that_is_asked() -> None:
    view = go2()
    view.begin(np.random.default_rng(3))
    start = {
        "positions": {"*_calf_joint": -1.5, "FL_calf_joint": -1.0},
        "noise": {"*_hip_joint": 0.1},
    }
    drawn = []
    for _ in range(DRAWS):
        value("reset", "joint_positions", view, **start)
        drawn.append(list(view.start.positions.values()))
    low, high = np.min(drawn, 0), np.max(drawn, 0)
    assert list(view.start.positions) == [joint.name for joint in view.spec.joints]
    rest = [i for i in range(12) if i not in HIPS]
    assert low[rest].tolist() == high[rest].tolist() == [0.9, -1.0] + [0.9, -1.5] * 3
    assert (low[HIPS] < -0.09).all() and (low[HIPS] >= -0.1).all()
    assert (high[HIPS] > 0.09).all() and (high[HIPS] <= 0.1).all()
    value("reset", "joint_positions", view, noise=0.02)
    off = np.array(list(view.start.positions.values())) - view.default_position
    assert (np.abs(off) <= 0.02).all() and (off != 0).all()
    value("reset", "joint_positions", view)
    assert list(view.start.positions.values()) == view.default_position.tolist()
    value("reset", "base_height", view, height=0.37)
    assert view.start.height == 0.37


# ---- commands


def test_velocities_are_uniform_and_some_stand_or_turn() -> None:
    view = go2()
    view.begin(np.random.default_rng(4))
    ranges = {"linear_x": [0.2, 0.6], "linear_y": [-0.3, 0.0], "angular_z": [-0.5, 0.5]}
    draw = term("commands", "uniform_velocity", view, **ranges, standing=0.2, turning=0.3)
    drawn = np.array([draw() for _ in range(DRAWS)])
    stands = (drawn == 0).all(1)
    turns = (drawn[:, :2] == 0).all(1) & ~stands
    assert np.mean(stands) == pytest.approx(0.2, abs=0.07)
    assert np.mean(turns) == pytest.approx(0.3, abs=0.08)
    assert ((np.abs(drawn[turns, 2]) >= 0.25) & (np.abs(drawn[turns, 2]) <= 0.5)).all()
    walks = drawn[~stands & ~turns]
    bounds = np.array(list(ranges.values()))
    assert ((walks >= bounds[:, 0]) & (walks <= bounds[:, 1])).all()
    assert walks.mean(0) == pytest.approx(bounds.mean(1), abs=0.06)
    with pytest.raises(InputError, match=r"standing . turning up to 1, got 0.8 . 0.3"):
        value("commands", "uniform_velocity", view, **ranges, standing=0.8, turning=0.3)


def test_numbers_are_drawn_within_their_limits() -> None:
    view = cartpole(0.0, 0.0)
    draw = term("commands", "uniform", view, low=[0.0, -2.0, 5.0], high=[1.0, 2.0, 5.0])
    drawn = np.array([draw() for _ in range(DRAWS)])
    assert (drawn >= [0, -2, 5]).all() and (drawn <= [1, 2, 5]).all()
    assert drawn.mean(0) == pytest.approx([0.5, 0.0, 5.0], abs=0.2)
    assert np.corrcoef(drawn[:, :2].T)[0, 1] == pytest.approx(0, abs=0.2)
    for low, high in (([0.0], [1.0, 2.0]), ([1.0], [0.0])):
        with pytest.raises(InputError, match="low and high of one length, low <= high"):
            value("commands", "uniform", view, low=low, high=high)


def test_a_joint_target_is_part_of_the_way_to_a_stop() -> None:
    view = go2()
    draw = term("commands", "joint_targets", view, joints="FL_*", share=0.5)
    drawn = np.array([draw() for _ in range(DRAWS)])
    limits = [
        view.spec.joint(f"FL_{part}_joint").position_limits for part in ("hip", "thigh", "calf")
    ]
    rest = np.array([0.0, 0.9, -1.8])
    low, high = ((np.array(side) + rest) / 2 for side in zip(*limits, strict=True))  # type: ignore[arg-type]
    assert (drawn >= low).all() and (drawn <= high).all()
    assert np.min(drawn, 0) == pytest.approx(low, abs=0.05)
    assert np.max(drawn, 0) == pytest.approx(high, abs=0.05)
    free = cartpole(0.0, 0.0)
    turns = [value("commands", "joint_targets", free, joints="hinge")[0] for _ in range(DRAWS)]
    assert max(map(abs, turns)) == pytest.approx(0.5, abs=0.02)  # of 1 rad, without stops


def test_a_point_is_one_that_the_site_reaches_and_the_robot_is_not_moved() -> None:
    view = go2()
    data = view.plant.data
    assert view.site("imu") == pytest.approx(IMU)
    before, places = data.qpos.copy(), data.geom_xpos.copy()
    draw = term("commands", "reachable_point", view, site="imu", spread=0.3)
    assert draw() == pytest.approx(IMU)  # on the base itself, whatever the legs do
    assert (data.qpos == before).all()
    assert data.geom_xpos == pytest.approx(places)
    assert view.site("imu") == pytest.approx(IMU)
    with pytest.raises(InputError, match="that a random pose meets, got none in 100 draws"):
        value("commands", "reachable_point", view, site="imu", spread=0.3, lowest=1.0)
    with pytest.raises(InputError, match=r"site of the model, out of \['imu'\], got 'hand'"):
        value("commands", "reachable_point", view, site="hand", spread=0.3)


# ---- what only critics see


def test_the_true_state_that_only_critics_see() -> None:
    view = go2()
    data, joints = view.plant.data, [f"{leg}_calf_joint" for leg in ("RL", "FR")]
    places = [data.qpos[view.plant.model.joint(name).qposadr[0]] for name in joints]
    speeds = [data.qvel[view.plant.model.joint(name).dofadr[0]] for name in joints]
    assert value("privileged", "base_linear_velocity", view) == pytest.approx(LEVEL_VELOCITY)
    assert value("privileged", "base_height", view) == pytest.approx([0.4])
    view.plant.encoder_bias[:] = 0.1  # which only the readings have
    position = value("privileged", "true_joint_position", view, joints=joints)
    assert position == pytest.approx(places)
    velocity = value("privileged", "true_joint_velocity", view, joints=joints)
    assert velocity == pytest.approx(speeds)
    assert len(value("privileged", "true_joint_position", view)) == 12


def test_forces_on_feet_are_those_that_carry_the_robot() -> None:
    """At rest they add up to its weight; a geom may be named as a foot."""
    config, model = load_robot_task("go2")
    plant, feet = make_plant(config, model), ["FL_foot", "FR_foot", "RL_foot", "RR_foot"]
    view = TaskView(config.policy, plant, EPISODE)
    plant.reset(plant.default_pose, 0.3)
    target = JointCommand(
        config.policy.action_joints,
        np.array(
            [config.policy.joint(name).default_position for name in config.policy.action_joints]
        ),
        "position",
    )
    for _ in range(100):
        plant.step(target)
    forces = value("privileged", "foot_forces", view, feet=feet)
    weight = 9.81 * float(plant.model.body_mass.sum())
    assert forces.sum() == pytest.approx(weight, rel=0.02)
    assert value("privileged", "foot_forces", view, feet=feet[::-1]) == pytest.approx(forces[::-1])
    assert value("privileged", "foot_contacts", view, feet=feet).tolist() == [1.0] * 4
    bound = float(np.sort(forces)[1:3].mean())
    touching = value("privileged", "foot_contacts", view, feet=feet, force=bound)
    assert touching.tolist() == (forces > bound).astype(float).tolist()
    assert touching.sum() == 2
    with pytest.raises(InputError, match=r"feet: .* or geoms of the model, got 'hand'"):
        value("privileged", "foot_forces", view, feet="hand")


def test_what_randomisation_changes_is_seen_by_critics() -> None:
    view = go2()
    plant, model = view.plant, view.plant.model
    model.geom("RL_foot").friction[0] = 0.37
    friction = value("privileged", "foot_friction", view, feet=["FL_foot", "RL_foot"])
    assert friction == pytest.approx([0.8, 0.37])
    model.body("base").mass, model.body("base").ipos = 7.5, [0.01, 0.02, 0.03]
    assert value("privileged", "body_mass", view, body="base") == pytest.approx([7.5])
    center = value("privileged", "center_of_mass", view, body="base")
    assert center == pytest.approx([0.01, 0.02, 0.03])
    with pytest.raises(InputError, match=r"body: expected a body of the model, out of \['base', "):
        value("privileged", "body_mass", view, body="tail")
    knee = model.joint("FR_calf_joint").dofadr[0]
    for which, array in (
        ("damping", model.dof_damping),
        ("friction", model.dof_frictionloss),
        ("armature", model.dof_armature),
    ):
        array[knee] = 0.123
        got = value("privileged", "joint_parameters", view, which=which, joints="FR_calf_joint")
        assert got == pytest.approx([0.123])
    assert plant.drive is not None
    index = list(view.spec.action_joints).index("FR_calf_joint")
    for which in ("strength", "stiffness", "damping"):
        getattr(plant.drive, which)[index] = 0.5
        got = value("privileged", "drive_parameters", view, which=which, joints="*R_calf_joint")
        assert (got[0], len(got)) == (0.5, 2)
    plant.encoder_bias[3] = 0.02
    assert value("privileged", "encoder_bias", view).tolist() == [0, 0, 0, 0.02, *[0] * 8]
    plant.delays = (0.01, 0.02)
    assert value("privileged", "latency", view).tolist() == [0.01, 0.02]
    free = cartpole(0.0, 0.0)
    with pytest.raises(InputError, match="expected a robot with a drive of positions"):
        value("privileged", "drive_parameters", free, which="strength")
