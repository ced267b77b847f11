"""The control loop as a whole: scheduling, watchdogs, stops and re-arming, without any sleep."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dime_robot.runtime.control.control_loop import Mode
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from tests.runtime.control.loop_bench import ALONE, LoopBench
from tests.runtime.machines import KINDS, T, make_robot

R = Fault
SPEED = np.array([8.0, 40.0, 2.0])  # of wrist, wheel, rail [rad/s, rad/s, m/s]


def jumping(bench: LoopBench) -> None:
    """A policy that asks for one end and the other in turn."""
    count = [0]

    def respond(_: object) -> list[float]:
        count[0] += 1
        return [1.0 if count[0] // 8 % 2 else -1.0] * bench.spec.n_act

    bench.policy.respond = respond


# ---- scheduling


def test_each_reading_is_answered_at_once() -> None:
    bench = LoopBench().activate()
    before = len(bench.decisions)
    for k in range(20):
        bench.now += T
        bench.jiggle()
        assert bench.read() is not None
        assert bench.loop.wait() > 0
    assert bench.levels(before) == ["RUN"] * 20


@pytest.mark.parametrize("burst", [2, 4])
def test_readings_in_bursts_neither_step_too_soon_nor_move_too_far(burst: int) -> None:
    bench = LoopBench(state__max_age=6 * T).activate()
    jumping(bench)
    before, start = len(bench.decisions), bench.now
    for _ in range(40):
        for _ in range(burst):  # together, then the time that they should have taken
            bench.now += T / 8
            bench.jiggle()
            bench.read()
            bench.poll()
        until = bench.now + burst * T * 7 / 8
        while bench.now < until - T / 16:
            bench.now += T / 8
            bench.poll()
    steps = bench.decisions[before - 1 :]
    times = np.array([when for when, _ in steps])
    values = np.array([d.command.value for _, d in steps])
    assert np.diff(times).min() >= T / 2 - 1e-12
    max_change = SPEED * np.minimum(np.diff(times), 2 * T)[:, None]
    assert (np.abs(np.diff(values, axis=0)) <= max_change + 1e-12).all()
    assert np.abs(np.diff(values, axis=0)).max() > 0.05  # something was limited at all
    assert not any(d.level >= SafetyLevel.HOLD for _, d in steps)
    assert len(steps) > 0.9 * (bench.now - start) / T / burst


def test_a_timer_keeps_absolute_deadlines_and_counts_those_it_misses() -> None:
    bench = LoopBench(by_reading=False)
    bench.activate()
    bench.run(64, step=0.5)
    times = np.array([when for when, _ in bench.decisions])
    assert np.diff(times) == pytest.approx(T, abs=1e-9)
    assert bench.loop.take_missed() == 0
    bench.now += 2 * T  # late, but no more than two periods
    bench.read()
    bench.poll()
    assert bench.loop.take_missed() == 1
    bench.run(4, step=0.5)
    assert bench.decisions[-1][0] / T % 1 == pytest.approx(times[-1] / T % 1, abs=0.26)


def test_a_silent_robot_is_answered_after_its_age_and_then_at_every_period() -> None:
    bench = LoopBench().activate()
    before = len(bench.decisions)
    bench.run(9, read=False)
    assert bench.decisions[before][0] - bench.decisions[before - 1][0] <= 2.75 * T
    assert bench.levels(before)[:5] == ["HOLD"] * 4 + ["DAMP"]
    assert "no new reading for" in bench.why
    bench.run(5)
    # while it recovers, the fault is still reported
    assert bench.last.faults == (R.OBSERVATION_STALE,)
    assert bench.last.level == SafetyLevel.DAMP


# ---- the clocks, and ourselves


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_reading", [True, False])
@pytest.mark.parametrize("publishes", [True, False])
def test_a_process_that_was_stopped_does_not_go_on_by_itself(
    kind: str, by_reading: bool, publishes: bool
) -> None:
    bench = LoopBench(kind, by_reading=by_reading, publishes=publishes).activate()
    bench.run(10)
    before = len(bench.decisions)
    bench.now += 0.5  # command.timeout is 0.1
    bench.read()
    bench.poll()
    assert bench.levels(before)[0] == "STOP"
    assert bench.last.faults == (R.SELF_STALLED,)
    assert "did not run for 0.50" in bench.why
    assert bench.loop.take_missed() >= 60
    bench.run(100)
    assert set(bench.levels(before)) == {"STOP"}
    assert bench.loop.reset() == ""
    bench.run(4)
    assert bench.last.level <= SafetyLevel.CLAMP


def test_after_a_stall_only_a_new_reading_re_arms() -> None:
    bench = LoopBench(state__max_age=3.0, safety__recover=5.0).activate()
    bench.now += 0.5
    bench.poll()
    assert bench.last.level == SafetyLevel.STOP
    assert "expected readings" in bench.loop.reset()
    bench.run(20)
    assert bench.loop.reset() == ""


def test_a_short_stall_ramps_from_the_measured_pose() -> None:
    bench = LoopBench(respond=lambda _: [0.1, 0.0, 0.0]).activate()
    bench.run(10)
    assert bench.last.command.value[0] == pytest.approx(0.8)
    bench.now += 6 * T
    bench.position = np.array([0.7, 0.0, 0.25])
    bench.read()
    assert R.SELF_LATE in bench.last.faults
    assert bench.last.level < SafetyLevel.HOLD
    assert bench.last.command.value[0] == pytest.approx(0.7)
    bench.run(3)
    assert bench.last.command.value[0] == pytest.approx(0.75)  # half way after half the gap
    bench.run(4)
    assert bench.last.command.value[0] == pytest.approx(0.8)
    assert bench.loop.take_missed() == 6


def test_a_stall_within_a_step_is_not_answered_with_what_was_computed() -> None:
    bench = LoopBench().activate()

    def slow(_: object) -> list[float]:
        bench.now += bench_stall
        return [0.0] * 3

    bench_stall = 3 * T  # older than max_age when it would be sent
    bench.policy.respond = slow
    bench.now += T
    bench.read()
    assert bench.last.level >= SafetyLevel.HOLD
    assert R.OBSERVATION_STALE in bench.last.faults
    bench_stall = 0.2  # longer than the robot waits
    bench.run(60)
    assert bench.last.level == SafetyLevel.STOP
    assert R.SELF_STALLED in bench.last.faults or R.OVERRUN in bench.last.faults


def test_a_simulation_that_pauses_is_no_fault() -> None:
    bench = LoopBench().activate()
    bench.run(10)
    before = len(bench.decisions)
    for _ in range(500):  # its clock stands still, ours is its clock
        bench.poll()
    bench.run(10)
    assert set(bench.levels(before)) == {"RUN"}


def test_a_clock_that_goes_back_stops_and_can_be_activated_again() -> None:
    bench = LoopBench().activate()
    bench.offset -= 100.0
    before = len(bench.decisions)
    bench.run(4)
    assert bench.last.level == SafetyLevel.STOP
    assert R.CLOCK_WENT_BACK in bench.last.faults
    assert "went back from 1000" in bench.why
    assert bench.loop.reset() != ""
    bench.loop.shut_down()
    bench.run(400)
    assert bench.loop.mode == Mode.INACTIVE
    assert len(bench.decisions) > before
    bench.activate()
    bench.run(4)
    assert bench.last.level <= SafetyLevel.CLAMP


def test_a_clock_that_goes_back_while_inactive_is_told_for_autostart() -> None:
    bench = LoopBench().run(20)
    assert not bench.loop.clock_jumped
    bench.offset -= 100.0
    bench.run(80)
    assert bench.loop.clock_jumped
    bench.activate()


def test_a_stray_stamp_of_2038_holds_up_nothing() -> None:
    bench = LoopBench().activate()
    before = len(bench.decisions)
    bench.now += T
    bench.read(stamp=2.0**31)
    bench.run(20)
    assert max(d.level for _, d in bench.decisions[before:]) < SafetyLevel.HOLD


@pytest.mark.parametrize(
    ("stamp", "words"),
    [
        (0.0, "stamp is 0: expected a driver that sets header.stamp"),
        (2.0**31, "lies 2.15e+09 s in the future"),
    ],
)
def test_before_activation_a_bad_stamp_is_named(stamp: float, words: str) -> None:
    bench = LoopBench()
    for _ in range(2):
        bench.now += T
        bench.read(stamp=stamp)
    assert words in bench.loop.activation_problem()


# ---- readings


def test_a_robot_that_slows_down_is_remarked_then_damped_with_the_numbers() -> None:
    bench = LoopBench(state__max_age=4 * T, safety__damp=60.0).activate()
    began = bench.now
    bench.run(2.0 / T, step=1 / 0.6)
    first = {}
    for when, decision in bench.decisions:
        for fault in decision.faults:
            first.setdefault(fault, when - began)
    assert first[R.RATE_OFF] <= 1.0
    assert first[R.WRONG_RATE] <= 2.0
    assert bench.last.level == SafetyLevel.DAMP
    assert "expected 128 Hz, got 7" in bench.why


@pytest.mark.parametrize("by_reading", [True, False])
def test_lost_readings_are_a_wrong_rate_only_where_each_begins_a_step(by_reading: bool) -> None:
    bench = LoopBench(by_reading=by_reading, state__max_age=4 * T, safety__damp=60.0).activate()
    for k in range(384):  # 3 s, of which every fourth and fifth reading never arrives
        bench.now += T
        bench.jiggle()
        if k % 5 < 3:
            bench.read()
        bench.poll()
    seen = {fault for _, decision in bench.decisions for fault in decision.faults}
    assert (R.WRONG_RATE in seen) == by_reading
    assert (bench.last.level == SafetyLevel.DAMP) == by_reading


def test_one_impossible_reading_is_rejected_and_three_end_in_a_stop() -> None:
    bench = LoopBench().activate()
    before = len(bench.decisions)
    bench.now += T
    bench.read(position=bench.position + np.array([1.0, 0, 0]))
    assert bench.last.level == SafetyLevel.HOLD
    assert "wrist jumped by 1 within 0.0078" in bench.why
    bench.run(10)
    assert bench.last.level < SafetyLevel.HOLD
    bench.position = bench.position + np.array([1.0, 0, 0])  # the encoder slipped
    bench.run(100)
    assert bench.levels(before)[-1] == "STOP"
    assert "such readings in a row" in bench.why
    bench.position = np.array([0.6, 0.0, 0.25])
    bench.run(1)
    assert "observation_jump" in bench.loop.reset()
    bench.run(3)
    assert bench.loop.reset() == ""  # the operator has looked, and readings follow one another
    bench.run(3)
    assert bench.last.level < SafetyLevel.HOLD


def test_an_imu_that_jumps_is_not_believed() -> None:
    bench = LoopBench(safety__tilt_limit=60.0).activate()
    turned = np.array([math.cos(0.5), math.sin(0.5), 0, 0])
    bench.now += T
    stamp = bench.now + bench.offset
    bench.take(bench.loop.imu(stamp, turned, np.zeros(3)))
    bench.take(bench.loop.joint_state(_reading(bench, stamp)))
    assert bench.last.level == SafetyLevel.HOLD
    assert "the imu turned by 1 rad" in bench.why


def _reading(bench: LoopBench, stamp: float):  # type: ignore[no-untyped-def]
    from dime_robot.runtime.control.control_loop import Reading

    bench.jiggle()
    return Reading(stamp, bench.position, bench.velocity)


def test_a_driver_that_hangs_with_fresh_stamps_is_damped_and_not_by_its_old_velocity() -> None:
    count = [0]

    def respond(_: object) -> list[float]:
        count[0] += 1
        return [0.5 * math.sin(count[0] / 9)] * 3

    bench = LoopBench("effort", respond, safety__damp=60.0).activate()
    bench.velocity = np.array([1.0, 2.0, 0.5])
    bench.run(10)
    frozen = (bench.position.copy(), bench.velocity.copy())
    began, before = bench.now, len(bench.decisions)
    for _ in range(300):
        bench.now += T
        bench.read(position=frozen[0], velocity=frozen[1])
        bench.poll()
    damped = [when for when, d in bench.decisions[before:] if d.level == SafetyLevel.DAMP]
    assert 2.0 <= damped[0] - began < 2.1
    assert bench.last.faults == (R.OBSERVATION_FROZEN,)
    assert not bench.last.command.value.any()  # -damping * velocity would drive the joint


def test_a_dry_run_that_moves_nothing_is_not_frozen() -> None:
    random = np.random.default_rng(0)
    bench = LoopBench("effort", lambda _: random.uniform(-1, 1, 3), publishes=False)
    bench.view = ALONE._replace(listeners=())
    bench.activate()
    for _ in range(400):
        bench.now += T
        bench.read()
    assert bench.last.level < SafetyLevel.HOLD


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"velocity": [math.nan] * 3}, "no finite velocity of wrist, wheel, rail"),
        ({"position": [0.5, math.nan, 0.25]}, "no finite position of wheel"),
        ({"position": [2.2, 0, 0.25]}, "wrist reads 2.2, beyond its stops"),
        ({"velocity": [0, 0, 3.5]}, "rail reads a velocity of 3.5, up to 3 is possible"),
    ],
)
def test_a_reading_that_cannot_be_used_is_named(
    changes: dict[str, list[float]], words: str
) -> None:
    bench = LoopBench()
    for _ in range(80):
        bench.now += T
        bench.read(**changes)
    bench.update_graph()
    assert words in bench.loop.activation_problem()


@pytest.mark.parametrize(
    ("orientation", "angular_velocity", "words"),
    [
        (np.zeros(4), np.zeros(3), "orientation has a norm of 0, expected a unit quaternion"),
        (np.full(4, math.nan), np.zeros(3), "orientation_covariance[0] is -1"),
        (np.array([1.0, 0, 0, 0]), np.full(3, math.nan), "no angular velocity"),
        (np.array([1.0, 0, 0, 0]), np.array([40.0, 0, 0]), "reads 40 rad/s, imu.max_rate is 35"),
    ],
)
def test_an_imu_that_cannot_be_used_is_named(
    orientation: np.ndarray, angular_velocity: np.ndarray, words: str
) -> None:
    bench = LoopBench(safety__tilt_limit=60.0).run(80)
    bench.update_graph()
    bench.now += T
    stamp = bench.now + bench.offset
    bench.loop.imu(stamp, orientation, angular_velocity)
    bench.take(bench.loop.joint_state(_reading(bench, stamp)))
    assert words in bench.loop.activation_problem()


def test_a_joint_beyond_its_stop_is_led_inward_within_its_reach() -> None:
    """A stiff drive: the reach bound alone would pull the target out beyond the stop."""
    bench = LoopBench(spec={"joints__0__stiffness": 2000.0}, safety__damp=60.0).activate()
    bench.run(10)
    reach = 8.0 / 2000.0
    for step in np.linspace(0, 1.54, 60):  # pushed to 2.04, stop at 2.0
        bench.position = np.array([0.5 + step, 0.0, 0.25])
        bench.run(1)
    assert R.OBSERVATION_OUT_OF_RANGE in bench.last.faults
    assert bench.last.level >= SafetyLevel.DAMP
    before = len(bench.decisions)
    bench.run(60)
    values = [d.command.value[0] for _, d in bench.decisions[before:]]
    assert values[-1] == pytest.approx(2.04 - reach, abs=1e-9)
    assert max(values) <= 2.04


# ---- who else is there


def test_a_recorder_that_joins_and_leaves_changes_nothing() -> None:
    bench = LoopBench().activate()
    for listeners in (("/robot", "/other"), ("/robot",), ("/robot", "/x", "/y"), ("/x",)):
        bench.update_graph(listeners=listeners)
        bench.run(3)
    assert bench.last.level < SafetyLevel.HOLD
    bench.update_graph(listeners=())
    assert bench.last.level == SafetyLevel.STOP
    assert bench.last.faults == (R.LISTENER_LOST,)


def test_an_idle_rival_refuses_activation_and_only_warns_while_running() -> None:
    bench = LoopBench().run(80)
    bench.update_graph(rivals=("/other",))
    assert "1 other publisher(s) on commands: stop /other first" in bench.loop.activation_problem()
    bench.update_graph(rivals=())
    bench.activate()
    bench.update_graph(rivals=("/other",))
    bench.run(40)
    assert bench.last.level < SafetyLevel.HOLD
    assert R.RIVAL_PUBLISHER in bench.last.faults
    assert "/other" in bench.why


@pytest.mark.parametrize("leaving", [False, True])
def test_against_a_rival_that_commands_not_one_more_command_is_sent(leaving: bool) -> None:
    bench = LoopBench().activate()
    bench.run(10)
    if leaving:
        bench.loop.shut_down()  # the wrist stays where it is: the shutdown would last
        bench.run(4)
    bench.update_graph(rivals=("/other",), rival_messages=1)
    assert bench.loop.mode in (Mode.ACTIVE, Mode.RESTING)  # one message may be a slip
    bench.run(2.5)
    sent = len(bench.sent)
    bench.update_graph(rival_messages=2)
    assert bench.loop.mode == Mode.INACTIVE
    assert bench.loop.rest_reached is not None and "/other" in bench.loop.rest_reached.text
    bench.run(50)
    assert len(bench.sent) == sent
    if not leaving:
        assert bench.last.faults == (R.COMMAND_CONFLICT,)
        assert not bench.last.sent


def test_two_publishers_of_the_same_joints() -> None:
    bench = LoopBench().run(80)
    bench.update_graph(state_shared="/a, /b all publish wrist: stop all but one")
    assert bench.loop.activation_problem().startswith("/a, /b all publish wrist")
    bench.update_graph(state_shared="")
    bench.activate()
    bench.update_graph(extra_publishers=("joint_states has 2 publishers: /a, /b",))
    bench.run(10)
    assert bench.last.level < SafetyLevel.HOLD
    assert "/a, /b" in bench.why
    bench.update_graph(state_conflict="/a, /b contradict each other")
    bench.run(3)
    assert bench.last.level == SafetyLevel.HOLD
    bench.run(3)
    assert bench.last.level == SafetyLevel.DAMP
    assert "contradict" in bench.why


def test_two_publishers_of_the_velocity_stand_still_where_that_is_asked_for() -> None:
    term = {"name": "v", "kind": "command_velocity", "size": 3, "unit": "mixed"}
    seen = lambda: bench.policy.seen[-1].tolist()  # noqa: E731
    bench = LoopBench("twist", spec={"observation": [term]})
    bench.activate()
    bench.loop.velocity(np.array([0.5, 0.0, 0.25]))
    bench.run(3)
    assert seen() == [0.5, 0.0, 0.25]
    bench.update_graph(velocity_conflict="cmd_vel has 2 publishers: /a, /b: stop all but one")
    bench.loop.velocity(np.array([0.5, 0.0, 0.25]))
    bench.run(3)
    assert seen() == [0.0, 0.0, 0.0]
    assert R.COMMAND_VELOCITY_LOST in bench.last.faults


# ---- activation, stops, shutdown


def test_nothing_is_commanded_before_activation_or_after_the_way_out() -> None:
    bench = LoopBench().run(100)
    assert bench.decisions == []
    bench.activate()
    bench.run(5)
    bench.loop.shut_down()
    bench.follows = True
    bench.run(200)
    assert bench.loop.mode == Mode.INACTIVE
    assert bench.loop.rest_reached is not None and bench.loop.rest_reached.at_rest
    count = len(bench.decisions)
    bench.run(50)
    assert len(bench.decisions) == count


def test_activation_waits_for_a_usable_reading_and_gives_up() -> None:
    bench = LoopBench().run(80)
    bench.update_graph()
    bench.now += 3 * T  # the node waited for its listener meanwhile
    bench.loop.activate()
    assert bench.loop.mode == Mode.STARTING
    bench.run(0.5 / T, read=False)
    assert bench.decisions == []
    bench.run(3)
    assert bench.loop.mode == Mode.ACTIVE
    bench = LoopBench().run(80)
    bench.update_graph()
    bench.now += 3 * T
    bench.loop.activate()
    bench.run(1.1 / T, read=False)
    assert bench.loop.mode == Mode.INACTIVE
    assert bench.decisions == []


def test_fault_rest_reset_and_on_again_from_where_the_robot_is() -> None:
    """The safe pose is one to begin from, at the speed of the way to rest."""
    bench = LoopBench(respond=lambda _: np.zeros(3), safety__ramp=0.25).activate()
    bench.run(20)
    bench.take(bench.loop.estop())
    assert bench.last.level == SafetyLevel.STOP
    bench.follows = True
    bench.run(200)
    assert bench.position == pytest.approx([1.0, 0.0, 0.25])
    assert bench.loop.reset() == ""
    before = len(bench.decisions)
    bench.run(100)
    values = np.array([d.command.value for _, d in bench.decisions[before - 1 :]])
    assert values[-1] == pytest.approx([0.5, 0.0, 0.25])
    assert np.abs(np.diff(values[:, 0])).max() <= 1.5 * 8.0 / 8 * T


def test_from_a_folded_pose_it_is_not_activated() -> None:
    bench = LoopBench()
    bench.position = np.array([-0.9, 0.0, 0.25])
    bench.run(80)
    bench.update_graph()
    assert "wrist is 1.4 from its default position" in bench.loop.activation_problem()


def test_an_estop_before_activation_refuses_it() -> None:
    bench = LoopBench().run(80)
    bench.update_graph()
    bench.loop.estop()
    assert "emergency stop is set" in bench.loop.activation_problem()
    assert bench.loop.reset() == ""
    bench.activate()


def test_an_estop_on_the_way_out_is_remembered() -> None:
    bench = LoopBench().activate()
    bench.loop.shut_down()
    bench.follows = True
    bench.run(2)
    bench.loop.estop()
    bench.run(300)
    assert bench.loop.mode == Mode.INACTIVE
    assert bench.loop.estopped


def test_joints_that_something_else_holds_have_to_be_where_training_had_them() -> None:
    from dime_robot.runtime.control.control_loop import Reading

    bench = LoopBench(spec={"held_joints": {"spare": 0.5}})
    for held, words in (
        (None, "spare: the policy was trained with it held at 0.5, got nan"),
        (np.array([0.9]), "got 0.9: move it there and hold it"),
        (np.array([0.55]), ""),
    ):
        for _ in range(60):
            bench.now += T
            bench.jiggle()
            stamp = bench.now + bench.offset
            bench.loop.joint_state(Reading(stamp, bench.position, bench.velocity, held=held))
            bench.poll()
        bench.update_graph()
        problem = bench.loop.activation_problem()
        assert words in problem and bool(words) == bool(problem)


def test_waiting_never_lasts_longer_than_the_robot_would() -> None:
    bench = LoopBench(state__max_age=3.0, safety__recover=5.0).activate()
    bench.run(5)
    assert bench.loop.wait() <= make_robot().command.timeout / 4
