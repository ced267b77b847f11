"""The response to faults: its first level, how it escalates, and how it ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dime_robot.runtime.control.faults import UNUSABLE, Fault, SafetyLevel
from dime_robot.runtime.control.state import CommandKind
from tests.runtime.machines import KINDS, UPRIGHT, Run, T, make_state

R = Fault
RESPONSES = {
    SafetyLevel.RUN: {
        R.JOINTS_REORDERED, R.COMMAND_VELOCITY_LOST, R.CLOCK_AHEAD, R.RATE_OFF, R.SECOND_PUBLISHER,
        R.RIVAL_PUBLISHER, R.TYPE_MISMATCH, R.SELF_LATE, R.TASK_COMMAND_LOST, R.SIGNAL_REFUSED,
        R.JOYSTICK_LOST, R.JOYSTICK_REFUSED,
    },
    SafetyLevel.CLAMP: {R.POSITION_LIMIT, R.VELOCITY_LIMIT, R.EFFORT_LIMIT},
    SafetyLevel.HOLD: {
        R.OBSERVATION_STALE, R.OBSERVATION_NAN, R.JOINT_MISSING, R.IMU_STALE, R.ACTION_NAN,
        R.OBSERVATION_JUMP, R.STATE_CONFLICT, R.SENSOR_LOST, R.CONTACT_STALE,
    },
    SafetyLevel.DAMP: {R.OBSERVATION_OUT_OF_RANGE, R.OBSERVATION_FROZEN, R.WRONG_RATE, R.OVERRUN},
    SafetyLevel.STOP: {
        R.TILT, R.COMMAND_CONFLICT, R.LISTENER_LOST, R.ESTOP, R.CLOCK_WENT_BACK, R.SELF_STALLED,
        R.SIGNAL_LOST, R.PHASE_FAILED,
    },
}  # fmt: skip
WANTED = {
    "effort": [1.0, 0.5, 2.0],
    "position": [0.6, 1.0, 0.3],
    "velocity": [0.2, -1.0, 0.05],
    "twist": [0.5, 1.0],
}
HOLDS = 4  # steps within the hold of 3.5 periods
DAMPS = 8


def test_every_fault_has_the_documented_response() -> None:
    assert {fault: level for level, faults in RESPONSES.items() for fault in faults} == {
        fault: fault.first_response for fault in Fault
    }
    named = ("OBS", "JOINT_M", "IMU", "STATE")
    assert {r for r in Fault if r.name.startswith(named)} == UNUSABLE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", sorted(set(Fault) - RESPONSES[SafetyLevel.CLAMP]))
def test_first_answer(fault: Fault, kind: CommandKind) -> None:
    run = Run(kind).arm()
    run.step(WANTED[kind])
    decision = run.step(WANTED[kind], fault)
    assert decision.level == fault.first_response or decision.level == SafetyLevel.CLAMP
    assert fault in decision.faults
    serious = fault.first_response >= SafetyLevel.HOLD
    assert run.filter.cause == ((fault,) if serious else ())
    assert run.filter.latched == (fault.first_response == SafetyLevel.STOP)


@pytest.mark.parametrize("kind", ["effort", "position", "twist"])
def test_hold_repeats_the_last_good_command(kind: CommandKind) -> None:
    run = Run(kind).arm()
    good = run.step(WANTED[kind]).command
    for _ in range(HOLDS):
        held = run.step(None, R.OBSERVATION_STALE).command
        assert (held.joints, held.kind) == (good.joints, kind)
        assert held.value.tolist() == good.value.tolist()


def test_trouble_that_lasts_climbs_to_a_latched_stop() -> None:
    run = Run().arm()
    got = run.levels(HOLDS + DAMPS + 3, R.OBSERVATION_STALE)
    assert got == ["HOLD"] * HOLDS + ["DAMP"] * DAMPS + ["STOP"] * 3
    assert run.filter.cause == (R.OBSERVATION_STALE,)


def test_trouble_that_begins_with_damp_stops_at_the_same_time() -> None:
    got = Run().arm().levels(HOLDS + DAMPS + 1, R.OVERRUN)
    assert got == ["DAMP"] * (HOLDS + DAMPS) + ["STOP"]


def test_a_lesser_trouble_after_damp_does_not_go_back_to_hold() -> None:
    run = Run().arm()
    assert run.levels(1, R.OVERRUN) + run.levels(2, R.OBSERVATION_STALE) == ["DAMP"] * 3


def test_different_troubles_in_a_row_count_as_one() -> None:
    run = Run().arm()
    got = [run.step(None, (R.IMU_STALE, R.ACTION_NAN)[i % 2]).level.name for i in range(5)]
    assert got == ["HOLD"] * HOLDS + ["DAMP"]


def test_trouble_that_comes_and_goes_climbs_too() -> None:
    run = Run().arm()
    got = []
    for _ in range(4):
        got += run.levels(1, R.OBSERVATION_STALE)
        got += [run.step([0.0, 0.0, 0.0]).level.name for _ in range(3)]
    #         0-3: within hold              4-7: damp, kept until recovered    12: beyond hold+damp
    assert got[:4] == ["HOLD", "RUN", "RUN", "RUN"]
    assert got[4:12] == ["DAMP"] * 8
    assert got[12:] == ["STOP"] * 4


def test_it_goes_on_after_being_free_of_trouble_for_recover() -> None:
    run = Run().arm()
    run.levels(HOLDS + 1, R.OBSERVATION_STALE)
    got = [run.step([0.0, 0.0, 0.0]).level.name for _ in range(7)]
    assert got == ["DAMP"] * 5 + ["RUN"] * 2
    assert run.levels(HOLDS + 1, R.ACTION_NAN) == ["HOLD"] * HOLDS + ["DAMP"]  # a new fault


def test_recovery_counts_from_the_last_trouble() -> None:
    run = Run().arm()
    run.levels(1, R.WRONG_RATE)
    for _ in range(2):  # 4 periods without a fault are too few
        assert [run.step([0.0] * 3).level.name for _ in range(4)] == ["DAMP"] * 4
        run.levels(1, R.OBSERVATION_STALE)
    assert [run.step([0.0] * 3).level.name for _ in range(6)] == ["DAMP"] * 5 + ["RUN"]


@pytest.mark.parametrize("kind", KINDS)
def test_only_an_operator_leaves_a_stop(kind: CommandKind) -> None:
    run = Run(kind).arm()
    run.step(WANTED[kind], R.LISTENER_LOST)
    for _ in range(300):
        decision = run.step(WANTED[kind])
        assert decision.level == SafetyLevel.STOP
        assert decision.faults == (R.LISTENER_LOST,)
    run.step(WANTED[kind], R.OVERRUN)
    assert run.filter.cause == (R.LISTENER_LOST,)  # what stopped it, not what came later
    run.arm()
    assert run.step(WANTED[kind]).level <= SafetyLevel.CLAMP


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_stopped_until_armed(kind: CommandKind) -> None:
    run = Run(kind)
    assert run.filter.latched
    assert run.step(WANTED[kind]).level == SafetyLevel.STOP


def test_trip_stops_at_the_next_step_and_keeps_every_cause_in_order() -> None:
    run = Run().arm()
    run.filter.trip(R.ESTOP)
    run.filter.trip(R.COMMAND_CONFLICT)
    decision = run.step([8.0, 4.0, 40.0])
    assert (decision.level, decision.faults) == (SafetyLevel.STOP, (R.ESTOP, R.COMMAND_CONFLICT))
    assert not decision.command.value.any()


problems = st.lists(st.sampled_from(sorted(Fault)), max_size=2)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(problems, st.integers(1, 9)), min_size=1, max_size=8),
)
def test_whatever_happens_hold_ends_and_a_stop_stays(
    kind: CommandKind, story: list[tuple[list[Fault], int]]
) -> None:
    run = Run(kind).arm()
    held, stopped = 0, False
    for found, steps in story:
        evaluated = not UNUSABLE.intersection(found)
        for _ in range(steps):
            decision = run.step(WANTED[kind] if evaluated else None, *found)
            worst = max((r.first_response for r in found), default=SafetyLevel.RUN)
            if worst >= SafetyLevel.HOLD:
                assert decision.level >= worst
            held = held + 1 if decision.level == SafetyLevel.HOLD else 0
            assert held <= HOLDS
            assert decision.level == SafetyLevel.STOP or not stopped
            stopped = run.filter.latched
            assert np.isfinite(decision.command.value).all()


@pytest.mark.parametrize("kind", ["effort", "position"])
def test_the_ramp_leads_from_the_measured_pose_to_the_policys(kind: CommandKind) -> None:
    run = Run(kind, safety__ramp=16 * T).arm(make_state(wrist=0.5, wheel=0.5, rail=0.25))
    first, wanted = run.filter.limits.start(run.state), np.array([0.6, 1.0, 0.3])
    for k in range(20):
        got = run.step(wanted).command.value
        assert got == pytest.approx(first + min(1.0, k / 16) * (wanted - first), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_after_damp_the_policy_takes_over_without_a_jump(kind: CommandKind) -> None:
    run = Run(kind, safety__ramp=16 * T).arm()
    run.state = make_state(velocity=[1.0, 2.0, 0.5])
    for _ in range(20):
        run.step(WANTED[kind])
    run.levels(1, R.OVERRUN)
    last = run.step(None, R.OVERRUN).command.value
    wanted, levels = np.array(WANTED[kind]), []
    for _ in range(40):
        decision = run.step(wanted)
        levels.append(decision.level)
        if decision.level == SafetyLevel.DAMP:
            way = np.abs(wanted - decision.command.value)
        else:
            assert (np.abs(decision.command.value - last) <= way / 16 + 1e-12).all()
        last = decision.command.value
    assert levels[:5] == [SafetyLevel.DAMP] * 5
    assert max(levels[5:]) <= SafetyLevel.CLAMP
    assert last == pytest.approx(wanted)


class TestReadings:
    """The faults of a reading by itself, and the response to them."""

    def test_nothing(self) -> None:
        assert Run().filter.faults_in(make_state()) == []

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("field", ["wrist", "wheel", "rail", "velocity"])
    def test_not_finite(self, field: str, bad: float) -> None:
        state = make_state(**{field: [0, bad, 0] if field == "velocity" else bad})
        assert Run().filter.faults_in(state) == [R.OBSERVATION_NAN]

    @pytest.mark.parametrize(
        ("fields", "out"),
        [
            ({"wrist": 2.059}, False),  # the slack is 2 % of the range
            ({"wrist": 2.061}, True),
            ({"wrist": -1.059}, False),
            ({"wrist": -1.061}, True),
            ({"rail": 0.56}, True),
            ({"rail": -0.06}, True),
            ({"wheel": 9e4}, False),  # turns freely
            ({"wheel": -9e4}, False),
            ({"wheel": 1.1e5}, True),  # but float32 would show no motion any more
            ({"wheel": -1.1e5}, True),
            ({"velocity": [11.9, 59.0, -2.9]}, False),
            ({"velocity": [-12.1, 0, 0]}, True),
            ({"velocity": [0, 60.1, 0]}, True),
            ({"velocity": [0, 0, 3.1]}, True),
        ],
    )
    def test_out_of_range(self, fields: dict[str, float], out: bool) -> None:
        got = Run().filter.faults_in(make_state(**fields))  # type: ignore[arg-type]
        assert got == [R.OBSERVATION_OUT_OF_RANGE] * out

    @pytest.mark.parametrize(
        ("orientation", "angular_velocity", "fault"),
        [
            (UPRIGHT, np.zeros(3), []),
            (None, np.zeros(3), [R.IMU_STALE]),
            (UPRIGHT, None, [R.IMU_STALE]),
            (np.zeros(4), np.zeros(3), [R.OBSERVATION_NAN]),
            (np.array([np.nan, 0, 0, 1]), np.zeros(3), [R.OBSERVATION_NAN]),
            (UPRIGHT, np.array([0, np.inf, 0]), [R.OBSERVATION_NAN]),
        ],
    )
    def test_imu(
        self, orientation: np.ndarray, angular_velocity: np.ndarray, fault: list[Fault]
    ) -> None:
        state = make_state(orientation=orientation, angular_velocity=angular_velocity)
        assert Run(safety__tilt_limit=30.0).filter.faults_in(state) == fault
        assert Run().filter.faults_in(state) == []  # nobody needs it

    @pytest.mark.parametrize("yaw", [0.0, 2.0])
    @pytest.mark.parametrize("axis", [0, 1])
    @pytest.mark.parametrize("degrees", [-120, -31, -29, 29, 31, 179])
    def test_tilt_about_any_level_axis_but_not_yaw(
        self, degrees: float, axis: int, yaw: float
    ) -> None:
        half = np.radians(degrees) / 2
        w, v = np.cos(half), np.zeros(3)
        v[axis] = np.sin(half)
        a, b = np.cos(yaw / 2), np.sin(yaw / 2)  # yaw * tilt
        q = np.array([a * w - b * v[2], a * v[0] - b * v[1], a * v[1] + b * v[0], a * v[2] + b * w])
        state = make_state(orientation=q, angular_velocity=np.zeros(3))
        run = Run(safety__tilt_limit=30.0)
        assert run.filter.faults_in(state) == [R.TILT] * (abs(degrees) > 30)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_state_the_last_command_is_not_repeated_for_ever(kind: CommandKind) -> None:
    run = Run(kind).arm()
    run.step(WANTED[kind])
    levels = [run.step(None, state=None).level for _ in range(200)]
    assert levels[-1] == SafetyLevel.STOP


def test_before_arming_a_position_interface_is_not_sent_towards_zero() -> None:
    run = Run("position")
    run.state = make_state(wrist=1.9, wheel=30.0, rail=0.45)
    got = run.step([1.9, 30.0, 0.45]).command.value
    assert got == pytest.approx([1.9, 30.0, 0.45], abs=1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reading_with_nan_never_arms(kind: CommandKind) -> None:
    run = Run(kind)
    with pytest.raises(ValueError, match="without faults"):
        run.arm(make_state(wrist=np.nan))
    assert run.filter.latched


@pytest.mark.parametrize("kind", KINDS)
def test_a_reading_with_nan_never_becomes_a_command(kind: CommandKind) -> None:
    run = Run(kind).arm()
    bad = make_state(wrist=np.nan, velocity=[np.nan] * 3)
    for found in ((), (R.OVERRUN,)):
        assert np.isfinite(run.step(WANTED[kind], *found, state=bad).command.value).all()


def test_a_hold_of_zero_holds_nothing() -> None:
    assert Run(safety__hold=0.0).arm().levels(1, R.OBSERVATION_STALE) == ["DAMP"]


def test_arming_again_while_a_base_still_slows_down_does_not_jerk_it() -> None:
    run = Run("twist").arm()
    for _ in range(100):
        run.step([1.0, 0.0])
    before = run.step(None, R.ESTOP).command.value
    run.arm()
    after = run.step([1.0, 0.0]).command.value
    assert np.abs(after - before).max() <= 4.0 * T + 1e-12


def test_what_was_sent_cannot_be_changed_by_whoever_got_it() -> None:
    run = Run().arm()
    first = run.step([1.0, 0.5, 2.0]).command.value
    if first.flags.writeable:
        first[:] = 1e6
    assert run.step(None, R.OBSERVATION_STALE).command.value.tolist() == [1.0, 0.5, 2.0]
