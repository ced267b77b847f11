"""What comes back at a reset, in which order terms apply, and terms that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.randomization import RandomTerm
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.plant.plant import Plant, make_plant
from dime_robot.sim.randomization.randomizer import Randomizer
from dime_robot.training.presets import preset_config
from dime_robot.training.run import TrainingRun
from tests.paths import shipped_content
from tests.sim.randomization.randomized import (
    POSE,
    SPEC,
    Array,
    drive_of,
    go2,
    started,
    term,
)


def snapshot(plant: Plant) -> dict[str, Array]:
    """Everything that a term may change."""
    found = {}
    for owner in (plant.model, plant.model.opt, plant.drive, plant):
        for name in dir(owner):
            value = None if name.startswith("_") else getattr(owner, name)
            if isinstance(value, np.ndarray):
                found[f"{type(owner).__name__}.{name}"] = value.copy()
    return found


def differences(before: dict[str, Array], after: dict[str, Array]) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


# ---- nominal, order, time


@pytest.mark.parametrize(
    "terms",
    [
        [term("damping", "scale", (1, 10))],
        [term("motor_strength", "scale", (1, 2)), term("damping", "scale", (1, 3))],
        [term("damping", "scale", (1, 3.5)), term("armature", "set", (0.0, 0.01))],
    ],
)
def test_draws_that_a_simulation_step_could_not_follow_are_refused(terms: list[RandomTerm]) -> None:
    plant = go2()
    nominal = snapshot(plant)
    with pytest.raises(
        InputError, match=r"at the far ends of what is randomised: .*_joint .inerti"
    ):
        Randomizer(terms, SPEC, plant)
    assert differences(nominal, snapshot(plant)) == set()  # looking has changed nothing
    Randomizer(terms[:-1], SPEC, plant)


NEUTRAL = [
    term("friction", "scale", (1, 1)),
    term("body_mass", "scale", (1, 1)),
    term("center_of_mass", "add", (0, 0)),
    term("motor_strength", "scale", (1, 1), "startup"),
    term("stiffness", "add", (0, 0)),
    term("damping", "scale", (1, 1)),
    term("armature", "scale", (1, 1)),
    term("joint_friction", "add", (0, 0)),
    term("joint_damping", "add", (0, 0)),
    term("encoder_bias", "add", (0, 0)),
    term("imu_mounting", "set", (0, 0)),
    term("gravity_direction", "set", (0, 0)),
]
WILD = [
    term("friction", "set", (0.4, 1.2)),
    term("body_mass", "scale", (0.5, 2)),
    term("center_of_mass", "add", (-0.03, 0.03)),
    term("motor_strength", "scale", (0.9, 1.1)),
    term("stiffness", "scale", (0.9, 1.1)),
    term("damping", "scale", (0.8, 1.2)),
    term("armature", "scale", (0.7, 1.5)),
    term("joint_friction", "scale", (0.5, 2)),
    term("joint_damping", "add", (0, 2)),
    term("encoder_bias", "add", (-0.02, 0.02)),
    term("imu_mounting", "add", (0, 2)),
    term("gravity_direction", "set", (1, 3)),
]


def test_a_hundred_resets_leave_no_trace() -> None:
    old, new = go2(), go2()
    nominal = snapshot(old)
    randomizers = started(old, *WILD), started(new, *WILD)
    for _ in range(100):
        randomizers[0].reset(np.random.default_rng(0))
        old.reset(POSE, 0.3)
    for randomizer in randomizers:
        randomizer.reset(np.random.default_rng(1))
    assert differences(snapshot(old), snapshot(new)) == set()
    assert len(differences(nominal, snapshot(old))) > 12


def test_what_draws_nothing_new_leaves_the_nominal_plant_to_the_bit() -> None:
    plant = go2()
    nominal = snapshot(plant)
    started(plant, *NEUTRAL)
    assert differences(nominal, snapshot(plant)) == set()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_goes_that_far_from_the_nominal_plant(share: float) -> None:
    nominal, whole, part = go2(), go2(), go2()
    started(whole, *WILD)
    randomizer = Randomizer(WILD, SPEC, part)
    randomizer.share = share
    randomizer.startup(np.random.default_rng(7))
    randomizer.reset(np.random.default_rng(8))
    base, far, near = snapshot(nominal), snapshot(whole), snapshot(part)
    quantities = (
        *("MjModel.geom_friction", "MjModel.body_mass", "MjModel.body_ipos", "MjModel.dof_damping"),
        *("MjModel.dof_armature", "MjModel.dof_frictionloss", "MjModel.body_inertia"),
        *("PositionDrive.strength", "PositionDrive.stiffness", "PositionDrive.damping"),
    )
    for name in quantities:
        assert not np.array_equal(base[name], far[name]), name
        expected = base[name] + share * (far[name] - base[name])
        np.testing.assert_allclose(near[name], expected, rtol=1e-12, atol=1e-15, err_msg=name)
    # a slope keeps the length of gravity, and has that share of the angle
    down = [each["MjOption.gravity"] for each in (base, far, near)]
    angles = [np.arccos(each[2] / np.linalg.norm(each) / -1.0) for each in down]
    np.testing.assert_allclose(np.linalg.norm(down[2]), 9.81, rtol=1e-12)
    np.testing.assert_allclose(angles[2], share * angles[1], atol=1e-7)
    if share == 1.0:
        assert differences(far, near) == set()


def test_a_share_of_noise_and_of_pushes() -> None:
    noise = term("observation_noise", "add", (1, 1), "interval", interval=(0, 0), targets=["gyro"])
    push = term("push", "add", (0.4, 0.4), "interval", interval=(0.1, 0.1))
    plant = go2()
    randomizer = started(plant, noise, push)
    plant.reset(POSE, 0.3)
    randomizer.share = 0.5
    observation = randomizer.observe(
        np.zeros(SPEC.n_obs, dtype=np.float32), np.random.default_rng(0)
    )
    assert observation[:3].tolist() == [0.5] * 3
    randomizer.step(np.random.default_rng(0), 0.2)
    assert np.hypot(*plant.data.qvel[:2]) == pytest.approx(0.2)


def test_terms_on_one_quantity_apply_in_the_order_listed() -> None:
    def mass(*terms: RandomTerm) -> float:
        plant = go2()
        randomizer = started(plant, *terms)
        for _ in range(100):
            randomizer.reset(np.random.default_rng(1))
        return float(plant.model.body("base").mass[0])

    nominal = 7.279
    set_2 = term("body_mass", "set", (2, 2), "startup")
    add_1 = term("body_mass", "add", (1, 1))
    triple = term("body_mass", "scale", (3, 3), targets=("base",), shared=True)
    assert mass(set_2, add_1, triple) == pytest.approx(9)
    assert mass(triple, add_1) == pytest.approx(3 * nominal + 1)
    assert mass(add_1, triple) == pytest.approx(3 * (nominal + 1))
    assert mass(triple, add_1, set_2) == pytest.approx(2)


def test_startup_draws_stay_and_reset_draws_change() -> None:
    plant, rng = go2(), np.random.default_rng(2)
    randomizer = Randomizer(
        [
            term("stiffness", "scale", (0.5, 1.5), "startup"),
            term("damping", "scale", (0.5, 1.5)),
        ],
        SPEC,
        plant,
    )
    with pytest.raises(ValueError, match="expected a call of startup"):
        randomizer.reset(rng)
    randomizer.startup(rng)
    rows = []
    for _ in range(5):
        randomizer.reset(rng)
        rows.append((drive_of(plant).stiffness.copy(), drive_of(plant).damping.copy()))
    assert all(np.array_equal(stiffness, rows[0][0]) for stiffness, _ in rows)
    assert len({damping.tobytes() for _, damping in rows}) == 5
    assert np.ptp(rows[0][0]) > 1


def test_an_interval_term_changes_within_an_episode_and_ends_with_it() -> None:
    plant, rng = go2(), np.random.default_rng(2)
    strength = term("motor_strength", "scale", (0.5, 0.9), "interval", interval=(0.1, 0.1))
    randomizer = started(plant, strength, term("stiffness", "scale", (1, 1)))
    for _ in range(2):
        randomizer.reset(rng)
        assert (drive_of(plant).strength == 1).all()
        changes = []
        for step in range(20):
            before = drive_of(plant).strength.copy()
            randomizer.step(rng, step * SPEC.period)
            if not np.array_equal(before, drive_of(plant).strength):
                changes.append(step)
        assert changes == [5, 10, 15]
        assert drive_of(plant).strength.max() < 0.9


def test_without_terms_nothing_is_drawn_and_nothing_changes() -> None:
    plant, rng = go2(), np.random.default_rng(4)
    before, state = snapshot(plant), rng.bit_generator.state
    randomizer = Randomizer((), SPEC, plant)
    observation = np.arange(SPEC.n_obs, dtype=np.float32)
    randomizer.startup(rng)
    randomizer.reset(rng)
    randomizer.step(rng, 0.0)
    assert randomizer.observe(observation, rng) is observation
    assert observation.tolist() == list(range(SPEC.n_obs))
    assert rng.bit_generator.state == state and randomizer.drawn() == []
    assert differences(before, snapshot(plant)) == set()


# ---- what cannot be


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (term("friction", "set", (0, 1), targets=("foot",)), r"'floor', 'trunk'.*got foot"),
        (term("body_mass", "add", (0, 1), targets=("world",)), r"\['base', .*got world"),
        (term("armature", "scale", (1, 1), targets=("base",)), r"\['FL_hip_joint', .*got base"),
        (term("stiffness", "scale", (1, 1), targets=("knee",)), r"\['FL_hip_joint', .*got knee"),
        (
            term("observation_noise", "add", (0, 1), "interval", interval=(0, 0), targets=("imu",)),
            r"\['gyro', .*got imu",
        ),
        (term("body_mass", "add", (-0.5, 0)), "leave every target above 0, got -0.306 kg at"),
        (term("damping", "add", (-2, 0)), "leave every target 0 or more, got -1 N m s/rad or"),
    ],
)
def test_a_term_that_does_not_fit_the_robot_is_one_sentence(entry: RandomTerm, says: str) -> None:
    with pytest.raises(InputError, match=f"^{entry.kind}: expected .*{says}") as caught:
        Randomizer([entry], SPEC, go2())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            term("motor_strength", "scale", (1, 1)),
            "a robot with a drive of positions or .*, got .* effort",
        ),
        (term("push", "add", (0, 1), "interval", interval=(1, 1)), "with a free joint, got none"),
    ],
)
def test_a_cartpole_has_neither_a_drive_nor_a_free_base(entry: RandomTerm, says: str) -> None:
    config, model = load_robot_task("cartpole")
    with pytest.raises(InputError, match=f"^{entry.kind}: expected .*{says}"):
        Randomizer([entry], config.policy, make_plant(config, model))


def test_a_mass_that_could_vanish_and_a_robot_without_joints_are_refused() -> None:
    one, less = term("body_mass", "set", (1, 1)), term("body_mass", "add", (-1, 0))
    with pytest.raises(InputError, match="leave every target above 0, got 0 kg at the lowest"):
        Randomizer([one, less], SPEC, go2())
    with pytest.raises(InputError, match=r"^armature: expected a robot with at least one joint"):
        Randomizer([term("armature", "scale", (1, 2))], PolicySpec.flat("a", 3, 1), go2())


def test_every_environment_of_every_seed_draws_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn once for an environment's life follows from the run's seed, also on resume."""
    content = shipped_content("cartpole")
    content["randomization"] = [
        {"kind": "armature", "operation": "add", "range": [0.1, 0.9], "mode": "startup"}
    ]
    path = tmp_path / "varied.yaml"
    path.write_text(yaml.safe_dump(content))

    def drawn(env: Any) -> tuple[float, ...]:
        return tuple(row["value"] for row in env.unwrapped.randomizer.drawn())

    def of(seed: int) -> list[tuple[float, ...]]:
        config = preset_config("tiny", f"sim:{path}")
        config = config.model_copy(update={"seed": seed, "num_envs": 3})
        run = TrainingRun(config, tmp_path / "run", torch.device("cpu"))
        run.evaluator._prepare(3)
        found = [drawn(env) for env in (*run.rollouts.envs.envs, *run.evaluator._envs)]
        run.close()
        return found

    first = of(1)
    assert first == of(1)
    assert len(set(first) | set(of(2))) == 12
