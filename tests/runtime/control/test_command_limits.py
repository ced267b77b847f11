"""What a command can be at most, and the way to rest, for each command kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dime_robot.runtime.control.command_limits import CommandLimits
from dime_robot.runtime.control.faults import UNUSABLE, Fault, SafetyLevel
from dime_robot.runtime.control.observation import ActionDecoder
from dime_robot.runtime.control.rest import Rest
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.control.state import CommandKind, RobotState
from tests.runtime.machines import KINDS, Run, T, make_robot, make_spec, make_state

R = Fault
EFFORT = np.array([8.0, 4.0, 40.0])
SPEED = np.array([8.0, 40.0, 2.0])
REACH = np.array([8 / 16, 4 / 2, 40 / 100])  # effort limit / stiffness
LOW, HIGH = np.array([-0.7, -np.inf, 0.05]), np.array([1.7, np.inf, 0.45])  # soft
AXES = np.array([1.0, 2.0])  # largest linear_x, angular_z


def actions(size: int) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float32, size, elements=st.floats(width=32))


states = st.builds(
    make_state,
    wrist=st.floats(-1.0, 2.0),
    wheel=st.floats(-1e3, 1e3),
    rail=st.floats(0.0, 0.5),
    velocity=st.tuples(st.floats(-12, 12), st.floats(-60, 60), st.floats(-3, 3)),
)


def run_of(run: Run, story: list[tuple[np.ndarray, RobotState]]) -> list[Decision]:
    decoder, decisions = ActionDecoder(run.spec), []
    for action, state in story:
        decision = run.step(decoder.decode(action).value, state=state)
        assert np.isfinite(decision.command.value).all()
        assert decision.level >= SafetyLevel.HOLD or not np.isnan(action).any()
        decisions.append(decision)
    return decisions


@settings(deadline=None, max_examples=120)
@given(st.lists(st.tuples(actions(3), states), min_size=1, max_size=8))
def test_any_action_becomes_an_effort_within_its_limit(
    story: list[tuple[np.ndarray, RobotState]],
) -> None:
    run = Run("effort", joints__0__effort_rate_limit=128.0).arm()
    before = 0.0
    for decision, (_, state) in zip(run_of(run, story), story, strict=True):
        value = decision.command.value
        assert (np.abs(value) <= EFFORT).all()
        if decision.level <= SafetyLevel.CLAMP:
            assert abs(value[2]) <= abs(before) + 1.0 + 1e-12
            position, velocity = state.joint_position, state.joint_velocity
            assert not (position[0] >= 2.0 and value[0] > 0)
            assert not (position[0] <= -1.0 and value[0] < 0)
            assert not (position[2] >= 0.5 and value[2] > 0)
            assert not (position[2] <= 0.0 and value[2] < 0)
            assert not ((np.abs(velocity) > SPEED) & (value * velocity > 0)).any()
        before = value[2]


@settings(deadline=None, max_examples=120)
@given(st.lists(actions(3), min_size=1, max_size=20))
def test_any_action_becomes_a_target_within_the_soft_stops_and_near(
    story: list[np.ndarray],
) -> None:
    run = Run("position").arm()
    state, before = run.state, run.filter.limits.start(run.state)
    for decision in run_of(run, [(action, state) for action in story]):
        value = decision.command.value
        assert (np.abs(value - before) <= SPEED * T + 1e-12).all()
        if (
            decision.level <= SafetyLevel.HOLD
        ):  # the way to the safe position is not bound to the joint
            assert ((value >= LOW) & (value <= HIGH)).all()
            assert (np.abs(value - state.joint_position) <= REACH + 1e-12).all()
            before = value
        else:
            break


@settings(deadline=None, max_examples=120)
@given(st.lists(actions(2), min_size=1, max_size=60))
def test_any_action_becomes_a_twist_within_speed_and_acceleration(
    story: list[np.ndarray],
) -> None:
    run = Run("twist").arm()
    before = np.zeros(2)
    for decision in run_of(run, [(action, run.state) for action in story]):
        value = decision.command.value
        assert (np.abs(value) <= AXES).all()
        assert (np.abs(value - before) <= 4.0 * T + 1e-12).all()
        before = value


# ---- velocities of joints

ACCELERATION = 4 * SPEED  # the limits are reached in 0.25 s
HARD_LOW, HARD_HIGH = np.array([-1.0, -np.inf, 0.0]), np.array([2.0, np.inf, 0.5])
velocities = hnp.arrays(np.float64, 3, elements=st.floats(-100, 100))


@settings(deadline=None, max_examples=120)
@given(
    st.floats(-0.7, 1.7),
    st.floats(0.05, 0.45),
    st.lists(velocities, min_size=1, max_size=6),
    st.integers(1, 12),
    st.booleans(),
)
def test_any_velocities_leave_joints_that_follow_before_their_soft_stops(
    wrist: float, rail: float, story: list[np.ndarray], each: int, late: bool
) -> None:
    run = Run("velocity").arm(make_state(wrist=wrist, rail=rail))
    position, before = run.state.joint_position.copy(), np.zeros(3)
    for wanted in story * 3:
        for _ in range(each):
            value = run.step(wanted, state=make_state(*position)).command.value
            assert (np.abs(value) <= SPEED).all()
            # a joint that follows its command never needs more than the acceleration limit, not
            # even if it does so a period late
            assert (np.abs(value - before) <= ACCELERATION * T + 1e-9).all()
            position = position + T * (before if late else value)
            assert ((position >= LOW - 1e-9) & (position <= HIGH + 1e-9)).all()
            before = value


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(velocities, states, st.booleans()), min_size=1, max_size=12))
def test_whatever_the_readings_no_velocity_leads_towards_a_stop_beyond_the_margin(
    story: list[tuple[np.ndarray, RobotState, bool]],
) -> None:
    run = Run("velocity").arm()
    before = np.zeros(3)
    for wanted, state, seen in story:
        decision = run.step(wanted if seen else None, *(() if seen else (R.OVERRUN,)), state=state)
        value, position = decision.command.value, state.joint_position
        assert (np.abs(value) <= SPEED).all()
        assert not ((position >= HIGH) & (value > 0)).any()
        assert not ((position <= LOW) & (value < 0)).any()
        changed = np.abs(value - before) > ACCELERATION * T + 1e-9
        lowered = (value * before >= 0) & (np.abs(value) < np.abs(before))
        assert (lowered | ~changed).all()  # faster only to brake, and only as far as 0
        before = value


@settings(deadline=None, max_examples=60)
@given(st.lists(velocities, min_size=1, max_size=40), st.sampled_from([R.ESTOP, R.OVERRUN]))
def test_velocities_end_at_rest(story: list[np.ndarray], fault: Fault) -> None:
    run = Run("velocity", safety__damp=60.0).arm()
    for wanted in story:
        run.step(wanted)
    sent = [run.step(None, fault).command.value for _ in range(34)]  # 0.25 s and 2 periods
    steps = np.abs(np.diff(sent, axis=0))
    assert (steps <= ACCELERATION * T + 1e-9).all()
    assert sent[-1].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("blind", [False, True])
def test_a_hold_lowers_velocities_towards_0(blind: bool) -> None:
    run = Run("velocity").arm(make_state(wrist=-0.7))
    for _ in range(8):
        run.step([8.0, -8.0, 0.0], state=make_state(wrist=-0.7))
    fault = R.OBSERVATION_NAN if blind else R.ACTION_NAN
    got = [run.step(None, fault, state=None if blind else make_state()) for _ in range(3)]
    assert {decision.level for decision in got} == {SafetyLevel.HOLD}
    sent = [decision.command.value.tolist() for decision in got]
    assert sent == [pytest.approx([2 - k / 4, -8 + 1.25 * k, 0]) for k in (1, 2, 3)]


def test_an_acceleration_limit_of_the_robots_file_replaces_the_default() -> None:
    run = Run("velocity", joints__3__acceleration_limit=2.0).arm()
    got = [run.step([8.0, 0.0, 0.0]).command.value[0] for _ in range(4)]
    assert got == pytest.approx([2 * T * k for k in (1, 2, 3, 4)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_none_holds_the_whole_command(kind: CommandKind, bad: float) -> None:
    run = Run(kind).arm()
    wanted = np.full(len(run.spec.action_joints), 0.25)
    good = run.step(wanted).command.value.copy()
    wanted[-1] = bad
    decision = run.step(wanted)
    assert decision.level == SafetyLevel.HOLD
    assert decision.faults == (R.ACTION_NAN,)
    assert decision.command.value.tolist() == run.filter.limits.held(good, T).tolist()


@pytest.mark.parametrize(
    ("joint", "position", "effort", "share"),
    [
        ("wrist", 1.7, 8.0, 1.0),  # the margin of 0.3 rad begins
        ("wrist", 1.85, 8.0, 0.5),
        ("wrist", 2.0, 8.0, 0.0),
        ("wrist", 2.1, 8.0, 0.0),
        ("wrist", 1.85, -8.0, 1.0),  # away from the stop
        ("wrist", -0.85, -8.0, 0.5),
        ("wrist", -0.85, 8.0, 1.0),
        ("wrist", -1.1, -8.0, 0.0),
        ("rail", 0.475, 40.0, 0.5),  # its margin is 0.05 m
        ("rail", 0.0125, -40.0, 0.25),
        ("rail", 0.0125, 40.0, 1.0),
        ("wheel", 1e6, 4.0, 1.0),  # turns freely
        ("wheel", -1e6, -4.0, 1.0),
    ],
)
def test_an_effort_towards_a_stop_fades_out_over_the_soft_margin(
    joint: str, position: float, effort: float, share: float
) -> None:
    run = Run().arm()
    index = run.spec.action_joints.index(joint)
    wanted = np.zeros(3)
    wanted[index] = effort
    decision = run.step(wanted, state=make_state(**{joint: position}))
    assert decision.command.value == pytest.approx(share * wanted)
    assert decision.faults == ((R.POSITION_LIMIT,) if share < 1 else ())
    assert decision.level == (SafetyLevel.CLAMP if share < 1 else SafetyLevel.RUN)


def test_without_a_soft_margin_the_effort_ends_at_the_stop() -> None:
    run = Run(safety__soft_margin=0.0).arm()
    for position, share in ((1.999, 1.0), (2.001, 0.0)):
        got = run.step([8.0, 0.0, 0.0], state=make_state(wrist=position)).command.value
        assert got.tolist() == [8.0 * share, 0.0, 0.0]


def test_an_effort_that_speeds_up_a_joint_beyond_its_limit_is_taken_away() -> None:
    run = Run().arm()
    decision = run.step([8.0, -4.0, -30.0], state=make_state(velocity=[8.5, 41.0, 1.9]))
    assert decision.command.value.tolist() == [0.0, -4.0, -30.0]  # the wheel's brakes
    assert decision.faults == (R.VELOCITY_LIMIT,)


def test_a_tightened_effort_limit_and_its_rate_clamp() -> None:
    run = Run(joints__3__effort_limit=5.0, joints__0__effort_rate_limit=128.0).arm()
    got = [run.step([-8.0, 4.0, 40.0]) for _ in range(3)]
    assert [d.command.value.tolist() for d in got] == [[-5.0, 4.0, k] for k in (1.0, 2.0, 3.0)]
    assert set(got[0].faults) == {R.EFFORT_LIMIT}


def test_a_target_moves_at_the_velocity_limit_and_stops_short_of_the_stops() -> None:
    run = Run("position").arm()
    state = run.state
    got = []
    for _ in range(100):
        decision = run.step([5.0, 0.0, 0.25], state=state)
        got.append(decision.command.value[0])
        state = make_state(wrist=got[-1])  # a drive that follows at once
    assert np.diff([0.5, *got])[:5] == pytest.approx(8.0 * T)
    assert got[-1] == pytest.approx(1.7)
    assert decision.faults == (R.POSITION_LIMIT,)


def test_the_target_of_a_blocked_joint_stays_within_its_effort() -> None:
    run = Run("position").arm()
    for _ in range(50):
        decision = run.step([1.7, 0.0, 0.25])  # the wrist stays at 0.5
    assert decision.command.value == pytest.approx([0.5 + 0.5, 0.0, 0.25])
    assert decision.faults == (R.VELOCITY_LIMIT, R.EFFORT_LIMIT)


def test_a_position_run_begins_where_the_joints_are_even_beyond_the_soft_stops() -> None:
    run = Run("position").arm(make_state(wrist=1.95))
    got = [run.step([1.95, 0.0, 0.25]).command.value[0] for _ in range(10)]
    assert np.diff([1.95, *got]) == pytest.approx([-8 * T] * 4 + [0.0] * 6)
    assert got[-1] == pytest.approx(1.7)


# ---- the way to rest


def test_damp_of_an_effort_works_against_the_velocity() -> None:
    run = Run().arm()
    state = make_state(velocity=[1.5, -20.0, 1.0])
    got = run.step([8.0, 4.0, 40.0], R.OVERRUN, state=state)
    assert got.level == SafetyLevel.DAMP
    assert got.command.value.tolist() == [-3.0, 4.0, -20.0]  # the wheel's 10 N m are bounded


def test_limits_go_by_name_where_the_policy_commands_few_of_its_joints() -> None:
    spec = make_spec(action={"kind": "effort", "size": 1, "scale": {"rail": 40.0}})
    limits = CommandLimits(spec, make_robot())
    state = make_state(wrist=1.85, rail=0.475, velocity=[5.0, 5.0, 0.5])
    assert Rest(limits, make_robot()).step(0.0, T, np.zeros(1), state, state) == [-10.0]
    value, faults = limits.clamp(np.array([40.0]), np.zeros(1), state, T)
    assert (value.tolist(), faults) == (pytest.approx([20.0]), [R.POSITION_LIMIT])


@pytest.mark.parametrize("fault", sorted(UNUSABLE))
def test_damp_of_an_effort_is_none_where_the_reading_cannot_be_trusted(fault: Fault) -> None:
    run = Run().arm()
    bad = make_state(velocity=[np.nan, 5.0, 5.0])
    got = run.step(None, fault, R.OVERRUN, state=bad).command
    assert got.value.tolist() == [0.0, 0.0, 0.0]
    assert run.step(None, R.ESTOP, state=None).command.value.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("fault", [R.OVERRUN, R.OBSERVATION_OUT_OF_RANGE, R.ESTOP])
def test_damp_of_a_position_goes_to_the_safe_position_slowly(fault: Fault) -> None:
    run = Run("position", safety__damp=60.0).arm(make_state(wheel=10.0))
    sent = [run.filter.limits.start(run.state)]
    for _ in range(300):
        wrist, wheel, rail = sent[-1]  # the joints follow
        state = make_state(wrist=wrist, wheel=wheel, rail=rail)
        sent.append(run.step(None, fault, state=state).command.value)
    steps = np.diff(sent, axis=0)
    assert (np.abs(steps) <= SPEED * T / 8 + 1e-12).all()
    assert steps[0] == pytest.approx([1 / 128, -5 / 128, 0.0])
    assert sent[-1].tolist() == [1.0, 0.0, 0.25]


def test_damp_of_a_position_does_not_force_a_blocked_joint() -> None:
    run = Run("position", safety__damp=60.0).arm(make_state(wheel=10.0))
    for _ in range(300):
        value = run.step(None, R.ESTOP).command.value
    assert value[1] == pytest.approx(10.0 - 8.0 / 4.0, abs=2.0)
    assert value[1] >= 8.0


@pytest.mark.parametrize("fault", [R.OBSERVATION_OUT_OF_RANGE, R.ESTOP])
def test_damp_of_a_twist_slows_down_to_standing(fault: Fault) -> None:
    run = Run("twist").arm()
    for _ in range(100):
        run.step([-2.0, 3.0])
    sent = [run.step([-2.0, 3.0]).command.value]
    assert sent[0].tolist() == [-1.0, 2.0]
    sent += [run.step(None, fault).command.value for _ in range(65)]
    steps = np.diff(sent, axis=0)
    assert steps[:32] == pytest.approx(np.tile([4.0 * T, -4.0 * T], (32, 1)))
    assert sent[-1].tolist() == [0.0, 0.0]
