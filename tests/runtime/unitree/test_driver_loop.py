"""What is sent to the motors of a Go2, with the clock in hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dime_robot.runtime.unitree.driver_loop import (
    MAX_RISE,
    START_ERROR,
    MotorTargets,
    Sending,
)
from dime_robot.runtime.unitree.low_level import FOC, MOTORS, POSITION_STOP
from dime_robot.runtime.unitree.state_watch import DriverFault
from tests.runtime.unitree.go2 import CROUCH, PERIOD, N, Run

STAND = np.tile([0.0, 0.9, -1.8], 4)


def is_damping(sent: MotorTargets | None) -> bool:
    return (
        sent is not None
        and bool((sent.stiffness == 0).all())
        and bool((sent.damping >= 3).all())
        and bool((sent.position == np.float64(POSITION_STOP)).all())
    )


def time_to_damping(run: Run, limit: float = 2.0) -> float:
    began = run.now
    while run.now - began < limit:
        if is_damping(run.step()):
            return run.now - began
    raise AssertionError(f"no damping within {limit} s: {run.loop.describe(run.now)}")


# ---- before anything is sent


def test_nothing_is_sent_before_release_and_request() -> None:
    run = Run()
    run.target = CROUCH
    assert run.go(0.5) == [None] * 250
    run.loop.take_mode("normal", run.now)
    assert "has not" in run.loop.permit(run.now)
    run.loop.take_mode("", run.now)  # free, but nobody has asked for the motors
    assert run.go(0.5) == [None] * 250
    assert run.loop.commands == 0
    run.target = None
    assert not run.loop.permit(run.now)
    assert all(is_damping(sent) for sent in run.go(0.1))


def test_a_writer_that_is_still_active_is_no_start() -> None:
    run = Run()
    run.loop.take_mode("", run.now)
    run.loop.take_other_writer("other", run.now)
    assert "other writer" in run.loop.permit(run.now)
    run.now += 0.6
    assert not run.loop.permit(run.now)


def test_modes_of_motors_before_the_release_do_not_matter() -> None:
    """The robot's own controller had them in this mode, and left it."""
    run = Run()
    modes = run.readings.fields["motor_state"]["mode"]
    modes[:N] = FOC
    run.go(0.1)
    modes[:N] = 0
    run.go(0.1)
    assert run.loop.watch.problem(run.now) is not None
    run.permitted()
    run.target = CROUCH
    run.go(0.1)
    assert run.loop.sending is Sending.FOLLOWING


# ---- following


def test_gains_rise_from_damping_to_the_contracts() -> None:
    run = Run(gain_ramp=0.5).permitted()
    run.go(0.1)
    run.target = CROUCH
    sent = [each for each in run.go(1.0) if each is not None]
    stiffness = np.array([each.stiffness for each in sent])
    full = run.loop.motors.stiffness
    assert np.diff(stiffness, axis=0).max() <= full.max() * PERIOD / 0.5 * 1.01
    assert (np.diff(stiffness, axis=0) >= 0).all()
    np.testing.assert_allclose(stiffness[-1], full)
    np.testing.assert_allclose(sent[-1].damping, run.loop.motors.damping)
    np.testing.assert_allclose(sent[-1].position, CROUCH)


def test_a_command_is_held_until_the_next_as_in_training() -> None:
    run = Run().following()
    run.target = CROUCH + 0.1
    targets = {tuple(each.position) for each in run.go(0.04) if each is not None}
    assert targets <= {tuple(CROUCH), tuple(CROUCH + 0.1)}


def test_a_first_command_far_from_the_robot_is_refused() -> None:
    run = Run().permitted()
    run.go(0.1)
    far = CROUCH.copy()
    far[4] += START_ERROR + 0.01
    run.target = far
    assert all(is_damping(each) for each in run.go(0.5))
    assert any("FL_thigh_joint" in line for line in run.log)
    run.target = CROUCH
    run.go(0.1)
    assert run.loop.sending is Sending.FOLLOWING


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(N)))
def test_names_in_any_order_reach_their_motors(order: list[int]) -> None:
    run = Run().permitted()
    run.go(0.02)
    goal = CROUCH + np.linspace(-0.1, 0.1, N)
    run.names = tuple(MOTORS[i] for i in order)
    run.target = goal[order]
    run.go(1.0)
    assert run.sent is not None
    expected = np.clip(goal, run.loop.motors.low, run.loop.motors.high)
    np.testing.assert_allclose(run.sent.position, expected)


@pytest.mark.parametrize(
    "names",
    [MOTORS[:11], (*MOTORS, "arm"), (*MOTORS[:11], MOTORS[0]), (*MOTORS[:11], "FR_hip"), ()],
    ids=["one missing", "one more", "one twice", "one unknown", "none"],
)
def test_a_command_that_does_not_name_each_joint_once_is_no_command(names: tuple[str, ...]) -> None:
    run = Run().following()
    run.names, run.target = names, np.full(len(names), 0.1)
    assert time_to_damping(run) <= 0.1 + 0.2 + 0.02
    assert run.loop.refused_commands > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_command_that_is_not_finite_is_no_command(value: float) -> None:
    run = Run().following()
    assert run.target is not None
    run.target[3] = value
    sent = run.go(1.0)
    assert all(np.isfinite(each.position).all() for each in sent if each is not None)
    assert is_damping(run.sent)


def test_a_target_is_bounded_by_stops_speed_and_effort() -> None:
    run = Run().following()
    run.target = np.full(N, 50.0)
    motors = run.loop.motors
    for sent in run.go(0.5):
        assert sent is not None
        assert (sent.position <= motors.high).all()
        off = np.abs(sent.position - CROUCH)
        assert (off <= 2 * motors.effort / motors.stiffness + 1e-6).all()
    run = Run().following()
    run.target = CROUCH + 1.0
    first = run.go(0.02)[-1]
    assert first is not None
    assert (first.position - CROUCH <= 1.25 * motors.speed * 0.02 + 0.05).all()


# ---- faults: what was injected, the fault, how long until the motors are damped


def no_command(run: Run) -> None:
    run.target = None


def lost(run: Run) -> None:
    run.states = False


def frozen(run: Run) -> None:
    record = run.readings.next()
    run.readings.next = lambda: record  # type: ignore[method-assign]


def frozen_but_for_the_tick(run: Run) -> None:
    readings, ticks = run.readings, iter(range(10**6))

    def same() -> object:
        record = frozen_record.copy()
        record["tick"] = next(ticks)
        return record

    frozen_record = readings.next().copy()
    readings.next = same  # type: ignore[method-assign]


def one_motor_still(run: Run) -> None:
    take = run.readings.next

    def still() -> object:
        record = take()
        record["motor_state"]["dq"][5] = 0.0
        return record

    run.readings.next = still  # type: ignore[method-assign]
    run.step()
    assert run.target is not None
    run.target = run.target + np.eye(N)[5] * 0.15


def counts_lost(run: Run) -> None:
    run.readings.fields["motor_state"]["lost"][7] += 100


def left_its_mode(run: Run) -> None:
    run.readings.fields["motor_state"]["mode"][:N] = FOC
    run.go(0.1)
    run.readings.fields["motor_state"]["mode"][2] = 0


def hot(run: Run) -> None:
    run.readings.fields["motor_state"]["temperature"][9] = 81


def tilted(run: Run) -> None:
    run.readings.tilt(math.radians(61))


def stalled(run: Run) -> None:
    run.now += 0.3


def not_finite(run: Run) -> None:
    run.readings.fields["motor_state"]["q"][3] = math.nan


def no_quaternion(run: Run) -> None:
    run.readings.fields["imu_state"]["quaternion"] = 0


def exception(run: Run) -> None:
    run.loop.fail("ValueError: any", run.now)


CASES: list[tuple[Callable[[Run], None], DriverFault, float, bool]] = [
    (no_command, DriverFault.NO_COMMAND, 0.1 + 0.2, False),
    (lost, DriverFault.STATE_LOST, 0.05 + 0.2, True),
    (not_finite, DriverFault.STATE_LOST, 0.05 + 0.2, True),
    (no_quaternion, DriverFault.STATE_LOST, 0.05 + 0.2, True),
    (frozen, DriverFault.STATE_FROZEN, 0.1 + 0.2, True),
    (frozen_but_for_the_tick, DriverFault.STATE_FROZEN, 0.1 + 0.2, True),
    (one_motor_still, DriverFault.MOTOR_LOST, 0.5 + 0.2 + 0.04, True),
    (counts_lost, DriverFault.MOTOR_LOST, 0.2, True),
    (left_its_mode, DriverFault.MOTOR_LOST, 0.01 + 0.2, True),
    (hot, DriverFault.TOO_HOT, 0.05 + 0.2, True),
    (tilted, DriverFault.TILTED, 0.01, True),
    (stalled, DriverFault.STALLED, 0.01, True),
    (exception, DriverFault.INTERNAL, 0.2, True),
]


@pytest.mark.parametrize(
    ("inject", "fault", "within", "latched"), CASES, ids=[case[0].__name__ for case in CASES]
)
def test_a_fault_ends_in_damping(
    inject: Callable[[Run], None], fault: DriverFault, within: float, latched: bool
) -> None:
    run = Run().following()
    inject(run)
    assert time_to_damping(run) <= within + 3 * PERIOD
    assert run.loop.problem is not None
    assert run.loop.problem.fault is fault
    assert any(line.startswith(fault.value) for line in run.log)
    assert run.loop.latched is latched
    assert not run.loop.accepts_commands(run.now)
    assert all(is_damping(each) for each in run.go(3.0))


@pytest.mark.parametrize("case", CASES, ids=[case[0].__name__ for case in CASES])
def test_the_target_is_held_before_the_damping_but_for_a_tilt_or_a_stall(
    case: tuple[Callable[[Run], None], DriverFault, float, bool],
) -> None:
    inject, fault, _, _ = case
    run = Run().following()
    inject(run)
    run.step()
    sent = run.go(1.0)
    stiffness = [each.stiffness.max() for each in sent if each is not None]
    held = sum(value > 0 for value in stiffness) * PERIOD
    if fault in (DriverFault.TILTED, DriverFault.STALLED):
        assert held < 0.01
    else:
        assert held >= 0.19


def test_a_short_gap_is_held_and_followed_again() -> None:
    run = Run().following()
    target, run.target = run.target, None
    run.go(0.2)
    assert run.loop.sending is Sending.HOLDING
    assert run.sent is not None
    np.testing.assert_allclose(run.sent.stiffness, run.loop.motors.stiffness)
    run.target = target
    run.go(0.1)
    assert run.loop.sending is Sending.FOLLOWING


def test_after_damping_gains_begin_anew() -> None:
    run = Run().following()
    target, run.target = run.target, None
    run.go(1.0)
    run.target = target
    run.go(0.3)
    assert is_damping(run.sent)  # the node that commands has to notice the end first
    sent = [each.stiffness.max() for each in run.go(3.0) if each is not None]
    first = next(i for i, value in enumerate(sent) if value > 0)
    assert sent[first] <= 40 * PERIOD / 0.5 * 1.01
    assert max(np.diff(sent)) <= 40 * PERIOD / 0.5 * 1.01
    assert sent[-1] == 40


def test_a_latched_fault_needs_the_operator() -> None:
    run = Run().following()
    tilted(run)
    run.go(1.0)
    assert "tilted" in run.loop.reset(run.now)
    run.readings.tilt(0.0)
    assert all(is_damping(each) for each in run.go(3.0))
    assert not run.loop.reset(run.now)
    run.go(3.0)
    assert run.loop.sending is Sending.FOLLOWING


def test_one_wrong_reading_does_not_drop_a_robot() -> None:
    run = Run().following()
    for inject, undo in (
        (tilted, lambda: run.readings.tilt(0.0)),
        (hot, lambda: run.readings.fields["motor_state"].__setitem__("temperature", 40)),
        (not_finite, lambda: run.readings.set(CROUCH)),
    ):
        inject(run)
        run.step()
        undo()
        run.go(0.5)
        assert run.loop.sending is Sending.FOLLOWING


# ---- faults that come and go, and faults that hide another


BLINKING: list[tuple[str, float, float, bool]] = [  # what, on and off [s], whether it latches
    ("states", 0.19, 0.02, True),
    ("states", 0.15, 0.3, True),
    ("frozen", 0.24, 0.02, True),
    ("commands", 0.28, 0.02, False),
    ("hot", 0.1, 0.05, True),
]


@pytest.mark.parametrize(("what", "on", "off", "latched"), BLINKING)
def test_what_comes_and_goes_ends_in_damping(
    what: str, on: float, off: float, latched: bool
) -> None:
    run = Run().following()
    target, take = run.target, run.readings.next
    for _ in range(40):
        if what == "states":
            run.states = False
        elif what == "frozen":
            frozen(run)
        elif what == "commands":
            run.target = None
        else:
            hot(run)
        run.go(on)
        run.states, run.target = True, target
        run.readings.next = take  # type: ignore[method-assign]
        run.readings.fields["motor_state"]["temperature"] = 40
        run.go(off)
        if is_damping(run.sent):
            break
    else:
        raise AssertionError("commands are still followed")
    assert run.loop.latched is latched


def test_short_gaps_now_and_then_are_held_for_ever() -> None:
    run = Run().following()
    target = run.target
    for _ in range(20):
        run.target = None
        run.go(0.14)
        run.target = target
        run.go(1.0)
    assert run.loop.sending is Sending.FOLLOWING


def test_commands_that_cease_do_not_hide_why() -> None:
    """A node that commands often stops because of the same fault."""
    run = Run().following()
    run.states = False
    run.go(0.1)
    run.target = None
    run.go(0.1)
    run.states = True
    run.go(2.0)
    assert run.loop.problem is not None
    assert run.loop.problem.fault is DriverFault.STATE_LOST
    assert run.loop.latched


def test_reset_waits_for_the_end_of_a_fault() -> None:
    run = Run().following()
    assert "nothing to reset" in run.loop.reset(run.now)
    frozen(run)
    run.go(1.0)
    assert "state_frozen" in run.loop.reset(run.now)
    run = Run().following()
    run.loop.fail("ValueError", run.now)
    run.step()
    assert run.loop.reset(run.now)
    assert time_to_damping(run) <= 0.22


def test_giving_the_motors_back_and_taking_them_again_is_no_reset() -> None:
    run = Run().following()
    tilted(run)
    run.go(0.5)
    run.target = None
    assert not run.loop.give_back()
    assert not run.loop.permit(run.now)
    run.readings.tilt(0.0)
    run.go(2.0)
    run.target = CROUCH
    run.go(1.0)
    assert is_damping(run.sent)
    assert run.loop.latched


def test_a_suspended_computer_damps() -> None:
    """The steady clock stands still meanwhile."""
    run = Run().following()
    run.loop.take_suspension(60.0)
    assert is_damping(run.step())
    assert run.loop.latched


def test_a_burst_of_commands_adds_up_to_no_more_than_its_time() -> None:
    run = Run().following()
    speed = 1.25 * run.loop.motors.speed
    before = CROUCH.copy()
    run.now += 0.02
    run.loop.take_state(run.readings.next(), run.now)
    for _ in range(10):
        run.loop.take_command(MOTORS, [10.0] * N, run.now)
    run.target = None
    run.step()
    assert run.sent is not None
    assert (run.sent.position - before <= speed * 0.1 + 1e-6).all()
    run.loop.take_command(MOTORS, [-10.0] * N, run.now)
    after = run.step()
    assert after is not None
    np.testing.assert_allclose(after.position, run.sent.position, atol=0.1)


@pytest.mark.parametrize(("lost", "fault"), [([2, 2], True), ([1, 1], False), ([-5000], False)])
def test_lost_messages_are_counted_over_time(lost: list[int], fault: bool) -> None:
    run = Run()
    run.readings.fields["motor_state"]["lost"] = 6000
    run.following()
    run.go(0.49)
    for more in lost:
        before = run.readings.fields["motor_state"]["lost"][3]
        run.readings.fields["motor_state"]["lost"][3] = int(before) + more
        run.go(0.1)
    assert (run.loop.sending is not Sending.FOLLOWING) is fault


def test_a_motor_that_never_takes_its_mode_is_lost() -> None:
    run = Run()
    run.readings.fields["motor_state"]["mode"][:N] = FOC
    run.readings.fields["motor_state"]["mode"][2] = 0
    run.permitted()
    run.target = CROUCH
    run.go(1.0)
    assert run.loop.problem is not None
    assert run.loop.problem.fault is DriverFault.MOTOR_LOST
    assert "FR_calf_joint" in run.loop.problem.text


def test_a_robot_that_reports_no_modes_has_no_lost_motors() -> None:
    run = Run().following()
    run.go(2.0)
    assert run.loop.sending is Sending.FOLLOWING


def test_a_motor_below_zero_degrees_is_not_hot() -> None:
    run = Run()
    run.readings.fields["motor_state"]["temperature"] = -10
    run.following()
    assert run.loop.sending is Sending.FOLLOWING


def test_only_a_folded_robot_that_is_still_lies() -> None:
    run = Run()
    run.go(0.6)
    assert run.loop.lies(run.now)
    run.readings.set(STAND)
    run.go(1.0)
    assert not run.loop.lies(run.now)
    run.readings.set(CROUCH)
    assert run.step() is None
    assert run.loop.lies(run.now)
    run.states = False
    run.go(0.1)
    assert not run.loop.lies(run.now)  # nobody knows


# ---- others


def test_a_second_writer_ends_all_sending() -> None:
    run = Run().following()
    run.loop.take_other_writer("someone", run.now)
    assert run.go(1.0) == [None] * 500
    run.loop.take_other_writer("someone", run.now)
    assert "other writer" in run.loop.reset(run.now)
    run.go(1.0)
    assert not run.loop.reset(run.now)
    assert run.go(1.0) == [None] * 500  # the operator has to ask for the motors again
    run.target = None
    assert not run.loop.permit(run.now)
    assert is_damping(run.step())


def test_a_controller_of_the_robot_that_comes_back_ends_all_sending() -> None:
    run = Run().following()
    run.loop.take_mode(None, run.now)  # the switcher is silent: nothing changes
    assert run.step() is not None
    run.loop.take_mode("normal", run.now)
    assert run.go(1.0) == [None] * 500
    assert run.loop.problem is not None
    assert run.loop.problem.fault is DriverFault.MODE_TAKEN


def test_motors_that_were_given_free_by_the_robot_are_not_lost() -> None:
    run = Run()
    run.readings.fields["motor_state"]["mode"][:N] = FOC
    run.following()
    run.loop.take_mode("normal", run.now)
    run.go(0.1)
    run.readings.fields["motor_state"]["mode"][:N] = 0  # nobody has them
    run.go(0.1)
    run.target = None
    run.loop.take_mode("", run.now)
    assert not run.loop.permit(run.now)
    assert not run.loop.latched


def test_motors_are_given_back_only_at_rest() -> None:
    run = Run().following()
    assert run.loop.give_back()
    run.target = None
    run.go(1.0)
    assert not run.loop.give_back()
    assert run.step() is None


# ---- the end


def test_commands_are_served_after_a_request_to_end() -> None:
    run = Run(serve_time=3.0).following()
    run.loop.request_stop(run.now)
    run.go(2.0)
    assert run.loop.sending is Sending.FOLLOWING
    run.target = None
    run.go(0.26)
    assert run.loop.sending is Sending.HOLDING
    run.go(0.2)
    assert is_damping(run.sent)
    assert not run.loop.finished(run.now)
    run.go(1.1)
    assert run.loop.finished(run.now)


def test_commands_are_served_for_a_stated_time_at_most() -> None:
    run = Run(serve_time=1.0).following()
    run.loop.request_stop(run.now)
    assert time_to_damping(run, 3.0) == pytest.approx(1.2, abs=0.02)
    run.go(1.1)
    assert run.loop.finished(run.now)


def test_a_second_request_damps_at_once() -> None:
    run = Run().following()
    run.loop.request_stop(run.now)
    run.go(0.1)
    run.loop.request_stop(run.now)
    assert is_damping(run.step())
    run.go(1.1)
    assert run.loop.finished(run.now)


def test_an_end_before_anything_is_sent_is_at_once() -> None:
    run = Run()
    run.go(0.1)
    run.loop.request_stop(run.now)
    assert run.loop.finished(run.now)


# ---- random stories

EVENTS = st.sampled_from(
    ["go", "go", "silence", "command", "jump", "lose", "return", "tilt", "level", "writer", "mode",
     "free", "permit", "reset", "stall", "hot", "cool", "nan", "stop"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.floats(0.002, 0.6)), max_size=25), st.integers(0, 10**6))
def test_in_any_story_gains_never_jump_up_and_nothing_is_sent_unasked(
    story: list[tuple[str, float]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    run = Run()
    full = run.loop.motors.stiffness.max()
    gain, permitted, commanded_at = 0.0, False, -math.inf
    run.permitted()
    permitted = True
    run.target = CROUCH
    for event, duration in story:
        if event == "silence":
            run.target = None
        elif event == "command":
            run.target = CROUCH + rng.normal(0, 0.1, N)
        elif event == "jump":
            run.target = CROUCH + rng.normal(0, 3.0, N)
        elif event in ("lose", "return"):
            run.states = event == "return"
        elif event in ("tilt", "level"):
            run.readings.tilt(2.0 if event == "tilt" else 0.0)
        elif event == "writer":
            run.loop.take_other_writer("x", run.now)
            permitted = False
        elif event == "mode":
            run.loop.take_mode("normal", run.now)
            permitted = permitted and run.loop.permitted
        elif event == "free":
            run.loop.take_mode("", run.now)
        elif event == "permit":
            permitted = not run.loop.permit(run.now) or permitted
        elif event == "reset":
            run.loop.reset(run.now)
        elif event == "stall":
            run.now += duration
        elif event in ("hot", "cool"):
            run.readings.fields["motor_state"]["temperature"] = 90 if event == "hot" else 40
        elif event == "nan":
            run.target = np.full(N, math.nan)
        elif event == "stop":
            run.loop.request_stop(run.now)
        for _ in range(round(duration / PERIOD)):
            accepted = run.loop.commands
            sent = run.step()
            if run.loop.commands > accepted:
                commanded_at = run.now
            if sent is None:
                gain = 0.0
                continue
            assert run.loop.permitted
            assert permitted
            assert np.isfinite(sent.position).all()
            new = float(sent.stiffness.max())
            assert new <= gain + full * MAX_RISE / 0.5 * 1.01
            gain = new
            if new > 0:
                assert run.now - commanded_at <= 0.1 + 0.2 + 2 * PERIOD
                assert (sent.position <= run.loop.motors.high + 1e-9).all()
                assert (sent.position >= run.loop.motors.low - 1e-9).all()
            else:
                assert (sent.damping >= 3 - 1e-9).all()
