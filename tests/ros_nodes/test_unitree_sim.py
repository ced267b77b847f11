"""The simulated Go2 on Unitree's wire: strict with commands, plausible in what it sends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.unitree.bring_up import BringUp, Outcome, Response
from dime_robot.runtime.unitree.low_level import (
    FOC,
    LOW_CMD_LAYOUT,
    LOW_LEVEL,
    LOW_STATE_LAYOUT,
    MOTORS,
    POSITION_STOP,
    VELOCITY_STOP,
    Frame,
    read_message,
)
from dime_robot.runtime.unitree.remote import AXES, BUTTONS, Remote
from dime_robot.runtime.unitree.state_watch import StateWatch
from ros_nodes.unitree import sim_wire_faults
from ros_nodes.unitree.sim import _early
from ros_nodes.unitree.sim_checks import KINDS, CommandChecks, WrongCommand
from ros_nodes.unitree.sim_input import InputLines
from ros_nodes.unitree.sim_robot import MOVE_TIME, MotorCommand, SimRobot
from ros_nodes.unitree.sim_services import NOT_IMPLEMENTED, WRONG_PARAMETER, SimServices
from ros_nodes.unitree.sim_state import SimState, remote_bytes
from ros_nodes.unitree.sim_wire_faults import WireFault
from tests.paths import ROOT
from tests.ros_nodes.graph import domain

N = len(MOTORS)
CHECKS = CommandChecks()
TIMEOUT = 40.0  # [s]


def frame(**values: Any) -> Frame:
    """A correct command, with these values of the twelve motors."""
    found = Frame(LOW_CMD_LAYOUT)
    found.fields["level_flag"] = LOW_LEVEL
    motors = found.fields["motor_cmd"]
    motors["mode"], motors["q"], motors["dq"] = FOC, POSITION_STOP, VELOCITY_STOP
    motors["dq"][:N] = 0.0
    for name, value in values.items():
        motors[name][:N] = value
    return found


def motor_values(limit: float, lowest: float | None = None) -> st.SearchStrategy[np.ndarray]:
    low = -limit if lowest is None else lowest
    return arrays(np.float32, N, elements=st.floats(low, limit, width=32))


# ---- checks of a command


@settings(max_examples=30)
@given(
    *(motor_values(*limits) for limits in ((10.0,), (50.0,), (50.0,), (100.0, 0.0), (10.0, 0.0)))
)
def test_a_correct_command_is_read_as_it_is(
    q: np.ndarray, dq: np.ndarray, tau: np.ndarray, kp: np.ndarray, kd: np.ndarray
) -> None:
    command = CHECKS.read(frame(q=q, dq=dq, tau=tau, kp=kp, kd=kd).sealed())
    assert isinstance(command, MotorCommand)
    for found, written in zip(astuple(command), (q, dq, tau, kp, kd), strict=True):
        np.testing.assert_array_equal(found, written)


@settings(max_examples=300)
@given(st.integers(0, LOW_CMD_LAYOUT.size - 1), st.integers(1, 255))
def test_any_wrong_byte_is_noticed(at: int, change: int) -> None:
    data = bytearray(frame(q=0.5, kp=20.0, kd=1.0).sealed())
    data[at] ^= change
    found = CHECKS.read(bytes(data))
    if at in (2, 3):  # options of the encoding, without a meaning
        assert isinstance(found, MotorCommand)
    else:
        assert isinstance(found, WrongCommand)
        assert found.kind in ("length", "padding", "crc")


@given(st.binary(max_size=1000))
def test_any_bytes_are_refused_and_nothing_raises(data: bytes) -> None:
    assert isinstance(CHECKS.read(data), WrongCommand)


def motor(name: str, value: float, index: int = 5) -> Callable[[Any], None]:
    def change(fields: Any) -> None:
        fields["motor_cmd"][name][index] = value

    return change


def outside(name: str, value: Any) -> Callable[[Any], None]:
    def change(fields: Any) -> None:
        fields[name] = value

    return change


WRONG = [
    ("head", outside("head", (0xFE, 0xEE))),
    ("level_flag", outside("level_flag", 0)),
    ("mode", motor("mode", 0)),
    ("mode", motor("mode", 10)),
    ("unused", motor("reserve", 1)),
    ("idle", motor("q", 0.0, 12)),
    ("idle", motor("dq", 0.0, 19)),
    ("idle", motor("kd", 1.0, 15)),
    ("idle", motor("tau", 0.1, 15)),
    ("idle", motor("reserve", 1, 15)),
    ("gains", motor("kp", 101.0)),
    ("gains", motor("kp", -1.0)),
    ("gains", motor("kd", 11.0)),
    ("gains", motor("kd", -0.1)),
    ("stop", motor("q", POSITION_STOP)),
    ("stop", motor("dq", VELOCITY_STOP)),
    ("range", motor("q", 11.0)),
    ("range", motor("dq", -51.0)),
    ("range", motor("tau", 60.0)),
    *(("finite", motor(name, bad)) for name in ("q", "dq", "tau", "kp", "kd")
      for bad in (np.nan, np.inf)),
    *(("unused", outside(name, 1)) for name in ("frame_reserve", "sn", "version", "bandwidth",
      "wireless_remote", "led", "fan", "gpio", "reserve")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change"), WRONG)
def test_each_wrong_field_is_refused_by_its_kind(kind: str, change: Callable[[Any], None]) -> None:
    wrong = frame(q=0.5, kp=20.0, kd=1.0)
    change(wrong.fields)
    found = CHECKS.read(wrong.sealed())
    assert isinstance(found, WrongCommand), found
    assert found.kind == kind, found.text


def test_every_kind_of_error_is_tested() -> None:
    assert {kind for kind, _ in WRONG} | {"length", "padding", "crc"} == set(KINDS)


# ---- body and motors


def steps(robot: SimRobot, seconds: float, command: Callable[[], MotorCommand | None]) -> None:
    for _ in range(round(seconds / 0.001)):
        robot.step(command())


def gains(value: float) -> np.ndarray:
    return np.full(N, value)


@pytest.mark.parametrize("index", range(N))
def test_each_motor_moves_the_joint_of_its_name(index: int) -> None:
    robot = SimRobot(standing=True)
    torque = np.zeros(N)
    torque[index] = 2.0
    before = robot.data.qpos.copy()
    for _ in range(10):
        robot.step(MotorCommand(robot.position, torque=torque, damping=gains(0.0)))
    moved = {
        mujoco.mj_id2name(robot.model, mujoco.mjtObj.mjOBJ_JOINT, joint): robot.data.qpos[
            robot.model.jnt_qposadr[joint]
        ]
        - before[robot.model.jnt_qposadr[joint]]
        for joint in range(1, robot.model.njnt)
    }
    limp = SimRobot(standing=True)
    steps(limp, 0.01, lambda: None)
    fell = dict(zip(MOTORS, limp.position - before[robot._qpos], strict=True))
    assert max(moved, key=lambda name: moved[name] - fell[name]) == MOTORS[index]


ROBOT = SimRobot(standing=False)


@given(st.integers(0, 2**32 - 1))
def test_the_torque_is_unitrees_formula_within_the_motors_limits(seed: int) -> None:
    random, data = np.random.default_rng(seed), ROBOT.data
    data.qpos[7:] += random.uniform(-0.1, 0.1, N)
    data.qvel[:] = random.uniform(-3, 3, len(data.qvel))  # slow: the whole torque is there
    position, velocity, torque = random.uniform(-1, 1, (3, N)) * [[3.0], [20.0], [20.0]]
    kp, kd = random.uniform(0, 1, (2, N)) * [[100.0], [10.0]]
    wanted = torque + kp * (position - ROBOT.position) + kd * (velocity - ROBOT.velocity)
    ROBOT.step(MotorCommand(position, velocity, torque, kp, kd))
    largest = np.tile([23.7, 23.7, 45.43], 4)
    np.testing.assert_allclose(ROBOT.torque, np.clip(wanted, -largest, largest))
    mujoco.mj_resetData(ROBOT.model, data)


def lying() -> SimRobot:
    return SimRobot(standing=False)


def test_it_stands_lies_down_and_is_limp_once_it_is_released() -> None:
    robot = SimRobot(standing=True)
    own = SimServices(robot, "normal")
    steps(robot, 1.0, own.command)
    assert robot.place[2] > 0.25
    assert own.respond("sport", 1005, "{}") == (0, "")
    steps(robot, MOVE_TIME + 0.5, own.command)
    assert robot.place[2] < 0.15
    assert np.abs(robot.velocity).max() < 0.1
    assert own.respond("sport", 1004, "{}") == (0, "")
    steps(robot, MOVE_TIME + 0.5, own.command)
    assert robot.place[2] > 0.25
    assert own.respond("motion_switcher", 1003, "{}") == (0, "")
    steps(robot, 1.0, own.command)
    assert robot.place[2] < 0.15
    assert not robot.torque.any()


def test_the_accelerometer_reads_gravity_upwards_at_rest() -> None:
    robot = lying()
    steps(robot, 1.0, SimServices(robot, "normal").command)
    w, x, y, z = robot.orientation
    up = np.array([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)])
    np.testing.assert_allclose(robot.specific_force(), 9.81 * up, atol=0.05)


# ---- services


def bring_up_of(own: SimServices, robot: SimRobot, begin: Callable[[BringUp], None]) -> Outcome:
    """Let the driver's part and the robot's talk to each other, on simulated time."""
    bring_up = BringUp(7)
    begin(bring_up)
    for _ in range(20_000):
        robot.step(own.command())
        rest = bool(np.abs(robot.velocity).max() < 0.1)
        request = bring_up.poll(robot.time, rest)
        while request is not None:
            code, data = own.respond(request.service, request.api, request.parameter)
            response = Response(request.service, request.id, request.api, code, data)
            request = bring_up.take(response, robot.time)
        if (outcome := bring_up.take_outcome()) is not None:
            return outcome
    raise AssertionError("no outcome in 20 s")


def test_a_driver_takes_the_motors_and_gives_them_back() -> None:
    robot = SimRobot(standing=True)
    own = SimServices(robot, "ai")
    outcome = bring_up_of(own, robot, lambda b: b.begin_release(robot.time))
    assert outcome.success, outcome.text
    assert own.mode == ""
    outcome = bring_up_of(own, robot, lambda b: b.begin_restore("ai", robot.time))
    assert outcome.success, outcome.text
    assert own.mode == "ai"
    assert own.command() is not None


def test_a_controller_that_stays_is_noticed() -> None:
    robot = SimRobot(standing=True)
    own = SimServices(robot, "normal")
    own.keeps_mode = True
    outcome = bring_up_of(own, robot, lambda b: b.begin_release(robot.time))
    assert not outcome.success
    assert "normal still has the motors" in outcome.text


def test_requests_that_make_no_sense_have_codes() -> None:
    own = SimServices(lying(), "")
    assert own.respond("motion_switcher", 9999, "{}")[0] == NOT_IMPLEMENTED
    assert own.respond("sport", 9999, "{}")[0] == NOT_IMPLEMENTED
    for parameter in ("", "[]", '{"name": "x"}', '{"name": {}}', "[" * 10_000):
        assert own.respond("motion_switcher", 1002, parameter)[0] == WRONG_PARAMETER
    assert own.respond("sport", 1005, "{}")[0] != 0  # no controller could do it
    assert own.mode == ""


# ---- states


def read(data: bytes | None) -> Any:
    assert data is not None
    return read_message(LOW_STATE_LAYOUT, data)


def test_a_lying_robots_states_are_sound_and_no_two_are_equal() -> None:
    robot = lying()
    state, watch = SimState(robot, True, 0), StateWatch(0.05, 1.0, 80.0)
    seen = set()
    for i in range(1, 501):
        robot.step(None)
        state.fill(0)
        record = read(state.sealed())
        assert watch.take(record, robot.time)
        assert watch.problem(robot.time) is None
        assert watch.problem_while_commanded(robot.time) is None
        assert record["tick"] == i
        seen.add(record["motor_state"]["q"].tobytes() + record["imu_state"]["gyroscope"].tobytes())
    assert len(seen) == 500
    np.testing.assert_allclose(record["motor_state"]["q"][:N], robot.position, atol=1e-3)
    np.testing.assert_allclose(record["imu_state"]["quaternion"], robot.orientation, atol=1e-6)
    assert np.linalg.norm(record["imu_state"]["accelerometer"]) == pytest.approx(9.81, abs=0.2)
    assert record["foot_force"].sum() > 0
    assert 15 < record["power_v"] < 40


def test_without_a_seal_the_checksum_is_zero_as_from_unitrees_simulator() -> None:
    state = SimState(lying(), False, 0)
    state.fill(0)
    data = state.sealed()
    assert read_message(LOW_STATE_LAYOUT, data, check_crc=False)["crc"] == 0
    with pytest.raises(InputError):
        read_message(LOW_STATE_LAYOUT, data)


@given(
    st.sets(st.sampled_from(BUTTONS)),
    st.dictionaries(st.sampled_from(AXES), st.floats(-1, 1).map(lambda x: round(x, 3))),
)
def test_the_driver_reads_the_remote_as_it_is_held(
    buttons: set[str], axes: dict[str, float]
) -> None:
    words = ["on", *buttons, *(f"{name}={value}" for name, value in axes.items())]
    found = Remote(0.0).read(remote_bytes(" ".join(words), np.zeros(4)), 0.0)
    assert found is not None
    assert found[1] == [name in buttons for name in BUTTONS]
    # the robot's sticks are positive to the right, those of a joystick to the left
    held = [axes.get(name, 0.0) * (-1 if name.endswith("x") else 1) for name in AXES]
    np.testing.assert_allclose(found[0], held, atol=1e-6)


def test_a_remote_that_is_off_is_silent_and_unknown_words_are_refused() -> None:
    assert Remote(0.0).read(remote_bytes("", np.zeros(4)), 0.0) is None
    for text in ("L9", "ly", "ly=2", "ly=nan", "zz=0", "L1=0"):
        with pytest.raises(InputError, match="remote: expected words"):
            remote_bytes(text, np.zeros(4))


# ---- faults


RESTING = lying()


class Faulty:
    """A lying robot's messages with a fault."""

    def __init__(self, text: str) -> None:
        self.robot = RESTING
        self.state = SimState(self.robot, True, 0)
        self.state.remote = "L1 ly=0.5"
        self.fault = WireFault(text)

    def next(self) -> bytes | None:
        self.robot.step(None)
        self.state.fill(FOC)
        self.fault.alter(self.state.fields)
        return self.fault.damage(self.state.sealed())


def test_frozen_states_repeat_all_but_tick_and_checksum() -> None:
    faulty = Faulty("freeze")
    first, second = read(faulty.next()), read(faulty.next())
    assert second["tick"] == first["tick"] + 1
    assert second["crc"] != first["crc"]
    for record in (first, second):
        record["tick"] = record["crc"] = 0
    assert first.tobytes() == second.tobytes()


def test_a_wrong_bit_is_a_small_error_that_only_the_checksum_shows() -> None:
    for text, wrong in (("crc", [True, True]), ("crc_once", [True, False])):
        faulty = Faulty(text)
        for is_wrong in wrong:
            data = faulty.next()
            assert data is not None
            q = read_message(LOW_STATE_LAYOUT, data, check_crc=False)["motor_state"]["q"]
            assert np.allclose(q[:N], faulty.robot.position, atol=1e-3)
            if is_wrong:
                with pytest.raises(InputError, match="checksum"):
                    read(data)
            else:
                read(data)


def test_a_silent_or_slow_robot_sends_less() -> None:
    assert Faulty("silent").next() is None
    assert WireFault("slow:50").period(0.002) == pytest.approx(0.02)
    assert WireFault("").period(0.002) == 0.002


def test_the_imus_faults() -> None:
    assert np.isnan(read(Faulty("quaternion").next())["imu_state"]["quaternion"]).all()
    imu = read(Faulty("tilt:70").next())["imu_state"]
    x, y = imu["quaternion"].astype(float)[1:3]
    assert np.degrees(np.arccos(1 - 2 * (x * x + y * y))) == pytest.approx(70, abs=8)  # it lies so
    assert np.degrees(imu["rpy"][0]) == pytest.approx(70, abs=8)


def test_the_motors_faults() -> None:
    faulty = Faulty("lost:FL_calf_joint")
    index = MOTORS.index("FL_calf_joint")
    first, second = (read(faulty.next())["motor_state"].copy() for _ in range(2))
    assert second["lost"][index] == first["lost"][index] + 1
    assert not np.delete(second["lost"], index).any()
    assert (second["q"] == first["q"])[:N].tolist() == [i == index for i in range(N)]
    assert read(Faulty("hot:FL_calf_joint:95").next())["motor_state"]["temperature"][index] == 95
    modes = read(Faulty("left:FL_calf_joint").next())["motor_state"]["mode"][:N]
    assert modes.tolist() == [FOC * (i != index) for i in range(N)]


def test_the_remotes_faults() -> None:
    assert not read(Faulty("remote_silent").next())["wireless_remote"].any()
    frozen, held = Faulty("remote_frozen"), Faulty("")
    assert len({read(frozen.next())["wireless_remote"].tobytes() for _ in range(30)}) == 1
    assert len({read(held.next())["wireless_remote"].tobytes() for _ in range(30)}) == 3


@pytest.mark.parametrize(
    "text", ["freeze", "quaternion", "tilt:70", "lost:FL_calf_joint", "hot:FL_calf_joint:95",
             "left:FL_calf_joint", "remote_silent"],
)  # fmt: skip
def test_once_a_fault_ends_the_states_are_sound_again(text: str) -> None:
    faulty = Faulty(text)
    faulty.next()
    faulty.fault = WireFault("")
    record = [read(faulty.next()) for _ in range(10)][-1]
    assert StateWatch(0.05, 1.0, 50.0).take(record, 0.0)
    assert (record["motor_state"]["temperature"][:N] < 50).all()
    assert (record["motor_state"]["mode"][:N] == FOC).all()
    np.testing.assert_allclose(record["motor_state"]["q"][:N], RESTING.position, atol=1e-3)
    np.testing.assert_allclose(record["imu_state"]["quaternion"], RESTING.orientation, atol=1e-6)
    assert Remote(0.0).read(record["wireless_remote"].tobytes(), 0.0) is not None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("frozen", "expected one of freeze, silent"),
        ("lost:knee", "expected lost:MOTOR with a motor out of FR_hip_joint"),
        ("hot:FR_hip_joint:300", "a number from 0 to 255"),
        ("tilt:nan", "expected tilt:NUMBER"),
        ("silent:1", "expected silent, got"),
    ],
)
def test_an_unknown_fault_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        WireFault(text)
    assert sentence in str(error.value)


def test_the_docstring_names_every_fault() -> None:
    named = re.findall(r"^([a-z_]+)[ :]", sim_wire_faults.__doc__ or "", re.MULTILINE)
    assert [name for name in named if name in sim_wire_faults.FORMS] == list(sim_wire_faults.FORMS)


# ---- the process


def test_what_is_needed_before_a_node_exists_is_on_the_command_line() -> None:
    words = "x --ros-args -r __ns:=/a -p interface:=eth0 --param unitree_sim:robot_domain:=7"
    early = _early(words.split())
    assert (early.interface, early.robot_domain) == ("eth0", 7)
    assert _early(["x"]).interface == "lo"


def test_lines_of_the_input_come_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as stream, os.fdopen(writing, "wb", buffering=0) as end:
        monkeypatch.setattr(sys, "stdin", stream)
        lines = InputLines()
        assert lines.read() == []
        end.write(b"fault til")
        assert lines.read() == []
        end.write(b"t:70\nremote\n")
        assert lines.read() == ["fault tilt:70", "remote"]
        end.close()
        assert lines.read() == []
        assert lines.read() == []


def environment(folder: Path, messages: Path) -> dict[str, str]:
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{messages}", "ROS_LOG_DIR": str(folder / "log")}
    return {**os.environ, **paths, "OMP_NUM_THREADS": "1"}


def report(folder: Path) -> dict[str, Any]:
    path = folder / "report.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_driver_stands_the_robot_up_over_the_wire(tmp_path: Path, unitree_messages: Path) -> None:
    given = environment(tmp_path, unitree_messages)
    module = [sys.executable, "-m", "ros_nodes.unitree.sim", "--ros-args"]
    with domain() as number, (tmp_path / "sim.log").open("w") as log:
        options = [f"robot_domain:={number}", "report:=report.json", "silent_writer:=true"]
        sim = subprocess.Popen(
            [*module, *(word for option in options for word in ("-p", option))],
            cwd=tmp_path, env=given, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True,
        )  # fmt: skip
        client_file = Path(__file__).with_name("unitree_client.py")
        client = subprocess.Popen(
            [sys.executable, client_file, str(number), tmp_path],
            env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            assert sim.stdin is not None
            until((tmp_path / "stood").exists, "the robot to stand")
            until(lambda: report(tmp_path).get("height", 0.0) > 0.25, "a report that it stands")
            stands = report(tmp_path)
            sim.stdin.write("fault crc\n")
            sim.stdin.flush()
            until(lambda: report(tmp_path).get("fault") == "crc", "the fault")
            (tmp_path / "end").touch()
            printed, _ = client.communicate(timeout=TIMEOUT)
            assert client.returncode == 0, printed
            until(lambda: report(tmp_path)["age_ms"] > 1000, "silence")
            sim.send_signal(signal.SIGTERM)
            assert sim.wait(timeout=TIMEOUT) == 0
        finally:
            for process in (client, sim):
                if process.poll() is None:
                    process.kill()
                process.communicate()
    read, last = json.loads(printed.splitlines()[-1]), report(tmp_path)
    assert stands["tilt_deg"] < 5
    assert (stands["kp"], stands["kd"], stands["writers"], stands["mode"]) == (60, 3, 1, "")
    assert last["errors"] == {}, last["last_error"]
    assert last["applied"] == last["commands"]
    assert 0.98 * read["sent"] <= last["commands"] <= read["sent"]
    assert last["height"] < 0.15  # limp: it sank
    assert read["mode"] == [FOC]
    assert read["refused"] > 50  # the states of the fault crc
    assert read["missed"] <= read["refused"] + 0.05 * read["states"]
    assert stands["rate"] > 250
    assert stands["state_rate"] > 250
