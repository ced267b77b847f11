"""docs/your_robot.md, step by step, with small models of our own and few training steps."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dime_robot.config import check
from dime_robot.runtime.contract.config_files import config_folder
from dime_robot.runtime.contract.robot_config import require_compatible
from dime_robot.runtime.contract.shorthand import written_out
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task
from tests.markdown import Block, blocks
from tests.paths import ROBOTS, ROOT, shipped_content

PAGE = ROOT / "docs/your_robot.md"
FEW = ("--steps", "800", "--no-video")  # of training


def commands(tool: str) -> list[str]:
    """The commands of the block that begins by drafting a configuration from `tool`."""
    (block,) = [b for b in blocks(PAGE) if f"config new {tool}" in b.text]
    return block.commands


def run(folder: Path, command: str, *more: str) -> subprocess.CompletedProcess[str]:
    program, *words = shlex.split(command)
    assert program == "python"
    return subprocess.run(
        [sys.executable, *words, *more],
        cwd=folder,
        env={**os.environ, "MENAGERIE_ROOT": str(folder / "menagerie")},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def walk_through(folder: Path, lines: list[str]) -> str:
    """Run the commands of a block up to the export; return the last one, over ROS."""
    *lines, loopback = lines
    for line in lines:
        done = run(folder, line, *(FEW if ".train" in line else ()))
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return loopback


@pytest.mark.slow
def test_the_quadruped(tmp_path: Path) -> None:
    model = tmp_path / "menagerie/unitree_go1/go1.xml"
    model.parent.mkdir(parents=True)
    shutil.copy(config_folder() / "models/go2.xml", model)
    loopback = walk_through(tmp_path, commands("menagerie:"))
    drafted = (tmp_path / "go1.yaml").read_text()
    assert "# ?" in drafted
    assert len(drafted.splitlines()) < 120
    done = run(tmp_path, loopback, "--mode", "lockstep", "--budget", "1", "--seconds", "2")
    # so little training gives no walk: a robot that falls is all that may be said against it
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "rate         50.00 Hz of 50" in done.stdout, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    fell = ("expected at most", "were terminated", "faults: stop: tilt")
    assert all(any(words in line for words in fell) for line in errors), errors


@pytest.mark.slow
def test_the_arm(tmp_path: Path) -> None:
    shutil.copy(ROBOTS / "arm.urdf", tmp_path / "arm.urdf")
    loopback = walk_through(tmp_path, commands("arm.urdf"))
    done = run(tmp_path, loopback, "--mode", "lockstep", "--budget", "1")
    assert "command   1  target [" in done.stdout, done.stdout + done.stderr
    assert "faults       none" in done.stdout, done.stdout + done.stderr


def fragment(name: str, page: Path = PAGE) -> Block:
    (block,) = [b for b in blocks(page) if b.file == name]
    return block


def test_the_rewards_and_the_term_of_the_page_are_right(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples/own_robot", tmp_path, dirs_exist_ok=True)
    example = (tmp_path / "terms.py").read_text()
    page = fragment("terms.py").text
    (tmp_path / "terms.py").write_text(f"{example}\n{page.replace('from __future__', '# ')}")
    rewards = yaml.safe_load(fragment("rewards.yaml").text)
    task = yaml.safe_dump({"extends": "crane.yaml", "task": rewards})
    (tmp_path / "mine.yaml").write_text(task)
    assert check(str(tmp_path / "mine.yaml")) == 0
    assert load_robot_task(tmp_path / "mine.yaml")[0].task.rewards["load"].weight == 2.0  # type: ignore[union-attr]
    assert page.partition("def load_at_berth")[2].split("off = ")[1] in example


def test_the_command_of_the_page_is_right(tmp_path: Path) -> None:
    content = yaml.safe_load(fragment("command.yaml").text)
    shipped = load_robot_task("reach")[0]
    (term,) = content["policy"].pop("observation")
    assert term.items() <= shipped.policy.observation[2].model_dump().items()
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"extends": "sim:reach", **content}))
    assert check(str(tmp_path / "mine.yaml")) == 0


def test_the_signals_of_the_page_on_robots_are_right() -> None:
    content = yaml.safe_load(fragment("signals.yaml", ROOT / "docs/robot.md").text)
    shipped = shipped_content("reach")
    shipped["policy"]["observation"] = content["policy"]["observation"]
    shipped["robot"].update(content["robot"])
    config = RobotTaskConfig.model_validate({**written_out(shipped), "task": None})
    assert {n: (s.kind, s.width) for n, s in config.policy.signals.items()} == {
        "target": ("command", 3),
        "ball": ("sensor", 3),
    }
    require_compatible(config.policy, config.robot)


def test_the_interpolation_of_the_page_on_robots_can_be_trained(tmp_path: Path) -> None:
    path = tmp_path / "smooth.yaml"
    path.write_text(fragment("smooth.yaml", ROOT / "docs/robot.md").text)
    config, _ = load_robot_task(path)
    require_compatible(config.policy, config.robot)
    assert str(config.robot.command.interpolated) == "linear at 200 Hz"
