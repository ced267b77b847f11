"""What a random term draws has the stated distribution where it arrives."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from scipy import stats

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.observation import projected_gravity
from dime_robot.sim.config.randomization import RandomKind, RandomTerm
from dime_robot.sim.plant.plant import Plant, make_plant
from dime_robot.sim.randomization.randomizer import Randomizer
from tests.sim.randomization.randomized import (
    CONFIG,
    FEET,
    MODEL,
    POSE,
    SPEC,
    Array,
    drive_of,
    go2,
    started,
    term,
)

DRAWS = 300
BODY = ("base", "FL_calf")


def fit(values: Array, distribution: str, range: tuple[float, float]) -> float:
    """How likely the values are if they follow the distribution: a KS test's p."""
    first, second = range
    if distribution == "uniform":
        return float(stats.kstest(values, stats.uniform(first, second - first).cdf).pvalue)
    if distribution == "log_uniform":
        return float(stats.kstest(values, stats.loguniform(first, second).cdf).pvalue)
    return float(stats.kstest(values, stats.norm(first, second).cdf).pvalue)


REACHED: dict[RandomKind, tuple[tuple[str, ...], Callable[[Plant], Array]]] = {
    "friction": (FEET, lambda p: p.model.geom_friction[[p.model.geom(n).id for n in FEET], 0]),
    "body_mass": (BODY, lambda p: p.model.body_mass[[p.model.body(n).id for n in BODY]]),
    "center_of_mass": (("base",), lambda p: p.model.body("base").ipos),
    "motor_strength": ((), lambda p: drive_of(p).strength),
    "stiffness": ((), lambda p: drive_of(p).stiffness),
    "damping": ((), lambda p: drive_of(p).damping),
    "armature": ((), lambda p: p.model.dof_armature[6:]),
    "joint_friction": ((), lambda p: p.model.dof_frictionloss[6:]),
    "joint_damping": ((), lambda p: p.model.dof_damping[6:]),
    "encoder_bias": ((), lambda p: p.state().joint_position - p.joint_position()),
}


@pytest.mark.parametrize(
    ("kind", "operation", "distribution", "range"),
    [
        ("friction", "set", "uniform", (0.4, 1.2)),
        ("friction", "scale", "log_uniform", (0.3, 3.0)),
        ("friction", "add", "normal", (0.1, 0.02)),
        ("body_mass", "add", "uniform", (-0.1, 2.0)),
        ("body_mass", "scale", "normal", (1.0, 0.1)),
        ("body_mass", "set", "uniform", (1.0, 2.0)),
        ("center_of_mass", "add", "uniform", (-0.03, 0.05)),
        ("center_of_mass", "add", "normal", (0.01, 0.02)),
        ("motor_strength", "scale", "uniform", (0.8, 1.1)),
        ("motor_strength", "set", "normal", (0.9, 0.05)),
        ("stiffness", "scale", "uniform", (0.8, 1.3)),
        ("stiffness", "set", "log_uniform", (20.0, 60.0)),
        ("damping", "scale", "uniform", (0.5, 2.0)),
        ("damping", "add", "uniform", (-0.5, 0.5)),
        ("armature", "scale", "log_uniform", (0.5, 2.0)),
        ("armature", "set", "uniform", (0.002, 0.02)),
        ("joint_friction", "scale", "uniform", (0.0, 2.0)),
        ("joint_damping", "add", "uniform", (0.0, 2.0)),
        ("joint_damping", "set", "log_uniform", (0.05, 2.0)),
        ("joint_damping", "scale", "uniform", (0.5, 2.0)),
        ("encoder_bias", "add", "normal", (0.01, 0.02)),
        ("encoder_bias", "set", "uniform", (-0.02, 0.04)),
    ],
)
def test_the_plant_has_values_of_the_stated_distribution(
    kind: RandomKind, operation: str, distribution: str, range: tuple[float, float]
) -> None:
    targets, read = REACHED[kind]
    plant, rng = go2(), np.random.default_rng(11)
    nominal = read(plant).copy()
    randomizer = started(
        plant, term(kind, operation, range, distribution=distribution, targets=targets)
    )
    rows = []
    for _ in np.arange(DRAWS // len(nominal) + 1):
        randomizer.reset(rng)
        plant.reset(POSE, 0.3)
        rows.append(read(plant).copy())
    values = np.array(rows)
    draws = values
    if operation == "add":
        draws = values - nominal
    elif operation == "scale":
        draws = values / nominal
    # each its own: one per target and reset
    assert len(np.unique(draws.round(12))) == draws.size
    assert fit(draws.ravel(), distribution, range) > 0.01
    assert [row["value"] for row in randomizer.drawn()] == pytest.approx(draws[-1])


def test_gravity_is_tilted_in_every_direction_and_keeps_its_length() -> None:
    plant, rng = go2(), np.random.default_rng(3)
    length = float(np.linalg.norm(plant.model.opt.gravity))
    randomizer = started(plant, term("gravity_direction", "set", (1.0, 4.0)))
    gravity = []
    for _ in range(DRAWS):
        randomizer.reset(rng)
        gravity.append(plant.model.opt.gravity.copy())
    x, y, z = np.array(gravity).T
    assert np.linalg.norm(gravity, axis=1) == pytest.approx(length, abs=1e-12)
    assert length == pytest.approx(9.81)
    assert fit(np.degrees(np.arccos(-z / length)), "uniform", (1.0, 4.0)) > 0.01
    assert fit(np.arctan2(y, x), "uniform", (-math.pi, math.pi)) > 0.01
    plant.reset(POSE, 5.0)  # falls freely, along gravity
    plant.data.qfrc_applied[:] = 0.0
    mujoco.mj_forward(plant.model, plant.data)
    assert plant.data.qacc[:3] == pytest.approx(gravity[-1], abs=1e-6)


def test_an_imu_that_sits_askew_reads_so_and_the_world_stays_as_it_is() -> None:
    plant, rng = go2(), np.random.default_rng(3)
    randomizer = started(plant, term("imu_mounting", "set", (1.0, 4.0)))
    read = []
    for _ in range(DRAWS):
        randomizer.reset(rng)
        state = plant.reset(POSE, 0.3)
        assert state.orientation is not None
        read.append(projected_gravity(state.orientation))
        assert plant.base().gravity.tolist() == [0, 0, -1]  # what the task judges
        assert plant.model.opt.gravity.tolist() == [0, 0, -9.81]
    x, y, z = np.array(read).T
    assert fit(np.degrees(np.arccos(-z)), "uniform", (1.0, 4.0)) > 0.01
    assert fit(np.arctan2(y, x), "uniform", (-math.pi, math.pi)) > 0.01
    # the gyro turns with it: what it reads of a turn is the turn, seen from its own frame
    plant.data.qvel[3:6] = [0.0, 0.0, 2.0]
    state = plant.state()
    assert state.angular_velocity == pytest.approx(-2.0 * read[-1])
    assert np.linalg.norm(state.orientation) == pytest.approx(1)


def test_an_imu_on_another_body_than_the_base_sits_askew_too(tmp_path: Path) -> None:
    sim = CONFIG.sim.model_copy(update={"imu": "FL_hip"})
    plants = [make_plant(CONFIG.model_copy(update={"sim": sim}), MODEL) for _ in range(2)]
    started(plants[1], term("imu_mounting", "set", (3.0, 3.0)))
    straight, askew = (plant.reset(POSE, 0.3).orientation for plant in plants)
    assert straight is not None and askew is not None
    between = projected_gravity(straight) @ projected_gravity(askew)
    assert math.degrees(math.acos(between)) == pytest.approx(3.0)


def test_tilts_add_up_and_a_set_tilt_starts_over() -> None:
    def tilts(*operations: str) -> list[float]:
        plant, rng, found = go2(), np.random.default_rng(3), []
        randomizer = started(
            plant, *(term("gravity_direction", each, (3.0, 3.0)) for each in operations)
        )
        for _ in range(50):
            randomizer.reset(rng)
            found.append(math.degrees(math.acos(-plant.model.opt.gravity[2] / 9.81)))
        return found

    assert tilts("set", "set") == pytest.approx([3.0] * 50)
    assert max(tilts("set", "add")) > 5.0 and max(tilts("set", "add")) <= 6.0 + 1e-9


def test_pushes_come_in_time_with_the_stated_speed_and_in_every_direction() -> None:
    plant, rng = go2(), np.random.default_rng(5)
    randomizer = started(plant, term("push", "add", (0.2, 0.5), "interval", interval=(0.4, 0.8)))
    assert randomizer.drawn() == []
    plant.reset(POSE, 0.3)
    pushes, times = [], []
    for step in range(DRAWS * 30):
        before = plant.data.qvel.copy()
        randomizer.step(rng, step * SPEC.period)
        change = plant.data.qvel - before
        if change.any():
            assert not change[2:].any()
            pushes.append(change[:2].copy())
            times.append(step * SPEC.period)
        plant.data.qvel[:] = 0.0
    speeds, gaps = np.hypot(*np.array(pushes).T), np.diff(times)
    assert fit(speeds, "uniform", (0.2, 0.5)) > 0.01
    assert fit(np.arctan2(*np.array(pushes).T), "uniform", (-math.pi, math.pi)) > 0.01
    assert times[0] >= 0.4 and gaps.min() > 0.4 - 0.021 and gaps.max() < 0.8 + 0.021
    assert gaps.mean() == pytest.approx(0.6, abs=0.02)
    assert [row["value"] for row in randomizer.drawn()] == pytest.approx([speeds[-1]])


def noisy(*terms: RandomTerm, spec: PolicySpec = SPEC) -> tuple[Randomizer, Array]:
    randomizer, rng = started(go2(), *terms, spec=spec), np.random.default_rng(6)
    blank = np.zeros(spec.n_obs, dtype=np.float32)
    rows = np.array([randomizer.observe(blank.copy(), rng) for _ in range(DRAWS)])
    assert rows.dtype == np.float32
    return randomizer, rows


def noise(range: tuple[float, float], **more: Any) -> RandomTerm:
    return term("observation_noise", "add", range, "interval", interval=(0, 0), **more)


@pytest.mark.parametrize(("distribution", "range"), [("uniform", (-0.2, 0.3)), ("normal", (0, 1))])
def test_noise_is_on_every_number_of_its_terms_at_every_step(
    distribution: str, range: tuple[float, float]
) -> None:
    randomizer, rows = noisy(noise(range, distribution=distribution, targets=("gyro", "gravity")))
    assert not rows[:, 6:].any()
    assert fit(rows[:, :6].ravel().astype(float), distribution, range) > 0.01
    assert np.abs(np.corrcoef(rows[:, :6].T) - np.eye(6)).max() < 0.25
    last = {row["target"]: row["value"] for row in randomizer.drawn()}
    assert last["gyro 1"] == pytest.approx(rows[-1, 1], abs=1e-6) and len(last) == 6


def test_noise_without_targets_is_on_what_sensors_measure() -> None:
    _, rows = noisy(noise((0.1, 0.2)))
    touched = rows.any(axis=0)
    # 6: command, 33: last_action
    assert touched[:6].all() and not touched[6:9].any()
    assert touched[9:33].all() and not touched[33:].any()


@pytest.mark.parametrize("fill", ["first", "zero"])
def test_an_older_reading_keeps_its_noise(fill: str) -> None:
    gyro = SPEC.observation[0].model_copy(update={"size": 9, "history": 3, "history_fill": fill})
    spec = SPEC.model_copy(update={"observation": (gyro, *SPEC.observation[1:])})
    randomizer, rows = noisy(noise((0.1, 0.2), targets=("gyro",)), spec=spec)
    assert np.array_equal(rows[1:, :6], rows[:-1, 3:9])
    older = np.tile(rows[0, 6:9], 2) if fill == "first" else np.zeros(6)
    assert np.array_equal(rows[0, :6], older)
    randomizer.reset(np.random.default_rng(0))
    again = randomizer.observe(np.zeros(spec.n_obs, np.float32), np.random.default_rng(0))
    assert np.array_equal(again[:3], again[6:9] if fill == "first" else np.zeros(3))


def test_a_shared_draw_is_the_same_for_all_targets() -> None:
    plant = go2()
    randomizer = started(
        plant,
        term("friction", "set", (0.4, 1.2), targets=FEET, shared=True),
        term("center_of_mass", "add", (-0.01, 0.01), targets=BODY, shared=True),
    )
    feet = REACHED["friction"][1](plant)
    assert len(set(feet.tolist())) == 1 and feet[0] not in (0.6, 0.8)
    rows = randomizer.drawn()
    assert [row["target"] for row in rows] == ["all", "all x", "all y", "all z"]
    assert rows[0] == {
        "kind": "friction",
        "target": "all",
        "operation": "set",
        "mode": "reset",
        "unit": "1",
        "value": feet[0],
    }
    moved = plant.model.body("base").ipos - go2().model.body("base").ipos
    assert moved == pytest.approx([row["value"] for row in rows[1:]])
    assert len(set(moved.tolist())) == 3


def test_the_same_seed_draws_the_same() -> None:
    def table(seed: int) -> list[dict[str, object]]:
        rng = np.random.default_rng(seed)
        randomizer = Randomizer(CONFIG.randomization, SPEC, go2())
        randomizer.startup(rng)
        randomizer.reset(rng)
        randomizer.step(rng, 10.0)
        randomizer.observe(np.zeros(SPEC.n_obs, np.float32), rng)
        return randomizer.drawn()

    assert table(1) == table(1) != table(2)
    assert {str(row["kind"]) for row in table(1)} == {t.kind for t in CONFIG.randomization}
