"""keyboard_node: a joystick made of a terminal's keys. `ros2 run dime_robot keyboard_node`.

It publishes sensor_msgs/Joy 20 times a second, with the axes and buttons that the section
`robot.joystick` of the robot's file gives to each function, so that policy_node takes it for the
gamepad of that file.

    space         deadman: held from now on, or released. A terminal tells no release of a key, so
                  it is also released after `release_after` seconds without any key
    w s           forward, backward: one step more
    a d           left, right
    q e           turn left, turn right
    c             centre: all velocities 0
    u g l         stand up, run the policy, lie down
    1 ... 9       select a policy, in the order of `buttons.select`
    n p           next, previous policy
    x Esc         emergency stop
    Ctrl-C        end
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(ros=("rclpy",))

import os
import select
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import Joy

from dime_robot.runtime.contract.config_files import read_config
from dime_robot.runtime.contract.joystick_input import JoystickInput
from dime_robot.runtime.contract.robot_config import robot_of
from dime_robot.runtime.io.errors import InputError
from ros_nodes.conversions import JOYSTICK_QOS
from ros_nodes.parameters import (
    KeyboardParameters,
    existing_path,
    help_asked,
    help_of,
    read_parameters,
    require_known_parameters,
)
from ros_nodes.process import StopSignal, run_node

PERIOD = 0.05  # [s] between two messages, as joy_node repeats itself
KEY_PERIOD = 0.02  # [s] between two reads of the keys
STEP = 0.2  # of full deflection, per key
PRESS = 0.15  # [s] for which a button is pressed: in two messages at least
ESTOP_PRESS = 0.5  # [s]
REPEAT = 0.15  # [s] within which another space is the repetition of a key that is held
READ_SIZE = 1024  # bytes of keys at once
LAST_MESSAGE_TIMEOUT = 0.2  # [s] for the last message to be acknowledged
ESCAPE, SPACE = "\x1b", " "
ENDS = ("\x03", "\x04", "\x1a", "\x1c")  # Ctrl-C, Ctrl-D, Ctrl-Z, Ctrl-\
MOTIONS = {
    "w": ("linear_x", 1),
    "s": ("linear_x", -1),
    "a": ("linear_y", 1),
    "d": ("linear_y", -1),
    "q": ("angular_z", 1),
    "e": ("angular_z", -1),
}
DIGITS = tuple("123456789")
BUTTONS = {
    "u": "stand_up",
    "g": "run_policy",
    "l": "sit_down",
    "n": "next_policy",
    "p": "previous_policy",
}


def keys_of(data: bytes) -> list[str]:
    """Return the keys in what a terminal has sent, without arrows and other sequences."""
    keys, i, text = [], 0, data.decode("latin-1")
    while i < len(text):
        if text[i] == ESCAPE and text[i + 1 : i + 2] in ("[", "O"):
            i += 2
            while i < len(text) and not "@" <= text[i] <= "~":
                i += 1
        else:
            keys.append(text[i])
        i += 1
    return keys


class Keyboard:
    """What the keys so far mean to a joystick.

    Args:
        joystick: which axis and button each function has.
        release_after: time without a key after which the deadman is released [s].
    """

    def __init__(self, joystick: JoystickInput, release_after: float) -> None:
        self._joystick, self._release_after = joystick, release_after
        self._buttons = joystick.buttons.by_place()
        self._selected = [f"select.{name}" for name in joystick.buttons.select]
        self._n_axes = max((axis.index + 1 for axis in joystick.axes.values()), default=0)
        self._n_buttons = 1 + max(joystick.deadman, joystick.estop, *self._buttons.values())
        self._until: dict[int, float] = {}  # until when a button is pressed [s]
        self._key_at = self._space_at = -1e9  # [s]
        self.held = False  # the deadman
        self.deflections: dict[str, float] = {str(name): 0.0 for name in joystick.axes}

    def release(self) -> None:
        """Release the deadman; all axes go to their centres."""
        self.held = False
        self.deflections = dict.fromkeys(self.deflections, 0.0)

    def press(self, key: str, now: float) -> str:
        """Take a key.

        Args:
            key: one character.
            now: steady time [s].

        Returns:
            A remark for the operator; empty: there is none.
        """
        self._expire(now)
        self._key_at = now
        if key in ("x", "X", ESCAPE):
            self.release()
            self._until[self._joystick.estop] = now + ESTOP_PRESS
            return "EMERGENCY STOP: ~/reset_estop of policy_node releases it"
        if key == SPACE:
            repeated, self._space_at = now - self._space_at < REPEAT, now
            if repeated:
                return ""
            if self.held:
                self.release()
            else:
                self.held = True
            return ""
        if key == "c":
            self.deflections = dict.fromkeys(self.deflections, 0.0)
            return ""
        if key in MOTIONS:
            return self._move(*MOTIONS[key])
        place = BUTTONS.get(key, "")
        if key in DIGITS[: len(self._selected)]:
            place = self._selected[DIGITS.index(key)]
        if not place:
            return ""
        if place not in self._buttons:
            return f"robot.joystick.buttons has no {place}"
        self._until[self._buttons[place]] = now + PRESS
        needed = place != "sit_down" and not self.held
        return f"{place} needs the deadman: space first" if needed else ""

    def _move(self, axis: str, sign: int) -> str:
        if axis not in self.deflections:
            return f"robot.joystick.axes has no {axis}"
        if not self.held:
            return "a velocity needs the deadman: space first"
        moved = self.deflections[axis] + sign * STEP
        self.deflections[axis] = min(1.0, max(-1.0, round(moved, 3)))
        return ""

    def _expire(self, now: float) -> None:
        if now - self._key_at > self._release_after:
            self.release()

    def message(self, now: float) -> tuple[list[float], list[int]]:
        """Return the axes and buttons of the message that is due now.

        Args:
            now: steady time [s].
        """
        self._expire(now)
        axes, buttons = [0.0] * self._n_axes, [0] * self._n_buttons
        for name, axis in self._joystick.axes.items():
            axes[axis.index] = axis.value(axis.scale * self.deflections[name])
        for button, until in self._until.items():
            buttons[button] = int(now < until)
        buttons[self._joystick.deadman] = int(self.held)
        return axes, buttons

    @property
    def status(self) -> str:
        """Its state, on one line."""
        if not self.held:
            return "deadman released: the robot stands still"
        moves = [f"{name} {value:+.0%}" for name, value in self.deflections.items()]
        return f"deadman HELD {' '.join(moves)}"


class Terminal:
    """The terminal of this process, which gives single keys until it is restored.

    Raises:
        InputError: there is none.
    """

    def __init__(self) -> None:
        if sys.stdin is None or not sys.stdin.isatty():
            raise InputError(
                "keyboard_node reads keys: expected a terminal, got none, start it in one and not"
                " by a launch file"
            )
        self._fd = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._fd)
        mode = termios.tcgetattr(self._fd)
        mode[0] &= ~termios.IXON  # Ctrl-S would stop this process in its next print
        # keys that would end this process come as keys, so that it restores the terminal first
        mode[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
        termios.tcsetattr(self._fd, termios.TCSADRAIN, mode)

    def restore(self) -> None:
        """Give the terminal back as it was; a second call changes nothing."""
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def read(self) -> bytes | None:
        """Return what was typed since the last call; None: the terminal is gone."""
        if not select.select([self._fd], [], [], 0)[0]:
            return b""
        try:
            return os.read(self._fd, READ_SIZE) or None
        except OSError:
            return None


class KeyboardNode(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("keyboard_node")
        self.exit_code: int | None = None
        self.stop: StopSignal | None = None  # see `process.run_node`
        self._terminal: Terminal | None = None
        given = read_parameters(self, KeyboardParameters)
        require_known_parameters(self)
        path = existing_path(given.robot, "robot")
        joystick = _joystick(path)
        self._keyboard = Keyboard(joystick, given.release_after)
        self._publisher = self.create_publisher(Joy, joystick.topic, JOYSTICK_QOS)
        self._due, self._shown = time.monotonic(), ""
        self._terminal = Terminal()
        keys = (__doc__ or "").partition("file.\n\n")[2]
        print(f"{keys}\npublishing on {self._publisher.topic_name}", flush=True)

    def wait(self) -> float:
        """See `process.Running`."""
        return min(KEY_PERIOD, self._due - time.monotonic())

    def tick(self) -> None:
        """See `process.Running`."""
        assert self._terminal is not None
        data, now = self._terminal.read(), time.monotonic()
        if data is None:
            self.exit_code = 0
            return
        for key in keys_of(data):
            if key in ENDS:
                self.exit_code = 0
                return
            if remark := self._keyboard.press(key, now):
                self._show(remark)
        if now >= self._due or data:
            self._due = now + PERIOD
            self._publish(now)
            self._show(self._keyboard.status)

    def _publish(self, now: float) -> None:
        message = Joy()
        message.axes, message.buttons = self._keyboard.message(now)
        message.header.stamp = self.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _show(self, text: str) -> None:
        if text != self._shown:
            self._shown = text
            try:
                print(text, flush=True)
            except OSError:  # the terminal is gone
                self.exit_code = 0

    def close(self) -> None:
        """Restore the terminal, and leave the joystick with its deadman released."""
        if self._terminal is None:
            return
        self._terminal.restore()
        self._keyboard.release()
        self._publish(time.monotonic())
        self._publisher.wait_for_all_acked(Duration(seconds=LAST_MESSAGE_TIMEOUT))


def _joystick(path: Path) -> JoystickInput:
    """Read the section `robot.joystick` of a file.

    Raises:
        InputError: there is none.
    """
    joystick = robot_of(path, read_config(path)).joystick
    if joystick is None:
        raise InputError(f"{path}: expected a section robot.joystick, got none: see docs/robot.md")
    return joystick


def main() -> int:
    """Run until Ctrl-C or a signal."""
    if help_asked(sys.argv[1:]):
        print(help_of(__doc__ or "", KeyboardParameters))
        return 0
    return run_node(KeyboardNode)


if __name__ == "__main__":
    sys.exit(main())
