"""Late readings and commands: exactly as late as drawn, in whole simulation steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dime_robot.runtime.control.state import JointCommand, RobotState
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.telemetry.latency import LatencyDistribution
from dime_robot.sim.config.randomization import LatencyConfig
from dime_robot.sim.plant.delays import DelayedPlant
from dime_robot.sim.plant.plant import Plant
from tests.sim.randomization.randomized import CONFIG, POSE, SPEC, go2

TIMESTEP, DECIMATION = CONFIG.sim.timestep, CONFIG.sim.decimation
STEPS = (0, 1, 3, 4, 5, 8, 11)  # of simulation; 4 are a control period


def latency(**delays: Any) -> LatencyConfig:
    return LatencyConfig.model_validate(delays)


def exactly(steps: int, **more: Any) -> dict[str, Any]:
    return {"range": (steps * TIMESTEP, steps * TIMESTEP), **more}


def commands(count: int = 30) -> list[JointCommand]:
    random, pose = np.random.default_rng(9), np.array(list(POSE.values()))
    return [
        JointCommand(SPEC.action_joints, pose + random.uniform(-0.2, 0.2, 12), "position")
        for _ in range(count)
    ]


def same(a: RobotState, b: RobotState) -> bool:
    return a.stamp == b.stamp and all(
        np.array_equal(x, y) for x, y in zip(a[1:5], b[1:5], strict=True) if x is not None
    )


def reference(delay: int) -> tuple[list[RobotState], list[np.ndarray]]:
    """What an undelayed plant does whose n-th command comes `delay` simulation steps late.

    Gives the state and the torques after each simulation step.
    """
    plant = go2()
    states, torques = [plant.reset(POSE, 0.3)], [np.zeros(12)]
    sent = commands()
    for step in range(len(sent) * DECIMATION):
        number, rest = divmod(step - delay, DECIMATION)
        if number >= 0 and rest == 0:
            plant.command(sent[number])
        plant.advance(1)
        states.append(plant.state())
        torques.append(plant.data.qfrc_applied[6:].copy())
    return states, torques


def delayed(config: LatencyConfig, seed: int = 0) -> tuple[DelayedPlant, Plant]:
    plant = go2()
    plant.reset(POSE, 0.3)
    late = DelayedPlant(plant, config, Path())
    late.reset(np.random.default_rng(seed))
    return late, plant


@pytest.mark.parametrize("redraw", ["episode", "step"])
@pytest.mark.parametrize("steps", STEPS)
def test_a_reading_is_as_it_was_so_many_steps_ago(steps: int, redraw: str) -> None:
    states, torques = reference(0)
    late, plant = delayed(latency(observation=exactly(steps, redraw=redraw)))
    rng = np.random.default_rng(1)
    for period, command in enumerate(commands(), start=1):
        reading = late.step(command, rng)
        assert same(reading, states[max(0, period * DECIMATION - steps)])
        assert np.array_equal(plant.data.qfrc_applied[6:], torques[period * DECIMATION])
    assert late.observation_delay == pytest.approx(steps * TIMESTEP)
    assert late.action_delay == 0


@pytest.mark.parametrize("redraw", ["episode", "step"])
@pytest.mark.parametrize("steps", STEPS)
def test_a_command_takes_effect_so_many_steps_later(steps: int, redraw: str) -> None:
    states, torques = reference(steps)
    late, plant = delayed(latency(action=exactly(steps, redraw=redraw)))
    rng = np.random.default_rng(1)
    for period, command in enumerate(commands(), start=1):
        reading = late.step(command, rng)
        command.value[:] = np.nan  # whoever sent it may use its array again
        assert same(reading, states[period * DECIMATION])
        assert np.array_equal(plant.data.qfrc_applied[6:], torques[period * DECIMATION])
    assert (late.action_delay, late.observation_delay) == (pytest.approx(steps * TIMESTEP), 0)


def test_both_at_once_and_again_after_a_reset() -> None:
    states, _ = reference(5)
    late, plant = delayed(latency(observation=exactly(7), action=exactly(5)))
    rng = np.random.default_rng(1)
    for _ in range(2):
        for period, command in enumerate(commands(), start=1):
            reading = late.step(command, rng)
            assert same(reading, states[max(0, period * DECIMATION - 7)])
        first = plant.reset(POSE, 0.3)
        assert same(late.reset(rng), first)


def test_a_delay_is_rounded_to_simulation_steps() -> None:
    for seconds, steps in ((0.0024, 0), (0.0026, 1), (0.0174, 3)):
        late, _ = delayed(latency(observation={"range": (seconds, seconds)}))
        rng = np.random.default_rng(1)
        ages = [
            (n + 1) * SPEC.period - late.step(command, rng).stamp
            for n, command in enumerate(commands(9))
        ]
        assert ages == pytest.approx([steps * TIMESTEP] * 9)
        assert late.observation_delay == seconds


def test_until_the_first_command_arrives_the_plant_keeps_its_own_pose() -> None:
    late, plant = delayed(latency(action=exactly(9)))
    for command in commands(2):
        late.step(command, np.random.default_rng(1))
    kept = go2()
    kept.reset(POSE, 0.3)
    kept.advance(2 * DECIMATION)
    assert np.array_equal(kept.data.qpos, plant.data.qpos)


class Calls:
    """Which commands reach the motors, and when."""

    def __init__(self, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
        self.effective: list[tuple[int, float]] = []  # simulation step, first number
        self.steps = 0
        command, advance = plant.command, plant.advance

        def commanded(value: JointCommand) -> None:
            self.effective.append((self.steps, float(value.value[0])))
            command(value)

        def advanced(steps: int) -> None:
            self.steps += steps
            advance(steps)

        monkeypatch.setattr(plant, "command", commanded)
        monkeypatch.setattr(plant, "advance", advanced)


def test_commands_never_overtake_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    late, plant = delayed(latency(action={"range": (0, 0.1), "redraw": "step"}))
    calls, rng, due = Calls(plant, monkeypatch), np.random.default_rng(1), []
    sent = commands(200)
    for n, command in enumerate(sent):
        command.value[0] = n / 1000
        late.step(command, rng)
        due.append(n * DECIMATION + round(late.action_delay / TIMESTEP))
    arrived = [round(number * 1000) for _, number in calls.effective]
    assert arrived == list(range(len(arrived))) and len(arrived) > 190
    # as late as drawn, or as the one before
    expected = np.maximum.accumulate(due)[: len(arrived)]
    assert [when for when, _ in calls.effective] == expected.tolist()
    assert (expected != np.array(due)[: len(arrived)]).any()


def test_a_reading_is_never_older_than_the_one_before() -> None:
    late, _ = delayed(latency(observation={"range": (0, 0.1), "redraw": "step"}))
    rng, wanted, stamps = np.random.default_rng(1), [0.0], []
    for n, command in enumerate(commands(200), start=1):
        stamps.append(late.step(command, rng).stamp)
        wanted.append(n * SPEC.period - round(late.observation_delay / TIMESTEP) * TIMESTEP)
    assert stamps == pytest.approx(np.maximum.accumulate(wanted)[1:].tolist())


@pytest.mark.parametrize("steps", [0, 6])
def test_a_lost_reading_leaves_the_one_before(steps: int) -> None:
    states, _ = reference(0)
    late, _ = delayed(latency(observation=exactly(steps, hold=0.4)))
    rng, before, held = np.random.default_rng(1), states[0], 0
    for period, command in enumerate(commands(), start=1):
        reading = late.step(command, rng)
        fresh = states[max(0, period * DECIMATION - steps)]
        lost = not same(reading, fresh)
        assert same(reading, before if lost else fresh)
        before, held = reading, held + lost
    assert 5 <= held <= 19  # 12 expected


def test_a_long_row_of_lost_readings_is_one_reading() -> None:
    late, _ = delayed(latency(observation=exactly(3, hold=0.9)))
    rng = np.random.default_rng(1)
    stamps = [late.step(command, rng).stamp for command in commands(300)]
    now = np.arange(1, 301) * SPEC.period
    changed = np.diff(stamps, prepend=0.0) > 0
    assert np.array(stamps)[changed] == pytest.approx(now[changed] - 3 * TIMESTEP)
    assert 0.05 < changed.mean() < 0.15


@pytest.mark.parametrize("steps", [0, 6])
def test_a_lost_command_never_arrives(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    late, plant = delayed(latency(action=exactly(steps, hold=0.25)))
    calls, rng = Calls(plant, monkeypatch), np.random.default_rng(1)
    for n, command in enumerate(commands(400)):
        command.value[0] = n / 1000
        late.step(command, rng)
    arrived = [round(number * 1000) for _, number in calls.effective]
    assert [when for when, _ in calls.effective] == [n * DECIMATION + steps for n in arrived]
    assert len(arrived) / 400 == pytest.approx(0.75, abs=0.06)


def measured(folder: Path, values: np.ndarray) -> dict[str, Any]:
    metadata = {"quantity": "end_to_end", "policy_digest": "0", "rate": 50.0, "cpu": "a cpu"}
    written = LatencyDistribution.of(values, **metadata).model_dump_json()
    (folder / "late.json").write_text(written)
    return {"file": "late.json"}


@pytest.mark.parametrize("redraw", ["episode", "step"])
def test_a_measured_distribution_is_drawn_from(tmp_path: Path, redraw: str) -> None:
    values = np.random.default_rng(3).gamma(4.0, 0.002, 5000)
    config = latency(observation={**measured(tmp_path, values), "redraw": redraw})
    plant, rng = go2(), np.random.default_rng(4)
    late, drawn, ages = DelayedPlant(plant, config, tmp_path), [], []
    command = commands(1)[0]
    late.reset(rng)
    for _ in range(400):
        if redraw == "episode":
            plant.reset(POSE, 0.3)
            late.reset(rng)
            late.step(command, rng)
            late.step(command, rng)
        stamp = late.step(command, rng).stamp
        drawn.append(late.observation_delay)
        ages.append(float(plant.data.time) - stamp)
    assert stats.ks_2samp(drawn, values).pvalue > 0.01
    assert len(set(drawn)) == 400
    if redraw == "episode":
        assert np.abs(np.array(ages) - drawn).max() <= TIMESTEP / 2 + 1e-9


@pytest.mark.parametrize("way", ["observation", "action"])
def test_a_range_is_drawn_uniformly_once_per_episode(way: str) -> None:
    late, plant = delayed(latency(**{way: {"range": (0.004, 0.03)}}))
    rng, drawn = np.random.default_rng(5), []
    for _ in range(300):
        plant.reset(POSE, 0.3)
        late.reset(rng)
        drawn.append(getattr(late, f"{way}_delay"))
        late.step(commands(1)[0], rng)
        assert getattr(late, f"{way}_delay") == drawn[-1]
    assert stats.kstest(drawn, stats.uniform(0.004, 0.026).cdf).pvalue > 0.01


@pytest.mark.parametrize("redraw", ["episode", "step"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_share_shortens_the_delays_and_loses_fewer(share: float, redraw: str) -> None:
    both = {"range": (0.04, 0.04), "redraw": redraw, "hold": 1 - 1e-9}
    late, plant = delayed(latency(observation=both, action=both))
    rng, readings = np.random.default_rng(5), []
    late.scale(share)
    for _ in range(10):
        plant.reset(POSE, 0.3)
        late.reset(rng)
        readings += [late.step(command, rng).stamp for command in commands(20)]
    assert late.observation_delay == late.action_delay == pytest.approx(share * 0.04)
    lost = 1 - len(set(readings)) / 20 if share == 0 else np.mean(np.diff(readings) == 0)
    assert lost == pytest.approx(share, abs=0.15)


def test_without_latency_it_is_the_plants_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    states, _ = reference(0)
    late, plant = delayed(LatencyConfig())
    calls, rng = Calls(plant, monkeypatch), np.random.default_rng(1)
    before = rng.bit_generator.state
    late.reset(rng)
    for period, command in enumerate(commands(), start=1):
        assert same(late.step(command, rng), states[period * DECIMATION])
        assert (len(calls.effective), calls.steps) == (period, period * DECIMATION)
    assert rng.bit_generator.state == before
    assert (late.observation_delay, late.action_delay) == (0, 0)


def test_the_same_seed_is_as_late() -> None:
    config = latency(
        observation={"range": (0, 0.05), "redraw": "step", "hold": 0.2},
        action={"range": (0, 0.05), "hold": 0.2},
    )

    def run(seed: int) -> list[float]:
        (late, plant), rng = delayed(config, seed), np.random.default_rng(seed)
        stamps = [late.step(command, rng).stamp for command in commands()]
        return [*stamps, late.action_delay, *plant.data.qpos.tolist()]

    assert run(1) == run(1) != run(2)


def test_memory_stays_bounded() -> None:
    both = {"range": (0.0, 0.1), "redraw": "step", "hold": 0.5}
    late, _ = delayed(latency(observation=both, action=both))
    rng = np.random.default_rng(1)
    for command in commands(500):
        late.step(command, rng)
        assert len(late._commands) <= 7 and len(late._readings) <= 25


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "expected a latency distribution, got none .No such file"),
        ("{}", "quantity: Field required"),
        (np.linspace(1, 20, 50), r"up to 0.5 s, got \[1, 20\]: .* not milliseconds"),
        (np.linspace(-0.01, 0.02, 50), "0 <= lower <= upper"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(
    tmp_path: Path, content: Any, expected: str
) -> None:
    if isinstance(content, np.ndarray):
        measured(tmp_path, content)
    elif content is not None:
        (tmp_path / "late.json").write_text(content)
    with pytest.raises(InputError, match=rf"late\.json: .*{expected}") as caught:
        DelayedPlant(go2(), latency(action={"file": "late.json"}), tmp_path)
    assert "\n" not in str(caught.value)
