"""Standing up, running the policy and sitting down, on a robot and clocks that the test plays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dime_robot.runtime.contract.robot_config import incompatibilities
from dime_robot.runtime.control.control_loop import Mode
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.phases import Goal, Phase
from dime_robot.runtime.control.state import JointCommand
from tests.runtime.control.loop_bench import LoopBench
from tests.runtime.machines import RATE, T, make_robot, make_spec

DEFAULT, SAFE = np.array([0.5, 0.0, 0.25]), np.array([1.0, 0.0, 0.25])
LYING = np.array([1.6, -1.0, 0.06])
FASTEST = np.array([8.0, 40.0, 2.0])  # [rad/s, rad/s, m/s]
GAINS: dict[str, dict[str, Any]] = {
    "position": {},
    "velocity": {"stiffness": dict.fromkeys(("wrist", "wheel", "rail"), 5.0)},
    "effort": {
        "stiffness": {"wrist": 20.0, "wheel": 20.0, "rail": 100.0},
        "damping": {"wrist": 9.0, "wheel": 9.0, "rail": 20.0},
    },
}


def phases(kind: str = "position", **changes: Any) -> dict[str, Any]:
    """Keys of `changes` are `section__field`."""
    content: dict[str, Any] = {
        "stand_up": {
            "path": [{"pose": "safe", "duration": 0.3}, {"pose": "default", "duration": 0.3}],
            "speed": 0.25,
            "tolerance": 0.05,
            "timeout": 4.0,
            **GAINS[kind],
        },
        "sit_down": {
            "path": [{"pose": "safe", "duration": 0.3}],
            "tolerance": 0.05,
            "timeout": 3.0,
            **GAINS[kind],
        },
        "halt": 0.1,
    }
    for path, value in changes.items():
        *section, field = path.split("__")
        (content[section[0]] if section else content)[field] = value
    return content


class Machine(LoopBench):
    """A robot that follows what it is commanded, unless a joint is blocked."""

    def __init__(self, kind: str = "position", spec: Any = None, **changes: Any) -> None:
        changes, robot = {k: v for k, v in changes.items() if "." not in k}, changes
        robot = {
            key.removeprefix("robot."): value for key, value in robot.items() if "robot." in key
        }
        super().__init__(kind, spec=spec, phases=phases(kind, **changes), **robot)
        self.position = LYING.copy()
        self.blocked: int | None = None  # a joint
        self.seen: list[tuple[float, Phase]] = []

    def jiggle(self) -> None:
        before = self.position.copy()
        command: JointCommand | None = self.last.command if self.decisions else None
        if command is not None and self.loop.mode != Mode.INACTIVE:
            match command.kind:
                case "position":
                    self.position = command.value.copy()
                case "velocity":
                    self.position = self.position + command.value * T
                case _:  # of mass 1
                    self.velocity = self.velocity + command.value * T
                    self.position = self.position + self.velocity * T
        if self.blocked is not None:
            self.position[self.blocked] = before[self.blocked]
            self.velocity[self.blocked] = 0.0
        if command is None or command.kind != "effort":
            self.velocity = (self.position - before) / T
        self.velocity = self.velocity + 1e-9 * (1 + len(self.decisions) % 3)
        if not self.seen or self.seen[-1][1] != self.loop.phase:
            self.seen.append((self.now, self.loop.phase))

    @property
    def phases_seen(self) -> list[str]:
        return [phase.value for _, phase in self.seen]


@pytest.mark.parametrize("kind", ["position", "velocity", "effort"])
def test_it_stands_up_runs_the_policy_and_lies_down(kind: str) -> None:
    bench = Machine(kind, **{"robot.safety__ramp": 0.1})
    bench.activate()
    bench.run(4 / T)
    assert bench.phases_seen == ["passive", "stand_up", "stand", "policy"]
    np.testing.assert_allclose(bench.position, DEFAULT, atol=0.2 if kind == "effort" else 0.06)
    assert bench.policy.resets and bench.policy.seen  # an episode of its own
    assert set(bench.levels()) == {"RUN"}
    bench.loop.shut_down()
    bench.run(6 / T)
    assert bench.phases_seen[4:] == ["sit_down", "passive"]
    assert bench.loop.mode == Mode.INACTIVE
    assert bench.loop.rest_reached and bench.loop.rest_reached.at_rest
    np.testing.assert_allclose(bench.position, SAFE, atol=0.2 if kind == "effort" else 0.06)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_commands_between_two_steps_make_a_motion_no_slower(kind: str) -> None:
    plain = Machine()
    changes = {"kind": "forward", "interpolation": kind, "rate": 4 * RATE}
    smooth = Machine(**{f"robot.command__{key}": value for key, value in changes.items()})
    for bench in (plain, smooth):
        bench.activate().run(4 / T)
    assert smooth.loop.between is not None
    assert smooth.phases_seen == plain.phases_seen
    times = [{phase: when for when, phase in bench.seen} for bench in (plain, smooth)]
    for phase in (Phase.STAND, Phase.POLICY):
        assert times[1][phase] - times[0][phase] <= 3 * T  # the delay of an interpolation


@settings(deadline=None, max_examples=25)
@given(st.tuples(st.floats(-1, 2), st.floats(-3, 3), st.floats(0, 0.5)), st.floats(0.05, 1.0))
def test_it_begins_at_the_measured_pose_and_no_target_is_faster_than_its_speed(
    start: tuple[float, ...], speed: float
) -> None:
    bench = Machine(stand_up__speed=speed, stand_up__timeout=59.0)
    bench.position = np.array(start)
    bench.activate()
    bench.run(12 / T)
    assert bench.phases_seen[:3] == ["passive", "stand_up", "stand"]
    moved = [d for d in bench.decisions if d[1].phase in (Phase.PASSIVE, Phase.STAND_UP)]
    times, values = [t for t, _ in moved], np.array([d.command.value for _, d in moved])
    soft = 0.1 * np.array([3.0, 0.0, 0.5])  # a pose inside the margin is left at once
    assert (np.abs(values[0] - start) <= soft + 1e-9).all()
    steps, elapsed = np.abs(np.diff(values, axis=0)), np.diff(times)[:, None]
    assert (steps[6:] <= speed * FASTEST * elapsed[6:] * 1.001 + 1e-9).all()
    assert not any(d.faults for _, d in moved[6:])


def test_a_robot_that_stands_does_not_lie_down_first() -> None:
    bench = Machine()
    bench.position = DEFAULT + np.array([0.02, 0.0, -0.02])
    bench.activate()
    bench.run(1.5 / T)
    values = np.array([d.command.value for _, d in bench.decisions])
    assert np.abs(values - DEFAULT).max() < 0.03
    assert bench.loop.phase == Phase.POLICY


def test_a_blocked_joint_is_a_failure_with_its_response() -> None:
    bench = Machine()
    bench.activate()
    bench.blocked = 2
    bench.run(5 / T)
    assert "rail is 0.19 from pose 0 of its path after 4 s" in bench.loop.take_failure()
    assert not bench.loop.take_failure()  # once
    assert bench.phases_seen[:3] == ["passive", "stand_up", "sit_down"]
    bench.run(5 / T)  # nor does it lie down
    assert "sit_down failed" in bench.loop.take_failure()
    assert bench.phases_seen[3:] == ["passive"]
    first = len(bench.decisions)
    bench.run(1 / T)  # nothing is forced any more
    assert np.ptp([d.command.value for _, d in bench.decisions[first:]], axis=0).max() < 1e-9


def test_a_failure_may_stop() -> None:
    bench = Machine(stand_up__on_failure="stop")
    bench.activate()
    bench.blocked = 0
    bench.run(5 / T)
    assert bench.last.level == SafetyLevel.STOP
    assert bench.last.faults == (Fault.PHASE_FAILED,)
    assert "wrist is" in bench.why
    assert "stopped" in bench.loop.request(Goal.STAND)


@pytest.mark.parametrize(
    ("start", "end"), [("policy", Phase.POLICY), ("stand", Phase.STAND), ("passive", Phase.PASSIVE)]
)
def test_the_file_says_where_an_activation_leads(start: str, end: Phase) -> None:
    bench = Machine(start=start)
    bench.activate()
    bench.run(4 / T)
    assert bench.loop.phase == end


def test_an_operator_requests_what_comes_next() -> None:
    bench = Machine(start="passive")
    assert "active" in bench.loop.request(Goal.STAND)
    bench.activate()
    for goal, phase in [
        (Goal.STAND, Phase.STAND),
        (Goal.POLICY, Phase.POLICY),
        (Goal.STAND, Phase.STAND),
        (Goal.PASSIVE, Phase.PASSIVE),
        (Goal.POLICY, Phase.POLICY),
        (Goal.PASSIVE, Phase.PASSIVE),
    ]:
        assert not bench.loop.request(goal)
        bench.run(4 / T)
        assert bench.loop.phase == phase


def test_a_robot_without_phases_refuses_them() -> None:
    bench = LoopBench().activate()
    assert "no section phases" in bench.loop.request(Goal.STAND)
    assert bench.loop.phase == Phase.POLICY


def test_it_does_not_stand_up_tilted_or_in_motion() -> None:
    bench = Machine(stand_up__tilt=30.0)
    bench.velocity = np.array([2.0, 0.0, 0.0])
    bench.read()
    assert "wrist moves at 2" in bench.loop.controller.phases.start_problem(bench.loop.state)
    bench = Machine(stand_up__tilt=30.0)
    bench.orientation = np.array([np.cos(0.4), np.sin(0.4), 0.0, 0.0])
    bench.run(80)
    bench.update_graph()
    assert "tilted by 46 degrees: expected at most 30" in bench.loop.activation_problem()


def test_a_policy_whose_inputs_are_missing_does_not_start_and_the_robot_stands() -> None:
    spec = {
        "observation": [
            {"name": "q", "kind": "joint_position", "joints": ["wrist"], "size": 1, "unit": "rad"},
            {"name": "target", "kind": "command", "size": 2, "unit": "m"},
        ]
    }
    command = {"target": {"topic": "t", "type": "Float64MultiArray", "when_lost": "hold"}}
    command["target"] |= {"timeout": 1.0, "limits": [[-1, 1], [-1, 1]]}
    bench = Machine(spec=spec, **{"robot.task_commands": command})
    bench.activate()  # nothing of the policy is needed to stand up
    bench.run(4 / T)
    assert bench.loop.phase == Phase.STAND
    assert "does not run the policy: expected a value of the command target" in (
        bench.loop.take_failure()
    )
    assert set(bench.levels()) == {"RUN"}
    assert "command target" in bench.loop.request(Goal.POLICY)
    bench.loop.signal("target", np.array([0.5, 0.5]))
    bench.run(1)
    assert not bench.loop.request(Goal.POLICY)
    bench.run(3)
    assert bench.loop.phase == Phase.POLICY


def test_a_walking_policy_stands_still_before_the_robot_lies_down() -> None:
    spec = {
        "observation": [
            {"name": "v", "kind": "command_velocity", "size": 3, "unit": "m/s, m/s, rad/s"}
        ]
    }
    bench = Machine(spec=spec, halt=0.5)
    bench.activate()
    for _ in range(30):
        bench.loop.velocity(np.array([0.5, 0.0, 0.0]))
        bench.run(0.1 / T)
    assert bench.loop.phase == Phase.POLICY
    assert bench.policy.seen[-1][0] == 0.5
    bench.loop.shut_down()
    seen = len(bench.policy.seen)
    bench.loop.velocity(np.array([0.5, 0.0, 0.0]))
    bench.run(0.4 / T)
    assert bench.loop.phase == Phase.POLICY
    assert not np.array(bench.policy.seen[seen:]).any()  # whatever the joystick says
    assert len(bench.policy.seen) - seen > 40
    bench.run(5 / T)
    assert bench.loop.mode == Mode.INACTIVE


def damped(bench: Machine, seconds: float) -> None:
    """Silence for so long, in which it is damped towards the safe pose; then readings again."""
    bench.run(seconds / T, read=False)
    assert bench.last.level == SafetyLevel.DAMP
    bench.run(1 / T)


def test_a_policy_that_damping_moved_away_sits_down_and_waits() -> None:
    bench = Machine(**{"robot.safety__damp": 2.0, "robot.activation": {"position_error": 0.2}})
    bench.activate().run(4 / T)
    assert bench.loop.phase == Phase.POLICY
    damped(bench, 0.5)
    text = bench.loop.take_failure()
    assert "policy does not go on after damping: wrist is 0.438 from its default" in text
    bench.run(3 / T)
    assert bench.phases_seen[4:] == ["sit_down", "passive"]
    assert not bench.loop.request(Goal.POLICY)
    bench.run(4 / T)
    assert bench.loop.phase == Phase.POLICY


def test_a_policy_in_a_pose_from_which_it_may_start_goes_on_after_damping() -> None:
    bench = Machine(**{"robot.safety__damp": 2.0})
    bench.activate().run(4 / T)
    damped(bench, 0.1)
    assert bench.loop.phase == Phase.POLICY and bench.last.level == SafetyLevel.RUN
    assert not bench.loop.take_failure()


def test_a_robot_that_fell_does_not_sit_down() -> None:
    changes = {"robot.safety__damp": 2.0, "robot.activation": {"position_error": 0.2}}
    bench = Machine(sit_down__tilt=30.0, **changes)
    bench.activate().run(4 / T)
    bench.run(0.5 / T, read=False)
    bench.position = SAFE.copy()
    bench.orientation = np.array([np.cos(0.4), np.sin(0.4), 0.0, 0.0])
    bench.run(1 / T)
    assert "did not sit down: the base is tilted by 46 degrees" in bench.loop.take_failure()
    assert bench.loop.phase == Phase.PASSIVE


def test_a_robot_that_runs_its_policy_stands_without_lying_down_first() -> None:
    bench = Machine()
    bench.policy.respond = lambda _: np.array([0.1, 0.0, 0.4])  # far from the pose of standing
    bench.activate().run(4 / T)
    assert bench.loop.phase == Phase.POLICY
    first = len(bench.decisions)
    assert not bench.loop.request(Goal.STAND)
    bench.run(3 / T)
    assert bench.loop.phase == Phase.STAND
    wrist = np.array([d.command.value[0] for _, d in bench.decisions[first:]])
    assert wrist.max() < 0.9  # the first pose of the path has 1.0


def test_who_sits_down_lies_before_it_stands_up_again() -> None:
    bench = Machine(start="stand")
    bench.activate().run(4 / T)
    bench.loop.request(Goal.PASSIVE)
    bench.run(5)
    assert bench.loop.phase == Phase.SIT_DOWN
    assert "it sits down" in bench.loop.request(Goal.STAND)


def test_a_motion_begins_at_the_last_command_while_a_ramp_lasts() -> None:
    bench = Machine(**{"robot.safety__ramp": 1.0})
    bench.policy.respond = lambda _: np.array([0.2, 0.0, 0.2])
    bench.activate()
    while bench.loop.phase != Phase.POLICY:
        bench.run(1)
    bench.run(0.5 / T)
    first = len(bench.decisions) - 1
    bench.loop.request(Goal.PASSIVE)
    bench.run(0.5 / T)
    values = np.array([d.command.value for _, d in bench.decisions[first:]])
    assert (np.abs(np.diff(values, axis=0)) <= 0.25 * FASTEST * T * 1.001 + 1e-9)[2:].all()


@pytest.mark.parametrize("at", ["passive", "stand_up", "stand", "policy", "sit_down"])
def test_an_estop_stops_in_every_phase_and_nothing_sits_down_after_it(at: str) -> None:
    bench = Machine(start="policy" if at in ("policy", "stand_up") else "stand")
    if at == "passive":
        bench = Machine(start="passive")
    bench.activate()
    for _ in range(2000):
        if bench.loop.phase.value == at:
            break
        if at == "sit_down" and bench.loop.phase == Phase.STAND:
            bench.loop.request(Goal.PASSIVE)
        bench.run(1)
    assert bench.loop.phase.value == at
    bench.take(bench.loop.estop())
    assert bench.last.level == SafetyLevel.STOP
    phase = bench.loop.phase
    bench.run(20)
    assert bench.last.level == SafetyLevel.STOP and bench.loop.phase == phase
    bench.loop.shut_down()
    first = len(bench.decisions)
    bench.run(8 / T)
    assert bench.loop.mode == Mode.INACTIVE
    assert {d.phase for _, d in bench.decisions[first:]} == {phase}  # the rest alone


@pytest.mark.parametrize("how", ["estop", "hurry", "silence"])
def test_sitting_down_gives_way_to_the_rest(how: str) -> None:
    bench = Machine()
    bench.activate()
    bench.run(4 / T)
    bench.loop.shut_down()
    bench.run(0.3 / T)
    assert bench.loop.phase == Phase.SIT_DOWN and bench.last.level == SafetyLevel.RUN
    if how == "estop":
        bench.take(bench.loop.estop())
    elif how == "hurry":
        bench.loop.hurry()
    bench.run(20 * T / T, read=how != "silence")
    assert bench.last.level >= SafetyLevel.DAMP
    bench.run(8 / T, read=how != "silence")
    assert bench.loop.mode == Mode.INACTIVE


def test_after_a_stop_the_robot_stands_up_from_where_it_is() -> None:
    bench = Machine()
    bench.activate()
    bench.run(4 / T)
    bench.take(bench.loop.estop())
    bench.run(2 / T)
    bench.position = LYING.copy()
    bench.run(3 * T / T)
    assert not bench.loop.reset()
    bench.run(4 / T)
    assert bench.loop.phase == Phase.PASSIVE  # to release a stop moves nothing
    assert not bench.loop.request(Goal.POLICY)
    bench.run(4 / T)
    assert bench.loop.phase == Phase.POLICY


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"stand_up__path": []}, "at least 1 item"),
        ({"stand_up__timeout": 0.5}, "more than the durations"),
        ({"stand_up__speed": 0.0}, "greater than 0"),
        ({"sit_down__on_failure": "sit_down"}, "passive"),
        ({"start": "walk"}, "policy"),
        ({"stand_up__path": [{"pose": {"knee": 0.0}, "duration": 1.0}]}, "one of the joints"),
        ({"stand_up__path": [{"pose": "home", "duration": 1.0}]}, "safe"),
        ({"stand_up__path": [{"pose": "safe", "duration": float("nan")}]}, "finite"),
        ({"sit_down": None}, "sit_down"),
    ],
)
def test_malformed_phases_are_refused(changes: dict[str, Any], text: str) -> None:
    content = phases(**changes)
    content = {key: value for key, value in content.items() if value is not None}
    with pytest.raises(ValueError, match=text):
        make_robot("position", phases=content)


@pytest.mark.parametrize(
    ("kind", "changes", "text"),
    [
        ("position", {"stand_up__stiffness": {"wrist": 1.0}}, "expected none with position"),
        ("velocity", {"stand_up__stiffness": {}}, "one of each joint"),
        ("effort", {"sit_down__damping": {"wrist": 1.0}}, "got none of ['wheel', 'rail']"),
        (
            "position",
            {"stand_up__path": [{"pose": {"wrist": 0.1}, "duration": 0.1}]},
            "a position of every joint in the last one",
        ),
        (
            "position",
            {"stand_up__path": [{"pose": {"rail": 0.9}, "duration": 0.1}]},
            "its position_limits, got 0.9",
        ),
        ("twist", {}, "expected none"),
    ],
)
def test_phases_that_do_not_fit_the_policy_are_refused(
    kind: str, changes: dict[str, Any], text: str
) -> None:
    section = phases("position" if kind == "twist" else kind, **changes)
    found = [
        str(problem)
        for problem in incompatibilities(make_spec(kind), make_robot(kind, phases=section))
    ]
    assert any(text in problem and "phases" in problem for problem in found), found


def test_a_response_never_waits_for_a_phase() -> None:
    """While a robot stands up a silent one is held, damped and stopped as ever."""
    bench = Machine()
    bench.activate()
    bench.run(0.2 / T)
    assert bench.loop.phase == Phase.STAND_UP
    bench.run(40, read=False)
    order = [level for level in ("RUN", "HOLD", "DAMP", "STOP") if level in bench.levels()]
    assert order == ["RUN", "HOLD", "DAMP", "STOP"]


def test_a_dry_run_ends_without_sitting_down() -> None:
    """Nothing follows its commands, so it would wait for a robot that does not move."""
    bench = LoopBench(phases=phases(), publishes=False)
    bench.position = DEFAULT.copy()
    bench.activate().run(1.5 / T)
    assert bench.loop.phase == Phase.POLICY
    bench.loop.shut_down()
    bench.run(1.0 / T)
    assert bench.loop.phase == Phase.POLICY and not bench.loop.take_failure()


def test_the_same_failure_is_said_each_time() -> None:
    bench = Machine(stand_up__timeout=0.9, stand_up__on_failure="passive", start="passive")
    bench.blocked = 0
    bench.activate()
    logged = []
    for _ in range(2):
        assert not bench.loop.request(Goal.STAND)
        bench.run(1.5 / T)
        assert bench.loop.phase == Phase.PASSIVE
        logged.append(bench.loop.take_failure())
    assert logged[0] == logged[1] and "stand_up failed: wrist is" in logged[0]
    bench.run(20)
    assert not bench.loop.take_failure()


def test_a_fault_while_sitting_down_ends_it_for_good() -> None:
    bench = Machine()
    bench.activate()
    bench.run(4 / T)
    bench.loop.shut_down()
    bench.run(10)
    assert bench.loop.phase == Phase.SIT_DOWN
    bench.run(4, read=False)
    assert "HOLD" in bench.levels()
    first = len(bench.decisions)
    bench.run(3 / T)
    assert set(bench.levels(first)) == {"STOP"}  # the rest, though the readings are good again
    assert bench.loop.mode == Mode.INACTIVE


@pytest.mark.parametrize(("leg", "end"), [(0, Phase.POLICY), (1, Phase.PASSIVE)])
def test_standing_up_begins_anew_after_damping_unless_the_robot_rises(leg: int, end: Phase) -> None:
    bench = Machine(**{"robot.safety__damp": 2.0})
    bench.activate()
    while (
        bench.loop.phase != Phase.STAND_UP
        or bench.controller.phases._paths[Phase.STAND_UP].number < leg
    ):
        bench.run(1)
    bench.run(5)
    bench.run(8, read=False)
    assert bench.last.level == SafetyLevel.DAMP
    bench.run(6 / T)
    assert bench.loop.phase == end
    assert ("does not go on after damping" in bench.loop.take_failure()) == (end == Phase.PASSIVE)
