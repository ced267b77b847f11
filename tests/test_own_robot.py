"""A robot, a task and terms of the user's own, outside the repository: the whole road with them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.slow


def run(folder: Path, *words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The crane's folder, with a policy that has been trained and exported there."""
    folder = tmp_path_factory.mktemp("own") / "crane"
    shutil.copytree(ROOT / "examples/own_robot", folder)
    for words in (
        ("dime_robot.config", "check", "crane.yaml"),
        ("dime_robot.train", "--config", "crane.yaml", "--steps", "2000", "--out", "run"),
        ("dime_robot.evaluate", "run", "--config", "crane.yaml", "--episodes", "4"),
        ("export.onnx", "run/ckpt.pt", "--config", "crane.yaml"),
    ):
        done = run(folder, *words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return folder


def test_it_learns_to_carry_the_load(folder: Path) -> None:
    done = run(folder, "dime_robot.evaluate", "run/ckpt.pt", "--config", "crane.yaml", "--json")
    assert done.returncode == 0, done.stderr
    nothing = run(folder, "dime_robot.evaluate", "--policy", "zero", "--config", "crane.yaml")
    assert nothing.returncode == 0, nothing.stderr
    returns = float(done.stdout.split('"zero": {"return_mean": ')[1].split(",")[0])
    assert returns > 1.3 * float(nothing.stdout.split()[1])


def test_over_ros_it_does_what_it_does_in_the_environment(folder: Path) -> None:
    words = ("--config", "crane.yaml", "--mode", "lockstep", "--noise", "zero", "--budget", "1")
    for _ in range(3):  # other tests load this machine
        done = run(folder, "ros_nodes.loopback", "run/policy.onnx", *words)
        if done.returncode == 0:
            break
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "command   1  berth [" in done.stdout
    assert "faults       none" in done.stdout


def test_without_config_every_command_refuses_in_one_sentence(folder: Path) -> None:
    commands = (
        ("dime_robot.evaluate", "run"),
        ("dime_robot.evaluate", "run/policy.onnx"),
        ("dime_robot.train", "--resume", "run", "--steps", "2100"),
        ("export.onnx", "run/ckpt.pt", "--out", "other.onnx"),
        ("ros_nodes.loopback", "run/policy.onnx"),
        ("ros_nodes.loopback", "run/policy.onnx", "--robot", "crane.yaml"),
    )
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda words: run(folder, *words), commands))
    for words, done in zip(commands, results, strict=True):
        assert done.returncode == 2, words
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert "--config" in line, line
        assert "Traceback" not in done.stderr
    assert not (folder / "other.onnx").exists()


def test_a_changed_task_is_refused_and_the_moved_one_is_not(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    words = ("--config", "crane.yaml")
    on = run(moved, "dime_robot.train", "--resume", "run", *words, "--steps", "2020", "--no-video")
    assert on.returncode == 0, on.stderr
    assert "resumed at step 2,000" in on.stdout
    changed = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n"
    (moved / "terms.py").write_text(f"{(moved / 'terms.py').read_text()}\n{changed}")
    for command in (
        ("dime_robot.evaluate", "run", *words),
        ("export.onnx", "run/ckpt.pt", *words),
        ("dime_robot.train", "--resume", "run", *words, "--steps", "2040"),
        ("ros_nodes.loopback", "run/policy.onnx", *words),
    ):
        done = run(moved, *command)
        assert done.returncode == 2, command
        assert "expected the task that" in done.stderr
        assert "its own terms changed since" in done.stderr
    assert not (moved / "terms.ran").exists()  # and no command has imported them
