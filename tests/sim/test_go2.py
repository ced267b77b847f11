"""The Go2: its model, its drives, its task, and that the contract alone gives the same torques."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env

from dime_robot.runtime.contract.config_files import config_folder
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.randomization import LatencyConfig
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task, require_task
from dime_robot.sim.plant.drive import PositionDrive
from dime_robot.sim.plant.plant import Plant, make_plant
from dime_robot.sim.robot_env import RobotEnv

LEGS, PARTS = ("FL", "FR", "RL", "RR"), ("hip", "thigh", "calf")
MODEL = config_folder() / "models/go2.xml"


def go2(**changes: Any) -> tuple[RobotTaskConfig, Path]:
    config, model = load_robot_task("go2")
    plain = {"randomization": (), "latency": LatencyConfig()}
    return config.model_copy(update={**plain, **changes}), model


def env_of(**changes: Any) -> RobotEnv:
    return RobotEnv("go2", variant=go2(**changes))


def with_gains(spec: PolicySpec, gains: dict[str, tuple[float, float]]) -> PolicySpec:
    joints = tuple(
        joint.model_copy(
            update={"stiffness": gains[joint.name][0], "damping": gains[joint.name][1]}
        )
        for joint in spec.joints
    )
    return spec.model_copy(update={"joints": joints})


# ---- the model


def test_the_model_has_the_figures_of_the_description() -> None:
    model = mujoco.MjModel.from_xml_path(str(MODEL))
    assert model.body_subtreemass[1] == pytest.approx(16.087, abs=1e-6)
    # 6.921 base, 2 x 0.001 head, 4 x 0.089 rotors; 0.678, 1.152 + rotors; 0.154 + foot 0.04
    assert model.body("base").mass[0] == pytest.approx(7.279)
    for leg in LEGS:
        masses = [model.body(f"{leg}_{part}").mass[0] for part in PARTS]
        assert masses == pytest.approx([0.767, 1.241, 0.194])
    assert [model.joint(i).name for i in range(1, 13)] == [
        f"{leg}_{part}_joint" for leg in LEGS for part in PARTS
    ]


def test_left_and_right_are_mirror_images() -> None:
    model = mujoco.MjModel.from_xml_path(str(MODEL))
    for front in "FR":
        for part in PARTS:
            left, right = model.body(f"{front}L_{part}"), model.body(f"{front}R_{part}")
            assert left.ipos * [1, -1, 1] == pytest.approx(right.ipos)
            assert np.sort(left.inertia) == pytest.approx(np.sort(right.inertia))


def test_no_mesh_and_nothing_but_the_floor_to_touch() -> None:
    model = mujoco.MjModel.from_xml_path(str(MODEL))
    assert model.nmesh == 0
    floor = model.geom("floor").id
    for geom in range(model.ngeom):
        assert (model.geom_contype[geom] == 1) == (geom == floor)


# ---- the torques of the contract alone


def external_torques(
    spec: PolicySpec, model: mujoco.MjModel, data: mujoco.MjData, command: JointCommand
) -> np.ndarray:
    """What a robot's joint controllers would do with a command, by name, from the contract."""
    torques = np.zeros(model.nv)
    for name, target in zip(command.joints, command.value, strict=True):
        joint, contract = model.joint(name), spec.joint(name)
        assert contract.stiffness is not None and contract.damping is not None
        assert contract.effort_limit is not None
        error = target - data.qpos[joint.qposadr[0]]
        torque = contract.stiffness * error - contract.damping * data.qvel[joint.dofadr[0]]
        limit = contract.effort_limit
        torques[joint.dofadr[0]] = min(max(torque, -limit), limit)
    return torques


def largest_difference(trained: PolicySpec, exported: PolicySpec) -> float:
    """Run the training environment's plant and a bare model driven by the exported contract."""
    config, path = go2(policy=trained)
    sim = config.sim.model_copy(update={"full_torque_speed": None})
    plant = make_plant(config.model_copy(update={"sim": sim}), path)
    pose = {joint.name: joint.default_position for joint in trained.joints}
    plant.reset(pose, 0.3)
    model = mujoco.MjModel.from_xml_path(str(path))
    model.opt.timestep = sim.timestep
    data, random, worst = mujoco.MjData(model), np.random.default_rng(0), 0.0
    data.qpos[:], data.qvel[:] = plant.data.qpos, plant.data.qvel
    for _ in range(25):
        target = np.array([pose[name] for name in trained.action_joints])
        target = target + random.uniform(-0.3, 0.3, 12)
        command = JointCommand(trained.action_joints, target, "position")
        plant.command(command)
        for _ in range(sim.decimation):
            data.qpos[:], data.qvel[:] = plant.data.qpos, plant.data.qvel
            wanted = external_torques(exported, model, data, command)
            plant.advance(1)
            worst = max(worst, float(np.abs(plant.data.qfrc_applied - wanted).max()))
    return worst


def test_the_contract_alone_gives_the_environments_torques() -> None:
    spec = go2()[0].policy
    random = np.random.default_rng(1)
    gains = {j.name: (random.uniform(20, 60), random.uniform(0.3, 2)) for j in spec.joints}
    own = with_gains(spec, gains)
    assert largest_difference(own, own) < 1e-9
    assert largest_difference(spec, spec) < 1e-9
    rotated = dict(zip(gains, [*list(gains.values())[1:], next(iter(gains.values()))], strict=True))
    assert largest_difference(own, with_gains(spec, rotated)) > 0.5  # a permuted list of gains
    off = {**gains, "RL_thigh_joint": (gains["RL_thigh_joint"][0] + 1, 1.0)}
    assert largest_difference(own, with_gains(spec, off)) > 0.05  # one gain is wrong


def test_a_motor_loses_its_torque_towards_its_largest_speed() -> None:
    spec = go2()[0].policy
    drive = PositionDrive.of_policy(spec, 0.7, dict.fromkeys(spec.action_joints, 10.0))
    target, rest = np.full(12, 5.0), np.zeros(12)

    def first(speed: float) -> float:
        return float(drive.effort(target, rest, np.full(12, speed))[0])

    assert first(0.0) == first(6.9) == 23.7
    assert first(8.5) == pytest.approx(23.7 / 2)
    assert first(10.0) == first(20.0) == 0.0
    assert first(-20.0) == 23.7  # braking is always possible
    drive.strength[:] = 0.8
    assert first(0.0) == pytest.approx(0.8 * 23.7)


# ---- a model of the user's own


def test_joints_of_another_model_are_matched_by_name(tmp_path: Path) -> None:
    text = MODEL.read_text()
    legs = re.findall(r'      <body name="\w\w_hip".*?\n      </body>\n', text, re.DOTALL)
    assert len(legs) == 4
    other = text.replace("".join(legs), "".join(reversed(legs)))
    other = other.replace(  # with drives of its own, which must not fight ours
        "</worldbody>", '</worldbody><actuator><position joint="FL_hip_joint" kp="500"/></actuator>'
    )
    path = tmp_path / "other.xml"
    path.write_text(other)
    config, model = go2()
    plants = [make_plant(config, model), make_plant(config, path)]
    states = []
    for plant in plants:
        plant.reset({joint.name: joint.default_position for joint in config.policy.joints}, 0.3)
        random = np.random.default_rng(2)
        for _ in range(10):
            target = np.array([0.0, 0.9, -1.8] * 4) + random.uniform(-0.2, 0.2, 12)
            state = plant.step(JointCommand(config.policy.action_joints, target, "position"))
        states.append(state)
    assert plants[0].model.joint("FL_hip_joint").id != plants[1].model.joint("FL_hip_joint").id
    assert states[0].joint_position == pytest.approx(states[1].joint_position, abs=1e-6)
    assert states[0].orientation == pytest.approx(states[1].orientation, abs=1e-6)


def test_a_model_with_other_stops_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.xml"
    path.write_text(MODEL.read_text().replace("-2.7227 -0.83776", "-2.5 -0.83776"))
    with pytest.raises(InputError, match="FL_calf_joint: expected position limits"):
        make_plant(go2()[0], path)


# ---- the environment


def test_gymnasiums_checker_finds_nothing() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*infinity.*")
        warnings.filterwarnings("ignore", message=".*maximum and minimum.*")
        check_env(RobotEnv("go2"), skip_render_check=True)
        check_env(RobotEnv("go2-walk"), skip_render_check=True)


def test_the_observation_is_45_numbers_a_real_go2_measures() -> None:
    env = env_of()
    env.task.set_command("velocity", np.array([0.4, 0.0, -0.3]))
    observation, _ = env.reset(seed=3)
    assert observation.shape == (45,)
    assert observation[:3] == pytest.approx(0, abs=1e-12)
    assert observation[3:6].tolist() == [0, 0, -1]
    assert observation[6:9] == pytest.approx([0.4, 0.0, -0.3])
    pose = np.array([0.0, 0.9, -1.8] * 4)
    assert observation[9:21] == pytest.approx(env.plant.joint_position() - pose, abs=1e-6)
    assert (observation[21:] == 0).all()
    first = env.step(np.ones(12, np.float32))[0]
    assert first[33:] == pytest.approx(0.6)  # the low-pass
    second = env.step(np.ones(12, np.float32))[0]
    assert second[33:] == pytest.approx(0.84)


def test_doing_nothing_stands_and_a_shaken_robot_may_fall() -> None:
    env = env_of()
    env.reset(seed=0)
    env.task.set_command("velocity", np.zeros(3))
    for _ in range(500):
        _, reward, terminated, _, info = env.step(np.zeros(12, np.float32))
        assert not terminated
    assert info["is_success"]
    assert reward > 0.9 * 1.5 * 0.5
    env.plant.data.qpos[3:7] = [0, 1, 0, 0]  # on its back
    mujoco.mj_forward(env.plant.model, env.plant.data)
    _, _, terminated, _, info = env.step(np.zeros(12, np.float32))
    assert terminated and not info["is_success"]


def moving(env: RobotEnv, quaternion: list[float], velocity: list[float]) -> Plant:
    env.reset(seed=1)
    env.plant.data.qpos[3:7], env.plant.data.qvel[:6] = quaternion, velocity
    return env.plant


def test_the_velocity_is_that_of_the_level_frame_with_the_bases_heading() -> None:
    env = env_of()
    half = np.sqrt(0.5)
    base = moving(env, [half, 0, 0, half], [0.0, 0.7, 0.1, 0.1, 0.2, 0.3]).base()  # faces +y
    assert base.velocity == pytest.approx([0.7, 0.0, 0.1])
    assert base.angular_velocity == pytest.approx([0.1, 0.2, 0.3])
    tilted = moving(env, [np.cos(0.2), 0, np.sin(0.2), 0], [1.0, 0.5, 0, 0, 0, 0]).base()
    assert tilted.velocity == pytest.approx([1.0, 0.5, 0.0])  # pitch does not shorten it
    assert tilted.gravity == pytest.approx([np.sin(0.4), 0, -np.cos(0.4)])


def test_the_reward_is_the_sum_of_the_files_terms() -> None:
    env = env_of()
    env.task.set_command("velocity", np.array([0.5, 0.0, 0.2]))
    env.reset(seed=4)
    random = np.random.default_rng(5)
    terms = env.task.config.rewards
    weights = {name: term.weight for name, term in terms.items()}
    linear, yaw = (terms[name].parameters["width"] for name in ("track_linear", "track_yaw"))
    before = None
    for _ in range(5):
        action = random.uniform(-1, 1, 12).astype(np.float32)
        _, reward, _, _, _ = env.step(action)
        filtered = env._decoder.last_action
        base, pose = env.plant.base(), env.plant.joint_position()
        hips = np.abs(pose[[0, 3, 6, 9]]).sum()
        change = 0.0 if before is None else float(((filtered - before) ** 2).sum())
        expected = (
            weights["track_linear"]
            * np.exp(-((base.velocity[0] - 0.5) ** 2 + base.velocity[1] ** 2) / linear**2)
            + weights["track_yaw"] * np.exp(-((base.angular_velocity[2] - 0.2) ** 2) / yaw**2)
            + weights["alive"]
            + weights["vertical_speed"] * base.velocity[2] ** 2
            + weights["roll_pitch_rate"] * (base.angular_velocity[:2] ** 2).sum()
            + weights["tilt"] * (base.gravity[:2] ** 2).sum()
            + weights["action_change"] * change
            + weights["hip_angle"] * hips
        )
        assert 0 <= expected - reward < 0.5  # the torque's part, a simulation step's mean
        before = filtered
    assert env.plant.drive is not None


def test_a_go2_that_walks_extends_the_go2(tmp_path: Path) -> None:
    walk, base = load_robot_task("go2-walk")[0], load_robot_task("go2")[0]
    assert walk.policy == base.policy
    assert walk.robot == base.robot
    commands = [require_task(config).commands["velocity"] for config in (walk, base)]
    assert commands[0].parameters["linear_x"] == [0.5, 0.5]
    assert commands[0].resample == commands[1].resample == 5.0
    content = yaml.safe_load((config_folder() / "go2-walk.yaml").read_text())
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({**content, "extends": "link.yaml"}))
    (tmp_path / "link.yaml").write_text(f"extends: {config_folder() / 'go2.yaml'}\n")
    chained, model = load_robot_task(tmp_path / "chain.yaml")
    assert (chained.policy, chained.robot, chained.task) == (walk.policy, walk.robot, walk.task)
    assert model.is_file()
