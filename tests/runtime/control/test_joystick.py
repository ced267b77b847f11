"""The joystick: the table of responses in docs/robot.md, and any stream of messages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dime_robot.runtime.contract.joystick_input import JoystickInput
from dime_robot.runtime.contract.robot_config import VelocityInput
from dime_robot.runtime.control.control_loop import ControlLoop, Mode
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.joystick import RELEASED_FOR, RESTED_FOR, SHOWN_FOR, Joystick
from dime_robot.runtime.control.phases import Phase
from tests.runtime.control.loop_bench import LoopBench
from tests.runtime.machines import ScriptedPolicy, T

TIMEOUT, PERIOD = 0.5, 1 / 16  # sums of periods are exact
DEADMAN, ESTOP, STAND, RUN, SIT, NEXT, WALK = range(7)
GIVEN: dict[str, Any] = {
    "timeout": TIMEOUT,
    "sit_down_after": 2.0,
    "deadman": DEADMAN,
    "estop": ESTOP,
    "axes": {"linear_x": {"index": 1}, "angular_z": {"index": 3, "invert": True}},
    "buttons": {
        "stand_up": STAND,
        "run_policy": RUN,
        "sit_down": SIT,
        "next_policy": NEXT,
        "select": {"walk": WALK},
    },
}
VELOCITY = VelocityInput(
    timeout=0.5,
    limits={"linear_x": 2.0, "linear_y": 1.0, "angular_z": 1.0},
    lowest={"linear_x": -0.5},
)
N_AXES, N_BUTTONS = 4, 7
CONFLICT = "joy has 2 publishers: /a, /b: stop all but one"


class Hand:
    """A joystick that is in a hand, and its time."""

    def __init__(self, **changes: Any) -> None:
        given = JoystickInput.model_validate({**GIVEN, **changes})
        self.joystick, self.now = Joystick(given, VELOCITY), 0.0
        self.axes, self.down = {1: 0.0, 3: 0.0}, set[int]()

    def send(self, *down: int, seconds: float = PERIOD, conflict: str = "", **axes: float) -> Any:
        """Send messages for a time, with these buttons pressed; gives what the first asked for."""
        self.axes |= {int(name[1:]): value for name, value in axes.items()}
        self.down, first = set(down), None
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now += PERIOD
            values = np.array([self.axes.get(i, 0.0) for i in range(N_AXES)])
            buttons = [int(i in self.down) for i in range(N_BUTTONS)]
            pressed = self.joystick.receive(values, buttons, self.now, conflict)
            first = first or pressed
        return first

    def raw(self, axes: list[float], buttons: list[int]) -> Any:
        self.now += PERIOD
        return self.joystick.receive(np.array(axes, dtype=float), buttons, self.now)

    def ready(self) -> Hand:
        """Seen at rest, and now driving straight on with full deflection."""
        self.send(seconds=0.5)
        self.send(DEADMAN)
        self.send(DEADMAN, a1=1.0)
        assert self.velocity == [2.0, 0.0, 0.0]
        return self

    @property
    def velocity(self) -> list[float]:
        return [float(value) for value in self.joystick.at(self.now)]

    @property
    def faults(self) -> dict[Fault, str]:
        return self.joystick.faults(self.now)


def titles(pressed: Any) -> list[str]:
    return [request.title for request in pressed.requests if not request.problem]


def test_full_deflection_is_the_limit_of_its_side() -> None:
    hand = Hand().ready()
    hand.send(DEADMAN, a1=-1.0, a3=0.55)
    assert hand.velocity == pytest.approx([-0.5, 0.0, -0.5])  # inverted, and half way
    hand.send(DEADMAN, a1=0.09, a3=-1.0)
    assert hand.velocity == [0.0, 0.0, 1.0]
    assert hand.faults == {}


# ---- deadman


def test_a_released_deadman_is_velocity_0_at_once() -> None:
    hand = Hand().ready()
    hand.send()
    assert hand.velocity == [0.0, 0.0, 0.0]
    hand.send(DEADMAN)  # the stick is still at its stop
    assert hand.velocity == [0.0, 0.0, 0.0]
    assert "axis 1 (linear_x) is at 1.00: let go of it" in hand.faults[Fault.JOYSTICK_REFUSED]


def test_a_released_deadman_counts_in_a_message_that_cannot_be_used() -> None:
    hand = Hand().ready()
    hand.raw([0.0, math.nan, 0.0, 0.0], [0] * N_BUTTONS)
    assert hand.velocity == [0.0, 0.0, 0.0]


# ---- estop


@pytest.mark.parametrize("down", [(ESTOP,), (ESTOP, DEADMAN), (ESTOP, SIT, STAND)])
def test_the_estop_button_counts_with_and_without_the_deadman_and_in_the_first_message(
    down: tuple[int, ...],
) -> None:
    assert Hand().send(*down).estop
    hand = Hand().ready()
    pressed = hand.send(*down)
    assert pressed.estop and pressed.requests == ()
    assert hand.joystick.stops(hand.now)
    assert hand.joystick.problem(hand.now) == (
        f"the emergency stop button of the joystick, {ESTOP}, is pressed"
    )


@pytest.mark.parametrize(
    ("axes", "buttons"),
    [
        ([math.nan] * 4, [0, 1, 0, 0, 0, 0, 0]),
        ([], [0, 1, 0, 0, 0, 0, 0]),
        ([0.0] * 4, [0, 1]),
        ([0.0] * 4, [0, -7, 0, 0, 0, 0, 0]),
        ([0.0] * 1000, [0, 1] * 1000),
    ],
)
def test_the_estop_button_counts_in_a_message_that_cannot_be_used(
    axes: list[float], buttons: list[int]
) -> None:
    hand = Hand().ready()
    assert hand.raw(axes, buttons).estop
    assert hand.joystick.refused and hand.joystick.stops(hand.now)
    assert "emergency stop button" in hand.joystick.problem(hand.now)


# ---- silence


def test_silence_is_velocity_0_and_a_fault_of_its_own() -> None:
    hand = Hand().ready()
    hand.now += TIMEOUT
    assert hand.velocity == [2.0, 0.0, 0.0] and hand.faults == {}
    hand.now += 0.01
    assert hand.velocity == [0.0, 0.0, 0.0]
    assert hand.faults == {Fault.JOYSTICK_LOST: "no usable message on joy for 0.51 s"}
    assert hand.joystick.problem(hand.now) == (
        "the joystick is silent: no usable message on joy for 0.51 s, is joy_node running, with"
        " autorepeat_rate above 0?"
    )
    wrong = "/joy_node publishes on /joy with std_msgs/msg/String: correct robot.joystick.topic"
    assert wrong in hand.joystick.problem(hand.now, ["another", wrong])
    assert "no usable message on joy yet" in Hand().joystick.problem(0.0)


def test_after_silence_nothing_that_is_still_held_moves_the_robot_or_requests_anything() -> None:
    hand = Hand().ready()
    hand.now += TIMEOUT + 0.1
    assert hand.send(DEADMAN, STAND, SIT, seconds=1.0).requests == ()
    assert hand.velocity == [0.0, 0.0, 0.0]
    assert list(hand.faults) == [Fault.JOYSTICK_REFUSED]
    hand.send(DEADMAN, a1=0.0, seconds=RESTED_FOR + PERIOD)
    hand.send(DEADMAN, a1=1.0)
    assert hand.velocity == [2.0, 0.0, 0.0] and hand.faults == {}


# ---- axes


def test_an_axis_that_is_not_centred_gives_nothing_until_it_was_once() -> None:
    hand = Hand()
    hand.send(seconds=0.5, a1=0.7)
    assert "expected a joystick with centred axes, axis 1 (linear_x) is at 0.70" in (
        hand.joystick.problem(hand.now)
    )
    hand.send(DEADMAN, seconds=0.5)
    assert hand.velocity == [0.0, 0.0, 0.0]
    assert hand.faults[Fault.JOYSTICK_REFUSED].startswith("axis 1 (linear_x) is at 0.70: let go")
    hand.send(DEADMAN, a3=-1.0, seconds=0.5)  # the other axis is free
    assert hand.velocity == [0.0, 0.0, 1.0]
    hand.send(DEADMAN, a1=0.05, seconds=RESTED_FOR + PERIOD)
    assert hand.faults == {}
    hand.send(DEADMAN, a1=1.0)
    assert hand.velocity == [2.0, 0.0, 1.0]


def test_a_trigger_that_rests_at_its_stop_is_refused_and_gives_nothing_on_its_way() -> None:
    hand = Hand()
    hand.send(seconds=1.0, a1=1.0)
    assert "; a trigger, which rests at 1 or -1, gives no velocity" in hand.joystick.problem(
        hand.now
    )
    hand.send(DEADMAN, seconds=1.0)
    assert "a trigger, which rests" in hand.faults[Fault.JOYSTICK_REFUSED]
    for value in (0.6, 0.2, 0.04, -0.04, -0.3, -1.0, -0.2, 0.05, 0.5, 1.0):  # pulled and let go
        hand.send(DEADMAN, a1=value)
        assert hand.velocity == [0.0, 0.0, 0.0]


# ---- messages that cannot be used


@pytest.mark.parametrize(
    ("axes", "buttons", "words"),
    [
        ([0.0, math.nan, 0.0, 0.0], None, "expected axes in [-1, 1], got nan of axis 1"),
        ([0.0, 0.0, 0.0, math.inf], None, "got inf of axis 3"),
        ([0.0, 1.01, 0.0, 0.0], None, "got 1.01 of axis 1"),
        ([0.0, 0.0, 0.0, -32767.0], None, "got -3.277e+04 of axis 3"),
        ([0.0, 0.0, 0.0], None, "expected 4 to 256 axes, got 3"),
        ([], [], "expected 4 to 256 axes, got 0"),
        ([0.0] * 300, None, "expected 4 to 256 axes, got 300"),
        ([0.0] * 4, [1, 0, 0, 0, 0, 0], "expected 7 to 256 buttons, got 6"),
        ([0.0] * 4, [1, 0, 2, 0, 0, 0, 0], "expected buttons that are 0 or 1, got 2 of button 2"),
    ],
)
def test_a_message_that_cannot_be_used_is_named_and_counts_as_silence(
    axes: list[float], buttons: list[int] | None, words: str
) -> None:
    held = [1, 0, 0, 0, 0, 0, 0] if buttons is None else buttons
    hand = Hand().ready()
    assert hand.raw(axes, held).requests == ()
    assert hand.joystick.refused.startswith(words) or words in hand.joystick.refused
    assert words in hand.faults[Fault.JOYSTICK_REFUSED]
    for _ in range(10):
        hand.raw(axes, held)
    assert hand.velocity == [0.0, 0.0, 0.0]
    assert words in hand.faults[Fault.JOYSTICK_LOST]
    assert words in hand.joystick.problem(hand.now)


def test_rounding_is_no_reason_to_refuse_a_message() -> None:
    hand = Hand().ready()
    hand.send(DEADMAN, a1=float(np.float32(1.0000001)))
    assert hand.joystick.refused == ""
    assert hand.velocity == [2.0, 0.0, 0.0]


# ---- two joysticks


def test_two_joysticks_are_ignored_but_for_their_estop_buttons() -> None:
    hand = Hand().ready()
    assert hand.send(DEADMAN, STAND, conflict=CONFLICT).requests == ()
    assert hand.velocity == [0.0, 0.0, 0.0]
    assert hand.faults == {Fault.JOYSTICK_LOST: f"no usable message on joy for 0.06 s: {CONFLICT}"}
    assert CONFLICT in hand.joystick.problem(hand.now)
    assert hand.send(DEADMAN, ESTOP, conflict=CONFLICT).estop
    hand.send(DEADMAN)  # one is gone, the stick of the other is at its stop
    assert hand.velocity == [0.0, 0.0, 0.0]


# ---- requests


def test_a_request_is_made_on_the_press_only() -> None:
    hand = Hand().ready()
    assert titles(hand.send(DEADMAN, STAND, seconds=0.5)) == ["stand_up"]
    assert titles(hand.send(DEADMAN, STAND, seconds=0.5)) == []
    hand.send(DEADMAN, seconds=2 * PERIOD)
    assert titles(hand.send(DEADMAN, STAND)) == ["stand_up"]
    hand.send(DEADMAN, seconds=2 * PERIOD)
    assert titles(hand.send(DEADMAN, WALK)) == ["select walk"]


def test_a_button_that_is_pressed_in_the_first_message_requests_nothing() -> None:
    hand = Hand()
    assert titles(hand.send(DEADMAN, RUN, SIT, seconds=1.0)) == []
    hand.send(DEADMAN, seconds=2 * PERIOD)
    assert titles(hand.send(DEADMAN, RUN)) == ["run_policy"]


def test_a_contact_that_bounces_requests_once() -> None:
    hand = Hand().ready()
    found = titles(hand.send(DEADMAN, NEXT, seconds=0.2))
    for i in range(20):  # while it is let go
        hand.now += RELEASED_FOR / 10
        buttons = [1, 0, 0, 0, 0, i % 2, 0]
        found += titles(hand.joystick.receive(np.zeros(4), buttons, hand.now))
    assert found == ["next_policy"]


@pytest.mark.parametrize("button", [STAND, RUN, NEXT, WALK])
def test_most_requests_need_the_deadman(button: int) -> None:
    hand = Hand()
    hand.send(seconds=0.5)
    (request,) = hand.send(button).requests
    assert request.problem == "hold the deadman button, 0, while pressing it"
    hand.joystick.refuse(request, request.problem, hand.now)
    assert f"{request.title}: hold the deadman" in hand.faults[Fault.JOYSTICK_REFUSED]
    assert hand.joystick.describe(hand.now) == f"{request.title}: {request.problem}"
    hand.send(seconds=SHOWN_FOR + PERIOD)
    assert hand.joystick.describe(hand.now) == "deadman released"
    hand.send(DEADMAN)
    assert hand.joystick.describe(hand.now) == "deadman held"


def test_sitting_down_needs_no_deadman_and_goes_before_all_else() -> None:
    hand = Hand()
    hand.send(seconds=0.5)
    assert titles(hand.send(SIT)) == ["sit_down"]
    hand.send(seconds=0.5)
    assert titles(hand.send(DEADMAN, STAND, RUN, SIT)) == ["sit_down"]


# ---- any stream

values = st.one_of(
    st.floats(-1, 1, width=32),
    st.sampled_from([0.0, 0.0, 0.0, 1.0, -1.0]),
    st.sampled_from([math.nan, math.inf, -math.inf, 1.0005, 1.5, -2.0, 1e30]),
)
calm = st.lists(st.sampled_from([0.0, 0.0, 0.05, 1.0, -0.6]), min_size=N_AXES, max_size=N_AXES)
wild = st.lists(values, max_size=6)
bits = st.lists(st.integers(0, 1), min_size=N_BUTTONS, max_size=N_BUTTONS)
odd_bits = st.lists(st.sampled_from([0, 1, 1, 2, -1]), max_size=9)
joys = st.tuples(
    st.sampled_from([0.0, 0.001, 0.02, 0.05, 0.05, 0.05, 0.3, 0.49, 0.6, 3.0]),  # since the last
    st.one_of(calm, calm, wild),
    st.one_of(bits, bits, odd_bits),
    st.sampled_from([0, 0, 0, 1]),  # the deadman is held anyway
    st.sampled_from(["", "", "", "", CONFLICT]),
    st.sampled_from([1, 1, 1, 8, 60]),  # how often, a flood at last
)


@settings(max_examples=100, deadline=None)
@given(st.lists(joys, max_size=30), st.floats(0.0, 1.0))
@example([(0.05, [0.0, 1.0, 0.0, 0.0], [1] + [0] * 6, 0, "", 1)] * 30, 0.0)
def test_whatever_comes_the_velocity_is_0_or_commanded_and_no_estop_is_lost(
    stream: list[tuple[float, list[float], list[int], int, str, int]], rest: float
) -> None:
    hand = Hand()
    low, high = (np.array(bound) for bound in VELOCITY.bounds)
    usable_at, held, pressed_before = -math.inf, False, dict.fromkeys(range(N_BUTTONS), True)
    for gap, axes, buttons, deadman, conflict, times in stream:
        if deadman and buttons:
            buttons = [1, *buttons[1:]]
        for _ in range(times):
            hand.now += gap
            got = hand.joystick.receive(np.array(axes, dtype=float), buttons, hand.now, conflict)
            assert got.estop == (len(buttons) > ESTOP and buttons[ESTOP] != 0)
            usable = (
                not conflict
                and len(axes) >= N_AXES
                and len(buttons) >= N_BUTTONS
                and all(abs(x) <= 1.001 for x in axes)
                and set(buttons) <= {0, 1}
            )
            assert bool(hand.joystick.refused) == (not usable)
            if usable:
                if hand.now - usable_at > TIMEOUT:
                    pressed_before = dict.fromkeys(pressed_before, True)
                usable_at, held = hand.now, bool(buttons[DEADMAN])
                for request in got.requests:
                    place = {"select walk": WALK, "stand_up": STAND, "run_policy": RUN}
                    button = {**place, "sit_down": SIT, "next_policy": NEXT}[request.title]
                    assert buttons[button] and not pressed_before[button], "no press"
                    assert request.problem or held or button == SIT
                pressed_before = {i: bool(buttons[i]) for i in range(N_BUTTONS)}
            else:
                assert got.requests == ()
                if buttons and buttons[DEADMAN] == 0:
                    held = False
                if conflict:
                    usable_at = -math.inf
            check(hand, held and hand.now - usable_at <= TIMEOUT, low, high)
        hand.now += rest / len(stream)
        check(hand, held and hand.now - usable_at <= TIMEOUT, low, high)


def check(hand: Hand, may_move: bool, low: np.ndarray, high: np.ndarray) -> None:
    velocity = hand.joystick.at(hand.now)
    assert np.isfinite(velocity).all()
    assert (velocity >= low).all() and (velocity <= high).all()
    assert may_move or not velocity.any()


# ---- in the control loop

TERM = {"name": "v", "kind": "command_velocity", "size": 3, "unit": "mixed"}
BUTTONS = {"next_policy": NEXT, "previous_policy": WALK}
PHASES: dict[str, Any] = {
    "stand_up": {"path": [{"pose": "default", "duration": 0.25}], "timeout": 2.0, "settle": 0.1},
    "sit_down": {"path": [{"pose": "safe", "duration": 0.25}], "timeout": 2.0, "settle": 0.1},
    "start": "stand",
    "halt": 0.0,
}
SIT_DOWN_AFTER = 1.5


class Pad:
    """A loop, and a joystick that repeats itself while time passes."""

    def __init__(self, phases: bool = False, **changes: Any) -> None:
        given = {key: value for key, value in GIVEN.items() if key != "sit_down_after"}
        given |= {"buttons": BUTTONS}
        robot: dict[str, Any] = {"command_velocity__lowest": {"linear_x": -0.5}}
        if phases:
            given |= {"buttons": GIVEN["buttons"], "sit_down_after": SIT_DOWN_AFTER}
            robot |= {"phases": PHASES}
        self.bench = LoopBench(
            spec={"observation__0": TERM}, joystick={**given, **changes}, **robot
        )
        self.bench.follows = True
        self.axes, self.down, self.talks = [0.0] * N_AXES, set[int](), True

    @property
    def loop(self) -> ControlLoop:
        return self.bench.loop

    def send(self, *down: int, axis: float | None = None) -> Pad:
        """A message, and from now on these buttons and this deflection."""
        self.down = set(down)
        if axis is not None:
            self.axes[1] = axis
        buttons = [int(i in self.down) for i in range(N_BUTTONS)]
        self.bench.take(self.loop.joystick(np.array(self.axes), buttons))
        return self

    def run(self, seconds: float) -> Pad:
        for _ in range(round(seconds / (4 * T))):
            self.bench.run(4)
            if self.talks:
                self.send(*self.down)
        return self

    def activate(self) -> Pad:
        self.run(1.0)
        self.bench.activate_now()
        return self.run(0.125)

    def walk(self) -> Pad:
        """Straight on, at full deflection."""
        self.send(DEADMAN, axis=0.0).run(0.5)
        self.send(DEADMAN, axis=1.0).run(0.125)
        assert self.seen == [1.0, 0.0, 0.0]
        return self

    def press(self, *down: int) -> list[tuple[str, str]]:
        """Press and let go; gives what was requested, and why it was refused."""
        self.send(*down).run(0.125)
        self.send(*(down if DEADMAN in down and len(down) == 1 else ())).run(0.125)
        return self.loop.take_requests()

    @property
    def seen(self) -> list[float]:
        """The velocity that the policy sees."""
        return [float(value) for value in self.bench.policy.seen[-1]]


def test_the_velocity_comes_from_the_joystick_alone() -> None:
    pad = Pad().activate()
    assert pad.loop.drives_by_joystick and not pad.loop.needs_velocity
    assert pad.seen == [0.0, 0.0, 0.0]
    pad.walk()
    assert Fault.COMMAND_VELOCITY_LOST not in pad.bench.last.faults
    pad.send(axis=1.0)
    assert pad.loop.state is not None and pad.loop.state.command_velocity is not None
    assert not pad.loop.state.command_velocity.any()  # at once, before the next reading
    pad.bench.run(1)
    assert pad.seen == [0.0, 0.0, 0.0]


def test_a_joystick_without_axes_leaves_the_velocity_to_its_topic() -> None:
    pad = Pad(axes={}).activate()
    assert pad.loop.needs_velocity and not pad.loop.drives_by_joystick
    pad.loop.velocity(np.array([0.5, 0.0, 0.0]))
    pad.bench.run(2)
    assert pad.seen == [0.5, 0.0, 0.0]


def test_activation_needs_a_joystick_that_is_there_centred_and_alone() -> None:
    pad = Pad()
    pad.bench.run(80)
    pad.bench.update_graph()
    assert "the joystick is silent" in pad.loop.activation_problem()
    pad.send(axis=1.0).run(0.25)
    assert "axis 1 (linear_x) is at 1.00" in pad.loop.activation_problem()
    pad.send(axis=0.0).run(0.25)
    assert pad.loop.activation_problem() == ""
    pad.bench.update_graph(joystick_conflict=CONFLICT)
    assert pad.loop.activation_problem() == CONFLICT
    pad.bench.update_graph(joystick_conflict="")
    pad.run(0.25)
    assert pad.loop.activation_problem() == ""


@pytest.mark.parametrize("active", [True, False])
def test_the_estop_button_latches_until_the_service_releases_it(active: bool) -> None:
    pad = Pad()
    pad = pad.activate() if active else pad.run(1.0)
    pad.send(ESTOP)
    assert pad.loop.estopped and pad.loop.latched == active
    if active:
        assert pad.bench.last.level == SafetyLevel.STOP
        assert pad.bench.why == "estop (by the joystick)"
    pad.run(0.25)
    assert f"button of the joystick, {ESTOP}, is pressed" in pad.loop.reset()
    pad.send(DEADMAN, STAND, axis=1.0).run(0.5)  # no button and no stick releases it
    assert pad.loop.estopped and pad.loop.latched == active
    pad.send(axis=0.0).run(0.5)
    assert pad.loop.reset() == ""
    assert not pad.loop.estopped and not pad.loop.latched


def test_the_estop_button_counts_while_the_robot_comes_to_rest() -> None:
    pad = Pad().activate()
    pad.loop.shut_down()
    pad.bench.run(2)
    assert pad.loop.mode == Mode.RESTING
    pad.send(ESTOP)
    assert pad.loop.estopped
    pad.run(8.0)
    assert pad.loop.mode == Mode.INACTIVE and pad.loop.estopped


def test_silence_is_a_warning_and_clocks_do_not_matter() -> None:
    pad = Pad().activate().walk()
    pad.talks = False
    pad.run(TIMEOUT + 0.125)
    assert pad.seen == [0.0, 0.0, 0.0]
    assert Fault.JOYSTICK_LOST in pad.bench.last.faults
    assert pad.bench.last.level < SafetyLevel.HOLD
    assert "no usable message on joy for 0.6" in pad.bench.why
    pad.run(10.0)  # without phases it stands still for as long as that takes
    assert pad.bench.last.level < SafetyLevel.HOLD and pad.seen == [0.0, 0.0, 0.0]
    pad.talks = True
    pad.walk()
    pad.bench.offset += 0.1  # only the joints' stamps are on that clock
    pad.run(0.25)
    assert pad.seen == [1.0, 0.0, 0.0] and Fault.JOYSTICK_LOST not in pad.bench.last.faults


def test_two_joysticks_stand_still_and_stop() -> None:
    pad = Pad().activate().walk()
    pad.bench.update_graph(joystick_conflict=CONFLICT, extra_publishers=(CONFLICT,))
    pad.bench.run(1)
    assert pad.seen == [0.0, 0.0, 0.0]
    faults = pad.bench.last.faults
    assert Fault.SECOND_PUBLISHER in faults and Fault.JOYSTICK_LOST in faults
    assert "/a, /b" in pad.bench.why and pad.bench.last.level < SafetyLevel.HOLD
    pad.run(0.5)
    assert pad.seen == [0.0, 0.0, 0.0]
    pad.send(ESTOP)
    assert pad.bench.last.level == SafetyLevel.STOP
    assert CONFLICT in pad.loop.reset() or "is pressed" in pad.loop.reset()


def test_a_request_that_is_refused_says_why() -> None:
    pad = Pad().run(1.0)
    [(title, problem)] = pad.press(NEXT)
    assert title == "next_policy" and problem.startswith("hold the deadman button")
    [(_, problem)] = pad.press(DEADMAN, NEXT)
    assert problem == "expected several policies, there is only machine"
    pad.run(3.0)
    pad.activate()
    [(_, problem)] = pad.press(DEADMAN, WALK)
    assert problem == "expected several policies, there is only machine"
    assert Fault.JOYSTICK_REFUSED in pad.bench.last.faults
    assert "previous_policy: expected several policies" in pad.loop.describe_joystick()


def test_buttons_choose_among_policies() -> None:
    pad = Pad(buttons={**BUTTONS, "select": {"trot": RUN, "dance": STAND}})
    spec, robot = pad.bench.spec, pad.bench.robot
    policies = {name: ScriptedPolicy(spec) for name in ("walk", "trot", "turn")}
    bench = pad.bench
    bench.controller = Controller(policies, robot, lambda: bench.now)
    bench.loop = ControlLoop(
        bench.controller, True, lambda: bench.now, lambda: bench.now + bench.offset
    )
    pad.activate()
    found = []
    for button in (NEXT, NEXT, NEXT, WALK, RUN):  # WALK is previous_policy here
        assert pad.press(DEADMAN, button)[0][1] == ""
        found.append(bench.controller.acting)
    assert found == ["trot", "turn", "walk", "turn", "trot"]
    assert "expected one of walk, trot, turn" in pad.press(DEADMAN, STAND)[0][1]


def test_buttons_lead_through_the_phases() -> None:
    pad = Pad(phases=True).activate()
    pad.run(1.5)
    assert pad.loop.phase == Phase.STAND
    assert pad.press(RUN) == [("run_policy", "hold the deadman button, 0, while pressing it")]
    assert pad.loop.phase == Phase.STAND
    assert pad.press(DEADMAN, RUN) == [("run_policy", "")]
    assert pad.loop.phase == Phase.POLICY
    pad.walk()
    assert pad.press(SIT) == [("sit_down", "")]
    pad.run(3.0)
    assert pad.loop.phase == Phase.PASSIVE
    pad.send(axis=0.0)
    assert pad.press(DEADMAN, STAND) == [("stand_up", "")]
    pad.run(2.0)
    assert pad.loop.phase == Phase.STAND
    pad.send(ESTOP).run(0.25)
    assert pad.press(SIT)[0][1].startswith("stopped: estop")


def test_silence_that_lasts_sits_a_robot_with_phases_down() -> None:
    pad = Pad(phases=True).activate()
    pad.run(1.5)
    pad.press(DEADMAN, RUN)
    pad.walk()
    pad.talks = False
    pad.run(SIT_DOWN_AFTER - 0.25)
    assert pad.loop.phase == Phase.POLICY and pad.seen == [0.0, 0.0, 0.0]
    pad.run(0.5)
    assert pad.loop.phase == Phase.SIT_DOWN
    assert pad.loop.take_failure().startswith("sits down: no usable message of the joystick for 1.")
    pad.talks = True
    pad.run(3.0)  # it lies, and stays so
    assert pad.loop.phase == Phase.PASSIVE
    pad.send(axis=0.0)
    assert pad.press(DEADMAN, STAND) == [("stand_up", "")]


def test_two_joysticks_that_stay_sit_a_robot_with_phases_down() -> None:
    pad = Pad(phases=True).activate()
    pad.run(1.5)
    for _ in range(24):
        pad.bench.update_graph(joystick_conflict=CONFLICT)
        pad.run(0.125)
    assert pad.loop.phase in (Phase.SIT_DOWN, Phase.PASSIVE)
