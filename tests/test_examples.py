"""Every example runs as its reader would run it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.paths import ROOT

EXAMPLES = {  # name: (arguments that make it short, what it prints)
    "policy_in_five_lines": ([], "several at once"),
    "policy_in_a_gymnasium_loop": ([], "return 4"),
    "flight_recording_as_a_data_frame": ([], "joint_position_1"),
    "own_environment": (["600"], "mean return -"),
    "train_in_a_script": (["1100"], "95% of mean"),
}


def run(*words: str) -> str:
    result = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_each_example_is_known() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str) -> None:
    arguments, shown = EXAMPLES[name]
    if name.endswith("data_frame"):
        pytest.importorskip("pandas", reason="this example needs pandas: pip install '.[bench]'")
    printed = run(f"examples/{name}.py", *arguments)
    assert shown in printed
