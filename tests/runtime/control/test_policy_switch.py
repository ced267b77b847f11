"""Switching between policies: continuous commands, true histories, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.control_loop import ControlLoop
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.observation import ActionDecoder
from dime_robot.runtime.control.phases import Goal, Phase
from dime_robot.runtime.control.policy_set import combined, switch_problems
from dime_robot.runtime.control.state import RobotState
from dime_robot.runtime.io.errors import InputError
from tests.runtime.control.loop_bench import LoopBench
from tests.runtime.control.test_phases import phases
from tests.runtime.machines import KINDS, ScriptedPolicy, T, make_robot, make_spec, make_state

HISTORY = [
    {
        "name": "q",
        "kind": "joint_position",
        "joints": ["wrist", "rail"],
        "size": 8,
        "history": 4,
        "unit": "rad or m",
    },
    {"name": "last", "kind": "last_action", "size": 3, "unit": "1"},
]


def with_history(kind: str) -> PolicySpec:
    """The contract of a policy that observes a history."""
    n_act = make_spec(kind).n_act
    terms = [term | ({"size": n_act} if term["name"] == "last" else {}) for term in HISTORY]
    return make_spec(kind, observation=terms)


class TwoPolicies(LoopBench):
    """A robot with the policies `first` and `other`, which observes a history."""

    def __init__(self, kind: str = "position", answers: Any = None, **robot: Any) -> None:
        n_act = make_spec(kind).n_act
        calm, wild = answers or (lambda _: np.zeros(n_act), lambda _: np.full(n_act, 0.4))

        def others(_: PolicySpec) -> dict[str, ScriptedPolicy]:
            return {"other": ScriptedPolicy(with_history(kind), wild)}

        super().__init__(kind, calm, others=others, **robot)
        self.follows = kind == "position"


@pytest.mark.parametrize("kind", KINDS)
def test_commands_stay_continuous_and_end_at_the_new_policys(kind: str) -> None:
    bench = TwoPolicies(kind, safety__blend=0.25)
    bench.activate().run(1.5 / T)
    assert {d.policy for _, d in bench.decisions} == {"first"}
    first = len(bench.decisions)
    assert not bench.loop.select("other")
    bench.run(1 / T)
    after = [d for _, d in bench.decisions[first:]]
    assert {d.policy for d in after} == {"other"}  # at the next step
    values = np.array(
        [bench.decisions[first - 1][1].command.value, *(d.command.value for d in after)]
    )
    end = ActionDecoder(bench.policies["other"].spec).scale * 0.4
    if kind == "position":
        end = end + np.array([0.5, 0.0, 0.25])
    limited = bench.controller.safety.limits
    end = np.clip(end, limited.low, limited.high) if kind == "twist" else end
    if kind != "position":
        np.testing.assert_allclose(values[-1], end, atol=1e-9)
    whole = np.abs(end - values[0])
    # at most a share T / blend of the way at once, and what the limits permit
    assert (np.abs(np.diff(values, axis=0)) <= whole * T / 0.25 * 1.01 + 1e-9).all()


def test_the_history_of_the_new_policy_is_what_happened() -> None:
    bench = TwoPolicies()
    bench.follows = False
    bench.activate()
    seen = []
    for k in range(20):
        bench.position = np.array([0.5 + 0.001 * k, 0.0, 0.25 - 0.001 * k])
        bench.run(1)
        seen.append(bench.position[[0, 2]])
    sent = bench.last.command.value
    bench.loop.select("other")
    bench.position = bench.position + 0.001
    bench.run(1)
    seen.append(bench.position[[0, 2]])
    observation = bench.policies["other"].seen[0]
    np.testing.assert_allclose(observation[:8], np.concatenate(seen[-4:]), atol=1e-6)
    # its last action is the one that would have sent the last command
    scale = ActionDecoder(bench.policies["other"].spec).scale
    np.testing.assert_allclose(observation[8:], (sent - [0.5, 0.0, 0.25]) / scale, atol=1e-6)


def test_an_action_and_its_command_belong_together() -> None:
    decoder, state = ActionDecoder(make_spec("position")), make_state()
    action = np.array([0.3, -0.2, 0.1])
    command = decoder.decode(action, state).value
    np.testing.assert_allclose(decoder.action_of(command, state), action)
    assert (np.abs(decoder.action_of(command + 100, state)) <= 1).all()


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=20, max_size=40),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.05, 0.5]),
)
def test_no_switch_leaves_a_gap_or_a_limit(
    switches: list[tuple[int, bool]], seed: int, blend: float
) -> None:
    random = np.random.default_rng(seed)
    mood = {"value": random.uniform(-1, 1, 3)}
    bench = TwoPolicies(
        answers=(lambda _: -mood["value"], lambda _: mood["value"]), safety__blend=blend
    )
    bench.follows = False  # to be where it is told at once is no plausible reading
    bench.activate()
    first = len(bench.decisions)
    for periods, other in switches:
        mood["value"] = random.uniform(-1, 1, 3)
        assert not bench.loop.select("other" if other else "first")
        bench.run(periods)
        assert bench.controller.acting == ("other" if other else "first")
    steps = bench.decisions[first - 1 :]
    times = np.array([when for when, _ in steps])
    assert np.diff(times).max() <= 1.5 * T
    values = np.array([d.command.value for _, d in steps])
    fastest = np.array([8.0, 40.0, 2.0])
    assert (np.abs(np.diff(values, axis=0)) <= fastest * np.diff(times)[:, None] + 1e-9).all()


def test_a_policy_is_refused_by_name_and_while_its_inputs_are_missing() -> None:
    bench = LoopBench(
        task_commands={
            "goal": {
                "topic": "goal",
                "type": "Float64MultiArray",
                "when_lost": "hold",
                "timeout": 1.0,
                "limits": [[-1, 1]],
            }
        }
    )
    needy = make_spec(
        "position",
        observation=[{"name": "goal", "kind": "command", "size": 1, "unit": "m"}],
    )
    policies = {"plain": ScriptedPolicy(bench.spec), "needy": ScriptedPolicy(needy)}
    bench.controller = Controller(policies, bench.robot, lambda: bench.now)
    bench.loop = ControlLoop(
        bench.controller, True, lambda: bench.now, lambda: bench.now + bench.offset
    )
    bench.run(80)
    bench.update_graph()
    assert "active" in bench.loop.select("needy")
    bench.activate_now()  # the first one needs no goal
    assert "expected a value of the command goal" in bench.loop.select("needy")
    bench.loop.signal("goal", np.array([0.5]))
    assert "expected one of plain, needy" in bench.loop.select("walk")
    assert not bench.loop.select("needy")
    bench.run(2)
    assert bench.controller.acting == "needy"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rate": 64.0}, "a rate of 128 Hz"),
        ({"joints__0__stiffness": 17.0}, "stiffness of wrist 16.0"),
        ({"joints__0__damping": 2.0}, "damping of wrist 1.0"),
        ({"joints__1__type": "prismatic"}, "type of wheel"),
        ({"held_joints": {"spare": 0.5}}, "the held joints"),
    ],
)
def test_what_cannot_be_switched_is_refused(changes: dict[str, Any], text: str) -> None:
    found = list(switch_problems("a", make_spec("position"), "b", make_spec("position", **changes)))
    assert any(text in problem and "policy b" in problem for problem in found), found


def test_other_interfaces_and_joints_are_refused() -> None:
    ours = make_spec("position")
    assert any("kind position" in p for p in switch_problems("a", ours, "b", make_spec("effort")))
    fewer = make_spec("position", action__scale={"wrist": 1.0, "rail": 0.1}, action__size=2)
    assert any("to command" in p for p in switch_problems("a", ours, "b", fewer))
    robot = make_robot("position")
    with pytest.raises(InputError, match="effort"):
        Controller({"a": ScriptedPolicy(ours), "b": ScriptedPolicy(make_spec("effort"))}, robot)
    with pytest.raises(InputError, match="1 to 16"):
        Controller({}, robot)


def test_a_robot_observes_what_any_policy_does() -> None:
    ours = make_spec("position")
    theirs = make_spec(
        "position",
        observation=[
            {"name": "v", "kind": "command_velocity", "size": 3, "unit": "m/s, m/s, rad/s"},
            {"name": "q", "kind": "joint_position", "joints": ["wrist"], "size": 1, "unit": "rad"},
        ],
    )
    both = combined({"a": ours, "b": theirs})
    assert both.needs("command_velocity") and both.needs("joint_position")
    assert len({term.name for term in both.observation}) == len(both.observation)
    assert combined({"a": ours}) is ours


def test_one_policy_behaves_as_without_a_set() -> None:
    state = make_state()
    robot = make_robot("position")
    decisions = []
    for policies in (ScriptedPolicy(make_spec("position"), lambda _: np.full(3, 0.7)),) * 2:
        given: Any = policies if not decisions else {"x": policies}
        controller = Controller(given, robot, lambda: 0.0)
        controller.start(0.0, state)
        steps = [controller.step(k * T, RobotState(k * T, *state[1:3])) for k in range(1, 50)]
        decisions.append([d.command.value for d in steps])
    np.testing.assert_array_equal(*decisions)


def test_a_policy_whose_input_is_lost_before_its_first_step_does_not_act() -> None:
    """`select` judges the newest reading; the step that follows has another."""
    effort = {"name": "tau", "kind": "joint_effort", "joints": ["rail"], "size": 1, "unit": "N"}
    feels = make_spec("position", observation=[effort])
    bench = LoopBench(
        others=lambda _: {"feels": ScriptedPolicy(feels)}, state__effort=True, state__rate=128.0
    )
    bench.run(80)

    def read(**changes: Any) -> None:
        bench.now += T
        bench.jiggle()
        bench.read(**changes)

    read(effort=np.ones(3))
    bench.activate_now()
    for _ in range(2):  # each time it is said
        read(effort=np.ones(3))
        assert not bench.loop.select("feels")
        read(effort=None)
        assert bench.controller.acting == bench.controller.selected == "first"
        assert bench.loop.take_failure() == (
            "does not switch to policy feels: the robot's state is not usable: no finite effort of"
            " a joint"
        )
        assert bench.last.level == SafetyLevel.RUN
    read(effort=np.ones(3))
    assert not bench.loop.select("feels")
    read(effort=np.ones(3))
    assert bench.controller.acting == "feels" and not bench.loop.take_failure()


def test_a_selection_that_did_not_take_effect_is_dropped_by_a_start() -> None:
    bench = TwoPolicies()
    bench.activate()
    bench.loop.select("other")  # and ends before a step of it
    bench.controller.start(bench.now, make_state())
    bench.run(2)
    assert bench.controller.acting == "first"


def with_efforts(kind: str) -> LoopBench:
    """A robot with phases and the policies `first` and `other`; `other` observes efforts."""
    terms = [{"name": "e", "kind": "joint_effort", "joints": ["wrist"], "size": 1, "unit": "N m"}]
    other = make_spec(kind, observation=terms)
    return LoopBench(
        kind,
        others=lambda _: {"other": ScriptedPolicy(other)},
        phases=phases(kind, start="stand"),
        state__effort=True,
    )


def test_the_inputs_of_a_policy_that_was_selected_while_standing_are_required() -> None:
    bench = with_efforts("position")
    bench.position = np.array([0.5, 0.0, 0.25])
    effort = np.ones(3)

    def run(periods: int) -> None:
        for _ in range(periods):
            bench.now += T
            bench.jiggle()
            bench.read(effort=effort)
            bench.poll()

    run(80)
    bench.activate_now()
    run(200)
    assert bench.loop.phase == Phase.STAND
    assert not bench.loop.select("other") and not bench.loop.request(Goal.POLICY)
    run(20)
    assert (bench.loop.phase, bench.controller.acting) == (Phase.POLICY, "other")
    effort = np.full(3, np.nan)
    run(1)
    assert Fault.OBSERVATION_NAN in bench.last.faults
    assert bench.last.level == SafetyLevel.HOLD


def test_a_switch_during_a_ramp_does_not_lead_back() -> None:
    def same(_: object) -> np.ndarray:
        return np.array([0.2, 0.0, 0.2])

    bench = TwoPolicies(answers=(same, same), safety__ramp=1.0)
    bench.follows = False
    bench.activate().run(0.5 / T)
    before = bench.last.command.value
    first = len(bench.decisions)
    bench.loop.select("other")
    bench.run(1.5 / T)
    way = np.array([d.command.value for _, d in bench.decisions[first:]]) - before
    assert (way * np.sign(way[-1]) >= -1e-9).all()


@pytest.mark.parametrize("acts", ["first", "other"])
def test_the_ramp_of_an_activation_leads_to_the_acting_policys_pose(acts: str) -> None:
    other = make_spec("position", joints__0__default_position=-0.5)
    bench = LoopBench(
        "position", others=lambda _: {"other": ScriptedPolicy(other)}, safety__ramp=0.1
    )
    bench.activate().run(5)
    bench.loop.select(acts)
    bench.run(5)
    bench.controller.start(bench.now, make_state(wrist=0.5))
    slowest = 0.125 * 8.0  # safe_speed times the wrist's limit
    expected = max(0.1, (1.0 if acts == "other" else 0.0) / slowest)
    assert bench.controller.safety._ramp == pytest.approx(expected)


@pytest.mark.parametrize("history", [1, 3])
def test_the_last_actions_of_the_new_policy_are_those_that_would_have_been_sent(
    history: int,
) -> None:
    count = {"steps": 0}

    def first(_: object) -> np.ndarray:
        count["steps"] += 1
        return np.array([0.01, -0.01, 0.02]) * (count["steps"] % 7)

    terms = [{"name": "last", "kind": "last_action", "size": 3 * history, "history": history}]
    other = make_spec("position", observation=[term | {"unit": "1"} for term in terms])
    bench = LoopBench("position", first, others=lambda _: {"other": ScriptedPolicy(other)})
    bench.activate().run(20)
    scale, zero = ActionDecoder(other).scale, np.array([0.5, 0.0, 0.25])
    sent = [(value - zero) / scale for value in bench.sent[-history:]]
    assert not bench.loop.select("other")
    bench.run(1)
    observation = bench.policies["other"].seen[0]
    np.testing.assert_allclose(observation, np.concatenate(sent), atol=1e-6)
