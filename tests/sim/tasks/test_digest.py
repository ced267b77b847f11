"""The digest of a task: it changes with its episodes, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dime_robot.runtime.contract.config_files import config_folder
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.tasks.digest import task_digest
from tests.sim.tasks.test_malformed_terms import own_robot

INCLUDED = "<mujoco><option density='{}'/></mujoco>"


def digest(path: Path) -> str:
    return task_digest(*load_robot_task(path))


def with_files(folder: Path, **content: str) -> Path:
    """Make a task that reads every kind of file, with other content of some."""
    written = {
        "delays.json": "{}",
        "a/terms.py": "def one(view): return 1.0",
        "b/terms.py": "def one(view): return 2.0",
        "parts/air.xml": INCLUDED.format(0),
        **{name.replace("__", "/").replace("_dot_", "."): text for name, text in content.items()},
    }

    def change(task: dict[str, Any]) -> None:
        task["latency"] = {"observation": {"file": "delays.json"}}
        task["task"]["metrics"] = {"a": "a/terms.py:one", "b": "b/terms.py:one"}

    path = own_robot(folder, change)
    for name, text in written.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    model = folder / "crane.xml"
    model.write_text(
        model.read_text().replace("<worldbody>", '<include file="parts/air.xml"/><worldbody>', 1)
    )
    return path


def test_a_moved_task_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    here = digest(with_files(tmp_path / "one"))
    assert digest(with_files(tmp_path / "two")) == here
    monkeypatch.chdir(tmp_path / "one")
    assert digest(Path("crane.yaml")) == here


@pytest.mark.parametrize(
    "content",
    [
        {"delays_dot_json": "{ }"},
        {"a__terms_dot_py": "def one(view): return 3.0"},
        {"b__terms_dot_py": "def one(view): return 3.0"},
        {"parts__air_dot_xml": INCLUDED.format(1)},
    ],
    ids=["delays", "first file of terms", "second of the same name", "included model"],
)
def test_every_file_of_a_task_counts(content: dict[str, str], tmp_path: Path) -> None:
    assert digest(with_files(tmp_path / "a", **content)) != digest(with_files(tmp_path / "b"))


def start_at(*patterns: str) -> Callable[[dict[str, Any]], None]:
    positions = {pattern: 0.1 * i for i, pattern in enumerate(sorted(patterns))}
    reset = {"term": "joint_positions", "positions": {name: positions[name] for name in patterns}}
    return lambda content: content["task"].update(reset={"pose": reset})


def test_the_order_of_patterns_counts(tmp_path: Path) -> None:
    one = own_robot(tmp_path / "a", start_at("*", "trolley"))
    two = own_robot(tmp_path / "b", start_at("trolley", "*"))
    assert digest(one) != digest(two)


def of_the_machine(content: dict[str, Any]) -> None:
    (joint,) = content["robot"]["joints"]
    content["robot"]["joints"] = [{**joint, "offset": 0.1, "sign": -1}]
    content["robot"]["command"]["topic"] = "elsewhere"
    content["training"]["discount"] = 0.5
    content["sim"]["camera"] = None


def slower(content: dict[str, Any]) -> None:
    (joint,) = content["robot"]["joints"]
    content["robot"]["joints"] = [{**joint, "velocity_limit": 0.9 * joint["velocity_limit"]}]


def test_of_the_robot_only_what_is_simulated_counts(tmp_path: Path) -> None:
    task = digest(own_robot(tmp_path / "a"))
    assert digest(own_robot(tmp_path / "b", of_the_machine)) == task
    assert digest(own_robot(tmp_path / "c", slower)) != task


def test_what_only_critics_see_is_no_part_of_the_task(tmp_path: Path) -> None:
    """Policies stay those of their task, also where a file of own terms for critics changes."""
    task = digest(own_robot(tmp_path / "a"))

    def seen(content: dict[str, Any]) -> None:
        content["task"]["privileged"] = {"x": "more.py:x", "joints": "true_joint_position"}

    path = own_robot(tmp_path / "b", seen)
    for number in (1, 2):
        (path.parent / "more.py").write_text(f"def x(view): return [{number}.0]")
        assert digest(path) == task


SHIPPED = {
    "cartpole": "ae1bed5db124e76990508",
    "go2": "44a19174a5ad05affd524",
    "go2-wide": "08a3478fdb834d80577d3",
    "hexapod-walk": "90bd1f514824021d87cd6",
    "reach": "c2d60f30c215e07def07f",
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_tasks_are_those_that_policies_were_trained_in(name: str) -> None:
    """Another digest refuses every policy that was trained before."""
    assert digest(config_folder() / f"{name}.yaml").split("-")[0] == SHIPPED[name]
