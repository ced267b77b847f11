"""keyboard_node: keys that become a joystick, and a terminal that is as it was in the end."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import Joy

from dime_robot.runtime.contract.joystick_input import JoystickInput
from dime_robot.runtime.contract.robot_config import VelocityInput
from dime_robot.runtime.control.joystick import Joystick
from dime_robot.runtime.io.errors import InputError
from ros_nodes.keyboard_node import ESTOP_PRESS, PERIOD, PRESS, STEP, Keyboard, Terminal, keys_of
from tests.paths import ROOT, shipped_content
from tests.ros_nodes.graph import TIMEOUT, Graph
from tests.runtime.control.test_joystick import DEADMAN, ESTOP, GIVEN, RUN, SIT, STAND, WALK

RELEASE_AFTER = 2.0
LIMITS = {"linear_x": 1.0, "linear_y": 1.0, "angular_z": 1.0}


class Desk:
    """A keyboard, the joystick that policy_node has, and their time."""

    def __init__(self) -> None:
        given = JoystickInput.model_validate(GIVEN)
        self.keyboard = Keyboard(given, RELEASE_AFTER)
        self.joystick = Joystick(given, VelocityInput(timeout=0.5, limits=LIMITS))
        self.now, self.requests, self.estops = 100.0, list[str](), 0
        self.run(0.5)

    def run(self, seconds: float = 2 * PERIOD) -> Desk:
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now += PERIOD
            axes, buttons = self.keyboard.message(self.now)
            pressed = self.joystick.receive(np.array(axes), buttons, self.now)
            assert not self.joystick.refused
            self.estops += pressed.estop
            self.requests += [each.title for each in pressed.requests if not each.problem]
        return self

    def type(self, keys: str, seconds: float = 0.5) -> str:
        remark = ""
        for key in keys:
            remark = self.keyboard.press(key, self.now)
            self.run(0.2)
        self.run(seconds)
        return remark

    @property
    def velocity(self) -> list[float]:
        return [round(float(value), 6) for value in self.joystick.at(self.now)]


def test_keys_step_the_velocity_while_the_deadman_is_held() -> None:
    desk = Desk()
    assert desk.type("w") == "a velocity needs the deadman: space first"
    assert desk.velocity == [0, 0, 0]
    desk.type(" wwe")
    assert desk.velocity == pytest.approx([2 * STEP, 0, -STEP])
    assert desk.keyboard.status == "deadman HELD linear_x +40% angular_z -20%"
    desk.type("wwwwwww")
    assert desk.velocity == pytest.approx([1, 0, -STEP])
    desk.type("c")
    assert desk.velocity == [0, 0, 0]
    assert desk.type("a") == "robot.joystick.axes has no linear_y"
    desk.type("s ")
    assert desk.velocity == [0, 0, 0] and not desk.keyboard.held
    desk.type(" ")
    assert desk.velocity == [0, 0, 0]


def test_without_keys_the_deadman_is_released() -> None:
    desk = Desk()
    desk.type(" w", 0.0)
    desk.run(RELEASE_AFTER - 0.4)
    assert desk.velocity == pytest.approx([STEP, 0, 0])
    desk.run(0.5)
    assert desk.velocity == [0, 0, 0] and not desk.joystick.held
    desk.type(" ")
    assert desk.velocity == [0, 0, 0]


def test_a_space_that_repeats_itself_is_one_press() -> None:
    desk = Desk()
    for _ in range(30):
        desk.keyboard.press(" ", desk.now)
        desk.run(PERIOD)
    assert desk.joystick.held


@pytest.mark.parametrize("key", ["x", "X", "\x1b"])
def test_an_emergency_stop_counts_in_every_state(key: str) -> None:
    desk = Desk()
    assert desk.type(key).startswith("EMERGENCY STOP")
    assert desk.estops == round(ESTOP_PRESS / PERIOD)
    desk.type(" w")
    desk.type(key)
    assert desk.estops == 2 * round(ESTOP_PRESS / PERIOD)
    assert desk.velocity == [0, 0, 0] and not desk.keyboard.held


def test_keys_press_the_buttons_of_the_robots_file() -> None:
    desk = Desk()
    assert desk.type("u") == "stand_up needs the deadman: space first"
    assert desk.type("l") == ""
    assert desk.requests == ["sit_down"]
    desk.type(" ug1n")
    assert desk.requests[1:] == ["stand_up", "run_policy", "select walk", "next_policy"]
    assert desk.type("p") == "robot.joystick.buttons has no previous_policy"
    assert [desk.type(key) for key in ("2", "9", "0", "?", "\x00")] == [""] * 5
    desk.keyboard.press("g", desk.now)
    assert PRESS > 2 * PERIOD  # seen in two messages at least
    _, buttons = desk.keyboard.message(desk.now + PRESS - 0.01)
    assert [i for i, down in enumerate(buttons) if down] == [DEADMAN, RUN]
    assert {STAND, SIT, WALK, ESTOP} <= set(range(len(buttons)))


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"w", ["w"]),
        (b"\x1b", ["\x1b"]),
        (b"\x1bw", ["\x1b", "w"]),
        (b"\x1b[A\x1b[1;5Cw\x1bOPs", ["w", "s"]),  # arrows and function keys
        (b"w\x1b", ["w", "\x1b"]),
        (b"\xff\xc3\xa4", ["\xff", "\xc3", "\xa4"]),
        (b"\x1b[", []),
    ],
)
def test_what_a_terminal_sends_is_read_key_by_key(data: bytes, keys: list[str]) -> None:
    assert keys_of(data) == keys


@given(st.lists(st.tuples(st.binary(max_size=6), st.floats(0, 1)), max_size=30))
def test_whatever_is_typed_is_a_message_that_can_be_used(typed: list[tuple[bytes, float]]) -> None:
    desk = Desk()
    for data, seconds in typed:
        for key in keys_of(data):
            desk.keyboard.press(key, desk.now)
        desk.run(seconds)  # each message is checked
    desk.run(RELEASE_AFTER + 0.5)
    assert desk.velocity == [0, 0, 0]


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal of its own: the typist's and the program's."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    for end in (ours, theirs):
        with suppress(OSError):  # the test has closed it
            os.close(end)


def mode(end: int) -> list[Any]:
    return termios.tcgetattr(end)


def test_the_terminal_is_as_it_was(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = terminal
    before = mode(theirs)
    with os.fdopen(os.dup(theirs)) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        found = Terminal()
        assert not mode(theirs)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
        assert found.read() == b""
        os.write(ours, b"w\x03")
        deadline = time.monotonic() + 5
        data = b""
        while len(data) < 2 and time.monotonic() < deadline:
            data += found.read() or b""
        assert data == b"w\x03"
        for _ in range(2):
            found.restore()
            assert mode(theirs) == before
    with os.fdopen(os.dup(theirs)) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        found = Terminal()
        os.close(ours)  # the window is closed
        assert found.read() is None
        found.restore()
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="expected a terminal, got none"):
        Terminal()


# ---- real processes


def robot_file(folder: Path) -> Path:
    config = shipped_content("cartpole")["robot"]
    config["command_velocity"] = {"timeout": 0.5, "limits": LIMITS}
    buttons = {"select": {"walk": WALK}, "next_policy": 5}
    given = {**GIVEN, "buttons": buttons}
    del given["sit_down_after"]
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump({"robot": {**config, "joystick": given}}))
    return path


def start(graph: Graph, stdin: int, robot: Path, log: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "ros_nodes.keyboard_node", "--ros-args", "-p", f"robot:={robot}"]
    with log.open("w") as file:
        return subprocess.Popen(
            words, cwd=ROOT, env=graph.environment, stdin=stdin, stdout=file, stderr=file, text=True
        )


@pytest.mark.slow
def test_the_node_publishes_keys_and_ends_by_key_or_signal(
    graph: Graph, terminal: tuple[int, int]
) -> None:
    robot, logs = robot_file(graph.folder), [graph.folder / f"{i}.log" for i in range(2)]
    ours, theirs = terminal
    ended_ours, ended = pty.openpty()
    before = mode(theirs)
    got: list[tuple[float, Joy]] = []
    graph.node.create_subscription(Joy, "joy", lambda m: got.append((time.monotonic(), m)), 100)
    pairs = zip([theirs, ended], logs, strict=True)
    nodes = [start(graph, end, robot, log) for end, log in pairs]
    try:
        graph.until(lambda: all("publishing on /joy" in log.read_text() for log in logs), "both")
        nodes[1].send_signal(signal.SIGTERM)
        assert nodes[1].wait(TIMEOUT) == 0, logs[1].read_text()
        assert mode(ended) == before
        got.clear()
        graph.until(lambda: len(got) > 4, "messages of the other")
        got.clear()
        graph.spin(1.0)
        times = [when for when, _ in got]
        assert 15 <= len(got) <= 21 and max(np.diff(times)) < 0.2
        os.write(ours, b" ")
        graph.until(lambda: got[-1][1].buttons[DEADMAN], "the deadman")
        os.write(ours, b"ww")
        graph.until(lambda: got[-1][1].axes[1] > 0.4, "the velocity")
        assert not mode(theirs)[3] & termios.ECHO
        os.write(ours, b"\x1b")
        graph.until(lambda: got[-1][1].buttons[ESTOP] and not any(got[-1][1].axes), "the stop")
        os.write(ours, b" w\x03")
        assert nodes[0].wait(TIMEOUT) == 0
        assert mode(theirs) == before
        graph.spin(0.2)
        assert not any(got[-1][1].axes) and not got[-1][1].buttons[DEADMAN]
        assert "EMERGENCY STOP" in logs[0].read_text()
        assert all("Traceback" not in log.read_text() for log in logs)
    finally:
        for node in nodes:
            if node.poll() is None:
                node.kill()
                node.wait()
        for end in (ended_ours, ended):
            os.close(end)
