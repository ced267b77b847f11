"""Mutations of every kind of file that comes from elsewhere: refused in a sentence, or valid.

Seeded, so each run throws the same ones. A policy.onnx and a checkpoint have tests of their own.
"""

from __future__ import annotations

import io
import json
import math
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dime_robot.results.eval_csv import read_eval_csv
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import load_robot
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.flight_recorder import FlightRecorder, read_recording
from dime_robot.runtime.control.state import RobotState
from dime_robot.runtime.io.errors import InputError, first_problem
from dime_robot.runtime.io.mcap_files import RawMessage
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry import recording
from dime_robot.runtime.telemetry.latency import LatencyDistribution, read_distribution
from dime_robot.runtime.telemetry.ros_types import (
    IMU,
    JOINT_STATE,
    NUMBERS,
    TRAJECTORY,
    decode,
    full_type,
)
from dime_robot.runtime.telemetry.shadow import ShadowTest, compare_commands, shadow_test
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task
from dime_robot.sim.model.loading import load_model
from dime_robot.training import checkpoint
from ros_nodes.latency_record import distributions, read_record, write_record
from tests.malformed import mutated, within
from tests.paths import ROOT, SHIPPED_CARTPOLE
from tests.ros_nodes.records import record_of, some_samples
from tests.runtime.machines import ScriptedPolicy, make_robot, make_spec, robot_data, spec_data
from tests.runtime.telemetry.topics import EPOCH, Sent, joints, numbers, write_bag, write_mcap

LIMIT = 4.0  # [s] for one file; most take a millisecond
SIM: dict[str, Any] = {"model": "arm.xml", "timestep": 1 / 512, "decimation": 4}


def throw(
    make: Callable[[np.random.Generator], bytes],
    read: Callable[[Path], Any],
    path: Path,
    count: int,
) -> list[Any]:
    """Read `count` mutations; what was accepted. Anything but an InputError fails the test."""
    accepted = []
    for seed in range(count):
        path.write_bytes(make(np.random.default_rng(seed)))
        try:
            with within(LIMIT):
                accepted.append(read(path))
        except InputError as error:
            printed = str(error)
            assert "\n" not in printed, (seed, printed)
            assert len(printed) < 900, (seed, printed)
            assert printed.isprintable(), (seed, printed)
        except Exception as error:
            raise AssertionError(f"mutation {seed}: {type(error).__name__}: {error}") from error
    return accepted


def test_configurations(tmp_path: Path) -> None:
    good = yaml.safe_dump({"policy": spec_data(), "robot": robot_data(), "sim": SIM}).encode()
    read_robot_task_of(good, tmp_path / "good.yaml")
    made = throw(
        lambda rng: mutated(good, "yaml", rng),
        lambda path: load_robot_task(path)[0],
        tmp_path / "robot.yaml",
        250,
    )
    for config in made:
        content = config.model_dump()  # the file it came from does not belong to it
        assert RobotTaskConfig.model_validate(content).model_dump() == content
    assert 0 < len(made) < 125


def read_robot_task_of(content: bytes, path: Path) -> RobotTaskConfig:
    path.write_bytes(content)
    return load_robot_task(path)[0]


def test_contracts_in_json(tmp_path: Path) -> None:
    good = make_spec("position").model_dump_json().encode()

    def read(path: Path) -> PolicySpec:
        try:
            return PolicySpec.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InputError(first_problem(error)) from None

    made = throw(lambda rng: mutated(good, "json", rng), read, tmp_path / "spec.json", 400)
    for spec in made:
        assert PolicySpec.model_validate_json(spec.model_dump_json()) == spec


def test_latency_distributions(tmp_path: Path) -> None:
    values = np.random.default_rng(0).gamma(4.0, 1e-3, 500)
    facts = {"quantity": "end_to_end", "policy_digest": "ab", "rate": 50.0, "cpu": "some"}
    good = LatencyDistribution.of(values, **facts).model_dump_json(indent=1).encode()
    path = tmp_path / "latency.json"
    throw(lambda rng: mutated(good, "json", rng), read_distribution, path, 200)


def test_models(tmp_path: Path) -> None:
    good = (ROOT / "tests/robots/arm.xml").read_bytes()

    def read(path: Path) -> object:
        return load_model(path, 0.002)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what MuJoCo warns of
        throw(lambda rng: mutated(good, "xml", rng), read, tmp_path / "arm.xml", 250)


def repacked(content: bytes, rng: np.random.Generator) -> bytes:
    """A recording whose arrays were changed inside, under checksums that are right again."""
    if rng.random() < 0.5:
        return mutated(content, "binary", rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen = names[int(rng.integers(len(names)))]
        for name in names:
            inner = old.read(name)
            if name == chosen:
                # mostly its header, where a change means something
                cut = 256 if rng.random() < 0.7 else len(inner)
                inner = mutated(inner[:cut], "binary", rng) + inner[cut:]
            new.writestr(name, inner)
    return out.getvalue()


def test_recordings(tmp_path: Path) -> None:
    policy = ScriptedPolicy(make_spec())
    recorder = FlightRecorder(policy, make_robot(), 0.1)  # type: ignore[arg-type]
    for i in range(5):
        recorder._ring["time"][i] = i
    recorder._count = 5
    path = tmp_path / "flight.npz"
    np.savez(
        path, records=recorder.records(), meta=np.array(json.dumps({**recorder.meta, "why": "x"}))
    )
    good = path.read_bytes()
    assert len(read_recording(path).records) == 5
    for read in throw(lambda rng: repacked(good, rng), read_recording, path, 300):
        assert all(level <= 4 for _, level, _ in read.escalations)


def recorded_topics() -> list[Sent]:
    names, sent = ["slider", "hinge"], []
    for i in range(12):
        time = EPOCH + 20_000_000 * i
        sent.append(joints(time, names, [0.01 * i, 3.1], [0.1, 0.02 * i]))
        sent.append(numbers(time + 1, "/effort_controller/commands", [0.1 * i]))
    return sent


@pytest.mark.parametrize(("storage", "count"), [("mcap", 120), ("sqlite3", 60)])
def test_recordings_of_topics(storage: str, count: int, tmp_path: Path) -> None:
    """Without checksums, so that what is changed inside reaches the parsers and the loop."""
    policy = OnnxPolicy(SHIPPED_CARTPOLE, noise="zero")
    robot = load_robot(None, policy.spec)
    if storage == "mcap":
        path = write_mcap(tmp_path / "topics.mcap", recorded_topics(), "NONE", crcs=False)
    else:
        (path,) = write_bag(tmp_path / "bag", storage, recorded_topics()).glob("*.db3")
    good = path.read_bytes()

    def read(path: Path) -> ShadowTest:
        return shadow_test(path, policy, robot)

    assert len(read(path).recording.records) == 12
    made = throw(lambda rng: mutated(good, "binary", rng), read, path, count)
    assert 0 < len(made) < count
    for test in made:
        compare_commands(test.recording)


@pytest.mark.parametrize("kind", [JOINT_STATE, IMU, NUMBERS, TRAJECTORY, full_type("PoseStamped")])
@given(data=st.binary(max_size=120))
def test_bytes_of_messages(kind: str, data: bytes) -> None:
    with suppress(InputError):
        decode(RawMessage(0, "/a", kind, b"\0\1\0\0" + data))


def test_flight_recordings_as_mcap(tmp_path: Path) -> None:
    policy = OnnxPolicy(SHIPPED_CARTPOLE)
    controller = Controller(policy, load_robot(None, policy.spec), clock=lambda: 0.0)
    state = RobotState(5.0, np.array([0.0, 3.1]), np.zeros(2))
    controller.start(0.0, state)
    for i in range(5):
        controller.record(controller.step(0.02 * i, state))
    dump = controller.recorder.dump(tmp_path, "x")
    controller.recorder.wait(10.0)
    path, out = tmp_path / "flight.npz", tmp_path / "out"
    content = dump.path.read_bytes()

    def to_mcap(path: Path) -> object:
        return recording.main([str(path), "--out", str(out)])

    path.write_bytes(content)
    to_mcap(path)
    packed = out.read_bytes()
    throw(lambda rng: repacked(content, rng), to_mcap, path, 75)
    path.write_bytes(packed)
    to_mcap(path)
    assert out.read_bytes() == content
    throw(lambda rng: mutated(packed, "binary", rng), to_mcap, path, 75)


def test_latency_records(tmp_path: Path) -> None:
    path = tmp_path / "latency.npz"
    good = write_record(record_of(some_samples(20)), path).read_bytes()
    for record in throw(lambda rng: repacked(good, rng), read_record, path, 200):
        record.summary()
        distributions(record)


OLD_RUN = ROOT / "tests" / "data" / "run_of_release_0_1"


def test_evaluations(tmp_path: Path) -> None:
    good = (OLD_RUN / "eval.csv").read_bytes() + b"80,4,-1,2,20,1.5\n"
    path = tmp_path / "eval.csv"
    for rows in throw(lambda rng: mutated(good, "csv", rng), read_eval_csv, path, 300):
        assert all(math.isfinite(row.return_mean) and row.episodes >= 1 for row in rows)


def test_checkpoints_without_a_digest(tmp_path: Path) -> None:
    """Those of the release before: nothing but a check of every part stands between."""
    good = (OLD_RUN / "best.pt").read_bytes()

    def changed(rng: np.random.Generator) -> bytes:
        content = bytearray(good)
        for place in rng.integers(len(content), size=rng.integers(1, 20)).tolist():
            content[place] = int(rng.integers(256))
        return bytes(content)

    for actor, loaded in throw(changed, checkpoint.load_actor, tmp_path / "best.pt", 150):
        assert all(torch.isfinite(value).all() for value in actor.state_dict().values())
        assert loaded.record.step >= 0
