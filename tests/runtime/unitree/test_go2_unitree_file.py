"""The file of a Go2 with its wireless remote, as docs/go2.md has it."""

from __future__ import annotations

from pathlib import Path

import yaml

from dime_robot.runtime.contract.config_files import read_config
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import require_compatible, robot_of
from dime_robot.runtime.unitree.motors import motors_of
from dime_robot.runtime.unitree.remote import AXES, BUTTONS
from tests.paths import ROOT


def test_the_file_fits_the_policy_and_the_remote(tmp_path: Path) -> None:
    page = (ROOT / "docs/go2.md").read_text()
    text = page.partition("```yaml\n# go2_unitree.yaml\n")[2].partition("```")[0]
    path = tmp_path / "go2_unitree.yaml"
    path.write_text(text)
    content = read_config(path)
    spec, robot = PolicySpec.model_validate(content["policy"]), robot_of(path, content)
    require_compatible(spec, robot)
    motors_of(spec, robot)
    joystick = robot.joystick
    assert joystick is not None
    assert robot.command.listener == "/unitree_driver"
    assert BUTTONS[joystick.deadman] == "L1"
    assert BUTTONS[joystick.estop] == "B"
    named = {name: BUTTONS[index] for name, index in joystick.buttons.by_place().items()}
    assert named == {"stand_up": "up", "run_policy": "start", "sit_down": "down"}
    assert AXES[joystick.axes["linear_x"].index] == "ly"
    assert AXES[joystick.axes["angular_z"].index] == "rx"
    listed = page.partition("Buttons: ")[2].partition(".")[0].replace("\n", " ").split(", ")
    assert listed == [f"{i} {name}" for i, name in enumerate(BUTTONS)]
    assert yaml.safe_load(text)["extends"] == "sim:go2"
