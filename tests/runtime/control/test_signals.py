"""Task commands and sensors: what is refused, what happens when they are lost, over any stream."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dime_robot.runtime.contract.policy_spec import Signal
from dime_robot.runtime.contract.signal_input import SensorInput, TaskCommandInput
from dime_robot.runtime.control.control_loop import Mode
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.signals import SignalStream
from dime_robot.runtime.control.watchdog import CLOCK_JUMP
from tests.runtime.control.loop_bench import ROBOT_EPOCH, LoopBench
from tests.runtime.machines import T, make_state

TIMEOUT = 0.25
POINT = {"topic": "target", "type": "PointStamped", "frame": "base"}
POSE = {"topic": "target", "type": "PoseStamped", "frame": "base", "when_lost": "hold"}
ARRAY = {"topic": "phase", "type": "Float64MultiArray"}
UNIT = [1.0, 0.0, 0.0, 0.0]


def command(width: int = 3, **fields: Any) -> SignalStream:
    fields = {**ARRAY, "when_lost": "hold", "timeout": TIMEOUT, **fields}
    given = TaskCommandInput.model_validate(fields)
    return SignalStream("x", Signal("command", width), given, True)


def sensor(width: int = 3, same_clock: bool = True, **fields: Any) -> SignalStream:
    given = SensorInput.model_validate({**POINT, "timeout": TIMEOUT, **fields})
    return SignalStream("x", Signal("sensor", width), given, same_clock)


def faults_of(stream: SignalStream, now: float) -> dict[Fault, str]:
    return dict(stream.faults(now, now + ROBOT_EPOCH, "/planner"))


def read(stream: SignalStream, now: float) -> list[float] | None:
    value = stream.value(now, now + ROBOT_EPOCH)
    return None if value is None else value.tolist()


@pytest.mark.parametrize(
    ("stream", "values", "frame", "words"),
    [
        (command(3), [1, 2], None, "expected 3 numbers, got 2"),
        (command(1), [], None, "expected 1 numbers, got 0"),
        (command(3), [1, math.nan, 3], None, "finite numbers, got [1, nan, 3]"),
        (command(1), [math.inf], None, "finite"),
        (command(1), [1e39], None, "finite"),  # infinite as float32
        (command(3, **POINT), [1, 2, 3], "world", "in the frame 'base', got 'world'"),
        (command(3, **POINT), [1, 2, 3], "", "in the frame 'base', got ''"),
        (command(3, **POINT), [1, 2, 3], "/base", "in the frame 'base', got '/base'"),
        (command(7, **POSE), [1, 2, 3, 0, 0, 0, 0], "base", "norm 1, got [0, 0, 0, 0]"),
        (command(7, **POSE), [1, 2, 3, 1, 1, 0, 0], "base", "norm 1, got [1, 1, 0, 0]"),
        (sensor(limits=[-1, 1]), [0, 1.5, 0], "base", "number 1 in [-1.0, 1.0], its limits, got"),
    ],
)
def test_a_message_that_cannot_be_used_is_named_once_and_changes_nothing(
    stream: SignalStream, values: list[float], frame: str | None, words: str
) -> None:
    stream.restart()
    stream.receive(np.array(values, dtype=float), 1.0, ROBOT_EPOCH + 1, ROBOT_EPOCH + 1, frame)
    assert words in stream.refused
    assert not stream.has_come()
    assert stream.problem().endswith(f"got none yet: {stream.refused}")
    [(fault, phrase)] = faults_of(stream, 1.0).items()
    assert fault == Fault.SIGNAL_REFUSED and words in phrase and "/planner" in phrase
    assert faults_of(stream, 1.0) == {}


def test_a_command_beyond_its_limits_is_clipped() -> None:
    stream = command(2, limits=[[-1, 1], [0, 5]])
    values = np.array([-3.0, 7.0])
    stream.receive(values, 0.0, ROBOT_EPOCH)
    assert read(stream, 0.0) == [-1.0, 5.0]
    values[:] = 9  # the caller's array
    assert read(stream, 0.0) == [-1.0, 5.0]
    pose = command(7, **POSE, limits=[0, 1])
    pose.receive(np.array([2.0, -1.0, 0.5, *UNIT]), 0.0, ROBOT_EPOCH, 0.0, "base")
    assert read(pose, 0.0) == [1.0, 0.0, 0.5, *UNIT]


def test_a_quaternion_keeps_its_sign_and_its_last_bit() -> None:
    stream = command(7, **POSE)
    q = [-0.5000001, 0.5, -0.5, 0.5]
    stream.receive(np.array([0.0, 0, 0, *q]), 0.0, ROBOT_EPOCH, 0.0, "base")
    value = read(stream, 0.0)
    assert value is not None and value[3:] == q


@pytest.mark.parametrize(
    ("when_lost", "value", "fault", "words"),
    [
        ("hold", [1.0, 2.0, 3.0], Fault.TASK_COMMAND_LOST, "its last value is held"),
        ("zero", [0.0, 0.0, 0.0], Fault.TASK_COMMAND_LOST, "it is 0 now"),
        ("stop", [1.0, 2.0, 3.0], Fault.SIGNAL_LOST, ""),
    ],
)
def test_what_a_lost_command_becomes(
    when_lost: str, value: list[float], fault: Fault, words: str
) -> None:
    stream = command(3, when_lost=when_lost)
    assert read(stream, 9.0) is None  # never before the first value
    assert faults_of(stream, 9.0) == {}
    stream.receive(np.array([1.0, 2.0, 3.0]), 10.0, ROBOT_EPOCH)
    assert read(stream, 10.0 + TIMEOUT) == [1.0, 2.0, 3.0]
    assert faults_of(stream, 10.0 + TIMEOUT) == {}
    later = 10.0 + TIMEOUT + 0.01
    assert read(stream, later) == value
    [(found, phrase)] = faults_of(stream, later).items()
    assert found == fault
    assert phrase.startswith("command x on phase from /planner: no usable message for 0.260 s")
    assert phrase.endswith(words)
    stream.restart()
    assert read(stream, later) is None


def test_a_target_without_a_time_out_stands() -> None:
    stream = command(1, timeout=None)
    stream.receive(np.array([4.0]), 0.0, ROBOT_EPOCH)
    assert read(stream, 1e7) == [4.0]
    assert faults_of(stream, 1e7) == {}


def test_a_command_is_timed_by_its_arrival_and_a_sensor_by_its_stamp_as_well() -> None:
    target = command(3, **POINT)
    target.receive(np.zeros(3), 1.0, ROBOT_EPOCH + 1, 0.0, "base")
    target.receive(np.ones(3), 1.1, ROBOT_EPOCH + 1.1, 0.0, "base")
    assert read(target, 1.1) == [1.0] * 3 and faults_of(target, 1.1) == {}
    ball = sensor()
    old = ROBOT_EPOCH + 1 - 2 * TIMEOUT
    ball.receive(np.zeros(3), 1.0, ROBOT_EPOCH + 1, old, "base")
    assert "was 0.500 s old when it came" in faults_of(ball, 1.0)[Fault.SENSOR_LOST]
    other_clock = sensor(same_clock=False)
    other_clock.receive(np.zeros(3), 1.0, ROBOT_EPOCH + 1, old, "base")
    assert faults_of(other_clock, 1.0) == {}


def test_a_sensor_that_repeats_its_stamp_is_lost_and_one_whose_clock_was_set_back_is_not() -> None:
    ball = sensor()
    now = 0.0
    for i in range(60):
        now = 0.01 * i
        ball.receive(np.full(3, i), now, ROBOT_EPOCH + now, ROBOT_EPOCH, "base")
    assert read(ball, now) == [0.0] * 3
    assert "is not newer than" in faults_of(ball, now)[Fault.SENSOR_LOST]
    ball = sensor(same_clock=False)
    for i in range(60):
        now = 0.01 * i
        stamp = ROBOT_EPOCH + now - (10 * CLOCK_JUMP if i >= 30 else 0)
        ball.receive(np.full(3, i), now, ROBOT_EPOCH + now, stamp, "base")
    assert read(ball, now) == [59.0] * 3 and faults_of(ball, now) == {}


numbers = st.one_of(
    st.floats(-2, 2),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e39, 0.0]),
)
messages = st.tuples(
    st.floats(0.0, 0.6),  # since the message before [s]
    st.lists(numbers, min_size=0, max_size=4),
    st.sampled_from(["base", "base", "world", ""]),
)
LOSSES = st.sampled_from(["hold", "stop"])


@settings(max_examples=150, deadline=None)
@given(st.lists(messages, max_size=30), LOSSES, st.floats(0.0, 1.0))
@example([(0.0, [1.0, 2.0, 0.5], "base"), (0.3, [math.nan] * 3, "base")], "stop", 0.0)
def test_whatever_comes_a_value_is_the_last_usable_one_and_its_loss_is_seen(
    stream_of: list[tuple[float, list[float], str]], when_lost: str, rest: float
) -> None:
    stream = command(3, **POINT, when_lost=when_lost, limits=[-1, 1])
    now, last, came = 0.0, None, -math.inf
    for gap, values, frame in stream_of:
        now += gap
        stream.receive(np.array(values, dtype=float), now, ROBOT_EPOCH + now, 0.0, frame)
        usable = len(values) == 3 and frame == "base" and all(abs(v) <= 2 for v in values)
        if usable:
            last, came = [min(max(v, -1.0), 1.0) for v in values], now
        assert bool(stream.refused) == (not usable)
        assert read(stream, now) == last
        assert (Fault.SIGNAL_REFUSED in faults_of(stream, now)) == (not usable)
    now += rest
    lost = last is not None and now - came > TIMEOUT
    expected = Fault.SIGNAL_LOST if when_lost == "stop" else Fault.TASK_COMMAND_LOST
    assert list(faults_of(stream, now)) == ([expected] if lost else [])
    assert read(stream, now) == last
    assert bool(stream.problem()) == (last is None)


# ---- in the control loop

TERMS = [
    {"name": "goal", "kind": "command", "size": 2, "unit": "m"},
    {"name": "ball", "kind": "sensor", "size": 3, "unit": "m"},
]


def bench(when_lost: str = "hold", lost_ball: str = "escalate", **robot: Any) -> LoopBench:
    commands = {"goal": {**ARRAY, "topic": "goal", "when_lost": when_lost, "timeout": 8.5 * T}}
    sensors = {"ball": {**POINT, "topic": "ball", "timeout": 4.5 * T, "when_lost": lost_ball}}
    return LoopBench(
        "effort",
        spec={"observation": TERMS},
        task_commands=commands,
        sensors=sensors,
        **robot,
    )


def publish(bench: LoopBench, goal: float | None = 1.0, ball: float | None = 2.0) -> None:
    if goal is not None:
        bench.loop.signal("goal", np.full(2, goal))
    if ball is not None:
        bench.loop.signal("ball", np.full(3, ball), bench.now + bench.offset, "base")


def run(bench: LoopBench, periods: int, **given: float | None) -> None:
    for _ in range(periods):
        publish(bench, **given)
        bench.run(1)


def activated(*args: str, **robot: Any) -> LoopBench:
    made = bench(*args, **robot)
    run(made, 80)
    return made.activate_now()


def seen(bench: LoopBench) -> list[float]:
    return list(bench.policy.seen[-1])


def test_activation_waits_for_each_signal_and_names_the_missing_one() -> None:
    made = bench()
    made.run(80)
    made.update_graph()
    problem = made.loop.activation_problem()
    assert problem == "expected a value of the command goal on goal, got none yet"
    sentence = "/b publishes on /goal with std_msgs/msg/String, set robot.task_commands.goal.type"
    made.update_graph(type_mismatches=("/a sends robot.state.topic", sentence))
    assert made.loop.activation_problem().endswith(sentence)
    made.update_graph(type_mismatches=())
    publish(made, ball=None)
    assert made.loop.activation_problem().startswith("expected a value of the sensor ball on ball")
    made.loop.signal("ball", np.zeros(3), made.now + made.offset, "world")
    assert "in the frame 'base', got 'world'" in made.loop.activation_problem()
    publish(made)
    assert not made.loop.activation_problem()
    made.run(5)
    assert "sensor_lost (sensor ball on ball" in made.loop.activation_problem()


def test_the_policy_sees_the_values_and_their_loss() -> None:
    made = activated("zero")
    run(made, 3, goal=4.0)
    assert seen(made) == [4.0, 4.0, 2.0, 2.0, 2.0]
    made.update_graph(signal_senders={"goal": "/planner"})
    run(made, 12, goal=None, ball=3.0)
    assert seen(made) == [0.0, 0.0, 3.0, 3.0, 3.0]
    assert made.last.level == SafetyLevel.RUN
    assert Fault.TASK_COMMAND_LOST in made.last.faults
    assert (
        "command goal on goal from /planner: no usable message for 0.102 s, it is 0 now" in made.why
    )
    run(made, 2, goal=5.0, ball=3.0)
    assert seen(made) == [5.0, 5.0, 3.0, 3.0, 3.0]
    assert not made.last.faults


def test_a_held_command_is_seen_while_it_is_lost() -> None:
    made = activated("hold")
    run(made, 12, goal=None)
    assert seen(made)[:2] == [1.0, 1.0]
    assert made.last.faults == (Fault.TASK_COMMAND_LOST,)


@pytest.mark.parametrize("goal", [None, [1.0, math.nan], [math.inf, 0.0]])
def test_a_state_without_a_finite_signal_is_never_shown_to_the_policy(
    goal: list[float] | None,
) -> None:
    safety = bench().controller.safety
    signals = {"ball": np.zeros(3)} | ({} if goal is None else {"goal": np.array(goal)})
    state = make_state(signals=signals)
    assert safety.faults_in(state) == [Fault.OBSERVATION_NAN]
    assert safety.describe(state) == "no finite value of goal"
    assert safety.faults_in(make_state()) == [Fault.OBSERVATION_NAN]
    signals["goal"] = np.zeros(2)
    assert safety.faults_in(make_state(signals=signals)) == []


def test_a_lost_command_that_stops_is_latched_until_it_comes_again() -> None:
    made = activated("stop")
    run(made, 12, goal=None)
    assert made.last.level == SafetyLevel.STOP and made.loop.latched
    assert "signal_lost (command goal on goal: no usable message" in made.why
    assert "signal_lost" in made.loop.reset()
    run(made, 10)
    assert made.last.level == SafetyLevel.STOP
    assert not made.loop.reset()
    run(made, 2)
    assert made.last.level == SafetyLevel.RUN


def test_a_lost_sensor_escalates_with_joints_trusted_and_without_the_policy() -> None:
    made = activated()
    made.velocity = np.array([0.5, 0.0, 0.0])
    run(made, 3)
    count = len(made.policy.seen)
    levels = []
    for _ in range(30):
        run(made, 1, ball=None)
        levels.append(made.last.level)
        if made.last.level == SafetyLevel.DAMP:  # -damping * velocity: the joints are trusted
            assert made.last.command.value[0] == pytest.approx(-2.0 * 0.5, rel=1e-6)
    assert levels == sorted(levels)
    assert [level.name for level in dict.fromkeys(levels)] == ["RUN", "HOLD", "DAMP", "STOP"]
    assert len(made.policy.seen) - count == levels.count(SafetyLevel.RUN)
    assert "sensor_lost (sensor ball on ball: no new reading for" in made.loop.explain(
        [Fault.SENSOR_LOST]
    )


def test_a_sensor_that_comes_back_in_time_goes_on() -> None:
    made = activated()
    run(made, 6, ball=None)
    assert made.last.level == SafetyLevel.HOLD
    run(made, 12, ball=7.0)
    assert made.last.level == SafetyLevel.RUN and seen(made)[2:] == [7.0] * 3


def test_a_sensor_may_stop_at_once() -> None:
    made = activated("hold", "stop")
    run(made, 6, ball=None)
    assert made.last.level == SafetyLevel.STOP and "signal_lost" in made.why


def test_refused_messages_are_reported_and_the_value_before_is_used_until_its_time_out() -> None:
    made = activated("zero")
    for _ in range(7):
        run(made, 1, goal=math.nan)
        assert seen(made)[:2] == [1.0, 1.0] and made.last.level == SafetyLevel.RUN
        assert Fault.SIGNAL_REFUSED in made.last.faults
    assert "command goal on goal: expected finite numbers, got [nan, nan]" in made.why
    run(made, 4, goal=math.nan)
    assert seen(made)[:2] == [0.0, 0.0]


def test_two_publishers_of_a_signal_are_ignored_where_that_is_asked_for() -> None:
    made = activated("zero")
    sentence = "goal has 2 publishers: /a, /b: stop all but one"
    made.update_graph(signal_conflicts={"goal": sentence})
    run(made, 12, goal=8.0)
    assert seen(made) == [0.0, 0.0, 2.0, 2.0, 2.0]
    made.loop.shut_down()
    run(made, 200, goal=8.0)
    assert made.loop.mode == Mode.INACTIVE
    assert made.loop.activation_problem() == sentence


def test_the_next_activation_needs_values_of_its_own() -> None:
    made = activated()
    made.loop.shut_down()
    run(made, 200, goal=None)
    assert made.loop.mode == Mode.INACTIVE
    assert made.loop.activation_problem().startswith("expected a value of the command goal")


losses = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 14)), max_size=12)


@settings(max_examples=40, deadline=None)
@given(losses, st.sampled_from(["hold", "zero", "stop"]))
def test_over_any_losses_the_policy_never_sees_a_stale_sensor_or_runs_after_a_stop(
    stretches: list[tuple[bool, bool, int]], when_lost: str
) -> None:
    made = activated(when_lost)
    goal_age = ball_age = 0
    stopped = False
    for has_goal, has_ball, periods in stretches:
        for _ in range(periods):
            goal_age, ball_age = 0 if has_goal else goal_age + 1, 0 if has_ball else ball_age + 1
            count = len(made.policy.seen)
            publish(made, 1.0 if has_goal else None, 2.0 if has_ball else None)
            made.run(1)
            goal_lost, ball_lost = goal_age + 1 > 8.5, ball_age + 1 > 4.5
            evaluated = len(made.policy.seen) > count
            assert not (evaluated and ball_lost)
            assert not (evaluated and stopped)
            if evaluated:
                zero = when_lost == "zero" and goal_lost
                assert seen(made) == [*([0.0] * 2 if zero else [1.0] * 2), 2.0, 2.0, 2.0]
            if when_lost == "stop" and goal_lost:
                assert made.last.level == SafetyLevel.STOP
            stopped |= made.last.level == SafetyLevel.STOP
            assert stopped == made.loop.latched
