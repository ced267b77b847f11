"""Our definitions of Unitree's messages are Unitree's, and are built once."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.ros_nodes.graph import Graph
from tests.ros_nodes.unitree_messages import build

# A type hash is over the names, types and order of all fields, nested messages included. These
# were computed from Unitree's definitions (unitreerobotics/unitree_ros2,
# cyclonedds_ws/src/unitree/{unitree_go,unitree_api}/msg) by rosidl_generator_type_description 4.9.5
HASHES = {
    ("unitree_go", "LowCmd"): "0da1142c994d184f6102948c3acf52b9557836cfe5062b924a1f08ac8b72dc34",
    ("unitree_go", "LowState"): "db5172cac933e3cfc0e705903343eb4eea42e65e224e9d726d3e672aec0caf0f",
    ("unitree_api", "Request"): "60dda80d19538b06c8f79b77222b1b7642dd753b8439a6bd535ff0cba08c5378",
    ("unitree_api", "Response"): "5300d019bb652073e7248995c878765c68ab519bcbdbad2e2a17c81abd8888b9",
}


@pytest.mark.parametrize(("package", "name"), HASHES)
def test_a_message_has_the_type_hash_of_unitrees(
    package: str,
    name: str,
    unitree_messages: Path,
    graph: Graph,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(unitree_messages)
    kind = getattr(import_module(f"{package}.msg"), name)
    graph.node.create_publisher(kind, "any", 1)
    (info,) = graph.node.get_publishers_info_by_topic("/any")
    assert str(info.topic_type_hash) == f"RIHS01_{HASHES[package, name]}"


def test_a_process_needs_nothing_but_the_folder_and_a_second_call_does_not_build(
    unitree_messages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_build", lambda *_: pytest.fail("built again"))
    assert build.messages_folder() == unitree_messages
    code = "from unitree_go.msg import LowCmd; print(len(LowCmd().motor_cmd))"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{unitree_messages}"}
    environment.pop("AMENT_PREFIX_PATH", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "20\n", done.stderr


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [("gcc", "apt-get install g++"), ("rosidl_generator_py", "pip install '.[ros]'")],
)
def test_what_is_missing_is_one_sentence(
    missing: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, function in ((build.shutil, "which"), (build.importlib.util, "find_spec")):
        monkeypatch.setattr(module, function, lambda name, *_: None if name == missing else name)
    with pytest.raises(build.CannotBuildError) as error:
        build.messages_folder()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_definition_that_the_generators_refuse_is_reported_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unitree_messages: Path
) -> None:
    (tmp_path / "unitree_go/msg").mkdir(parents=True)
    (tmp_path / "unitree_go/msg/LowCmd.msg").write_text("MotorCmd[20] motor_cmd\n")
    (tmp_path / "generate.py").write_bytes((build.HERE / "generate.py").read_bytes())
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build.tempfile, "tempdir", str(tmp_path / "cache"))
    with pytest.raises(RuntimeError, match=r"generate\.py unitree_go[\s\S]*MotorCmd"):
        build.messages_folder()
    (cache,) = (tmp_path / "cache").iterdir()
    assert [path.name for path in cache.iterdir()] == ["lock"]
