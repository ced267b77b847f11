"""A robot with an interpolation, from training to the exported policy: it is recorded in both."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnx
import pytest
import yaml

from dime_robot import train
from dime_robot.loaded_policy import evaluate_policy, load_policy
from dime_robot.runtime.contract.interpolation import Interpolation
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry import measure_latency
from dime_robot.training import checkpoint
from export import onnx as export_onnx
from tests.export.conftest import short_proofs
from tests.paths import SHIPPED_CARTPOLE, shipped_content

CUBIC = Interpolation(kind="cubic", rate=100.0)


def test_a_policy_without_one_is_a_file_that_earlier_releases_read() -> None:
    provenance = OnnxPolicy(SHIPPED_CARTPOLE).file.provenance
    assert "interpolation" not in provenance.model_dump_json()


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = shipped_content("reach")
    config["robot"]["command"] |= {"interpolation": CUBIC.kind, "rate": CUBIC.rate}
    config["task"]["episode_seconds"] = 0.2
    config["task"]["success"] = {}
    path = tmp_path_factory.mktemp("robot") / "arm.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_it_goes_from_the_robots_file_to_the_exported_policy(
    robot: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = partial(measure_latency.measure_latency, warm_calls=10, cold_calls=2)
    monkeypatch.setattr(measure_latency, "measure_latency", lambda policy, *_: few(policy))
    folder = tmp_path / "run"
    options = ["--steps", "60", "--random-steps", "50", "--eval-interval", "60", "--no-video"]
    options += ["--eval-episodes", "1", "--final-episodes", "20"]
    train.main([*options, "--config", str(robot), "--out", str(folder)])
    path = folder / "ckpt.pt"
    record = checkpoint.load_actor(path)[1].record
    assert (record.provenance["interpolation"], record.provenance["command_rate"]) == (
        "cubic",
        "100.0",
    )
    assert load_policy(path).interpolation == CUBIC
    assert evaluate_policy(path, env=f"sim:{robot}", episodes=1).episodes
    with pytest.raises(InputError, match="expected interpolation cubic at 100 Hz"):
        evaluate_policy(path, env="sim:reach", episodes=1)
    with short_proofs():
        assert export_onnx.main([str(path), "--config", str(robot)]) == 0
    words = "interpolation cubic at 100 Hz, the command of a step is reached 20 ms later"
    assert f"commands   {words}" in capsys.readouterr().out
    exported = OnnxPolicy(path.with_name("policy.onnx"))
    entries = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    assert entries["dime.format"] == "3"  # an earlier release would run it without
    assert exported.file.interpolation == exported.file.provenance.interpolation == CUBIC
    assert measure_latency.main([str(exported.path)]) == 0
    assert f"commands   {words}" in capsys.readouterr().out
