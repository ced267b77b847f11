"""A policy on recorded topics does what it does on a robot that sends the same, bit for bit."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from dime_robot.runtime.contract.robot_config import load_robot
from dime_robot.runtime.control.control_loop import ControlLoop, Reading
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import SafetyLevel
from dime_robot.runtime.control.flight_recorder import OTHER
from dime_robot.runtime.io import topic_files
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry import replay, shadow
from dime_robot.runtime.telemetry.shadow import resolved, shadow_test
from tests.paths import SHIPPED_CARTPOLE, SHIPPED_GO2, shipped_content
from tests.runtime.telemetry.topics import (
    EPOCH,
    STORAGES,
    Sent,
    imu,
    joints,
    numbers,
    twist,
    write_bag,
    write_mcap,
)

pytest.importorskip("rosbags", reason="recordings of topics: pip install '.[recordings]'")

MS = 10**6  # [ns]
COMMANDS = {
    SHIPPED_CARTPOLE: "/effort_controller/commands",
    SHIPPED_GO2: "/position_controller/commands",
}


class Event(NamedTuple):
    """What a robot or its controller sends."""

    time: int  # [ns]
    what: str
    values: tuple[np.ndarray, ...]


def cartpole_events(count: int = 120) -> list[Event]:
    """Readings at the policy's rate, and two commands after each but the first three."""
    rng, found, time = np.random.default_rng(0), [], EPOCH
    for i in range(count):
        time += 20 * MS + int(rng.integers(-2 * MS, 2 * MS))
        position = np.array([0.1 * np.sin(0.05 * i), 3.1 + 0.02 * i])
        found.append(Event(time, "joints", (position, rng.uniform(-1, 1, 2))))
        if i > 2:
            found.append(Event(time + 3 * MS, "command", (np.array([-9.0]),)))
            found.append(Event(time + 9 * MS, "command", (np.array([i / 16]),)))
    return found


def go2_events(count: int = 200) -> list[Event]:
    """Readings at four times the policy's rate, an imu, and a velocity twice a second."""
    rng, found = np.random.default_rng(0), []
    policy = OnnxPolicy(SHIPPED_GO2)
    pose = np.array([joint.default_position for joint in policy.spec.joints])
    for i in range(count):
        time = EPOCH + 5 * MS * i + 50_000  # never at a multiple of what `by_hand` polls at
        position = pose + 0.05 * np.sin(0.02 * i + np.arange(12))
        tilt = 0.05 * np.sin(0.01 * i)
        upright = np.array([np.cos(tilt / 2), np.sin(tilt / 2), 0, 0])
        found.append(Event(time, "imu", (upright, rng.uniform(-0.1, 0.1, 3))))
        found.append(Event(time + 1, "joints", (position, rng.uniform(-0.5, 0.5, 12))))
        if i % 100 == 10:
            found.append(Event(time + 2, "velocity", (np.array([0.3, 0.0, 0.1]),)))
        if i % 4 == 3:
            found.append(Event(time + MS, "command", (position,)))
    return found


def messages(events: list[Event], policy: OnnxPolicy) -> list[Sent]:
    """The messages of events; the joints and the commands in the robot's order, others between."""
    robot = load_robot(None, policy.spec)
    order = [joint.name for joint in policy.spec.joints]
    theirs = [joint.name for joint in robot.joints if joint.name in order]
    rows = [order.index(name) for name in theirs]
    wires = [robot.joint(name).hardware_name for name in theirs]
    found = []
    for time, what, values in events:
        if what == "joints":
            found.append(joints(time, wires, values[0][rows], values[1][rows]))
            found.append(numbers(time + 1, "/camera", range(50)))
            found.append(joints(time + 1, ["gripper"], [0.0], [0.0]))
        elif what == "imu":
            found.append(imu(time, *values))
        elif what == "velocity":
            found.append(twist(time, *values[0]))
        else:
            several = len(values[0]) > 1
            command = values[0][rows] if several else values[0]
            found.append(numbers(time, COMMANDS[policy.path], command))
    return found


def by_hand(events: list[Event], policy: OnnxPolicy, step: float = 0.0) -> np.ndarray:
    """The records of the control path on events; `step` [s]: of a timer, 0: by reading."""
    robot = load_robot(None, policy.spec)
    quiet = robot.safety.model_copy(update={"ramp": 0.0})
    robot = robot.model_copy(update={"safety": quiet, "phases": None})
    controller = Controller(policy, robot, lambda: 0.0)
    now, began = [0.0], events[0].time
    loop = ControlLoop(
        controller, not step, lambda: now[0], lambda: began / 1e9 + now[0], publishes=False
    )
    loop.activate()

    def record(decision: Any) -> None:
        if decision is not None:
            loop.record(decision)

    polls = 0
    for time, what, values in events:
        moment = (time - began) / 1e9
        while step and (polls + 1) * step < moment:
            polls += 1
            now[0] = polls * step
            record(loop.poll())
        now[0] = moment
        stamp = time // 10**9 + 1e-9 * (time % 10**9)
        if what == "joints":
            record(loop.joint_state(Reading(stamp, *values)))
        elif what == "imu":
            record(loop.imu(stamp, *values))
        elif what == "velocity":
            loop.velocity(values[0])
    return controller.recorder.records()


def policy_of(path: Path, **noise: Any) -> OnnxPolicy:
    policy = OnnxPolicy(path, **noise)
    policy.path = path
    return policy


# ---- bit for bit


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("noise", ["zero", "fresh"])
def test_a_rosbag2_folder_gives_the_actions_of_the_control_path(
    storage: str, noise: Any, tmp_path: Path
) -> None:
    events = cartpole_events()
    policy = policy_of(SHIPPED_CARTPOLE, noise=noise, seed=5)
    bag = write_bag(tmp_path / "bag", storage, messages(events, policy))
    expected = by_hand(events, policy_of(SHIPPED_CARTPOLE, noise=noise, seed=5))
    found = shadow_test(bag, policy, load_robot(None, policy.spec))
    records = found.recording.records
    assert len(records) == len(expected) == 120
    for name in ("observation", "noise", "action", "command", "joint_position", "stamp", "rung"):
        np.testing.assert_array_equal(records[name], expected[name])
    assert np.unique(records["action"]).size > 50
    assert (found.drive, found.same_clock, found.starts, found.unused) == (
        "observation",
        True,
        1,
        0,
    )


@pytest.mark.parametrize("storage", STORAGES)
def test_so_does_a_timer_with_imu_and_velocity(storage: str, tmp_path: Path) -> None:
    events = go2_events()
    policy = policy_of(SHIPPED_GO2, noise="zero")
    bag = write_bag(tmp_path / "bag", storage, messages(events, policy))
    expected = by_hand(events, policy_of(SHIPPED_GO2, noise="zero"), step=1e-4)
    found = shadow_test(bag, policy, load_robot(None, policy.spec))
    records = found.recording.records
    assert found.drive == "timer"
    assert abs(len(records) - len(expected)) <= 1  # the last one may be due after the last event
    count = min(len(records), len(expected))
    assert count > 45
    assert not records["rung"].any()
    assert (records["command_velocity"][10:, 0] == 0.3).all()
    for name in ("observation", "action", "joint_position", "orientation"):
        np.testing.assert_array_equal(records[name][:count], expected[name][:count])
    comparison = shadow.compare_commands(found.recording)
    assert comparison is not None
    assert comparison.joints == policy.spec.action_joints
    other = records[OTHER][np.isfinite(records[OTHER]).all(1)]
    at = np.flatnonzero(np.isfinite(records[OTHER]).all(1))[20]
    sent = [event.values[0] for event in events if event.what == "command"]
    assert any((other[20] == command).all() for command in sent)  # in the policy's order
    assert np.abs(other[20] - records["joint_position"][at]).max() < 0.05


@pytest.mark.parametrize("compression", ["ZSTD", "LZ4", "NONE"])
def test_an_mcap_file_of_any_compression_does_too(compression: str, tmp_path: Path) -> None:
    events = cartpole_events(30)
    policy = policy_of(SHIPPED_CARTPOLE, noise="zero")
    path = write_mcap(tmp_path / "topics.mcap", messages(events, policy), compression)
    expected = by_hand(events, policy_of(SHIPPED_CARTPOLE, noise="zero"))
    records = shadow_test(path, policy, load_robot(None, policy.spec)).recording.records
    np.testing.assert_array_equal(records["action"], expected["action"])


def test_a_step_is_compared_with_the_last_command_before_the_next(tmp_path: Path) -> None:
    policy = policy_of(SHIPPED_CARTPOLE, noise="zero")
    path = write_mcap(tmp_path / "topics.mcap", messages(cartpole_events(30), policy))
    found = shadow_test(path, policy, load_robot(None, policy.spec)).recording
    other = found.records[OTHER][:, 0]
    assert np.isnan(other[:3]).all()
    assert other[3:].tolist() == [i / 16 for i in range(3, 30)]
    comparison = shadow.compare_commands(found)
    assert comparison is not None
    assert comparison.units == ("N",)
    np.testing.assert_array_equal(comparison.policy, found.records["command"][3:])
    expected = np.abs(found.records["command"][3:, 0] - other[3:])
    assert comparison.difference[:, 0].tolist() == expected.tolist()
    assert f"max {expected.max():.4g}  N" in comparison.lines()[0]


# ---- what recordings have


def test_a_stop_is_released_and_counted(tmp_path: Path) -> None:
    """A pole that cannot be that fast, and a silence, both longer than hold and damp."""
    events = cartpole_events(400)
    bad = [
        event._replace(values=(event.values[0], np.array([0.0, 1e3])))
        if event.what == "joints" and 100 <= i < 300
        else event
        for i, event in enumerate(events)
    ]
    gap = [e if i < 600 else e._replace(time=e.time + 60 * 10**9) for i, e in enumerate(bad)]
    policy = policy_of(SHIPPED_CARTPOLE, noise="zero")
    path = write_mcap(tmp_path / "topics.mcap", messages(gap, policy))
    found = shadow_test(path, policy, load_robot(None, policy.spec))
    levels = found.recording.records["rung"]
    assert levels.max() == SafetyLevel.STOP
    assert levels[-1] == SafetyLevel.RUN
    assert found.starts >= 2
    comparison = shadow.compare_commands(found.recording)
    assert comparison is not None
    acted = found.recording.records["inferred"] & (levels <= SafetyLevel.CLAMP)
    assert len(comparison.time) <= acted.sum() < len(levels)


def test_stamps_of_another_clock_count_by_arrival(tmp_path: Path) -> None:
    policy = policy_of(SHIPPED_CARTPOLE, noise="zero")
    simulated = [
        sent if sent.topic != "/joint_states"
        else joints(sent.time, sent.fields["name"], sent.fields["position"],
                    sent.fields["velocity"], sent.time - EPOCH)
        for sent in messages(cartpole_events(30), policy)
    ]  # fmt: skip
    path = write_mcap(tmp_path / "topics.mcap", simulated)
    found = shadow_test(path, policy, load_robot(None, policy.spec))
    assert not found.same_clock
    assert (found.recording.records["rung"] == SafetyLevel.RUN).all()


def test_commands_for_other_joints_are_counted_and_not_compared(tmp_path: Path) -> None:
    policy = policy_of(SHIPPED_CARTPOLE, noise="zero")
    sent = messages(cartpole_events(30), policy)
    wide = [
        numbers(one.time, one.topic, [0.0, 0.0]) if one.topic == COMMANDS[SHIPPED_CARTPOLE] else one
        for one in sent
    ]
    path = write_mcap(tmp_path / "topics.mcap", wide)
    found = shadow_test(path, policy, load_robot(None, policy.spec))
    assert found.unused == 54
    assert shadow.compare_commands(found.recording) is None
    with pytest.raises(InputError, match="expected commands while the policy can act, got none"):
        replay.main([str(path), str(SHIPPED_CARTPOLE)])


@pytest.mark.parametrize(
    ("topic", "namespace", "name"),
    [
        ("imu", "/", "/imu"),
        ("imu", "", "/imu"),
        ("imu", "left", "/left/imu"),
        ("a/imu", "/left/", "/left/a/imu"),
        ("/imu", "/left", "/imu"),
        ("~/imu", "/left", "/left/policy_node/imu"),
    ],
)
def test_topics_are_resolved_as_the_node_does(topic: str, namespace: str, name: str) -> None:
    assert resolved(topic, namespace) == name


# ---- the command


def test_replay_of_topics_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = policy_of(SHIPPED_CARTPOLE)
    sent = [
        one._replace(topic=f"/left{one.topic}") for one in messages(cartpole_events(60), policy)
    ]
    bag = write_bag(tmp_path / "bag", "sqlite3", sent)
    words = [str(bag), str(SHIPPED_CARTPOLE), "--namespace", "/left"]
    assert replay.main(words) == 0
    printed = capsys.readouterr().out
    assert "topics of cartpole, 60 steps" in printed
    assert "noise zero\n" in printed
    assert "50 Hz by observation, ages by stamps" in printed
    assert "57 of 60 steps compared" in printed
    assert re.search(r"slider +mean \S+ +max \S+ +N\n", printed)
    assert replay.main([*words, "--noise", "fresh", "--seed", "7"]) == 0
    assert "noise fresh, seed 7\n" in capsys.readouterr().out
    assert replay.main([*words, "--drive", "timer"]) == 0
    assert "50 Hz by timer" in capsys.readouterr().out
    (database,) = bag.glob("*.db3")
    assert replay.main([str(database), *words[1:]]) == 0


def test_a_file_of_a_robot_of_your_own_is_used(tmp_path: Path) -> None:
    config = shipped_content("cartpole")
    config["robot"]["command"]["topic"] = "elsewhere"
    robot = tmp_path / "robot.yaml"
    robot.write_text(yaml.safe_dump(config))
    policy = policy_of(SHIPPED_CARTPOLE)
    path = write_mcap(tmp_path / "topics.mcap", messages(cartpole_events(30), policy))
    words = [str(path), str(SHIPPED_CARTPOLE), "--robot", str(robot)]
    with pytest.raises(InputError, match=r"messages on /elsewhere, got none; its topics are"):
        replay.main(words)


# ---- what no recorder writes


def expect(error: str, path: Path, policy: Path = SHIPPED_CARTPOLE) -> None:
    with pytest.raises(InputError, match=error) as caught:
        replay.main([str(path), str(policy)])
    assert "\n" not in str(caught.value)


def test_other_types_and_lacking_topics_are_refused(tmp_path: Path) -> None:
    policy = policy_of(SHIPPED_CARTPOLE)
    sent = messages(cartpole_events(5), policy)
    path = tmp_path / "topics.mcap"
    only = [one for one in sent if one.topic != "/joint_states"]
    expect("messages on /joint_states, got none", write_mcap(path, only))
    wrong = [numbers(one.time, "/joint_states", [1]) for one in sent[:3]]
    expect("of type sensor_msgs/msg/JointState.* got 'std_msgs", write_mcap(path, [*wrong, *only]))
    early = [one._replace(time=one.time - 10**9 * 7300) for one in sent[:1]]
    expect("a recording of up to 7200 s", write_mcap(path, [*early, *sent]))


def test_a_policy_that_cannot_start_is_told(tmp_path: Path) -> None:
    policy = policy_of(SHIPPED_CARTPOLE)
    sent = [
        one._replace(fields={**one.fields, "velocity": []}) if one.topic == "/joint_states" else one
        for one in messages(cartpole_events(30), policy)
    ]
    expect("readings from which the policy can start", write_mcap(tmp_path / "a.mcap", sent))


def test_bounds_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(SHIPPED_CARTPOLE)
    sent = messages(cartpole_events(30), policy)
    bags = [write_bag(tmp_path / storage, storage, sent) for storage in STORAGES]
    for name in ("MAX_MESSAGES", "MAX_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(topic_files, name, 20)
            for bag in bags:
                expect("expected", bag)
    with monkeypatch.context() as patch:
        patch.setattr(topic_files, "MAX_STEPS", 0)
        patch.setattr(topic_files, "STEP", 10)
        expect("interrupted", bags[0])


def database(path: Path, change: Callable[[sqlite3.Connection], object]) -> Path:
    """A recording whose database was changed."""
    policy = policy_of(SHIPPED_CARTPOLE)
    (found,) = write_bag(path, "sqlite3", messages(cartpole_events(5), policy)).glob("*.db3")
    connection = sqlite3.connect(found)
    change(connection)
    connection.commit()
    connection.close()
    return path


BOMB = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT"


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("DROP TABLE messages", "lacks the tables"),
        ("DROP TABLE topics", "lacks the tables"),
        (f"CREATE VIEW more AS {BOMB} x FROM c", "the 'view' 'more'"),
        ("CREATE TRIGGER t AFTER INSERT ON topics BEGIN SELECT 1; END", "the 'trigger' 't'"),
        ("CREATE VIRTUAL TABLE v USING fts5(a)", "has the 'table' 'v"),
        ("ALTER TABLE messages ADD COLUMN b AS (zeroblob(1e9))", "computes a column"),
        ("UPDATE topics SET name = x'07'", "without a name"),
        ("UPDATE topics SET name = printf('%.*c', 999, 'a')", "without a name"),
        ("UPDATE topics SET serialization_format = 'json'", "is encoded as 'json'"),
        ("UPDATE messages SET timestamp = 'soon'", "without a time or data"),
        ("UPDATE messages SET data = 'text'", "without a time or data"),
        ("UPDATE messages SET data = x'28b52ffd00'", "not compressed one by one"),
        ("UPDATE messages SET data = x'00010000ff'", "got one of 5 bytes that is none"),
        ("UPDATE messages SET data = x''", "got one of 0 bytes that is none"),
        ("UPDATE messages SET timestamp = 9223372036854775807 WHERE id > 5", "of up to 7200 s"),
        ("DELETE FROM messages", "got none"),
    ],
)
def test_a_database_that_no_recorder_writes_is_one_sentence(
    statement: str, error: str, tmp_path: Path
) -> None:
    try:
        path = database(tmp_path / "bag", lambda connection: connection.execute(statement))
    except sqlite3.OperationalError as missing:  # this Python's sqlite3 lacks fts5
        pytest.skip(str(missing))
    expect(error, path)


def test_folders_without_storage_are_refused(tmp_path: Path) -> None:
    expect(r"a folder with files \.mcap or \.db3, got no such file", tmp_path)
    (tmp_path / "bag_0.db3.zstd").write_bytes(b"x")
    expect("bag_0.db3.zstd: unpack it", tmp_path)
    (tmp_path / "bag_0.db3").write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    expect("expected a recording of topics", tmp_path)
    (tmp_path / "bag_0.db3").write_text("none")
    expect("does not begin as one", tmp_path)
    (tmp_path / "bag_0.db3").unlink()
    (tmp_path / "bag_0.db3").mkdir()
    expect("got a folder", tmp_path)


def test_no_definition_in_a_file_is_used(tmp_path: Path) -> None:
    """A definition that would take the stamp for a string: the messages are read as they are."""
    policy = policy_of(SHIPPED_CARTPOLE, noise="zero")
    sent = messages(cartpole_events(10), policy)
    path = write_mcap(tmp_path / "a.mcap", sent, "NONE", crcs=False)
    content = path.read_bytes()
    text, other = b"builtin_interfaces/Time stamp", b"string stamp #; import os    "
    assert len(text) == len(other)
    assert text in content
    path.write_bytes(content.replace(text, other))
    found = shadow_test(path, policy, load_robot(None, policy.spec))
    assert len(found.recording.records) == 10
