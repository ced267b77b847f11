"""TaskFiles: what travels with a run to the nodes of a cluster, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from dime_robot.cluster import task_files
from dime_robot.cluster.task_files import TaskFiles
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.env_name import SIM
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.tasks.digest import task_digest
from tests.paths import ROOT

OWN_TERM = '''"""A term of the user's own."""


def stay(view) -> float:
    """Stay [1]."""
    return 1.0
'''


def own_task(folder: Path, model: str = "../models/pole.xml") -> Path:
    """A task of several files: it extends one in another folder, with a model and an own term."""
    for name in ("base", "models", "tasks"):
        (folder / name).mkdir(parents=True)
    (folder / "models/pole.xml").write_bytes(
        (ROOT / "sim_configs/models/cartpole.xml").read_bytes()
    )
    base = {"extends": "sim:cartpole", "sim": {"model": model}}
    (folder / "base/base.yaml").write_text(yaml.safe_dump(base))
    (folder / "tasks/terms.py").write_text(OWN_TERM)
    file = folder / "tasks/own.yaml"
    rewards = {"stay": {"term": "terms.py:stay", "weight": 1.0}}
    file.write_text(yaml.safe_dump({"extends": "../base/base.yaml", "task": {"rewards": rewards}}))
    return file


def test_a_task_is_the_same_in_another_folder(tmp_path: Path) -> None:
    file = own_task(tmp_path / "here")
    found = TaskFiles.of(f"{SIM}{file}")
    assert sorted(found.files) == [
        "base/base.yaml",
        "models/pole.xml",
        "tasks/own.yaml",
        "tasks/terms.py",
    ]
    moved = Path(found.unpack(tmp_path / "there").removeprefix(SIM))
    assert moved == tmp_path / "there/tasks/own.yaml"
    assert task_digest(*load_robot_task(moved)) == task_digest(*load_robot_task(file))


def test_shipped_tasks_and_registered_ids_need_no_files() -> None:
    for env in ("sim:go2", "Pendulum-v1", "dm_control/dog-run-v0", "gymnasium:Pendulum-v1"):
        assert TaskFiles.of(env) == TaskFiles(env, {})


def test_a_module_of_one_file_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_module_abc.py").write_text("X = 1\n")
    (tmp_path / "own_package_abc").mkdir()
    (tmp_path / "own_package_abc/__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = TaskFiles.of("own_module_abc:Env-v0")
    assert found.files == {"own_module_abc.py": b"X = 1\n"}
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert found.unpack(tmp_path / "there") == "own_module_abc:Env-v0"
    assert sys.path[0] == str(tmp_path / "there")
    assert TaskFiles.of("own_package_abc:Env-v0").files == {}
    assert TaskFiles.of("no_such_module:Env-v0").files == {}


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    file = own_task(tmp_path)
    (tmp_path / "models/pole.xml").unlink()
    with pytest.raises(InputError, match=r"pole\.xml"):
        TaskFiles.of(f"{SIM}{file}")
    with pytest.raises(InputError, match=r"none\.yaml"):
        TaskFiles.of(f"{SIM}{tmp_path}/none.yaml")


def test_files_named_by_an_absolute_path_are_refused(tmp_path: Path) -> None:
    file = own_task(tmp_path, str(tmp_path / "models/pole.xml"))
    with pytest.raises(InputError, match=r"its own folder: .*pole\.xml; name every file relative"):
        TaskFiles.of(f"{SIM}{file}")


def test_too_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = own_task(tmp_path)
    monkeypatch.setattr(task_files, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match=r"up to 1,000 bytes in all, .* got more with .*pole\.xml"):
        TaskFiles.of(f"{SIM}{file}")


@pytest.mark.parametrize("name", ["../out.py", "/etc/out.py", "a/../../out.py", "..", "a\\..\\b"])
def test_names_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    with pytest.raises(InputError, match="expected a file below the task's folder"):
        TaskFiles("sim:a.yaml", {"a.yaml": b"", name: b"x"}).unpack(folder)
    assert list(tmp_path.rglob("*")) == [folder]
