"""The parts of unitree_driver by themselves: profiles, link, dry run's table, names, LowCmd."""

from __future__ import annotations

import dataclasses
import math
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import mujoco
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.unitree.driver_loop import MotorTargets
from dime_robot.runtime.unitree.low_cmd_writer import LowCmdWriter
from dime_robot.runtime.unitree.low_level import LOW_CMD_LAYOUT, MOTORS, read_message
from dime_robot.runtime.unitree.state_watch import StateWatch
from dime_robot.sim.config.robot_task import load_robot_task
from ros_nodes.conversions import CommandMessage, named_positions
from ros_nodes.parameters import UnitreeParameters
from ros_nodes.unitree import driver, messages, robot_side
from ros_nodes.unitree.dds_profile import (
    DEFAULT_FILE,
    MAX_SIZE,
    OTHER_VARIABLES,
    PROFILE_VARIABLES,
    RobotProfile,
    address_of,
    profile_problem,
    require_safe_profiles,
)
from ros_nodes.unitree.dry_run import DryRunTable
from ros_nodes.unitree.link import MAX_MESSAGE, Call, Command, Link, Started
from ros_nodes.unitree.sim_checks import CommandChecks
from ros_nodes.unitree.sim_robot import MotorCommand
from tests.paths import SHIPPED_GO2
from tests.runtime.unitree.go2 import CROUCH, Readings, motors

N = len(MOTORS)
HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
NAME = "fastdds.type_propagation"

# ---- profiles of Fast DDS


def entry(value: str, name: str = NAME) -> str:
    return f"<property><name>{name}</name><value>{value}</value></property>"


def participant(inside: str, name: str = "any", default: str = "true") -> str:
    return (
        f'<participant profile_name="{name}" is_default_profile="{default}"><rtps>'
        f"<propertiesPolicy><properties>{inside}</properties></propertiesPolicy>"
        "</rtps></participant>"
    )


def profiles(*participants: str, head: str = HEAD) -> str:
    space = 'xmlns="http://www.eprosima.com"'
    return f"{head}<dds {space}><profiles>{''.join(participants)}</profiles></dds>"


SAFE = profiles(participant(entry("disabled")))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiles") / "any.xml"


@pytest.mark.parametrize(
    "text",
    [
        SAFE,
        profiles(participant(entry("registration_only"))),
        profiles(participant(entry("x", "other") + entry("disabled") + entry("y", "third"))),
        profiles(participant(entry("disabled"), "a"), participant(entry("disabled"), "b", "false")),
        profiles(f"<!-- <participant/> -->{participant(entry('disabled'))}"),
        f"<profiles>{participant(entry('disabled'))}</profiles>",  # of Fast DDS before its dds tag
    ],
)
def test_a_profile_with_the_property_in_each_participant_is_safe(text: str, file: Path) -> None:
    file.write_text(text)
    assert profile_problem(file) == ""


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        (profiles(participant("")), "got none in the participant 'any'"),
        (profiles(participant(entry("enabled"))), "got 'enabled' in the participant 'any'"),
        (profiles(participant(entry("minimal_bandwidth"))), "got 'minimal_bandwidth' in"),
        (profiles(participant(entry("disabled", f"{NAME}2"))), "got none in"),
        (
            profiles(participant(entry("disabled")), participant("", "b")),
            "got none in the participant 'b'",
        ),
        (profiles(participant(entry("disabled") + entry("enabled"))), "in the participant 'any'"),
        (profiles(participant(f"<!-- {entry('disabled')} -->")), "got none in"),
        (profiles(participant(f"<name>{NAME}</name><value>disabled</value>")), "got none in"),
        (profiles(participant(entry(" disabled "))), "got ' disabled ' in"),
        (profiles(participant(entry("disabled", f"\n{NAME}\n"))), "got none in"),
        (SAFE.replace("propertiesPolicy>", "policy>"), "got none in"),
        (SAFE.replace("fastdds.type", "fastdds.<!-- -->type"), "got none in"),
        (profiles(), "got no participant with is_default_profile"),
        (profiles(entry("disabled")), "got no participant with is_default_profile"),
        *(
            (profiles(participant(entry("disabled"), "a", other)), "got no participant with")
            for other in ("false", "1", "TRUE")
        ),
        (SAFE.replace(HEAD, f"{HEAD}<!DOCTYPE dds>"), "a document type"),
        (SAFE.replace(HEAD, f'{HEAD}<!doctype dds [<!entity a "b">]>'), "a document type"),
        (SAFE[:-1], "got no XML"),
        ("{}", "got no XML"),
        ("", "got no XML"),
        (SAFE + " " * MAX_SIZE, "got more than 1,000,000 bytes"),
    ],
)
def test_a_profile_that_is_not_safe_is_a_phrase(text: str, phrase: str, file: Path) -> None:
    file.write_text(text)
    assert phrase in profile_problem(file)


def test_a_file_that_cannot_be_read_is_a_phrase(tmp_path: Path) -> None:
    assert "No such file" in profile_problem(tmp_path / "missing.xml")
    assert "Is a directory" in profile_problem(tmp_path)
    (tmp_path / "binary.xml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in profile_problem(tmp_path / "binary.xml")


PATH = ("participant", "rtps", "propertiesPolicy", "properties", "property")
TAGS = st.sampled_from(
    ["dds", "name", "value", 'participant is_default_profile="true"', "é", *PATH]
)
TEXTS = st.sampled_from([NAME, "disabled", "enabled", "registration_only", "", " ", "&amp;", "ü"])


def element(tag: str, text: str, inside: list[str]) -> str:
    return f"<{tag}>{text}{''.join(inside)}</{tag.split()[0]}>"


ENTRIES = st.lists(st.builds(entry, TEXTS, TEXTS), max_size=2).map("".join)
TREES = st.recursive(
    st.one_of(
        st.builds(element, TAGS, TEXTS, st.just([])),
        st.builds(participant, ENTRIES, st.just("any"), st.sampled_from(["true", "false"])),
    ),
    lambda inner: st.builds(element, TAGS, TEXTS, st.lists(inner, max_size=4)),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.one_of(TREES, st.text(), TREES.map(lambda tree: tree[: len(tree) // 2])))
@example(HEAD.replace("UTF-8", "UTF-16") + "<dds/>")
@example(HEAD.replace("UTF-8", "none such") + "<dds/>")
@example("<a>" * 20_000 + "</a>" * 20_000)
def test_of_any_text_a_profile_is_safe_or_a_phrase(file: Path, text: str) -> None:
    """It is safe only where each participant has the property, found another way here."""
    file.write_text(text, errors="replace")
    problem = profile_problem(file)
    assert "\n" not in problem
    if not problem:
        parts = text.split("<participant")[1:]
        assert parts
        for part in parts:
            before_its_end = part.partition("</participant>")[0]
            assert NAME in before_its_end
            assert "disabled" in before_its_end or "registration_only" in before_its_end


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="￾￿")))
def test_only_the_two_values_are_safe(file: Path, value: str) -> None:
    file.write_text(profiles(participant(entry(escape(value)))), encoding="utf-8")
    assert (profile_problem(file) == "") == (value in ("disabled", "registration_only"))


@pytest.mark.parametrize("where", [*PROFILE_VARIABLES, DEFAULT_FILE])
def test_a_users_profile_is_read_where_fast_dds_would(where: str, tmp_path: Path) -> None:
    path = tmp_path / DEFAULT_FILE
    environment = {} if where == DEFAULT_FILE else {where: str(path)}
    path.write_text(SAFE)
    require_safe_profiles(environment, tmp_path)
    path.write_text(SAFE.replace("disabled", "enabled"))
    with pytest.raises(InputError, match=r"^\S+\.xml: expected the participant property") as error:
        require_safe_profiles(environment, tmp_path)
    assert "\n" not in str(error.value)
    path.unlink()
    if where == DEFAULT_FILE:
        require_safe_profiles(environment, tmp_path)
    else:  # a variable that names nothing: Fast DDS would start with its defaults
        with pytest.raises(InputError, match="No such file"):
            require_safe_profiles(environment, tmp_path)
    require_safe_profiles(dict.fromkeys(environment, ""), tmp_path)


def test_our_own_profile_is_safe_bound_to_the_interface_and_all_that_counts() -> None:
    profile = RobotProfile("127.0.0.1")
    try:
        assert profile_problem(profile.path) == ""
        environment = dict.fromkeys([*PROFILE_VARIABLES, *OTHER_VARIABLES], "the user's")
        profile.apply(environment)
        assert [value for value in environment.values() if value == "the user's"] == []
        assert environment["FASTDDS_DEFAULT_PROFILES_FILE"] == str(profile.path)
        text = profile.path.read_text()
    finally:
        profile.remove()
    assert not profile.path.exists()
    root = ElementTree.fromstring(text)
    addresses = [each.text for each in root.iter() if each.tag.endswith("}address")]
    assert addresses == 3 * ["127.0.0.1"]  # to send from, to listen on, and whom to look for
    assert text.count("<useBuiltinTransports>false<") == 1


def test_an_interface_is_known_by_its_name_or_address() -> None:
    assert address_of("lo") == address_of("127.0.0.1") == "127.0.0.1"
    assert address_of("127.0.0.2") == "127.0.0.2"  # the loopback has them all
    for wrong in ("", "eth99", "lo0.1", "192.0.2.77", "127.0.0", "127.0.0.256", "é" * 20):
        with pytest.raises(InputError, match=r"those with an IPv4 address are .*lo \(127\.0\.0\.1"):
            address_of(wrong)


# ---- what is checked before the robot's domain is touched


def started(**given: Any) -> Started:
    return Started(UnitreeParameters(**{"policy": str(SHIPPED_GO2), **given}))


def test_a_sound_start_gives_motors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    given, found, robot = driver._prepare(started())
    assert (given.robot_domain, robot.name) == (0, "go2")
    np.testing.assert_array_equal(found.stiffness, motors().stiffness)
    with pytest.raises(InputError, match="parameter policy"):
        driver._prepare(started(policy=""))


def test_another_middleware_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot_side, "get_rmw_implementation_identifier", lambda: "rmw_other")
    monkeypatch.setattr(messages, "require_known_layout", lambda: pytest.fail("went on"))
    with pytest.raises(InputError, match="RMW_IMPLEMENTATION=rmw_fastrtps_cpp"):
        robot_side.RobotSide(0, True, False, False)
    with pytest.raises(pytest.fail.Exception, match="went on"):
        robot_side.RobotSide(0, True, False, other_middleware=True)


def test_missing_or_other_messages_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unitree_go.msg", None)
    with pytest.raises(InputError, match="build unitree_ros2 and source its workspace") as error:
        messages.low_cmd_type()
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "unitree_go.msg", SimpleNamespace())
    with pytest.raises(InputError, match="unitree_go with LowState"):
        messages.low_state_type()
    with pytest.raises(InputError, match="is the workspace of another robot sourced"):
        messages._require_size(LOW_CMD_LAYOUT, 1004)


# ---- the link


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    links = Link(pair[0]), Link(pair[1])
    yield links
    for link in links:
        link.close()


def command(names: tuple[str, ...] = MOTORS) -> Command:
    return Command(names, tuple(0.1 * i for i in range(len(names))), 1.0)


def test_messages_come_whole_and_in_order(ends: tuple[Link, Link]) -> None:
    ours, theirs = ends
    sent = [Call(1, "reset"), command(), Call(2, "x" * 20_000), command(())]
    assert all(ours.send(message) for message in sent)
    assert list(theirs.receive()) == sent
    assert list(theirs.receive()) == []
    assert not ours.closed and not theirs.closed


def test_a_full_link_drops_and_never_waits(ends: tuple[Link, Link]) -> None:
    ours, theirs = ends
    while ours.send(command()):
        pass
    assert ours.dropped == 1 and not ours.closed
    list(theirs.receive())
    assert ours.send(Call(1, "reset"))
    found = list(theirs.receive())
    while more := list(theirs.receive()):
        found += more
    assert found[-1] == Call(1, "reset")
    assert all(each == command() for each in found[:-1])


@pytest.mark.parametrize("length", [MAX_MESSAGE, 10 * MAX_MESSAGE])
def test_a_message_that_is_too_long_is_dropped_and_nothing_else(
    length: int, ends: tuple[Link, Link]
) -> None:
    """A publisher of ROS may send any number of names."""
    ours, theirs = ends
    assert not ours.send(command(("x" * length,)))
    assert (ours.dropped, ours.closed) == (1, False)
    assert ours.send(command())
    assert list(theirs.receive()) == [command()]


def test_the_end_of_the_other_process_is_noticed_after_its_last_message(
    ends: tuple[Link, Link],
) -> None:
    ours, theirs = ends
    ours.send(Call(1, "reset"))
    ours.close()
    assert list(theirs.receive()) == [Call(1, "reset")]
    assert theirs.closed
    assert not theirs.send(Call(2, "reset"))


# ---- the table of a dry run


def rotated(quaternion: np.ndarray, vector: tuple[float, float, float]) -> np.ndarray:
    found = np.zeros(3)
    mujoco.mju_rotVecQuat(found, np.array(vector), quaternion)
    return found


MACHINE, GAINS = load_robot_task("go2")[0].robot, motors()


def table_of(readings: Readings, table: DryRunTable | None = None) -> list[str]:
    watch = StateWatch(0.05, 1.0, 80.0)
    watch.take(readings.next(), 0.0)
    table = table or DryRunTable(GAINS, MACHINE)
    return table.lines(watch, 0.0, 500.0)


def gravity_in(lines: list[str]) -> np.ndarray:
    (line,) = [line for line in lines if line.startswith("gravity")]
    return np.array([float(word) for word in line.rpartition(": ")[2].split()])


@given(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: math.hypot(*q) > 0.1))
def test_gravity_is_that_of_the_base_however_it_is_turned(q: tuple[float, ...]) -> None:
    quaternion = np.array(q) / math.hypot(*q)
    readings = Readings()
    readings.fields["imu_state"]["quaternion"] = quaternion
    inverse = quaternion * [1, -1, -1, -1]
    expected = rotated(inverse, (0, 0, -1))
    np.testing.assert_allclose(gravity_in(table_of(readings)), expected, atol=0.006)


@pytest.mark.parametrize(
    ("axis", "angle", "sentence", "index"),
    [(1, 0.5, "nose down: x > 0", 0), (0, -0.5, "left side down: y > 0", 1)],
)
def test_what_the_line_of_gravity_says_is_so(
    axis: int, angle: float, sentence: str, index: int
) -> None:
    """x is ahead, y is left: the rotation brings the nose, or the left side, below the base."""
    quaternion = np.zeros(4)
    mujoco.mju_axisAngle2Quat(quaternion, np.eye(3)[axis], angle)
    side = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))[index]
    assert rotated(quaternion, side)[2] < -0.4
    readings = Readings()
    readings.fields["imu_state"]["quaternion"] = quaternion
    lines = table_of(readings)
    assert any(sentence in line for line in lines)
    assert gravity_in(lines)[index] > 0.4
    assert "(level: 0 0 -1;" in "\n".join(table_of(Readings()))
    np.testing.assert_allclose(gravity_in(table_of(Readings())), [0, 0, -1], atol=1e-6)


def rows(lines: list[str]) -> list[list[str]]:
    return [line.split() for line in lines if line.split() and line.split()[0].isdigit()]


@given(st.lists(st.sampled_from([-1.0, 1.0]), min_size=N, max_size=N), st.integers(0, 10**6))
def test_joints_are_shown_in_the_policys_terms(sign: list[float], seed: int) -> None:
    """Position, velocity and torque with the sign and zero of the robot's file; motors in order."""
    rng = np.random.default_rng(seed)
    turned = dataclasses.replace(GAINS, sign=np.array(sign), offset=rng.uniform(-1, 1, N))
    policys, dq, tau = CROUCH + rng.uniform(-0.5, 0.5, N), rng.normal(size=N), rng.normal(size=N)
    readings = Readings()
    readings.set(turned.sign * policys + turned.offset)
    record = readings.next()
    record["motor_state"]["dq"][:N], record["motor_state"]["tau_est"][:N] = dq, tau
    record["motor_state"]["temperature"][:N] = range(30, 30 + N)
    record["motor_state"]["lost"][:N] = range(N)
    watch = StateWatch(0.05, 1.0, 80.0)
    assert watch.take(record, 0.0)
    found = rows(DryRunTable(turned, MACHINE).lines(watch, 0.0, 500.0))
    assert [row[:2] for row in found] == [[str(i), name] for i, name in enumerate(MOTORS)]
    limits = [MACHINE.joint(name).position_limits or (0, 0) for name in MOTORS]
    beyond = [not low <= value <= high for value, (low, high) in zip(policys, limits, strict=True)]
    for row, value, mark in zip(found, policys, beyond, strict=True):
        assert float(row[2].rstrip("!")) == pytest.approx(value, abs=6e-4)
        if min(abs(value - end) for end in limits[found.index(row)]) > 1e-6:
            assert row[2].endswith("!") == mark
    shown = np.array([[float(word) for word in row[-4:]] for row in found])
    np.testing.assert_allclose(shown[:, 0], turned.sign * dq, atol=6e-3)
    np.testing.assert_allclose(shown[:, 1], turned.sign * tau, atol=6e-3)
    assert shown[:, 2].tolist() == list(range(30, 30 + N))
    assert shown[:, 3].tolist() == list(range(N))


def test_a_joint_that_is_moved_by_hand_shows_its_range(capsys: pytest.CaptureFixture[str]) -> None:
    readings, watch = Readings(), StateWatch(0.05, 1.0, 80.0)
    table = DryRunTable(GAINS, MACHINE)
    for i, angle in enumerate((0.0, 0.3, -0.2, 0.0)):
        pose = CROUCH.copy()
        pose[4] += angle
        readings.set(pose)
        watch.take(readings.next(), 0.25 * i)
        table.show(watch, 0.25 * i, 500.0)
    assert capsys.readouterr().out.count("FL_thigh_joint") == 1  # a table a second
    (row,) = [row for row in rows(table.lines(watch, 0.75, 500.0)) if row[1] == "FL_thigh_joint"]
    assert [float(word) for word in row[3:5]] == pytest.approx([1.16, 1.66], abs=1e-3)
    (other,) = [row for row in rows(table.lines(watch, 0.75, 500.0)) if row[1] == "FR_thigh_joint"]
    assert other[3] == other[4]


def test_a_table_without_readings_says_why() -> None:
    watch = StateWatch(0.05, 1.0, 80.0)
    (line,) = DryRunTable(GAINS, MACHINE).lines(watch, 0.0, 0.0)
    assert "no usable LowState ever" in line


# ---- names of a command


def labelled(label: str, values: list[float]) -> Float64MultiArray:
    message = Float64MultiArray(data=values)
    message.layout.dim = [MultiArrayDimension(label=label, size=len(values), stride=len(values))]
    return message


def trajectory(names: list[str], *points: list[float]) -> JointTrajectory:
    found = [JointTrajectoryPoint(positions=point) for point in points]
    return JointTrajectory(joint_names=names, points=found)


@given(st.permutations(range(N)))
def test_both_kinds_of_commands_name_their_joints(order: list[int]) -> None:
    names = [MOTORS[i] for i in order]
    values = [0.1 * i for i in order]
    for message in (labelled(",".join(names), values), trajectory(names, values)):
        found = named_positions(message)
        assert dict(zip(*found, strict=True)) == {name: 0.1 * i for i, name in enumerate(MOTORS)}


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (Float64MultiArray(data=[0.0] * N), "expected the names of its joints"),
        (labelled("", [0.0] * N), "expected the names of its joints"),
        (trajectory(list(MOTORS)), "expected a trajectory of one point, got 0"),
        (trajectory(list(MOTORS), [0.0] * N, [0.0] * N), "of one point, got 2"),
    ],
)
def test_a_command_without_names_is_refused(message: CommandMessage, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        named_positions(message)


# ---- LowCmd

TARGETS = st.tuples(*[st.floats(-3, 3, width=32)] * N)


@given(TARGETS, st.floats(0, 100, width=32), st.floats(0, 10, width=32))
def test_each_command_is_correct_and_the_idle_motors_stay_idle(
    q: tuple[float, ...], kp: float, kd: float
) -> None:
    """`CommandChecks` is the simulated robot's: checksum, padding, flags, idle motors."""
    writer, checks = LowCmdWriter(), CommandChecks()
    for targets in (MotorTargets(np.array(q), np.full(N, kp), np.full(N, kd)), MotorTargets()):
        data = writer.write(targets)
        found = checks.read(data)
        assert isinstance(found, MotorCommand), found
        np.testing.assert_array_equal(found.position, np.float32(targets.position))
        np.testing.assert_array_equal(found.stiffness, targets.stiffness)
        np.testing.assert_array_equal(found.damping, targets.damping)
        assert not found.velocity.any() and not found.torque.any()
        motor = read_message(LOW_CMD_LAYOUT, data)["motor_cmd"]
        assert (motor["mode"] == 1).all()
        for name in ("q", "dq"):
            assert len(set(motor[name][N:].tolist())) == 1
        assert motor["q"][N] == np.float32(2.146e9) and motor["dq"][N] == 16000.0
        assert not motor["kp"][N:].any() and not motor["kd"][N:].any()
