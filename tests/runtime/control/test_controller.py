"""From state to command: the same arithmetic as in training, and a policy that is never trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.contract.robot_config import load_robot
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import UNUSABLE, Fault, SafetyLevel
from dime_robot.runtime.control.state import CommandKind, RobotState
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.sim.robot_env import RobotEnv
from tests.paths import SHIPPED_CARTPOLE
from tests.runtime.machines import KINDS, ScriptedPolicy, T, make_robot, make_spec, make_state

Q = {"name": "q", "kind": "joint_position", "joints": ["wrist"], "unit": "rad"}
LAST = {"name": "a", "kind": "last_action", "size": 3, "unit": "1"}
COMMANDED = {"name": "v", "kind": "command_velocity", "size": 3, "unit": "mixed"}


class Bench:
    """A controller, a scripted policy, and a clock that only it moves."""

    def __init__(
        self,
        respond: Callable[[FloatArray], Any] | None = None,
        kind: CommandKind = "effort",
        **spec: Any,
    ) -> None:
        self.seconds, self.slow, self.k = 0.0, 0.0, 0
        script = respond or (lambda _: np.full(self.policy.spec.n_act, 0.25))

        def act(observation: FloatArray) -> Any:
            self.seconds += self.slow
            return script(observation)

        self.policy = ScriptedPolicy(make_spec(kind, **spec), act)
        self.controller = Controller(self.policy, make_robot(kind), lambda: self.seconds)

    def start(self, **state: Any) -> Bench:
        self.controller.start(self.k * T, make_state(**state))
        return self

    def step(self, state: RobotState | None, *problems: Fault) -> SafetyLevel:
        self.decision = self.controller.step(self.k * T, state, problems)
        self.controller.record(self.decision)
        self.k += 1
        return self.decision.level


def test_commands_are_those_of_the_training_environment_bit_for_bit() -> None:
    env = RobotEnv("cartpole")
    ours, theirs = OnnxPolicy(SHIPPED_CARTPOLE, seed=5), OnnxPolicy(SHIPPED_CARTPOLE, seed=5)
    controller = Controller(ours, load_robot(None, ours.spec))
    observation, _ = env.reset(seed=1)
    controller.start(0.0, env.plant.state())
    checked = 0
    for i in range(200):
        decision = controller.step(0.02 * i, env.plant.state())
        action = theirs.act(observation)
        command = env._decoder.decode(action)
        if decision.level == SafetyLevel.RUN:
            assert (decision.command.joints, decision.command.kind) == (command.joints, "effort")
            assert decision.command.value.tobytes() == command.value.tobytes()
            checked += 1
        observation, *_ = env.step(action)
    assert checked > 150
    env.close()


def test_a_policy_for_another_robot_is_refused_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Controller(ScriptedPolicy(make_spec()), make_robot("twist"))
    assert caught.value.code == "command-kind"


def test_until_it_is_started_the_policy_is_not_asked() -> None:
    bench = Bench()
    assert bench.step(make_state()) == SafetyLevel.STOP
    assert bench.policy.seen == []
    bench.start()
    assert bench.policy.resets == 1
    assert bench.step(make_state()) == SafetyLevel.RUN
    assert len(bench.policy.seen) == 1


def test_while_it_is_stopped_the_policy_is_not_asked() -> None:
    bench = Bench().start()
    bench.step(make_state(), Fault.LISTENER_LOST)
    evaluated = len(bench.policy.seen)
    for _ in range(20):
        assert bench.step(make_state()) == SafetyLevel.STOP
    assert len(bench.policy.seen) == evaluated
    bench.start()
    assert bench.step(make_state()) == SafetyLevel.RUN


@pytest.mark.parametrize("fault", sorted(UNUSABLE))
def test_a_state_that_cannot_be_used_is_not_shown_to_the_policy(fault: Fault) -> None:
    bench = Bench().start()
    assert bench.step(make_state(), fault) == fault.first_response
    assert bench.step(None, fault) == fault.first_response
    assert bench.policy.seen == []
    assert not bench.controller.recorder.records()["inferred"].any()


@pytest.mark.parametrize(
    "state", [make_state(wrist=np.nan), make_state(wrist=9.0), make_state(velocity=[0, 0, 99])]
)
def test_neither_is_one_that_shows_it_by_itself(state: RobotState) -> None:
    bench = Bench().start()
    assert bench.step(state) >= SafetyLevel.HOLD
    assert bench.policy.seen == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_action_with_nan_holds_the_last_command(kind: CommandKind) -> None:
    bad = False
    bench = Bench(
        lambda _: [np.nan if bad else 0.25] + [0.25] * (bench.policy.spec.n_act - 1), kind
    )
    bench.start()
    bench.step(make_state())
    good = bench.decision.command.value.copy()
    bad = True
    assert bench.step(make_state()) == SafetyLevel.HOLD
    assert bench.decision.faults == (Fault.ACTION_NAN,)
    limits = bench.controller.safety.limits
    assert bench.decision.command.value.tolist() == limits.held(good, T).tolist()
    levels = [bench.step(make_state()).name for _ in range(11)]
    assert levels == ["HOLD"] * 3 + ["DAMP"] * 8
    assert bench.step(make_state()) == SafetyLevel.STOP


def test_late_actions_in_a_row_are_too_many() -> None:
    bench = Bench().start()
    levels = []
    for late in (1, 1, 0, 1, 1, 1, 1):
        bench.slow = (1.5 if late else 0.5) * T
        levels.append(bench.step(make_state()).name)
        assert bench.controller.inference == pytest.approx(bench.slow)
    assert levels == ["RUN"] * 5 + ["DAMP"] * 2
    assert bench.decision.faults == (Fault.OVERRUN,)
    bench.slow = 0.5 * T
    # the fault was last seen a period and a half after that step began
    assert [bench.step(make_state()).name for _ in range(7)] == ["DAMP"] * 6 + ["RUN"]


def test_a_reading_that_aged_while_the_policy_computed_is_an_overrun() -> None:
    bench = Bench().start()
    bench.slow = 1.5 * T
    assert bench.step(make_state()) == SafetyLevel.RUN
    assert bench.step(make_state(), Fault.OBSERVATION_STALE) == SafetyLevel.DAMP
    assert set(bench.decision.faults) == {Fault.OBSERVATION_STALE, Fault.OVERRUN}
    bench = Bench().start()
    bench.step(make_state())
    assert bench.step(make_state(), Fault.OBSERVATION_STALE) == SafetyLevel.HOLD  # it was not us


def test_simulated_time_stands_still_while_we_compute() -> None:
    """Else a command of a simulation in lockstep depends on how busy the machine is."""
    stories = []
    for slow in (0.0, 0.9 * T, 5.0):
        bench = Bench(lambda _: np.full(3, 1.0), "position").start(wrist=0.0)
        story = []
        for k in range(2):
            bench.slow = slow if k == 0 else 0.0
            decision = bench.controller.step(k * T, make_state(wrist=0.0), simulated=True)
            story.append((decision.level, decision.faults, decision.command.value.tobytes()))
        stories.append(story)
        assert Fault.VELOCITY_LIMIT in story[-1][1]  # the time since the last one matters here
    assert stories[0] == stories[1] == stories[2]


def test_an_action_exactly_in_time_is_not_late() -> None:
    bench = Bench().start()
    bench.slow = T
    assert [bench.step(make_state()) for _ in range(5)] == [SafetyLevel.RUN] * 5


def test_a_new_start_forgets_what_was_late_and_what_was_done() -> None:
    bench = Bench(observation=[LAST]).start()
    bench.slow = 2 * T
    bench.step(make_state())
    bench.step(make_state())
    bench.start()
    assert bench.step(make_state()) == SafetyLevel.RUN
    assert [o.tolist() for o in bench.policy.seen] == [[0.0] * 3, [0.25] * 3, [0.0] * 3]


def test_a_step_without_the_policy_took_no_inference() -> None:
    bench = Bench().start()
    bench.slow = 0.001
    bench.step(make_state())
    assert bench.controller.inference > 0.0
    bench.step(None, Fault.OBSERVATION_STALE)
    assert bench.controller.inference == 0.0


def test_a_seed_makes_an_episode_repeatable() -> None:
    policy = OnnxPolicy(SHIPPED_CARTPOLE, seed=1)
    controller = Controller(policy, load_robot(None, policy.spec))
    state = RobotState(0.0, np.array([0.1, 3.0]), np.zeros(2))
    runs = []
    for _ in range(2):
        controller.start(0.0, state, seed=7)
        runs.append([controller.step(0.02 * i, state).command.value[0] for i in range(10)])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 5


def test_every_step_is_recorded_as_it_was() -> None:
    bench = Bench(lambda o: o / 8).start()
    for wrist in (0.5, 1.0):
        bench.step(make_state(wrist=wrist, stamp=wrist))
    bench.step(make_state(wrist=np.nan))
    records = bench.controller.recorder.records()
    assert records["time"].tolist() == [0.0, T, 2 * T]
    assert records["stamp"].tolist() == [0.5, 1.0, 0.0]
    assert records["inferred"].tolist() == [True, True, False]
    assert records["observation"][:2, 0].tolist() == [0.5, 1.0]
    assert records["action"][:2, 0].tolist() == [0.0625, 0.125]
    assert records["command"][:2, 0].tolist() == [0.5, 1.0]
    assert records["noise"][0].any()
    assert (records["noise"][0] != records["noise"][1]).all()
    assert records["rung"].tolist() == [SafetyLevel.RUN, SafetyLevel.RUN, SafetyLevel.HOLD]


def test_the_history_begins_anew_after_damp() -> None:
    bench = Bench(observation=[{**Q, "size": 3, "history": 3}, LAST]).start()
    for wrist in (0.1, 0.2, 0.3):
        bench.step(make_state(wrist=wrist))
    for _ in range(5):
        bench.step(None, Fault.OBSERVATION_STALE)
    assert bench.controller.safety.level == SafetyLevel.DAMP
    while bench.step(make_state(wrist=0.5)) == SafetyLevel.DAMP:
        pass
    bench.step(make_state(wrist=0.625))
    first, second = bench.policy.seen[-2:]
    assert first.tolist() == [0.5, 0.5, 0.5, 0.0, 0.0, 0.0]
    assert second.tolist() == [0.5, 0.5, 0.625, 0.25, 0.25, 0.25]


def test_one_action_with_nan_does_not_poison_the_next() -> None:
    answers = iter([0.5, np.nan])
    bench = Bench(lambda o: next(answers, 0.25) + 0.0 * o[:3], observation=[LAST]).start()
    assert [bench.step(make_state()).name for _ in range(3)] == ["RUN", "HOLD", "RUN"]


def test_without_a_state_it_does_not_go_on_for_ever() -> None:
    bench = Bench().start()
    bench.step(make_state())
    assert [bench.step(None) for _ in range(100)][-1] == SafetyLevel.STOP


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_an_infinite_action_is_not_full_power(bad: float) -> None:
    bench = Bench(lambda _: [bad, 0.0, 0.0]).start()
    assert bench.step(make_state()) == SafetyLevel.HOLD
    assert not bench.decision.command.value.any()


def test_an_action_computed_for_seconds_is_not_sent_as_if_it_were_new() -> None:
    bench = Bench().start()
    bench.slow = 5.0
    assert bench.step(make_state()) >= SafetyLevel.HOLD


@pytest.mark.parametrize("velocity", [None, np.array([np.nan, 0.0, 0.0])])
def test_without_the_operators_velocity_there_is_still_an_answer(
    velocity: FloatArray | None,
) -> None:
    bench = Bench(kind="twist", observation=[COMMANDED]).start(command_velocity=np.zeros(3))
    assert bench.step(make_state(command_velocity=velocity)) >= SafetyLevel.HOLD
    assert bench.policy.seen == []


def test_a_history_has_no_gap_that_a_hold_left() -> None:
    bench = Bench(observation=[{**Q, "size": 2, "history": 2}]).start()
    bench.step(make_state(wrist=0.25))
    for _ in range(2):
        bench.step(None, Fault.OBSERVATION_STALE)
    bench.step(make_state(wrist=0.5))
    assert bench.policy.seen[-1].tolist() != [0.25, 0.5]
