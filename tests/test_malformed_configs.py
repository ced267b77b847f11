"""Configurations that are wrong in one place: one sentence on stderr, exit code 2."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dime_robot import config
from dime_robot.runtime.contract.config_files import config_folder, read_config
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.errors import InputError
from tests.malformed import GONE, NAMES_AND_SIZES, NOT_A_NUMBER, OTHER_UNITS, OVERLAYS, ROWS, TEXTS
from tests.paths import CONFIGS_OF_RELEASE_0_1, ROOT, shipped_content
from tests.runtime.machines import ROBOT, make_robot, make_spec, put


def edited(folder: Path, name: str, place: str, value: Any) -> Path:
    """A copy of the configurations and models in `folder`, with `place` changed in one.

    The configurations are in the form of release 0.1, whose values have their own places each.
    """
    shutil.copytree(config_folder(), folder, dirs_exist_ok=True)
    shutil.copytree(CONFIGS_OF_RELEASE_0_1, folder, dirs_exist_ok=True)
    path = folder / f"{name}.yaml"
    # JSON-like: no list is shared between two places
    content = yaml.safe_load(path.read_text())
    *parents, last = place.split(".")
    node = content
    for key in parents:
        node = named(node, key) if isinstance(node, list) else node.setdefault(key, {})
    if isinstance(node, list):
        node.remove(named(node, last))
    elif value is GONE:
        del node[last]
    else:
        node[last] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def named(items: list[Any], name: str) -> Any:
    return next(item for item in items if item["name"] == name)


def refusal(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `check` ends with: a line for each problem."""
    with pytest.raises(SystemExit) as end:
        run_command(lambda: config.main(["check", str(path)]))
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, ""), (out, err)
    *lines, last = err.splitlines(keepends=True)
    if lines:
        assert last == f"{len(lines)} problems\n"
    for line in lines or [last]:
        one_sentence(line)
    return err


def one_sentence(err: str) -> str:
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert len(err) < 700
    return err


@pytest.mark.parametrize(
    ("name", "place", "value", "sentence"),
    ROWS,
    ids=[f"{row[0]}:{row[1]}={'GONE' if row[2] is GONE else row[2]}"[:70] for row in ROWS],
)
def test_a_wrong_value_is_one_sentence(
    name: str,
    place: str,
    value: Any,
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = refusal(edited(tmp_path, name, place, value), capsys)
    assert re.search(sentence, printed), printed


@pytest.mark.parametrize(
    ("text", "sentence"), [row[1:] for row in TEXTS], ids=[t[0] for t in TEXTS]
)
def test_what_is_no_configuration_is_one_sentence(
    text: bytes, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "robot.yaml"
    path.write_bytes(text)
    printed = refusal(path, capsys)
    assert printed.startswith(f"error: {path}: ")
    assert re.search(sentence, printed), printed


def test_a_robot_that_never_reaches_what_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = "robot.joints.FR_thigh_joint"
    path = edited(tmp_path, "go2", f"{place}.position_limits", [1.3, 3.0])
    printed = refusal(path, capsys)
    assert "FR_thigh_joint: expected position_limits of robot go2 that meet" in printed
    path = edited(tmp_path / "near", "go2", f"{place}.position_limits", [1.1, 3.0])
    assert config.main(["check", str(path)]) == 0


def test_a_task_that_needs_what_another_robot_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = yaml.safe_load((CONFIGS_OF_RELEASE_0_1 / "go2.yaml").read_text())["task"]
    path = edited(tmp_path / "a", "cartpole", "task", {**tracking, "hips": []})
    assert "cartpole.xml: expected a model with a free joint" in refusal(path, capsys)
    term = {"name": "asked", "kind": "command_velocity", "size": 3, "unit": "m/s"}
    terms = [*shipped_content("cartpole")["policy"]["observation"], term]
    path = edited(tmp_path / "b", "cartpole", "policy.observation", terms)
    printed = refusal(path, capsys)
    assert "term asked: expected a task with a commanded velocity (task.commands.velo" in printed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ((b'range="-1.2 1.2"', b'range="-1.5 1.5"'), "position limits"),
        ((b'name="hinge" type="hinge"', b'name="hinge" type="slide"'), "hinge: .*, got slide"),
        ((b'name="hinge" type="hinge"', b'name="pivot" type="hinge"'), "expected a joint hinge"),
        ((b"<mujoco", b"\xff\xfe"), "MuJoCo cannot load it"),
        ((b"</mujoco>", b""), "MuJoCo cannot load it"),
    ],
)
def test_a_model_that_does_not_fit_is_one_sentence(
    change: tuple[bytes, bytes],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = edited(tmp_path, "cartpole", "sim.decimation", 4)
    model = tmp_path / "models/cartpole.xml"
    assert change[0] in model.read_bytes()
    model.write_bytes(model.read_bytes().replace(*change))
    printed = refusal(path, capsys)
    assert "cartpole.xml" in printed
    assert re.search(sentence, printed), printed


@pytest.mark.parametrize(
    "row", [NOT_A_NUMBER[0], OTHER_UNITS[0], NAMES_AND_SIZES[16], OVERLAYS[0]], ids=lambda r: r[1]
)
def test_the_real_command_says_so_too(row: tuple[str, str, Any, str], tmp_path: Path) -> None:
    command(edited(tmp_path, *row[:3]), row[3])


def test_the_real_command_refuses_a_key_that_comes_twice(tmp_path: Path) -> None:
    path = edited(tmp_path, "cartpole", "sim.decimation", 4)
    text = path.read_text()
    path.write_text(text.replace("  decimation: 4\n", "  decimation: 4\n  decimation: 8\n"))
    command(path, r"cartpole.yaml: line \d+: expected the key decimation once, got it twice")


def command(path: Path, sentence: str) -> None:
    words = [sys.executable, "-m", "dime_robot.config", "check", str(path)]
    result = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.search(sentence, one_sentence(result.stderr)), result.stderr


def test_numbers_without_a_point_and_merged_keys_are_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &a {x: 1e-3, y: -2E5}\nb: &b {<<: *a, x: 4}\nc: [{<<: *b, x: 1.0e3}]\n")
    assert read_config(path) == {
        "a": {"x": 1e-3, "y": -2e5},
        "b": {"x": 4, "y": -2e5},
        "c": [{"x": 1e3, "y": -2e5}],
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rate", 1000.0),
        ("joints.0.effort_limit", 300.0),  # a humanoid's knee
        ("joints.2.position_limits", [0.0, 30.0]),  # a gantry [m]
        ("joints.2.effort_limit", 20000.0),  # a hydraulic cylinder [N]
        ("joints.0.position_limits", [-10.0, 10.0]),
    ],
)
def test_a_real_robots_contract_is_not_refused(path: str, value: Any) -> None:
    assert make_spec("position", **{path.replace(".", "__"): value}).name == "machine"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("state.rate", 8000.0),
        ("joints.2.velocity_limit", 2600.0),  # a propeller turns freely [rad/s]
        ("joints.3.velocity_limit", 60.0),
        ("command.limits", {"linear_x": 40.0}),  # a drone [m/s]
        ("state.max_age", 1.0),
        ("safety.tilt_limit", 5.0),
    ],
)
def test_a_real_machine_is_not_refused(path: str, value: Any) -> None:
    data = copy.deepcopy(ROBOT)
    data["command"].update(kind="twist", interface="velocity")
    put(data, path, value)
    assert RobotConfig.model_validate(data).name == "machine"


def test_a_slow_environment_without_a_robot_keeps_its_rate() -> None:
    assert PolicySpec.flat("tanks", 3, 1, rate=1 / 60).rate == 1 / 60


def test_the_configurations_of_these_tests_are_right(tmp_path: Path) -> None:
    for name in ("cartpole", "go2", "go2-walk"):
        path = edited(tmp_path, name, "task.episode_seconds", 5)
        assert config.main(["check", str(path)]) == 0
    make_robot()
    with pytest.raises(InputError):
        config.main(["check", "no-such-robot"])
