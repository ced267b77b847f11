"""Where tests find what the repository holds, and the content of shipped configurations."""

import json
from pathlib import Path
from typing import Any

from dime_robot.runtime.contract.config_files import config_folder
from dime_robot.sim.config.robot_task import read_robot_task

ROOT = Path(__file__).parents[1]
ROBOTS = ROOT / "tests" / "robots"  # configurations and models of test robots
SHIPPED_CARTPOLE = ROOT / "results" / "sim-cartpole.onnx"
SHIPPED_GO2 = ROOT / "results" / "go2" / "policy.onnx"
RUN_OF_RELEASE_0_1 = ROOT / "tests" / "data" / "run_of_release_0_1"
CONFIGS_OF_RELEASE_0_1 = ROOT / "tests" / "data" / "configs_of_release_0_1"


def shipped_content(name: str) -> dict[str, Any]:
    """The content of a shipped configuration, written out in full, to be changed and saved."""
    content = read_robot_task(config_folder() / f"{name}.yaml")
    content["sim"]["model"] = str(config_folder() / content["sim"]["model"])
    copied: dict[str, Any] = json.loads(json.dumps(content))  # no list is in two places
    return copied
