"""The README's commands do what it says; its set-up line is what CI runs."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dime_robot import train
from tests.paths import ROOT

README = (ROOT / "README.md").read_text()
(BLOCK,) = re.findall(r"```bash\n(.*?)```", README, re.S)
COMMANDS = BLOCK.splitlines()
FIRST_EVALUATION = r"^(eval|resumed)"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the runs that the commands speak of, made short."""
    path = tmp_path_factory.mktemp("readme")
    (path / "benchmarks").symlink_to(ROOT / "benchmarks")
    short = ["--steps", "60", "--random-steps", "50", "--no-video", "--eval-episodes", "1"]
    train.main([*short, "--out", str(path / "runs/sim-cartpole-tiny-seed0")])
    return path


def start(command: str, folder: Path) -> subprocess.Popen[str]:
    words = shlex.split(command)
    assert words[0] == "python"
    return subprocess.Popen(
        [sys.executable, *words[1:]],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # one pipe, read to its end: none can fill up
        text=True,
    )


def interrupt_after(line_of_work: str, child: subprocess.Popen[str], code: int = 0) -> str:
    """Let a command that takes hours show that it works, then press Ctrl-C."""
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        if re.search(line_of_work, line):
            child.send_signal(signal.SIGINT)
            break
    out, _ = child.communicate(timeout=300)
    assert child.returncode == code, [*lines, out]
    return "".join(lines) + out


@pytest.mark.parametrize("command", [c for c in COMMANDS if ".train" in c and "--env" in c])
def test_training_commands_start_and_stop(command: str, folder: Path) -> None:
    if "dm_control" in command:
        pytest.importorskip("dm_control")
    out = interrupt_after(FIRST_EVALUATION, start(command, folder))
    run = re.findall(r"python -m dime_robot.train --resume (\S+)$", out.strip())
    assert run
    assert (folder / run[0] / "report.html").exists()
    resume = f"python -m dime_robot.train --resume {run[0]}"
    if resume in COMMANDS:
        assert "resumed at step" in interrupt_after(FIRST_EVALUATION, start(resume, folder))


def test_other_commands_work_in_their_order(folder: Path) -> None:
    for command in COMMANDS:
        if ".train" not in command and ".sweep" not in command:
            child = start(command, folder)
            out, _ = child.communicate(timeout=600)
            assert child.returncode == 0, command + out
            assert out.strip()
    policy = folder / "runs/sim-cartpole-tiny-seed0/policy.onnx"
    assert policy.stat().st_size < 2_000_000


def test_the_sweep_starts_and_stops(folder: Path) -> None:
    (command,) = [c for c in COMMANDS if ".sweep" in c]
    out = interrupt_after(r"^\[2/\d+\].* started", start(command, folder), code=1)
    assert out.count("  started") == out.count("  stopped") == 2, out
    assert out.rstrip().endswith(f"next       {command}"), out


def test_every_command_is_covered() -> None:
    resumes = [c for c in COMMANDS if "--resume" in c]
    assert COMMANDS[0] == "python -m dime_robot.train"  # tests/training/test_learning.py runs it
    trained = [c for c in COMMANDS if ".train" in c]
    assert all("--env" in c or "--resume" in c for c in trained[1:])
    assert len(resumes) == 1


def test_ci_runs_the_readmes_own_line() -> None:
    lines = re.findall(r"^python3 -m venv .*$", README, re.M)
    assert len(lines) == 2
    assert sum("-m pytest" in line for line in lines) == 1
    assert "README.md" in (ROOT / ".ci/run").read_text()
    assert len(README.splitlines()) <= 150


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("results/*.md")):
        text = page.read_text()
        assert not re.search(r"\[[^\]]*\(https?:", text), f"{page}: a link without its bracket"
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"
