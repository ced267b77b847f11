"""The house rules that a machine can check."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from token import NAME
from tokenize import tokenize

import pytest
import torch

from dime_robot.learning.dime import DIME
from dime_robot.learning.metrics import metrics
from dime_robot.learning.replay_buffer import Batch
from dime_robot.results.eval_csv import read_eval_csv
from dime_robot.runtime.control.faults import Fault
from dime_robot.training.presets import preset_config
from tests.learning.toy import flat_spec
from tests.paths import ROOT

BIN = Path(sys.executable).parent


def check(*command: str) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
        ("lint-imports",),
    ],
    ids=" ".join,
)
def test_checkers_pass(command: tuple[str, ...]) -> None:
    check(str(BIN / command[0]), *command[1:])


def test_wheel_holds_exactly_the_four_packages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path)]
    check(*command, str(ROOT))
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    tops = {top for top in tops if not top.endswith((".dist-info", ".data"))}
    assert tops == {"dime_robot", "export", "ros_nodes", "sim_configs"}
    for needed in (
        "dime_robot/py.typed",
        "sim_configs/cartpole.yaml",
        "sim_configs/models/cartpole.xml",
    ):
        assert needed in names


def test_importing_the_package_is_light() -> None:
    code = "import sys, dime_robot.runtime.control.observation; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    heavy = {"torch", "gymnasium", "mujoco", "rclpy", "scipy"}
    assert not heavy & set(result.stdout.split())


def test_version_is_the_packages() -> None:
    import importlib.metadata

    import dime_robot

    assert dime_robot.__version__ == importlib.metadata.version("dime-robot")


def test_every_logged_metric_is_explained_and_every_explained_one_logged() -> None:
    agent = DIME(flat_spec(3, 1), preset_config("tiny", "x"), torch.device("cpu"))
    batch = Batch(
        torch.randn(64, 3),
        torch.rand(64, 1),
        torch.randn(64, 3),
        torch.randn(64),
        torch.zeros(64),
    )
    for _ in range(2):
        agent.update(batch)
    logged = {re.sub(r"friction_\d+", "friction_{i}", key) for key in metrics(agent)}
    training = ROOT / "dime_robot/training"
    source = (training / "logger.py").read_text() + (training / "run.py").read_text()
    source += (ROOT / "dime_robot/cluster/remote_rollouts.py").read_text()
    logged |= set(re.findall(r'"((?:train|eval|time|curriculum|ray)/\w+)"', source))
    explained = set(
        re.findall(r"^\| `([\w/{}]+)` \|", (ROOT / "docs/metrics.md").read_text(), re.M)
    )
    assert logged == explained


@pytest.mark.parametrize(
    ("module", "banned", "extra"),
    [
        ("dime_robot.train", "torch", "train"),
        ("dime_robot.report", "matplotlib", "train"),
        ("dime_robot.sweep", "scipy", "train"),
        ("dime_robot.evaluate", "imageio", "eval"),
        ("export.onnx", "onnx", "train"),
    ],
)
def test_a_missing_extra_is_one_sentence(module: str, banned: str, extra: str) -> None:
    code = (
        "import sys, runpy, importlib.util as u\n"
        "find = u.find_spec\n"
        f"u.find_spec = lambda n, *a: None if n == {banned!r} else find(n, *a)\n"
        f"sys.argv = ['x']\nrunpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: this needs {banned}: pip install -e '.[{extra}]'")
    assert result.stderr.count("\n") == 1


def test_no_text_is_unfinished() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "*.md", "*.yaml", "*.cff"], cwd=ROOT, capture_output=True, text=True
    )
    for name in tracked.stdout.split():
        assert not re.search(r"@[A-Z_]+@", (ROOT / name).read_text()), name


def test_results_end_with_a_final_evaluation() -> None:
    for path in (ROOT / "results").glob("*.csv"):
        rows = read_eval_csv(path)
        for seed in {row.seed for row in rows}:
            last = [row for row in rows if row.seed == seed][-1]
            assert last.episodes >= 20, (path, seed)


def test_every_reason_and_every_code_stands_in_the_one_table() -> None:
    page = (ROOT / "docs/safety.md").read_text()
    explained = set(re.findall(r"`([a-z_-]+)`", page))
    sources = [*(ROOT / "dime_robot/runtime").rglob("*.py"), *(ROOT / "ros_nodes").glob("*.py")]
    codes = {code for path in sources for code in re.findall(r'code="([\w-]+)"', path.read_text())}
    assert len(codes) > 10
    assert {reason.value for reason in Fault} | codes | {"activation"} <= explained


# names that were given up -> what is said instead
RETIRED = {
    "Body": "StepFunction",
    "Drawing": "RandomDraw",
    "FIRST_RESPONSE": "Fault.first_response",
    "Freshness": "a watchdog",
    "Frozen": "StrictModel",
    "Loaded": "LoadedPolicy",
    "Means": "RunningMeans",
    "Programs": "CudaGraphs",
    "Reason": "Fault",
    "RecordFacts": "RecordHeader",
    "Rung": "SafetyLevel",
    "STILLBORN": "RunFolder.unfinished_start",
    "Steering": "a velocity command",
    "TimeoutAnswer": "a response",
    "Wiring": "JointMapping",
    "Witness": "OutputWatch",
    "answer": "a response",
    "answer_of": "Fault.first_response",
    "ask": "set_command",
    "asked": "a command",
    "climb": "escalate",
    "commission": "load_and_check",
    "commissioning": "startup_checks",
    "farewell": "shut_down",
    "fewest": "a minimum",
    "follow": "set_command or set_order",
    "freshness": "watchdog",
    "give_up": "abort_shutdown",
    "hear": "on_ and the message",
    "heard": "received",
    "keeps_up": "earns_enough",
    "ladder": "escalation",
    "least": "a minimum",
    "longest_row": "longest_miss_streak",
    "look": "poll",
    "looked": "polled",
    "misses_in_a_row": "miss_streak",
    "most": "a maximum",
    "patience": "a timeout",
    "problems_of": "faults_in",
    "remember": "record",
    "rung": "a safety level",
    "said": "printed or logged",
    "say": "log",
    "stray": "stamp_error",
    "told": "given",
    "trouble": "a fault",
    "troubles": "faults",
    "variation": "randomization",
    "why_not_run": "a problem of activation",
    "wire": "hardware_name",
    "wiring": "joint_mapping",
    "wish": "a mode, or a command",
}
FOLDERS = ("dime_robot", "export", "ros_nodes", "tests", "benchmarks", "examples", "docs")


def retired_names(path: Path) -> set[str]:
    """Retired names that a module is called or uses, or that a page shows as code."""
    if path.suffix == ".md":
        shown = re.findall(r"`([^`\n]+)`", path.read_text())
        return RETIRED.keys() & {name for code in shown for name in re.findall(r"\w+", code)}
    with path.open("rb") as file:
        tokens = {token.string for token in tokenize(file.readline) if token.type == NAME}
    return RETIRED.keys() & (tokens | {path.stem})


def test_no_retired_name_comes_back() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    modules = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(modules) > 200
    found = {str(path): names for path in [*modules, *pages] if (names := retired_names(path))}
    assert not found, {path: [RETIRED[name] for name in names] for path, names in found.items()}


def test_a_retired_name_is_found_in_code_and_not_in_a_text(tmp_path: Path) -> None:
    module, page = tmp_path / "wiring.py", tmp_path / "page.md"
    module.write_text('class Rung:\n    """A ladder."""\n\n    words = "Frozen trouble"\n')
    page.write_text("A Frozen ladder; `import Freshness` is code.\n")
    assert retired_names(module) == {"Rung", "wiring"}
    assert retired_names(page) == {"Freshness"}
