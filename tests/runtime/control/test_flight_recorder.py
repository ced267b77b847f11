"""The last seconds of a robot: complete, in order, readable, and replayable bit for bit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig, load_robot
from dime_robot.runtime.control import flight_recorder
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.flight_recorder import FlightRecorder, read_recording
from dime_robot.runtime.control.observation import ObservationEncoder
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.control.state import JointCommand, RobotState
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.certificate import Provenance
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.policy.policy_file import PROVENANCE
from dime_robot.runtime.telemetry import replay
from export.onnx import seal
from tests.paths import SHIPPED_CARTPOLE as CARTPOLE
from tests.runtime.machines import ScriptedPolicy, make_robot, make_spec, make_state

STEPS = 100


def decision(value: float = 0.0, level: SafetyLevel = SafetyLevel.RUN, *faults: Fault) -> Decision:
    names = ("wrist", "wheel", "rail")
    return Decision(JointCommand(names, np.full(3, value)), level, faults)


def small(seconds: float = 10 / 128) -> tuple[FlightRecorder, ScriptedPolicy]:
    policy = ScriptedPolicy(make_spec())
    return FlightRecorder(policy, make_robot(), seconds), policy


def note(recorder: FlightRecorder, i: int, *, inferred: bool = True) -> None:
    state = make_state(wrist=i, stamp=100.0 + i)
    observation = np.full(3, i, dtype=np.float32) if inferred else None
    recorder.add(float(i), state, observation, np.full(3, i / 64), decision(i))


def dumped(recorder: FlightRecorder, folder: Path, why: str = "test") -> Path:
    dump = recorder.dump(folder, why)
    recorder.wait(10.0)
    assert dump.done
    return dump.path


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 19, 20, 37])
def test_the_ring_keeps_the_last_steps_in_order(count: int) -> None:
    recorder, _ = small()
    for i in range(count):
        note(recorder, i)
    records = recorder.records()
    assert records["time"].tolist() == list(range(max(0, count - 10), count))
    assert records["joint_position"][:, 0].tolist() == records["time"].tolist()
    assert (records["stamp"] == records["time"] + 100).all()
    assert (records["command"][:, 2] == records["time"]).all()
    assert (records["action"][:, 1] == records["time"] / 64).all()
    assert (records["observation"][:, 0] == records["time"]).all()


def test_a_copy_does_not_change_any_more() -> None:
    recorder, _ = small()
    for i in range(12):
        note(recorder, i)
    records = recorder.records()
    note(recorder, 99)
    assert 99.0 not in records["time"]


def test_every_fault_and_level_comes_back(tmp_path: Path) -> None:
    recorder, policy = small(1.0)
    for fault in Fault:
        recorder.add(0.0, None, None, np.zeros(3), decision(0.0, SafetyLevel.CLAMP, fault, fault))
    everything = tuple(Fault)
    recorder.add(0.0, None, None, np.zeros(3), decision(0.0, SafetyLevel.STOP, *everything))
    recording = read_recording(dumped(recorder, tmp_path, "estop"))
    for i, fault in enumerate(Fault):
        assert recording.fault_names(i) == [fault.value]
    assert recording.escalations == [
        (len(everything), SafetyLevel.STOP, [r.value for r in everything])
    ]
    assert np.isnan(recording.records["joint_position"]).all()
    assert recording.meta["why"] == "estop"
    assert recording.meta["policy_digest"] == policy.file.policy_digest
    assert recording.meta["command_joints"] == ["wrist", "wheel", "rail"]
    assert type(policy.spec).model_validate(recording.meta["spec"]) == policy.spec
    assert RobotConfig.model_validate(recording.meta["robot"]) == make_robot()


def test_what_the_base_felt_is_recorded_and_what_it_lacks_is_nan() -> None:
    recorder, _ = small()
    q, w, v = np.array([1.0, 0, 0, 0]), np.array([1.0, 2, 3]), np.array([4.0, 5, 6])
    state = make_state(orientation=q, angular_velocity=w, command_velocity=v)
    recorder.add(0.0, state, None, np.zeros(3), decision())
    recorder.add(1.0, make_state(), None, np.zeros(3), decision())
    for name, value in (("orientation", q), ("angular_velocity", w), ("command_velocity", v)):
        assert recorder.records()[name][0].tolist() == value.tolist()
        assert np.isnan(recorder.records()[name][1]).all()


def test_escalations_are_where_the_response_rose(tmp_path: Path) -> None:
    recorder, _ = small(1.0)
    levels = [0, 1, 2, 2, 3, 0, 1, 2, 1, 4, 4]
    for level in levels:
        faults = (Fault.OBSERVATION_STALE,) if level >= SafetyLevel.HOLD else ()
        recorder.add(0.0, None, None, np.zeros(3), decision(0.0, SafetyLevel(level), *faults))
    found = read_recording(dumped(recorder, tmp_path)).escalations
    assert [row for row, _, _ in found] == [2, 4, 7, 9]
    assert [level for _, level, _ in found] == [
        SafetyLevel.HOLD,
        SafetyLevel.DAMP,
        SafetyLevel.HOLD,
        SafetyLevel.STOP,
    ]


def test_a_large_machine_gets_a_shorter_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight_recorder, "MAX_BYTES", 2000)
    recorder, _ = small(30.0)
    for i in range(50):
        note(recorder, i)
    assert 2 <= len(recorder.records()) < 15
    assert recorder.records().nbytes <= 2000


def test_at_most_twenty_files_are_kept_and_others_are_let_be(tmp_path: Path) -> None:
    recorder, _ = small()
    note(recorder, 0)
    mine = tmp_path / "notes.npz"
    mine.write_text("mine")
    paths = [dumped(recorder, tmp_path) for _ in range(24)]
    assert sorted(tmp_path.glob("flight-*")) == paths[-20:]
    assert mine.exists()


def test_two_robots_in_one_folder_do_not_remove_each_others_files(tmp_path: Path) -> None:
    left, right = small()[0], small()[0]
    left.meta["node"], right.meta["node"] = "/left/policy_node", "/right/policy_node"
    for recorder in (left, right):
        note(recorder, 0)
    kept = dumped(left, tmp_path)
    assert "left.policy_node-test" in kept.name
    assert read_recording(kept).meta["node"] == "/left/policy_node"
    for _ in range(22):
        dumped(right, tmp_path)
    assert kept.exists()
    assert len(list(tmp_path.iterdir())) == 21


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("odd")])
def test_a_disc_that_fails_is_told_and_does_not_hurt_the_robot(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    recorder, _ = small()
    note(recorder, 0)
    monkeypatch.setattr(np, "savez", full)
    dump = recorder.dump(tmp_path, "test")
    recorder.wait(10.0)
    assert dump.done
    assert str(dump.path) in dump.error
    assert str(error.args[-1]) in dump.error
    assert "resume" not in dump.error  # it is no training run
    assert not list(tmp_path.glob("*.npz"))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    recorder, _ = small()
    note(recorder, 0)
    (tmp_path / "file").write_text("")
    dump = recorder.dump(tmp_path / "file/below", "test")
    recorder.wait(10.0)
    assert dump.done
    assert "Not a directory" in dump.error


def test_with_nothing_recorded_there_is_nothing_to_write(tmp_path: Path) -> None:
    recorder, _ = small()
    dump = recorder.dump(tmp_path, "test")
    assert dump.done
    assert dump.error == "nothing is recorded yet"
    assert list(tmp_path.iterdir()) == []


# ---- replay


@pytest.fixture(scope="module")
def flown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 steps of the shipped policy, with a gap in the middle."""
    policy = OnnxPolicy(CARTPOLE, seed=3)
    controller = Controller(policy, load_robot(None, policy.spec))
    rng = np.random.default_rng(0)

    def state(i: int) -> RobotState:
        return RobotState(0.02 * i, rng.uniform(-1, 1, 2), rng.uniform(-5, 5, 2))

    controller.start(0.0, state(0))
    for i in range(STEPS):
        problems = [Fault.OBSERVATION_STALE] if 40 <= i < 44 else []
        controller.record(controller.step(0.02 * i, state(i), problems))
    return dumped(controller.recorder, tmp_path_factory.mktemp("flight"))


def test_the_policy_that_flew_gives_the_same_actions(
    flown: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = read_recording(flown).records
    assert records["inferred"].sum() == STEPS - 4
    assert np.unique(records["action"][records["inferred"]]).size > 50
    assert replay.main([str(flown), str(CARTPOLE)]) == replay.SAME == 0
    message = capsys.readouterr().out
    assert "100 steps" in message
    assert "96 of 96 equal" in message
    assert re.search(r"hold \(observation_stale\)", message)


def altered(flown: Path, path: Path, **fields: object) -> Path:
    """The recording with some fields overwritten."""
    recording = read_recording(flown)
    for name, value in fields.items():
        recording.records[name] = value
    np.savez(path, records=recording.records, meta=np.array(json.dumps(recording.meta)))
    return path


def test_one_bit_of_difference_is_seen(flown: Path, tmp_path: Path) -> None:
    action = read_recording(flown).records["action"]
    action[7] = np.nextafter(action[7], np.float32(9))
    path = altered(flown, tmp_path / "flight.npz", action=action)
    assert replay.main([str(path), str(CARTPOLE)]) == replay.DIFFERENT == 1


def test_actions_that_were_nan_replay_bit_for_bit(flown: Path, tmp_path: Path) -> None:
    path = altered(flown, tmp_path / "flight.npz", observation=np.nan)
    actions = replay.replayed_actions(read_recording(path), OnnxPolicy(CARTPOLE))
    assert np.isnan(actions).all()
    altered(path, path, action=actions[0])
    assert replay.main([str(path), str(CARTPOLE)]) == replay.SAME


def test_another_policy_is_compared_per_joint(
    flown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(CARTPOLE)
    weight = max(model.graph.initializer, key=lambda entry: len(entry.raw_data))
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(1.5 * values, weight.name))
    entries = {entry.key: entry.value for entry in model.metadata_props}
    provenance = Provenance.model_validate_json(entries[PROVENANCE])
    path = tmp_path / "other.onnx"
    path.write_bytes(seal(model, OnnxPolicy(CARTPOLE).spec, provenance))
    assert replay.main([str(flown), str(path)]) == replay.OTHER_POLICY == 3
    assert "slider" in capsys.readouterr().out


def test_a_policy_of_other_sizes_is_refused(tmp_path: Path) -> None:
    recorder, _ = small()
    note(recorder, 0)
    with pytest.raises(InputError, match="another kind of policy"):
        replay.main([str(dumped(recorder, tmp_path)), str(CARTPOLE)])


def test_a_recording_without_any_action_is_refused(tmp_path: Path) -> None:
    recorder, _ = small()
    note(recorder, 0, inferred=False)
    with pytest.raises(InputError, match="no step in which the policy was evaluated"):
        replay.main([str(dumped(recorder, tmp_path)), str(CARTPOLE)])


def broken(flown: Path, path: Path, how: str) -> Path:
    content = bytearray(flown.read_bytes())
    meta, records = np.array("{}"), np.zeros(2, dtype=[("noise", "f4")])
    match how:
        case "missing":
            return path
        case "text":
            path.write_text("not a recording")
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "flipped":
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(content)
        case "foreign":
            np.savez(path, x=np.zeros(3))
        case "plain":
            np.savez(path, records=np.zeros(3), meta=meta)
        case "no json":
            np.savez(path, records=records, meta=np.array("{"))
        case "one array":
            with path.open("wb") as file:
                np.save(file, np.zeros(3))
    return path


@pytest.mark.parametrize(
    "how",
    ["missing", "text", "empty", "cut", "flipped", "foreign", "plain", "no json", "one array"],
)
def test_a_file_that_is_no_recording_is_one_sentence(flown: Path, tmp_path: Path, how: str) -> None:
    path = broken(flown, tmp_path / "flight.npz", how)
    for read in (lambda: read_recording(path), lambda: replay.main([str(path), str(CARTPOLE)])):
        words = "its bytes were changed" if how == "flipped" else "expected a recording"
        with pytest.raises(InputError, match=words) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_recording_survives_a_clock_that_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, _ = small()
    note(recorder, 0)
    for _ in range(20):
        dumped(recorder, tmp_path)
    early = SimpleNamespace(time_ns=lambda: 10**9, gmtime=lambda _: (1970, 1, 1, 0, 0, 1, 3, 1, 0))
    early.strftime = flight_recorder.time.strftime
    monkeypatch.setattr(flight_recorder, "time", early)
    assert dumped(recorder, tmp_path).exists()


def test_a_step_without_the_policy_shows_nothing_from_long_ago() -> None:
    recorder, _ = small()
    for i in range(1, 11):
        note(recorder, i)
    note(recorder, 11, inferred=False)
    assert 1.0 not in recorder.records()["observation"][-1]


# ---- signals


SIGNAL = {"topic": "t", "type": "Float64MultiArray", "when_lost": "hold"}


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A policy whose first two observations are a command and a sensor, and its recording."""
    folder = tmp_path_factory.mktemp("guided")
    shipped = OnnxPolicy(CARTPOLE)
    data = shipped.spec.model_dump(mode="json")
    for i, (name, kind) in enumerate((("goal", "command"), ("ball", "sensor"))):
        data["observation"][i] = {"name": name, "kind": kind, "size": 1, "unit": "m"}
    spec = PolicySpec.model_validate(data)
    path = folder / "policy.onnx"
    path.write_bytes(seal(onnx.load(CARTPOLE), spec, shipped.file.provenance))
    robot = load_robot(None, shipped.spec).model_dump(mode="json")
    sections = {"task_commands": {"goal": SIGNAL}, "sensors": {"ball": {
        **SIGNAL, "when_lost": "escalate", "timeout": 0.1}}}  # fmt: skip
    policy = OnnxPolicy(path, seed=3)
    controller = Controller(policy, RobotConfig.model_validate({**robot, **sections}))
    rng = np.random.default_rng(0)
    for i in range(STEPS):
        signals = {name: rng.uniform(-1, 1, 1) for name in ("ball", "goal")}  # of another order
        state = RobotState(0.02 * i, rng.uniform(-1, 1, 2), np.zeros(2), signals=signals)
        if not i:
            controller.start(0.0, state)
        controller.record(controller.step(0.02 * i, state))
    controller.recorder.add(9.0, None, None, np.zeros(1), controller.step(2.0, None))
    return path, dumped(controller.recorder, folder)


def test_a_recording_with_signals_replays_bit_for_bit_and_holds_what_the_policy_saw(
    guided: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    policy, flight = guided
    assert replay.main([str(flight), str(policy)]) == replay.SAME
    recording = read_recording(flight)
    assert recording.meta["signals"] == {"goal": 1, "ball": 1}
    records = recording.records
    assert records["signals"].shape == (STEPS + 1, 2)
    assert np.isnan(records["signals"][-1]).all()  # there was no state
    encoder = ObservationEncoder(OnnxPolicy(policy).spec)
    for row in records[:STEPS]:
        signals = {"goal": row["signals"][:1], "ball": row["signals"][1:]}
        state = RobotState(0.0, row["joint_position"], row["joint_velocity"], signals=signals)
        np.testing.assert_array_equal(encoder.encode(state), row["observation"])


def test_recordings_without_signals_keep_the_format_that_earlier_releases_read(flown: Path) -> None:
    recording = read_recording(flown)
    assert "signals" not in recording.meta
    assert recording.records.dtype.names == flight_recorder.RECORD_FIELDS


@pytest.mark.parametrize("signals", [{}, {"goal": 1}, {"goal": -1, "ball": 3}, {"goal": 10**9}])
def test_signals_that_do_not_fit_the_records_are_refused(
    guided: tuple[Path, Path], tmp_path: Path, signals: dict[str, int]
) -> None:
    recording = read_recording(guided[1])
    recording.meta["signals"] = signals
    path = tmp_path / "flight.npz"
    np.savez(path, records=recording.records, meta=np.array(json.dumps(recording.meta)))
    with pytest.raises(InputError, match=r"types or sizes|signals"):
        read_recording(path)
