"""A flight recording as MCAP: what viewers show, and the recording back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig, load_robot
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.flight_recorder import FlightRecorder, read_recording
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.control.state import JointCommand, RobotState
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry import recording, replay
from dime_robot.runtime.telemetry.shadow import shadow_test
from export.onnx import seal
from tests.paths import SHIPPED_CARTPOLE, SHIPPED_GO2
from tests.runtime.machines import ScriptedPolicy, make_robot, make_spec, make_state
from tests.runtime.telemetry.topics import EPOCH, numbers, write_mcap

reader = pytest.importorskip("mcap.reader", reason="MCAP: pip install '.[recordings]'")
decoder = pytest.importorskip("mcap_ros2.decoder")

BEGAN = EPOCH / 1e9
STEPS = 60


def dumped(recorder: FlightRecorder, folder: Path) -> Path:
    dump = recorder.dump(folder, "test")
    recorder.wait(10.0)
    assert not dump.error
    return dump.path.rename(folder / "flight.npz")


def flown(folder: Path, policy: Path = SHIPPED_GO2) -> Path:
    """A policy's flight, with a gap and a stop."""
    loaded = OnnxPolicy(policy, seed=3)
    robot = load_robot(None, loaded.spec).model_copy(update={"phases": None})
    controller = Controller(loaded, robot, clock=lambda: 0.0)
    controller.recorder.meta["node"] = "/left/policy_node"
    rng, spec = np.random.default_rng(0), loaded.spec
    pose = np.array([joint.default_position for joint in spec.joints])

    def state(i: int) -> RobotState:
        return RobotState(
            BEGAN + 0.02 * i + 0.001,
            pose + rng.uniform(-0.01, 0.01, len(pose)),
            rng.uniform(-0.1, 0.1, len(pose)),
            np.array([1.0, 0.0, 0.0, 0.0]),
            rng.uniform(-0.1, 0.1, 3),
            np.array([0.3, 0.0, 0.1]),
        )

    controller.start(0.0, state(0))
    for i in range(STEPS):
        problems = [Fault.OBSERVATION_STALE] if 40 <= i < 44 else []
        if i == 50:
            controller.safety.trip(Fault.ESTOP)
        controller.record(controller.step(0.02 * i, state(i), problems))
    controller.record(controller.step(0.02 * STEPS, None, [Fault.OBSERVATION_STALE]))
    return dumped(controller.recorder, folder)


def converted(path: Path) -> Path:
    assert recording.main([str(path)]) == 0
    return path.with_suffix(".mcap")


def messages(path: Path) -> dict[str, list[tuple[int, str, Any]]]:
    """Topic -> (time, type, message), as any reader of MCAP sees them."""
    found: dict[str, list[tuple[int, str, Any]]] = {}
    with path.open("rb") as file:
        opened = reader.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        for schema, channel, message, decoded in opened.iter_decoded_messages():
            assert schema.encoding == "ros2msg"
            assert channel.message_encoding == "cdr"
            found.setdefault(channel.topic, []).append((message.log_time, schema.name, decoded))
    return found


def test_other_readers_find_topics_metadata_and_values(tmp_path: Path) -> None:
    path = flown(tmp_path)
    records = read_recording(path).records
    mcap = converted(path)
    found = messages(mcap)
    node = "/left/policy_node"
    counts = {topic: len(sent) for topic, sent in found.items()}
    inferred = int(records["inferred"].sum())
    assert counts == {
        "/left/cmd_vel": STEPS,
        "/left/imu": STEPS,
        "/left/joint_states": STEPS,
        "/left/position_controller/commands": STEPS + 1,
        f"{node}/observation": inferred,
        f"{node}/noise": inferred,
        f"{node}/action": inferred,
        f"{node}/level": STEPS + 1,
        "/diagnostics": counts["/diagnostics"],
    }
    robot = read_recording(path).robot
    names = [joint.name for joint in robot.joints]
    spec = read_recording(path).spec
    order = [spec_joint.name for spec_joint in spec.joints]
    rows = [order.index(name) for name in names]
    for row, (time, kind, message) in enumerate(found["/left/joint_states"]):
        assert kind == "sensor_msgs/msg/JointState"
        assert time == round(1e9 * (BEGAN + 0.001 + 0.02 * row)) == pytest.approx(time, abs=1000)
        assert list(message.name) == names
        np.testing.assert_array_equal(message.position, records["joint_position"][row][rows])
        np.testing.assert_array_equal(message.velocity, records["joint_velocity"][row][rows])
    acted = records[records["inferred"]]
    for name in ("observation", "noise", "action"):
        sent = np.array([message.data for _, _, message in found[f"{node}/{name}"]])
        np.testing.assert_array_equal(sent, acted[name].reshape(inferred, -1))
    _, kind, first = found[f"{node}/observation"][0]
    assert first.layout.dim[0].label.startswith("gyro[3],gravity[3],command[3]")
    command = found["/left/position_controller/commands"][7][2]
    np.testing.assert_array_equal(command.data, records["command"][7][rows])
    _, _, turned = found["/left/imu"][5]
    assert turned.orientation.w == 1.0
    assert turned.angular_velocity.y == records["angular_velocity"][5][1]
    assert found["/left/cmd_vel"][3][2].linear.x == 0.3
    shown = [entry.status[0].message for _, _, entry in found["/diagnostics"]]
    assert shown[0] == "clamp: velocity_limit" or shown[0] == "run"
    assert "hold: observation_stale" in shown
    assert "stop: estop" in shown
    assert [message.data[0] for _, _, message in found[f"{node}/level"]] == records["rung"].tolist()


def test_metadata_and_attachment_are_those_of_the_recording(tmp_path: Path) -> None:
    path = flown(tmp_path)
    meta = read_recording(path).meta
    with converted(path).open("rb") as file:
        opened = reader.make_reader(file)
        (found,) = opened.iter_metadata()
        (attached,) = opened.iter_attachments()
    assert attached.data == path.read_bytes()
    facts = found.metadata
    assert facts["node"] == "/left/policy_node"
    assert facts["policy_digest"] == meta["policy_digest"]
    assert json.loads(facts["spec"]) == meta["spec"]
    assert json.loads(facts["robot"]) == meta["robot"]
    assert facts["steps"] == str(STEPS + 1)


def test_the_recording_comes_back_and_replays_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = flown(tmp_path)
    content = path.read_bytes()
    mcap = converted(path)
    path.unlink()
    assert recording.main([str(mcap)]) == 0
    assert path.read_bytes() == content
    assert recording.main([str(mcap)]) == 0  # the same once more
    assert replay.main([str(mcap), str(SHIPPED_GO2)]) == replay.SAME
    assert f"{STEPS - 14} of {STEPS - 14} equal bit for bit" in capsys.readouterr().out


def test_another_recording_of_that_name_is_kept(tmp_path: Path) -> None:
    path = flown(tmp_path)
    mcap = converted(path)
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="expected no other recording of that name"):
        recording.main([str(mcap)])
    assert path.read_bytes() == b"mine"
    assert recording.main([str(mcap), "--out", str(tmp_path / "b.npz")]) == 0
    with pytest.raises(InputError, match="got the recording: use --out"):
        recording.main([str(mcap), "--out", str(mcap)])
    mcap.rename(tmp_path / "flight.npz")  # its bytes say what it is
    assert recording.main([str(tmp_path / "flight.npz"), "--out", str(tmp_path / "c.npz")]) == 0


def test_the_topics_of_a_flight_take_another_kind_of_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same policy on the topics does the same until the flight had a fault."""
    path = flown(tmp_path, SHIPPED_CARTPOLE)
    mcap = converted(path)
    words = [str(mcap), str(SHIPPED_CARTPOLE), "--topics", "--noise", "fresh", "--seed", "3"]
    assert replay.main(words) == 0
    assert "of cartpole, " in capsys.readouterr().out
    policy, before = OnnxPolicy(SHIPPED_CARTPOLE, seed=3), read_recording(path)
    records = shadow_test(mcap, policy, before.robot, namespace="/left").recording.records
    for name in ("observation", "noise", "action"):
        np.testing.assert_array_equal(records[name][:40], before.records[name][:40])
    with pytest.raises(InputError, match="another kind of policy; --topics runs it"):
        replay.main([str(mcap), str(SHIPPED_GO2)])
    with pytest.raises(InputError, match="expected an MCAP file with --topics"):
        replay.main([str(mcap.with_suffix(".npz")), *words[1:3]])


def machine(kind: str, folder: Path, **fields: Any) -> tuple[Path, ScriptedPolicy]:
    """A recording of one step of a machine with signs, offsets and other names."""
    policy = ScriptedPolicy(make_spec(kind))
    recorder = FlightRecorder(policy, make_robot(kind))  # type: ignore[arg-type]
    state = make_state(stamp=BEGAN)._replace(**fields)
    names = policy.spec.action_joints
    value = np.arange(1.0, len(names) + 1) / 8
    decision = Decision(JointCommand(names, value), SafetyLevel.RUN)
    observation = np.zeros(policy.spec.n_obs, dtype=np.float32)
    recorder.add(0.0, state, observation, np.zeros(policy.spec.n_act), decision)
    return dumped(recorder, folder), policy


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("effort", "std_msgs/msg/Float64MultiArray"),
        ("position", "trajectory_msgs/msg/JointTrajectory"),
        ("velocity", "std_msgs/msg/Float64MultiArray"),
        ("twist", "geometry_msgs/msg/Twist"),
    ],
)
def test_commands_are_in_the_robots_own_message(kind: str, type_: str, tmp_path: Path) -> None:
    path, _ = machine(kind, tmp_path)
    ((_, found, message),) = messages(converted(path))["/commands"]
    assert found == type_
    if kind == "twist":  # linear_x, angular_z
        assert (message.linear.x, message.linear.y, message.angular.z) == (1 / 8, 0.0, 2 / 8)
    elif kind == "position":
        assert list(message.joint_names) == ["axis_1", "wheel", "axis_6"]
        assert list(message.points[0].positions) == [-3 / 8 + 0.125, 2 / 8, 1 / 8 - 0.5]
        assert message.points[0].time_from_start.nanosec == 7812500
    else:
        assert list(message.data) == [-3 / 8, 2 / 8, 1 / 8]


def test_what_was_not_measured_is_not_shown(tmp_path: Path) -> None:
    path, _ = machine("position", tmp_path, angular_velocity=np.array([1.0, 2.0, 3.0]))
    found = messages(converted(path))
    assert "/cmd_vel" not in found
    ((_, _, turned),) = found["/imu"]
    assert turned.orientation_covariance[0] == -1
    assert turned.angular_velocity_covariance[0] == 0
    assert turned.angular_velocity.z == 3.0
    assert turned.linear_acceleration_covariance[0] == -1


def test_signals_and_other_commands_are_on_their_topics(tmp_path: Path) -> None:
    shipped = OnnxPolicy(SHIPPED_CARTPOLE)
    data = shipped.spec.model_dump(mode="json")
    data["observation"][0] = {"name": "goal", "kind": "command", "size": 1, "unit": "m"}
    spec = PolicySpec.model_validate(data)
    onnx_file = tmp_path / "policy.onnx"
    onnx_file.write_bytes(seal(onnx.load(SHIPPED_CARTPOLE), spec, shipped.file.provenance))
    robot = load_robot(None, shipped.spec).model_dump(mode="json")
    goal = {"topic": "goal", "type": "Float64MultiArray", "when_lost": "hold"}
    policy = OnnxPolicy(onnx_file)
    controller = Controller(
        policy,
        RobotConfig.model_validate({**robot, "task_commands": {"goal": goal}}),
        clock=lambda: 0.0,
    )
    controller.recorder.expect_other_commands()
    for i in range(4):
        state = RobotState(
            BEGAN + 0.02 * i, np.array([0.0, 3.1]), np.zeros(2), signals={"goal": np.array([0.5])}
        )
        if not i:
            controller.start(0.0, state)
        controller.record(controller.step(0.02 * i, state))
        if i > 1:
            controller.recorder.other_command(np.array([float(i)]))
    path = dumped(controller.recorder, tmp_path)
    found = messages(converted(path))
    assert [list(message.data) for _, _, message in found["/goal"]] == [[0.5]] * 4
    others = found["/effort_controller/commands"]
    assert [message.data[0] for _, _, message in others] == [2.0, 3.0]
    ours = [message.data[0] for _, _, message in found["/policy_node/command"]]
    assert ours == read_recording(path).records["command"][:, 0].tolist()


@pytest.mark.parametrize("name", ["time", "stamp"])
def test_times_that_no_file_can_hold_are_refused(name: str, tmp_path: Path) -> None:
    path = flown(tmp_path)
    opened = read_recording(path)
    opened.records[name][3:] = -1e300 if name == "time" else 1e300
    np.savez(path, records=opened.records, meta=np.array(json.dumps(opened.meta)))
    with pytest.raises(InputError, match="within what an MCAP file can hold"):
        recording.main([str(path)])
    assert not path.with_suffix(".mcap").exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"spec": {}}, "the recording's contract: "),
        ({"robot": {}}, "the recording's robot: "),
        ({"node": "x" * 999}, "name of up to 256 characters"),
        ({"spec": make_spec().model_dump(mode="json")}, "has the policy's joints|numbers in"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(
    change: dict[str, Any], error: str, tmp_path: Path
) -> None:
    path = flown(tmp_path)
    opened = read_recording(path)
    meta = {**opened.meta, **change}
    np.savez(path, records=opened.records, meta=np.array(json.dumps(meta)))
    with pytest.raises(InputError, match=error):
        recording.main([str(path)])


def test_one_topic_of_two_types_is_refused(tmp_path: Path) -> None:
    path = flown(tmp_path)
    opened = read_recording(path)
    opened.meta["robot"]["imu"]["topic"] = "joint_states"
    np.savez(path, records=opened.records, meta=np.array(json.dumps(opened.meta)))
    with pytest.raises(InputError, match="topics of one type each, /left/joint_states has"):
        recording.main([str(path)])


def test_topics_of_another_recorder_are_no_flight(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", [numbers(EPOCH, "/a", [1.0])])
    with pytest.raises(InputError, match="got one of topics only"):
        recording.main([str(path)])
    assert list(messages(path)) == ["/a"]
