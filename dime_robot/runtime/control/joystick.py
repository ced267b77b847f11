"""Joystick: what an operator commands with a joystick, and what is done without its messages.

Its messages are timed by their arrival; their stamps and the robot's clock do not matter.

    deadman released    velocity 0 at once
    no usable message   velocity 0 after `timeout`, and every button and axis is judged anew
    axis                0 until it has rested in its dead zone while the deadman is held, or right
                        before: one that is stuck, or a trigger, moves nothing
    estop button        counts in every message that has it, whatever else is wrong
    other buttons       when they are pressed, after they were seen released

Pure: the time is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dime_robot.runtime.contract.joystick_input import JoystickInput
from dime_robot.runtime.contract.policy_spec import TWIST_AXES, FloatArray
from dime_robot.runtime.contract.robot_config import VelocityInput
from dime_robot.runtime.control.faults import Fault

ROUNDING = 1e-3  # by which an axis may be beyond [-1, 1]
RESTED_FOR = 0.25  # [s] in its dead zone, after which an axis is centred; not just on its way
RELEASED_FOR = 0.05  # [s] between a release of a button and its next press; contacts bounce
SHOWN_FOR = 2.0  # [s] for which a refused request is reported
TRIGGER = 0.95  # deflection from which on an axis may be a trigger that rests there
MAX_SIZE = 256  # axes, or buttons, of a message
WITHOUT_DEADMAN = ("sit_down",)


class Request(NamedTuple):
    """What a pressed button requests."""

    what: str  # a field of `JoystickButtons`
    policy: str = ""  # name, of `select`
    problem: str = ""  # why it is refused already, as a sentence

    @property
    def title(self) -> str:
        """What is requested, for a log."""
        return f"{self.what} {self.policy}".strip()


class Pressed(NamedTuple):
    """What a message asks for besides a velocity."""

    estop: bool = False
    requests: tuple[Request, ...] = ()


class Joystick:
    """The newest usable message of a joystick.

    Args:
        given: what its axes and buttons mean.
        velocity: limits of the velocity; None: it has no axes.
    """

    def __init__(self, given: JoystickInput, velocity: VelocityInput | None) -> None:
        self._given = given
        self._axes = [(TWIST_AXES.index(name), name, axis) for name, axis in given.axes.items()]
        bounds = ((0.0,) * 3, (0.0,) * 3) if velocity is None else velocity.bounds
        self._low, self._high = (np.array(bound) for bound in bounds)
        self._requests: dict[int, Request] = {}  # by button
        for place, button in given.buttons.by_place().items():
            what, _, policy = place.partition(".")
            self._requests[button] = Request(what, policy)
        self._n_axes = max((axis.index + 1 for axis in given.axes.values()), default=0)
        self._n_buttons = 1 + max(given.deadman, given.estop, *self._requests)
        self.restart()

    def restart(self) -> None:
        """Forget all messages: nothing that is pressed or deflected now counts."""
        self._received = -np.inf  # of the newest usable message [s]
        self._distrusted = False  # no message counts until a usable one comes
        self.refused = ""  # why the newest message cannot be used, as a phrase
        self._estop_at = -np.inf  # when the estop button was last seen pressed [s]
        self._request_refused, self._request_at = "", -np.inf  # the last one, and when [s]
        self._forget()

    def _forget(self) -> None:
        """Judge every button and axis anew."""
        self.held = False  # the deadman
        self._velocity = np.zeros(3)
        self._values: dict[str, float] = {}  # of the mapped axes
        self._free: set[str] = set()  # axes that may command
        self._centred_since: dict[str, float] = {}  # of axes in their dead zones [s]
        self._released_since: dict[int, float] = {}  # of buttons that are released [s]

    @property
    def drives(self) -> bool:
        """Whether the velocity comes from its axes."""
        return bool(self._axes)

    def receive(
        self, axes: FloatArray, buttons: Sequence[int], now: float, conflict: str = ""
    ) -> Pressed:
        """Take a message.

        Args:
            axes: shape (n,) [1].
            buttons: 0 or 1 each.
            now: when it came, steady time [s].
            conflict: why no message can be trusted now, as a sentence; empty: it can.
        """
        given = self._given
        if conflict:
            self.distrust(conflict)
        elif self.is_lost(now):
            self._forget()
        estop = len(buttons) > given.estop and buttons[given.estop] != 0
        self._estop_at = now if estop else -np.inf
        self.refused = conflict or self._defect(axes, buttons)
        if self.refused:
            if len(buttons) > given.deadman and buttons[given.deadman] == 0:
                self._release()
            return Pressed(estop)
        self._received, self._distrusted = now, False
        self._take_axes(axes, bool(buttons[given.deadman]), now)
        requests = self._take_buttons(buttons, now)
        return Pressed(True) if estop else Pressed(False, requests)

    def distrust(self, why: str) -> None:
        """Ignore what has come so far: it is not known whose it is; `why` is a sentence."""
        self._forget()
        self._distrusted, self.refused = True, why

    def _release(self) -> None:
        self.held = False
        self._free.clear()
        self._velocity = np.zeros(3)

    def _defect(self, axes: FloatArray, buttons: Sequence[int]) -> str:
        """Return why a message cannot be used, as a phrase; empty: it can."""
        for what, size, needed in (
            ("axes", len(axes), self._n_axes),
            ("buttons", len(buttons), self._n_buttons),
        ):
            if not needed <= size <= MAX_SIZE:
                return f"expected {needed} to {MAX_SIZE} {what}, got {size}"
        inside = np.abs(axes) <= 1 + ROUNDING  # NaN compares false
        if not inside.all():
            i = int(inside.argmin())
            return f"expected axes in [-1, 1], got {axes[i]:.4g} of axis {i}"
        for i, button in enumerate(buttons):
            if button not in (0, 1):
                return f"expected buttons that are 0 or 1, got {button} of button {i}"
        return ""

    def _take_axes(self, axes: FloatArray, held: bool, now: float) -> None:
        if not held:
            self._free.clear()
        self.held = held
        velocity = np.zeros(3)
        for row, name, axis in self._axes:
            value = float(axes[axis.index])
            self._values[name] = value
            deflection = axis.deflection(value)
            if deflection:
                self._centred_since.pop(name, None)
            elif now - self._centred_since.setdefault(name, now) >= RESTED_FOR and held:
                self._free.add(name)
            if name in self._free:
                bound = self._high if deflection > 0 else -self._low
                velocity[row] = deflection * bound[row]
        self._velocity = velocity

    def _take_buttons(self, buttons: Sequence[int], now: float) -> tuple[Request, ...]:
        found = []
        for button, request in self._requests.items():
            if not buttons[button]:
                self._released_since.setdefault(button, now)
                continue
            since = self._released_since.pop(button, np.inf)
            if now - since < RELEASED_FOR:
                continue
            if not self.held and request.what not in WITHOUT_DEADMAN:
                problem = f"hold the deadman button, {self._given.deadman}, while pressing it"
                request = request._replace(problem=problem)
            found.append(request)
        down = [request for request in found if request.what == "sit_down"]
        return tuple(down or found)

    def refuse(self, request: Request, problem: str, now: float) -> None:
        """Report why a request is refused.

        Args:
            request: what was requested.
            problem: a sentence.
            now: steady time [s].
        """
        self._request_refused, self._request_at = f"{request.title}: {problem}", now

    # ---- what is commanded, and what is wrong

    def is_lost(self, now: float) -> bool:
        """Whether the last usable message is older than the time-out, or not trusted any more.

        Args:
            now: steady time [s].
        """
        return self._distrusted or self.silence(now) > self._given.timeout

    def silence(self, now: float) -> float:
        """Return the time since the last usable message [s]; infinite: none has come.

        Args:
            now: steady time [s].
        """
        return now - self._received

    def stops(self, now: float) -> bool:
        """Whether its estop button is pressed, in a message that need not be usable otherwise.

        Args:
            now: steady time [s].
        """
        return now - self._estop_at <= self._given.timeout

    def at(self, now: float) -> FloatArray:
        """Return the velocity command, shape (3,) [m/s, m/s, rad/s].

        Args:
            now: steady time [s].
        """
        return np.zeros(3) if self.is_lost(now) else self._velocity

    def faults(self, now: float) -> dict[Fault, str]:
        """Return its faults, each with a phrase.

        Args:
            now: steady time [s].
        """
        found = {}
        if self.is_lost(now):
            text = self._silence_text(now)
            found[Fault.JOYSTICK_LOST] = f"{text}: {self.refused}" if self.refused else text
        refused = [] if self.is_lost(now) else [self.refused, self._blocked()]
        if now - self._request_at < SHOWN_FOR:
            refused.append(self._request_refused)
        if text := "; ".join(filter(None, refused)):
            found[Fault.JOYSTICK_REFUSED] = text
        return found

    def _silence_text(self, now: float) -> str:
        silence = self.silence(now)
        text = f"no usable message on {self._given.topic}"
        return f"{text} for {silence:.2f} s" if np.isfinite(silence) else f"{text} yet"

    def _blocked(self) -> str:
        """Return which axes are ignored although the deadman is held, as a phrase."""
        names = [name for _, name, axis in self._axes if name not in self._free]
        return self._off_centre(names) if self.held else ""

    def _off_centre(self, names: Sequence[str]) -> str:
        """Return which of these axes are not centred, as a phrase; empty: none."""
        texts, trigger = [], False
        for _, name, axis in self._axes:
            value = self._values.get(name, 0.0)
            if name in names and axis.deflection(value):
                texts.append(f"axis {axis.index} ({name}) is at {value:.2f}")
                trigger |= abs(value) >= TRIGGER
        if not texts:
            return ""
        text = f"{', '.join(texts)}: let go of it, it moves nothing until it was centred"
        return f"{text}; a trigger, which rests at 1 or -1, gives no velocity" if trigger else text

    def problem(self, now: float, mismatches: Sequence[str] = ()) -> str:
        """Return why a robot should not be commanded with it, as a sentence; empty: it may.

        Args:
            now: steady time [s].
            mismatches: sentences about nodes with another message type; one may be the reason.
        """
        if self.stops(now):
            return f"the emergency stop button of the joystick, {self._given.estop}, is pressed"
        if self.is_lost(now):
            why = next((s for s in mismatches if "robot.joystick." in s), "")
            why = self.refused or why or "is joy_node running, with autorepeat_rate above 0?"
            return f"the joystick is silent: {self._silence_text(now)}, {why}"
        if text := self._off_centre(list(self._given.axes)):
            return f"expected a joystick with centred axes, {text}"
        return ""

    def describe(self, now: float) -> str:
        """Describe its state for diagnostics.

        Args:
            now: steady time [s].
        """
        faults = self.faults(now)
        if faults:
            return "; ".join(faults.values())
        return "deadman held" if self.held else "deadman released"
