"""What the README and docs/ show does what they say; the README's set-up line is what CI runs.

The blocks of a page run in their order in one folder. A command that takes long is interrupted once
it has shown that it works; what cannot run says why in a comment right before it.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dime_robot import train
from tests.markdown import DOCS, README, Block, blocks
from tests.paths import ROOT, SHIPPED_CARTPOLE

CODE = ("bash", "sh", "python", "yaml")
NO_CODE = ("text", "math")
NOT_RUN = r"not run: needs (a robot|a GPU|a network|hours)\b.*"
RUN_BY = r"run by (\S+)"

(BLOCK,) = [block for block in blocks(README) if block.language == "bash"]
COMMANDS = BLOCK.commands
LEARNED_ELSEWHERE = COMMANDS[0]  # tests/training/test_learning.py runs it to its end
FIRST_EVALUATION = r"^(eval|resumed)"


def to_run(page: Path) -> list[Block]:
    """The blocks of a page that this file runs."""
    return [block for block in blocks(page) if block.language in CODE and not block.marker]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the files that the commands speak of; its run is a short one."""
    path = tmp_path_factory.mktemp("readme")
    for name in ("benchmarks", "examples", "results", "sim_configs"):
        (path / name).symlink_to(ROOT / name)
    (path / "policy.onnx").symlink_to(SHIPPED_CARTPOLE)
    (path / "observation_latency.json").write_text(
        json.dumps(
            {
                "quantity": "age_by_stamp",
                "policy_digest": "0" * 64,
                "rate": 50.0,
                "samples": 101,
                "cpu": "any",
                "quantiles": [i / 1e4 for i in range(101)],
            }
        )
    )
    short = ["--steps", "60", "--random-steps", "50", "--no-video", "--eval-episodes", "1"]
    train.main([*short, "--out", str(path / "runs/sim-cartpole-tiny-seed0")])
    return path


@pytest.fixture(scope="module")
def flight(folder: Path) -> Path:
    """A flight recording of the shipped cart-pole policy."""
    pytest.importorskip("pandas", reason="the example needs pandas: pip install '.[bench]'")
    before = Path.cwd()
    os.chdir(folder)
    try:
        example = runpy.run_path("examples/flight_recording_as_a_data_frame.py")
        made: Path = example["made"](folder)
    finally:
        os.chdir(before)
    return made.rename(folder / "flight.npz")


def start(command: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    words = shlex.split(command)
    assert words[0] in ("python", ".venv/bin/python"), command
    return subprocess.Popen(
        [sys.executable, *words[1:]],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # one pipe, read to its end: none can fill up
        text=True,
    )


def finish(command: str, folder: Path, **environment: str) -> None:
    child = start(command, folder, **environment)
    out, _ = child.communicate(timeout=600)
    assert child.returncode == 0, command + out
    assert out.strip()


def interrupt_after(
    line_of_work: str, child: subprocess.Popen[str], code: int = 0, times: int = 1
) -> str:
    """Let a command that takes hours show that it works, then press Ctrl-C."""
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        times -= re.search(line_of_work, line) is not None
        if not times:
            child.send_signal(signal.SIGINT)
            break
    out, _ = child.communicate(timeout=300)
    assert child.returncode == code, [*lines, out]
    return "".join(lines) + out


# -- the README's commands -------------------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.slow
def test_other_commands_work_in_their_order(folder: Path) -> None:
    for command in COMMANDS:
        if ".train" not in command and ".sweep" not in command:
            finish(command, folder)
    policy = folder / "runs/sim-cartpole-tiny-seed0/policy.onnx"
    assert policy.stat().st_size < 2_000_000


@pytest.mark.slow
def test_the_sweep_starts_and_stops(folder: Path) -> None:
    (command,) = [c for c in COMMANDS if ".sweep" in c]
    # two runs at a time, of which either may be the first to start
    out = interrupt_after(r"^\[\d/\d+\].* started", start(command, folder), code=1, times=2)
    assert out.count("  started") == out.count("  stopped") == 2, out
    assert out.rstrip().endswith(f"next       {command}"), out


def test_every_command_is_covered() -> None:
    resumes = [c for c in COMMANDS if "--resume" in c]
    assert LEARNED_ELSEWHERE == "python -m dime_robot.train"
    trained = [c for c in COMMANDS if ".train" in c]
    assert all("--env" in c or "--resume" in c for c in trained[1:])
    assert len(resumes) == 1


# -- every other block -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in DOCS if [b for b in to_run(p) if b != BLOCK]], ids=lambda page: page.name
)
def test_the_blocks_of_a_page_run(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    environment: dict[str, str] = {}
    for block in to_run(page):
        if block == BLOCK:
            continue
        if "flight.npz" in block.text:
            request.getfixturevalue("flight")
        if block.file:
            (folder / block.file).write_text(block.text)
        elif block.language == "python":
            (folder / "block.py").write_text(block.text)
            finish("python block.py", folder, **environment)
        else:
            for command in block.commands:
                if command.startswith("export "):
                    name, _, value = command.removeprefix("export ").partition("=")
                    environment[name] = value
                elif ".train" in command:
                    child = start(command, folder, **environment)
                    assert "--resume" in interrupt_after(FIRST_EVALUATION, child)
                else:
                    finish(command, folder, **environment)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_block_runs_or_says_why_it_does_not(page: Path) -> None:
    found = blocks(page)
    assert len(found) == len(re.findall(r"^ *```", page.read_text(), re.M)) / 2
    commands = [command for block in found for command in block.commands]
    for block in found:
        assert block.language in CODE + NO_CODE, f"{block}: expected one of {CODE + NO_CODE}"
        if block.language in NO_CODE:
            continue
        if block.marker is None:
            used = block.file and any(block.file in command for command in commands)
            assert block.language != "yaml" or used, f"{block}: no command of the page uses it"
        elif elsewhere := re.fullmatch(RUN_BY, block.marker):
            text = (ROOT / elsewhere[1]).read_text()
            used = {block.file}  # a fragment of a file, which the test reads by its name
            if block.language in ("bash", "sh"):
                used = {shlex.split(command)[0] for command in block.commands} - {"python"}
            assert all(each and each in text for each in used), f"{block}: {elsewhere[1]} does not"
        else:
            assert re.fullmatch(NOT_RUN, block.marker), f"{block}: {block.marker}"


def test_a_block_without_a_marker_or_with_a_made_up_one_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs patience -->\n\n```bash\nsleep 9\n```\n\n- in a list:\n\n"
        "  <!-- not run: needs a GPU -->\n\n  ```yaml\n  a: 1\n  ```\n\n"
        "```python\n# own.py\nx = 1\n```\n"
    )
    first, second, third = blocks(page)
    assert (first.marker, first.commands) == ("not run: needs patience", ["sleep 9"])
    assert not re.fullmatch(NOT_RUN, first.marker or "")
    assert (second.text, second.language) == ("a: 1\n", "yaml")
    assert re.fullmatch(NOT_RUN, second.marker or "")
    assert (third.marker, third.file) == (None, "own.py")
    assert to_run(page) == [third]


def test_ci_runs_the_readmes_own_line() -> None:
    text = README.read_text()
    lines = re.findall(r"^python3 -m venv .*$", text, re.M)
    assert len(lines) == 2
    assert sum("-m pytest" in line for line in lines) == 1
    assert "README.md" in (ROOT / ".ci/run").read_text()
    assert len(text.splitlines()) <= 125
