"""Whatever the inputs, the clock and the machine do: what always holds of the commands.

20,000 commands of random streams a kind: jitter, losses, duplicates, reordering, bursts, stalls of
the robot and of ourselves, NaN, jumps, frozen values, clocks that are set, rivals, an operator with
a joystick, phases, switches between policies. The same holds of robots that get commands between
two steps, and of each of these commands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dime_robot.runtime.contract.interpolation import Interpolation
from dime_robot.runtime.control.control_loop import Mode
from dime_robot.runtime.control.faults import UNUSABLE, SafetyLevel
from dime_robot.runtime.control.phases import Goal
from dime_robot.runtime.control.safety_filter import Decision
from tests.runtime.control.loop_bench import LoopBench
from tests.runtime.control.test_phases import phases
from tests.runtime.control.test_policy_switch import with_history
from tests.runtime.control.test_rest import HOLDING
from tests.runtime.machines import KINDS, RATE, ScriptedPolicy, T, make_spec

LOW, HIGH = np.array([-1.0, -np.inf, 0.0]), np.array([2.0, np.inf, 0.5])
SOFT_LOW, SOFT_HIGH = np.array([-0.7, -np.inf, 0.05]), np.array([1.7, np.inf, 0.45])
FASTEST = np.array([8.0, 40.0, 2.0])
SPEED = {"position": FASTEST, "velocity": 4 * FASTEST, "twist": np.full(2, 4.0)}
SAFE = np.array([1.0, 0.0, 0.25])
DAMPING, EFFORT = np.array([2.0, 0.5, 20.0]), np.array([8.0, 4.0, 40.0])
HOLDS = 3.5 * T + T  # `safety.hold`, and the step in which it ends
RESPONSES = 3.5 * T + 8 * T + 5.5 * T + T  # `hold`, `damp` and `recover`, and the step that ends it
BLIND = 0.25  # [s] `rest_timeout` of a robot that holds a load
EXAMPLES, EVENTS = 44, 22
JOYSTICK = {"timeout": 0.5, "deadman": 0, "estop": 1, "buttons": {"next_policy": 2}}
PER_STEP = 4  # commands in a period, with an interpolation
INTERPOLATED = ("position linear", "position cubic", "velocity cubic")
INTERPOLATED_EXAMPLES = 9
counted = dict.fromkeys((*KINDS, *INTERPOLATED), 0)

several = st.integers(1, 30)
events = st.one_of(
    st.tuples(st.just("run"), several),
    st.tuples(st.just("jitter"), several, st.integers(0, 2**31)),
    st.tuples(st.just("burst"), several, st.integers(2, 5)),
    st.tuples(st.just("silent"), several),
    st.tuples(st.just("stall"), st.sampled_from([1.5, 3.0, 8.0, 20.0, 200.0])),
    st.tuples(st.just("duplicate"), several),
    st.tuples(st.just("older"), several, st.floats(0.001, 0.4)),
    st.tuples(st.just("nan"), several, st.sampled_from(["position", "velocity"])),
    st.tuples(st.just("jump"), st.integers(1, 6), st.floats(-3, 3)),
    st.tuples(st.just("pushed"), several, st.floats(-0.4, 0.4)),
    st.tuples(st.just("frozen"), st.integers(10, 90)),
    st.tuples(st.just("fast"), several, st.floats(-2, 2)),
    st.tuples(st.just("missing"), several),
    st.tuples(st.just("clock"), st.sampled_from([-100.0, -0.7, 0.3, 5.0, 1e9])),
    st.tuples(st.just("rival"), st.integers(0, 3)),
    st.tuples(st.just("unlistened"), several),
    st.tuples(st.just("conflict"), several),
    st.tuples(st.just("policy"), st.sampled_from(["wild", "far", "nan", "calm", "slow", "stuck"])),
    st.tuples(st.sampled_from(["estop", "reset", "leave", "activate", "hurry"])),
    st.tuples(st.just("request"), st.sampled_from(list(Goal))),
    st.tuples(st.just("select"), st.sampled_from(["first", "other"])),
    st.tuples(st.just("joystick"), several, st.integers(0, 2**31)),
)


class Story:
    """One bench and one stream, and after every call what has to hold."""

    def __init__(
        self, kind: str, by_reading: bool, limp: bool, seed: int, stands: bool = False
    ) -> None:
        robot: dict[str, Any] = {"safety__recover": 5.5 * T, "joystick": JOYSTICK}
        self.label, (kind, _, interpolation) = kind, kind.partition(" ")
        if stands and kind != "twist":
            robot["phases"] = phases(kind, stand_up__timeout=1.5, sit_down__timeout=1.0)
            robot["joystick"] = {**JOYSTICK, "sit_down_after": 0.3}
        if kind == "effort" and not limp:
            robot |= {**HOLDING, "safety__rest_timeout": BLIND}
        spec: dict[str, Any] = {}
        if kind == "position" and limp:  # so stiff that the reach bound acts long before the stops
            spec = {"joints__0__stiffness": 400.0, "joints__2__stiffness": 2000.0}
        if interpolation:
            robot |= {"command__kind": "forward", "command__interpolation": interpolation}
            robot["command__rate"] = PER_STEP * RATE
        self.kind, self.by_reading, self.interpolates = kind, by_reading, bool(interpolation)
        self.limp = limp  # of a position robot: is it stiff?
        self.random = np.random.default_rng(seed)
        self.mood, self.side = "wild", np.array([1.0, -1.0, -1.0])
        other = with_history(kind)
        if "joints__0__stiffness" in spec:
            other = other.model_copy(update={"joints": make_spec(kind, **spec).joints})
        trained = None
        if interpolation:
            trained = Interpolation.model_validate({"kind": interpolation, "rate": PER_STEP * RATE})
        self.bench = LoopBench(
            kind,
            self.respond,
            by_reading,
            spec,
            others=lambda _: {"other": ScriptedPolicy(other, self.respond, trained)},
            **robot,
        )
        self.before: tuple[float, np.ndarray] | None = None  # the last command that was sent
        self.stepped_at: float | None = None  # the same, of a step
        self.held_since: float | None = None
        self.answered_since: float | None = None
        self.blind_since: float | None = None
        self.latched = False
        self.level = SafetyLevel.RUN
        self.activations = 0
        self.measured = self.bench.position

    def respond(self, _: Any) -> Any:
        n = self.bench.spec.n_act
        match self.mood:
            case "nan":
                return np.full(n, np.nan)
            case "slow":
                self.bench.now += self.random.choice([0.5, 1.5, 4.0]) * T
            case "stuck":
                self.bench.now += 0.2
            case "calm":
                return np.zeros(n)
            case "far":  # against the stops
                return 1.5 * self.side[:n]
        return self.random.uniform(-1.5, 1.5, n)

    def do(self, event: tuple[Any, ...]) -> None:
        bench, name = self.bench, event[0]
        steps = event[1] if len(event) > 1 and isinstance(event[1], int) else 1
        match name:
            case "policy":
                self.mood, self.side = event[1], -self.side
            case "clock":
                bench.offset += event[1]
            case "stall":
                commanding = bench.loop.mode == Mode.ACTIVE
                bench.now += event[1] * T
                self.poll()
                if commanding and event[1] * T > bench.robot.command.timeout:
                    assert bench.last.level == SafetyLevel.STOP, "a stall went unnoticed"
            case "joystick":
                random = np.random.default_rng(event[2])
                for _ in range(steps):
                    self.joystick(random)
            case "estop":
                self.check(bench.take(bench.loop.estop()))
            case "leave":
                bench.loop.shut_down()
            case "hurry":
                bench.loop.hurry()
            case "request":
                bench.loop.request(event[1])
            case "select":
                bench.loop.select(event[1])
            case "reset":
                refused = bool(bench.loop.reset())
                self.latched &= refused or bench.loop.mode != Mode.ACTIVE
                if not refused:
                    self.blind_since = None
            case "activate":
                self.activate()
            case "rival":
                for _ in range(2):
                    decision = bench.update_graph(rivals=("/x",), rival_messages=event[1])
                    self.check(decision)
                    gave_way = event[1] and bench.loop.mode == Mode.INACTIVE
                    assert not (gave_way and decision and decision.sent), "two command the robot"
                    self.wait()
                bench.update_graph(rivals=())
            case "unlistened":
                self.check(bench.update_graph(listeners=()))
                bench.update_graph(listeners=("/robot",))
            case "conflict":
                self.check(bench.update_graph(state_conflict="they differ"))
                self.wait()
                self.check(bench.update_graph(state_conflict=""))
            case _:
                frozen = (bench.position.copy(), bench.velocity.copy())
                for k in range(steps):
                    self.period(name, event, k, frozen)

    def activate(self) -> None:
        self.bench.update_graph()
        for _ in range(60):
            self.wait()
            self.read()
        if self.bench.loop.mode == Mode.INACTIVE and not self.bench.loop.activation_problem():
            self.bench.loop.activate()
            self.before, self.stepped_at, self.latched = None, None, False
            self.held_since = self.answered_since = self.blind_since = None
            self.activations += 1

    def wait(self, periods: float = 1.0) -> None:
        until = self.bench.now + periods * T
        while self.bench.now < until:
            self.bench.now += T / 9 if self.interpolates else T / 3
            self.poll()

    def poll(self) -> None:
        known = len(self.bench.between)
        self.check(self.bench.poll())
        for _, value in self.bench.between[known:]:
            self.check_between(value)

    def joystick(self, random: np.random.Generator) -> None:
        """A message that is usable or not, and seldom an emergency stop."""
        bench, size = self.bench, random.integers(0, 5)
        buttons = (random.random(size) < 0.5).astype(int)
        buttons[1:2] = random.random() < 0.03
        axes = random.choice([0.0, 1.0, 2.0, np.nan], size, p=[0.7, 0.2, 0.05, 0.05])
        self.check(bench.take(bench.loop.joystick(axes, buttons.tolist())))
        if buttons[1:2].any():
            assert bench.loop.estopped, "an emergency stop was lost"
            assert bench.loop.latched or bench.loop.mode != Mode.ACTIVE
        bench.now += T / 8

    def read(self, stamp: float | None = None, **changes: Any) -> None:
        bench = self.bench
        self.check(bench.take(bench.loop.joystick(np.zeros(1), [0] * 3)))
        if self.kind == "position" and bench.sent:  # the joints follow, more or less
            bench.position = bench.position + 0.3 * (bench.sent[-1] - bench.position)
        if self.kind == "velocity" and bench.sent:
            bench.position = bench.position + 0.9 * T * bench.sent[-1]
        bench.jiggle()
        self.check(bench.read(stamp, **changes))

    def period(self, name: str, event: tuple[Any, ...], k: int, frozen: Any) -> None:
        bench, now = self.bench, self.bench.now + self.bench.offset
        match name:
            case "silent":
                self.wait()
            case "jitter":
                self.wait(float(np.random.default_rng(event[2] + k).uniform(0.05, 2.0)))
                self.read()
            case "burst":
                for _ in range(event[2]):
                    bench.now += T / 20
                    self.read()
                self.wait(event[2])
            case "duplicate":
                self.wait()
                self.read(stamp=bench.loop.watchdog.stamp)
            case "older":
                self.wait()
                self.read(stamp=now - event[2])
            case "nan":
                self.wait()
                self.read(**{event[2]: [np.nan, 0.0, 0.25]})
            case "jump":
                self.wait()
                self.read(position=bench.position + np.array([event[2], 0, 0]))
            case "pushed":
                bench.position = bench.position + np.array([event[2], event[2], event[2] / 8]) / 9
                self.wait()
                self.read()
            case "frozen":
                self.wait()
                self.check(bench.read(position=frozen[0], velocity=frozen[1]))
            case "fast":
                bench.velocity = np.array([event[2], event[2], 0.0])
                self.wait()
                self.read()
            case "missing":
                self.wait()
                self.check(bench.take(bench.loop.unusable("wheel came 0 times")))
            case _:
                self.wait()
                self.read()

    # ---- what always holds

    def check(self, decision: Decision | None) -> None:
        if decision is None:
            return
        counted[self.label] += 1
        bench, now = self.bench, self.bench.now
        value, level = decision.command.value, decision.level
        assert self.activations, "nothing is commanded before it is activated"
        self.trusted()
        if not decision.sent:
            return
        self.check_value(value, now)
        if level < SafetyLevel.HOLD:
            self.check_reach(value)
            if self.level >= SafetyLevel.HOLD and self.interpolates:
                self.check_continues(value)
        elif bench.loop.between is not None:  # the response is whole, and at once
            assert decision.goal is None
            assert bench.loop.mode != Mode.ACTIVE or bench.loop.between.due == np.inf
        if self.latched:
            assert level == SafetyLevel.STOP, "only an operator leaves a stop"
        if (
            max(level, self.level) < SafetyLevel.HOLD
            and self.stepped_at is not None
            and self.by_reading
        ):
            assert now - self.stepped_at >= T / 2 - 1e-9, "a burst is answered too soon"
        self.level = level
        self.latched |= level == SafetyLevel.STOP and bench.loop.mode == Mode.ACTIVE
        if level >= SafetyLevel.DAMP:
            self.check_is_rest(decision)
        self.check_hold(level, now)
        self.check_end(level, now)
        self.check_blind(value, now)
        self.before, self.stepped_at = (now, value), now

    def check_between(self, value: np.ndarray) -> None:
        """A command between two steps."""
        counted[self.label] += 1
        assert self.interpolates
        assert self.bench.loop.mode == Mode.ACTIVE
        assert self.level < SafetyLevel.HOLD, "a path goes on after a fault"
        assert not self.latched
        self.check_value(value, self.bench.now)
        self.check_reach(value)
        self.before = (self.bench.now, value)

    def check_value(self, value: np.ndarray, now: float) -> None:
        """The robot's limits, for any command that is sent."""
        assert np.isfinite(value).all()
        self.check_limits(value)
        if self.before is not None and self.kind in SPEED:
            elapsed = min(now - self.before[0], 2 * T)
            change = np.abs(value - self.before[1])
            within = change <= SPEED[self.kind] * elapsed + 1e-9
            if self.kind == "velocity":  # before a stop a velocity is lowered at once
                within |= (value * self.before[1] >= 0) & (np.abs(value) < np.abs(self.before[1]))
            assert within.all(), (change, elapsed)

    def check_reach(self, value: np.ndarray) -> None:
        """No target needs more than the largest effort, or it comes nearer as fast as it may."""
        if self.kind != "position" or self.before is None:
            return
        reading = self.trusted()
        distance = np.abs(value - reading)
        nearer = distance <= np.abs(self.before[1] - reading) + 1e-9
        assert (nearer | (distance <= self.reach() + 1e-9)).all()

    def check_continues(self, value: np.ndarray) -> None:
        """A path after a fault begins at what was really sent, unless a limit moves that."""
        if self.before is None:
            return
        before, reading = self.before[1], self.trusted()
        same = value == before
        if self.kind == "velocity":  # lowered before a stop
            same |= (np.abs(value) < np.abs(before)) & (value * before >= 0)
        else:
            same |= np.abs(before - reading) >= self.reach() - 1e-9
            same |= (before < SOFT_LOW) | (before > SOFT_HIGH)
        assert same.all(), (before, value)

    def reach(self) -> np.ndarray:
        """Effort limit / stiffness of each joint [rad or m]."""
        return np.array([8 / 400, 2.0, 40 / 2000] if self.limp else [8 / 16, 2.0, 40 / 100])

    def trusted(self) -> np.ndarray:
        """Where the joints were by the newest reading that the filter trusts."""
        newest = self.bench.controller.safety._newest
        if newest is not None:  # none: the shutdown has just ended
            self.measured = newest.joint_position
        return self.measured

    def check_limits(self, value: np.ndarray) -> None:
        if self.kind == "effort":
            assert (np.abs(value) <= EFFORT).all()
        elif self.kind == "twist":
            assert (np.abs(value) <= [1.0, 2.0]).all()
        elif self.kind == "velocity":
            assert (np.abs(value) <= FASTEST).all()
            reading = self.trusted()
            assert not ((reading >= SOFT_HIGH) & (value > 0)).any(), "driven into a stop"
            assert not ((reading <= SOFT_LOW) & (value < 0)).any(), "driven into a stop"
        else:
            inside = (value >= LOW) & (value <= HIGH)
            if inside.all():
                return
            reading = self.trusted()  # beyond a stop itself, and the command leads inward
            assert (inside | (reading > HIGH) | (reading < LOW)).all()
            assert (inside | (value <= np.maximum(reading, HIGH))).all()
            assert (inside | (value >= np.minimum(reading, LOW))).all()

    def check_is_rest(self, decision: Decision) -> None:
        """The safe command, computed without the code under test."""
        value, loop = decision.command.value, self.bench.loop
        if self.kind == "effort":
            blind = bool(UNUSABLE.intersection(decision.faults)) or loop.state is None
            allowed = [np.zeros(3)] if self.limp else [np.array([-3.0, 0.0, 12.0])]
            velocities = [self.bench.velocity]
            if loop.state is not None:
                velocities.append(loop.state.joint_velocity)
            for velocity in velocities:
                damped = np.clip(-DAMPING * velocity, -EFFORT, EFFORT)
                allowed.append(damped)
                if self.limp and loop.mode != Mode.ACTIVE and damped.any():  # it fades out
                    share = value[0] / damped[0] if damped[0] else 0.0
                    allowed.append(damped * min(1.0, max(0.0, share)))
            assert any(np.allclose(value, a, atol=1e-6) for a in allowed), (value, allowed, blind)
        elif self.before is not None:
            goal = SAFE if self.kind == "position" else np.zeros(len(value))
            before, after = np.abs(self.before[1] - goal), np.abs(value - goal)
            nearer = after <= before + 1e-9
            if self.kind == "position":  # or as near as the joint's reach lets it be
                measured, reach = self.trusted(), self.reach()
                nearer |= np.abs(value - measured) <= reach + np.abs(value - self.before[1])
                nearer |= np.abs(self.before[1] - measured) > reach
                ended = self.bench.controller.safety._newest is None  # by this very command
                held = (
                    np.inf if ended else np.maximum(reach, np.abs(self.before[1] - measured)) + 1e-9
                )
                assert (np.abs(value - measured) <= held).all(), "a blocked joint is forced"
            assert nearer.all(), (self.before[1], value)

    def check_hold(self, level: SafetyLevel, now: float) -> None:
        if level != SafetyLevel.HOLD:
            self.held_since = None
        elif self.held_since is None:
            self.held_since = now
        else:
            # of one fault; the policy may take its time in between
            assert now - self.held_since <= HOLDS + 2 * T, "a command is held too long"

    def check_end(self, level: SafetyLevel, now: float) -> None:
        if level not in (SafetyLevel.HOLD, SafetyLevel.DAMP):
            self.answered_since = None
        elif self.answered_since is None:
            self.answered_since = now
        else:
            lasted = now - self.answered_since
            assert lasted <= RESPONSES + 2 * T, "a fault that lasts has to end in a stop"

    def check_blind(self, value: np.ndarray, now: float) -> None:
        if self.kind != "effort" or self.limp or not np.array_equal(value, [-3.0, 0.0, 12.0]):
            self.blind_since = None
        elif self.blind_since is None:
            self.blind_since = now
        else:
            assert now - self.blind_since <= BLIND + T, "a load is held blindly for ever"


def decisions_of(
    kind: str, by_reading: bool, limp: bool, seed: int, stands: bool, story: list[Any]
) -> list[Any]:
    player = Story(kind, by_reading, limp, seed, stands)
    player.activate()
    for event in story:
        player.do(event)
        if player.bench.loop.mode == Mode.INACTIVE:
            player.bench.loop.reset()
            player.activate()
    return [
        *(
            (when, d.sent, d.level, d.faults, d.command.value.tobytes())
            for when, d in player.bench.decisions
        ),
        *((when, value.tobytes()) for when, value in player.bench.between),
    ]


@pytest.mark.parametrize("kind", [*KINDS, *INTERPOLATED])
def test_whatever_happens(kind: str) -> None:
    @settings(
        deadline=None,
        max_examples=INTERPOLATED_EXAMPLES if kind in INTERPOLATED else EXAMPLES,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(
        st.booleans(),
        st.booleans(),
        st.integers(0, 2**31),
        st.booleans(),
        st.lists(events, min_size=EVENTS, max_size=2 * EVENTS),
    )
    def run(by_reading: bool, limp: bool, seed: int, stands: bool, story: list[Any]) -> None:
        first = decisions_of(kind, by_reading, limp, seed, stands, story)
        # it is deterministic
        assert first == decisions_of(kind, by_reading, limp, seed, stands, story)

    run()
    assert counted[kind] >= (6_000 if kind in INTERPOLATED else 20_000), counted
