"""The page of a shadow test: complete, self-contained, with the right numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dime_robot import shadow_page
from dime_robot.runtime.contract.robot_config import load_robot
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.state import RobotState
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry.shadow import Comparison
from tests.paths import SHIPPED_CARTPOLE
from tests.runtime.telemetry.topics import EPOCH, joints, numbers, write_bag

STEPS = 40


def comparison(steps: int = STEPS, joints: tuple[str, ...] = ("a<b>", "wheel")) -> Comparison:
    time = np.arange(steps) / 50
    other = np.stack([np.sin(time + i) for i in range(len(joints))], axis=1)
    off = np.linspace(0, 1, steps)[:, None] * np.arange(1, len(joints) + 1)
    return Comparison(joints, ("rad",) * len(joints), time, other + off, other)


def dry_run(folder: Path, commands: bool) -> Path:
    """The recording of a dry run, with another controller's commands or without."""
    policy = OnnxPolicy(SHIPPED_CARTPOLE, noise="zero")
    controller = Controller(policy, load_robot(None, policy.spec), clock=lambda: 0.0)
    controller.recorder.expect_other_commands()
    for i in range(STEPS):
        state = RobotState(0.02 * i, np.array([0.0, 3.1]), np.zeros(2))
        if not i:
            controller.start(0.0, state)
        decision = controller.step(0.02 * i, state)
        controller.record(decision)
        if commands:
            controller.recorder.other_command(decision.command.value + 2.0)
    dump = controller.recorder.dump(folder, "test")
    controller.recorder.wait(10.0)
    return dump.path.rename(folder / "flight.npz")


def test_the_page_has_a_figure_and_a_row_for_each_joint() -> None:
    text = shadow_page.page(comparison(), {"policy": "x & y"})
    assert text.count("<svg ") == 2
    assert "a&lt;b&gt; [rad]" in text
    assert "a<b>" not in text
    assert "x &amp; y" in text
    assert re.search(r"<tr><td>wheel \[rad\]</td><td>1</td><td>1.16\d*</td><td>2</td>", text)
    assert not re.search(r"(?:src|href)=\"?(?:https?:)?//", text)
    assert "<script" not in text


def test_long_recordings_are_thinned_and_say_so() -> None:
    text = shadow_page.page(comparison(3001), {})
    assert text.count("one step in 3") == 2
    assert "<td>3001</td>" in text
    assert len(text) < 500_000
    assert "one step in" not in shadow_page.page(comparison(1500), {})


def test_a_dry_run_needs_no_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = dry_run(tmp_path, commands=True)
    assert shadow_page.main([str(path)]) == 0
    page = tmp_path / "flight.html"
    assert str(page) in capsys.readouterr().out
    assert "<tr><td>slider [N]</td><td>2</td><td>2</td><td>2</td>" in page.read_text()
    out = tmp_path / "page.html"
    assert shadow_page.main([str(path), str(SHIPPED_CARTPOLE), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"{STEPS} of {STEPS} equal bit for bit" in printed
    assert f"{STEPS} steps beside another controller" in printed
    assert "<td>2</td>" in out.read_text()


def test_topics_and_a_policy_make_a_page(tmp_path: Path) -> None:
    pytest.importorskip("rosbags", reason="recordings of topics: pip install '.[recordings]'")
    sent = []
    for i in range(STEPS):
        time = EPOCH + 20_000_000 * i
        sent.append(joints(time, ["slider", "hinge"], [0.0, 3.1 + 0.01 * i], [0.0, 0.1]))
        sent.append(numbers(time + 1, "/effort_controller/commands", [1.0]))
    bag = write_bag(tmp_path / "bag", "mcap", sent)
    assert shadow_page.main([str(bag), str(SHIPPED_CARTPOLE)]) == 0
    text = (tmp_path / "bag.html").read_text()
    assert f"topics of cartpole, {STEPS} steps" in text
    assert "noise zero" in text
    with pytest.raises(InputError, match="expected a policy to run on these topics"):
        shadow_page.main([str(bag)])


def test_without_commands_there_is_no_page(tmp_path: Path) -> None:
    path = dry_run(tmp_path, commands=False)
    for words in ([], [str(SHIPPED_CARTPOLE)]):
        with pytest.raises(InputError, match="expected commands to compare with"):
            shadow_page.main([str(path), *words])
    with pytest.raises(InputError, match="got the recording: use --out"):
        shadow_page.main([str(path), "--out", str(path)])
    assert not list(tmp_path.glob("*.html"))
