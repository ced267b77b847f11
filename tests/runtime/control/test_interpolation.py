"""Commands between two steps: the paths themselves, and what the control loop sends of them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dime_robot.runtime.contract.interpolation import (
    NO_INTERPOLATION,
    Interpolation,
    record_of,
    recorded,
)
from dime_robot.runtime.contract.robot_config import require_compatible
from dime_robot.runtime.control.control_loop import ControlLoop, Reading
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.interpolation import BetweenSteps, CommandPath
from dime_robot.runtime.io.errors import InputError
from tests.runtime.control.loop_bench import LoopBench
from tests.runtime.machines import RATE, ScriptedPolicy, T, make_robot, make_spec

KINDS = ("linear", "cubic")
PER_STEP, FINE = 4, 100
numbers = st.floats(-10, 10, allow_subnormal=False)
OVERSHOOT = 4 / 27  # of the change of the period before, of a cubic path


def interpolating(kind: str = "linear", interface: str = "position") -> dict[str, Any]:
    return {
        "command__kind": "forward",
        "command__interface": interface,
        "command__interpolation": kind,
        "command__rate": PER_STEP * RATE,
    }


# ---- the path


def samples(cubic: bool, commands: list[float], per_step: int = FINE) -> np.ndarray:
    """The path through these commands, one per unit of time, from rest at the first one."""
    path, found = CommandPath(cubic, 1.0), []
    value = np.array(commands[:1])
    for step, command in enumerate(commands):
        path.lead(step, path.at(step, value), np.array([command]))
        found += [path.at(step + i / per_step, value)[0] for i in range(per_step)]
    return np.array(found)


@settings(max_examples=25, deadline=None)
@given(st.lists(numbers, min_size=2, max_size=8), st.booleans())
def test_a_command_is_reached_a_period_after_its_step(commands: list[float], cubic: bool) -> None:
    found = samples(cubic, [*commands, commands[-1]])
    np.testing.assert_allclose(found[::FINE][1:], commands, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.lists(numbers, min_size=2, max_size=8))
def test_a_linear_path_stays_between_its_commands(commands: list[float]) -> None:
    found = samples(False, commands).reshape(len(commands), -1)
    for before, after, part in zip(commands, commands[1:], found[1:-1], strict=False):
        assert min(before, after) - 1e-9 <= part.min() <= part.max() <= max(before, after) + 1e-9


@settings(max_examples=25, deadline=None)
@given(st.lists(numbers, min_size=2, max_size=8))
def test_a_cubic_path_has_no_jump_in_its_speed(commands: list[float]) -> None:
    found, h = samples(True, [*commands, commands[-1]]), 1 / FINE
    speed = np.diff(found) / h
    largest = float(np.abs(np.diff([commands[0], *commands])).max(initial=0.0))
    # a cubic curve's second derivative is at most 6 |change| + 4 |tangent| + 2 |tangent|
    assert np.abs(np.diff(speed)).max() <= 12 * 2 * largest * h + 1e-9


@settings(max_examples=25, deadline=None)
@given(st.lists(numbers, min_size=2, max_size=8))
def test_a_cubic_path_goes_too_far_by_a_bounded_share(commands: list[float]) -> None:
    commands = [commands[0], *commands, commands[-1]]
    found = samples(True, commands).reshape(len(commands), -1)
    for k in range(1, len(commands)):
        before, after, last = commands[k - 1], commands[k], abs(commands[k - 1] - commands[k - 2])
        slack = OVERSHOOT * (last if k > 1 else 0.0) + 1e-9
        assert found[k].min() >= min(before, after) - slack
        assert found[k].max() <= max(before, after) + slack


def test_a_cubic_path_stops_after_a_step_without_going_too_far() -> None:
    found = samples(True, [0.0, 1.0, 1.0, 1.0])
    assert (np.diff(found) >= 0).all()
    assert found.max() == 1.0
    assert np.diff(found).max() * FINE == pytest.approx(1.5, abs=0.01)  # as the docstring says


@pytest.mark.parametrize("cubic", [False, True])
def test_a_steady_motion_is_followed_a_period_late(cubic: bool) -> None:
    found = samples(cubic, [float(k) for k in range(8)])
    time = np.arange(len(found)) / FINE
    steady = time >= 3
    np.testing.assert_allclose(found[steady], time[steady] - 1, atol=1e-9)  # measured delay: 1


def test_a_cubic_path_continues_at_its_speed_if_a_step_is_a_little_late() -> None:
    for late, speed in ((0.0, 1.0), (0.2, 1.0), (0.8, 0.0)):
        path = CommandPath(True, 1.0)
        for k in range(4):
            path.lead(k, path.at(k, np.zeros(1)), np.array([float(k)]))
        now = 4 + late
        path.lead(now, path.at(now, np.zeros(1)), np.array([4.0]))
        moved = path.at(now + 1e-4, np.zeros(1)) - path.at(now, np.zeros(1))
        assert moved[0] / 1e-4 == pytest.approx(speed, abs=0.01)


def test_a_path_that_was_stopped_begins_at_rest_where_it_is_given() -> None:
    path = CommandPath(True, 1.0)
    path.lead(0, np.zeros(1), np.ones(1))
    path.stop()
    assert not path.leads
    assert path.at(0.5, np.array([7.0])) == 7.0
    path.lead(1, np.array([0.3]), np.array([0.5]))
    assert path.at(1.0, np.zeros(1)) == 0.3
    assert abs(path.at(1 + 1e-4, np.zeros(1)) - 0.3) < 1e-6


def test_the_deadlines_are_absolute_and_missed_ones_are_counted() -> None:
    between = BetweenSteps(4, 1.0)
    assert between.due == np.inf
    between.begin(10.1)
    between.align(10.0)
    due = []
    while between.due < np.inf:
        due.append(between.due)
        assert between.is_due(between.due)
    assert due == [10.25, 10.5, 10.75, 11.125]  # the last: only if the next step is late
    assert between.missed == 0
    between.begin(20.0)
    assert not between.is_due(20.2)
    assert between.is_due(20.6)
    assert (between.missed, between.due) == (1, 20.75)
    between.end(21.0)
    assert (between.missed, between.due) == (2, np.inf)
    between.end(30.0)
    assert between.missed == 2


# ---- the control loop


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_reading", [True, False])
def test_the_loop_sends_at_the_rate_of_commands_and_records_steps(
    kind: str, by_reading: bool
) -> None:
    calls = iter(range(10**6))
    bench = LoopBench(
        "position",
        lambda _: [0.01 * np.sin(next(calls) / 8), 0.0, 0.0],
        by_reading,
        **interpolating(kind),
    ).activate()
    bench.run(80)
    sent = bench.commands[-200:]
    np.testing.assert_allclose(np.diff([when for when, _ in sent]), T / PER_STEP, atol=1e-9)
    assert bench.loop.between is not None
    assert bench.loop.between.missed == 0
    records = bench.controller.recorder.records()
    assert len(records) == len(bench.decisions)  # one per step of the policy
    goals = {when: d.of_step.value for when, d in bench.decisions}
    for record in records:  # the command of the step, which the path leads to
        assert (record["command"] == goals[record["time"]]).all()
    starts = [(when, d) for when, d in bench.decisions if d.goal is not None]
    for (_, before), (_, after) in zip(starts[-20:], starts[-19:], strict=False):
        np.testing.assert_allclose(after.command.value, before.of_step.value, atol=1e-12)
    if kind == "linear":
        wrist = np.array([value[0] for _, value in bench.commands[-41:]]).reshape(-1)
        assert np.abs(np.diff(wrist, 2)).max() < 1e-3


def moving(kind: str = "linear", **robot: Any) -> LoopBench:
    """A robot half way between two commands, with a large change under way."""
    target = [0.0]
    bench = LoopBench(
        "position", lambda _: [target[0] / 3, 0.0, 0.0], **interpolating(kind), **robot
    ).activate()
    bench.run(4)
    target[0] = 0.05
    bench.run(1)
    bench.now += T / 2
    bench.poll()
    return bench


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_is_at_once_and_from_what_was_really_sent(kind: str) -> None:
    bench = moving(kind)
    (_, before) = bench.commands[-1]
    assert 0.5 < before[0] < 0.55  # on its way
    bench.now += T / 8
    decision = bench.take(bench.loop.estop())
    assert decision is not None
    assert decision.level == SafetyLevel.STOP
    assert decision.goal is None
    step = T / 8 * 8.0 / 8 + 1e-9  # velocity limit and safe_speed, since the last command
    assert 0 < decision.command.value[0] - before[0] <= step  # to the safe position at 1.0
    count = len(bench.between)
    bench.run(5)
    assert len(bench.between) == count, "a path goes on after a stop"


@pytest.mark.parametrize("kind", KINDS)
def test_a_hold_ends_the_path_where_the_robot_is(kind: str) -> None:
    bench = moving(kind)
    before = bench.commands[-1][1].copy()
    bench.now += T / 2
    decision = bench.read(position=[np.nan, 0.0, 0.25])
    assert decision is not None
    assert decision.level == SafetyLevel.HOLD
    np.testing.assert_array_equal(decision.command.value, before)
    count = len(bench.between)
    bench.now += T / 4
    bench.poll()
    assert len(bench.between) == count
    held = len(bench.decisions)
    bench.run(12)  # it recovers
    assert bench.last.level == SafetyLevel.RUN
    first = next(d for _, d in bench.decisions[held:] if d.goal is not None)
    assert first.command.value[0] < 0.55 - 1e-3, "it goes on where the old path led"
    assert len(bench.between) > count
    assert bench.commands[-1][1][0] == pytest.approx(0.55)


def test_a_late_process_sends_nothing_that_is_out_of_date() -> None:
    bench = moving(state__max_age=4 * T)
    before, count = bench.commands[-1][1].copy(), len(bench.between)
    assert bench.loop.between is not None
    missed = bench.loop.between.missed
    bench.now += 2.2 * T
    bench.poll()
    assert len(bench.between) == count
    assert bench.loop.between.missed == missed + 1
    decision = bench.read()
    assert decision is not None
    assert Fault.SELF_LATE in decision.faults
    np.testing.assert_array_equal(decision.command.value, before)  # on from what was really sent
    assert decision.of_step.value[0] == pytest.approx(0.5)  # to the measured pose


def test_a_missed_deadline_is_skipped_and_counted() -> None:
    bench = LoopBench("position", by_reading=False, **interpolating()).activate()
    bench.run(4)
    between = bench.loop.between
    assert between is not None
    count = len(bench.between)
    bench.now += 0.8 * T  # three deadlines have passed
    bench.poll()
    assert len(bench.between) == count + 1
    assert between.missed == 2
    assert bench.loop.take_missed() == 0  # no step was missed


def test_without_an_interpolation_nothing_comes_between() -> None:
    bench = LoopBench("position").activate().run(20)
    assert bench.loop.between is None
    assert not bench.between
    assert all(d.goal is None for _, d in bench.decisions)


def test_in_simulated_time_the_simulated_robot_interpolates() -> None:
    robot, spec, now = make_robot("position", **interpolating()), make_spec("position"), [0.0]
    policy = ScriptedPolicy(spec, lambda _: [0.1, 0.0, 0.0], robot.command.interpolated)
    controller = Controller(policy, robot, lambda: now[0])
    loop = ControlLoop(controller, True, lambda: now[0], lambda: now[0], simulated=True)
    loop.view = loop.view._replace(listeners=("/robot",))
    position, decision = np.array([0.5, 0.0, 0.25]), None
    for k in range(100):
        now[0] += T
        decision = loop.joint_state(Reading(now[0], position + 1e-6 * k, np.zeros(3)))
        if k == 20:
            loop.activate()
        assert loop.command_between() is None
    assert decision is not None
    assert decision.command.value[0] == pytest.approx(0.5 + 3 * 0.1)  # of the whole step
    assert decision.goal is None


# ---- what is refused


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("effort", {"interpolation": "linear", "rate": 512.0}, "none with interface effort"),
        ("twist", {"interpolation": "linear", "rate": 512.0}, "none with kind twist"),
        ("position", {"interpolation": "cubic", "rate": 512.0}, "use kind: forward"),
        ("velocity", {"interpolation": "linear"}, "rate: expected the rate at which commands"),
        ("velocity", {"rate": 512.0}, "rate: expected none without an interpolation"),
        ("velocity", {"interpolation": "spline", "rate": 512.0}, "'none', 'linear' or 'cubic'"),
        ("velocity", {"interpolation": "linear", "rate": 0.01}, "in Hz"),
    ],
)
def test_a_robot_that_cannot_be_interpolated_so_is_refused(
    kind: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        make_robot(kind, **{f"command__{name}": value for name, value in changes.items()})


@pytest.mark.parametrize("rate", [RATE, 1.5 * RATE, 64.0])
def test_a_rate_that_is_no_multiple_of_the_policys_is_refused(rate: float) -> None:
    robot = make_robot("position", **{**interpolating(), "command__rate": rate})
    with pytest.raises(InputError, match="a whole multiple of the policy's rate of 128") as caught:
        require_compatible(make_spec("position"), robot)
    assert caught.value.code == "rate"


@pytest.mark.parametrize(
    ("trained", "robot"),
    [
        (NO_INTERPOLATION, interpolating()),
        (Interpolation(kind="linear", rate=4 * RATE), {}),
        (Interpolation(kind="cubic", rate=4 * RATE), interpolating("linear")),
        (Interpolation(kind="linear", rate=2 * RATE), interpolating("linear")),
    ],
)
def test_another_interpolation_than_in_training_is_refused(
    trained: Interpolation, robot: dict[str, Any]
) -> None:
    policy = ScriptedPolicy(make_spec("position"), interpolation=trained)
    machine = make_robot("position", **robot)
    with pytest.raises(InputError, match="or train a policy with this file") as caught:
        Controller(policy, machine)
    assert caught.value.code == "interpolation"
    assert f"expected interpolation {trained}, which policy machine was trained" in str(
        caught.value
    )


@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_a_checkpoint_records_it(kind: str) -> None:
    rate = None if kind == "none" else 200.0
    given = Interpolation.model_validate({"kind": kind, "rate": rate})
    assert recorded(record_of(given)) == given
    assert bool(record_of(given)) == (kind != "none")  # records of earlier releases stay the same


@pytest.mark.parametrize("changes", [{"interpolation": "x"}, {"command_rate": "fast"}])
def test_a_changed_record_is_one_sentence(changes: dict[str, str]) -> None:
    given = {**record_of(Interpolation(kind="linear", rate=200.0)), **changes}
    with pytest.raises(InputError, match="provenance: expected an interpolation and its rate"):
        recorded(given)
