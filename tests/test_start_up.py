"""How commands begin and end: what they load, any encoding, any user, a signal, a closed pipe."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dime_robot.__main__ import COMMANDS as COMMANDS_OF_PACKAGE
from dime_robot.runtime.io.command import READABLE, interruption_as_itself
from tests.paths import ROOT

HEAVY = {"torch", "tensorboard", "gymnasium", "mujoco", "scipy", "matplotlib", "onnx", "rclpy"}
COMMANDS = ("train", "sweep", "evaluate", "report", "config")
SMALL = [
    *("train", "--steps", "60", "--no-video", "--random-steps", "50", "--eval-episodes", "1"),
    *("--env", "Pendulum-v1"),
]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
        check=False,
    )


def loaded(code: str) -> set[str]:
    ended = "import sys, atexit; atexit.register(lambda: print('\\n' + ' '.join(sys.modules)));"
    result = run("-c", f"{ended} {code}")
    return {name.partition(".")[0] for name in result.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        f"import runpy; sys.argv = ['x', '--help'];"
        f" runpy.run_module('dime_robot.{command}', run_name='__main__', alter_sys=True)"
    )
    found = loaded(code)
    assert "argparse" in found
    assert not found & HEAVY


@pytest.mark.parametrize(
    "module",
    [
        "results.curves",
        "results.eval_csv",
        "results.summary",
        "evaluation.statistics",
        "report",
        "train",
        "evaluate",
        "sweep",
    ],
)
def test_importing_a_module_loads_only_what_it_is_about(module: str) -> None:
    found = loaded(f"import dime_robot.{module}")
    assert "dime_robot" in found
    assert not found & (HEAVY - ({"matplotlib"} if module == "results.summary" else set()))


def test_the_package_lists_and_runs_its_commands() -> None:
    listed = run("-m", "dime_robot")
    assert listed.returncode == 0
    for command in COMMANDS:
        assert f"  {command} " in listed.stdout
    shown = run("-m", "dime_robot", "evaluate", "--help")
    assert "usage: python -m dime_robot.evaluate" in shown.stdout
    wrong = run("-m", "dime_robot", "trian")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert wrong.stderr.endswith("; perhaps train\n")


def test_every_module_that_runs_is_listed() -> None:
    folders = ("dime_robot", "export", "ros_nodes")
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^    run_command\(main\)", path.read_text(), re.M)
    }
    assert found <= {module for module, _ in COMMANDS_OF_PACKAGE.values()}


def test_the_suite_says_whose_part_it_is() -> None:
    assert "evaluate FILE --suite" in run("-m", "dime_robot.suite", "--help").stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_any_encoding_will_do(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained = run("-m", "dime_robot", *SMALL, "--out", str(folder), **environment)
    assert trained.returncode == 0, trained.stderr
    assert "+-" in trained.stdout and trained.stdout.isascii()
    for words in (["evaluate", str(folder), "--episodes", "1"], ["report", str(folder)]):
        result = run("-m", "dime_robot", *words, **environment)
        assert result.returncode == 0, result.stderr


def test_every_sign_that_is_printed_can_be_read_in_ascii() -> None:
    printed = {c for path in (ROOT / "dime_robot").rglob("*.py") for c in path.read_text()}
    assert printed - {chr(i) for i in range(128)} <= READABLE.keys()


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dime_robot", *SMALL, "--out", str(tmp_path / "run")]
    child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    with child.stderr:
        output_text = child.stderr.read().decode()
    assert child.wait(timeout=120) == 0
    assert f"--resume {tmp_path / 'run'}" in output_text
    assert output_text.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "loads"),
    [
        ("dime_robot.train", "torch"),
        ("dime_robot.evaluate", "torch"),
        ("export.onnx", "torch"),
        ("ros_nodes.loopback", "mujoco"),
    ],
)
def test_an_interruption_while_loading_is_one_word(
    command: str, loads: str, tmp_path: Path
) -> None:
    if command.startswith("ros_nodes"):
        pytest.importorskip("rclpy")
    words = ["--out", str(tmp_path / "run")] if command == "dime_robot.train" else ["x.pt"]
    code = (
        "import signal, sys, threading, os, runpy\n"
        "import importlib.abc\n"
        "class Late(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {loads!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Late())\n"
        f"sys.argv = ['x', *{words!r}]\n"
        "import dime_robot.runtime.io.extras as extras\n"
        "extras.require_extras = lambda **_: None\n"
        f"runpy.run_module({command!r}, run_name='__main__', alter_sys=True)\n"
    )
    result = run("-c", code)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can be another user")
def test_a_user_without_a_home_can_load_a_policy() -> None:
    code = (
        # what it needs may be the root's
        "import os, sys, tempfile, dime_robot.runtime.policy.onnx_policy;"
        " del sys.modules['dime_robot.runtime.policy.onnx_policy'];"
        " os.environ.pop('HOME', None); os.setuid(54321);"
        " from dime_robot.runtime.policy.onnx_policy import ENGINE_CACHE; print(ENGINE_CACHE)"
    )
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    assert "54321" in result.stdout


@pytest.mark.parametrize("choice", ["osmesa", "bogus"])
def test_a_renderer_that_cannot_be_loaded_does_not_stop_what_renders_nothing(choice: str) -> None:
    code = "from dime_robot.envs import make_env; make_env('sim:cartpole').reset(seed=0)"
    result = run("-c", f"{code}; import os; print(os.environ['MUJOCO_GL'])", MUJOCO_GL=choice)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == choice


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "{}/config.yaml"], "expected a policy"),
        (["evaluate", "{}"], "best.pt or ckpt.pt"),
        (["evaluate", "{}/pipe"], "regular file"),
        (["evaluate", "/dev/zero"], "regular file"),
        (["report", "{}/config.yaml"], "expected a folder"),
        (["train", "--resume", "{}/best.pt"], "--init"),
        (["train", "--steps", "1.5"], "whole number"),
        (["sweep", "--seeds", "0"], "the following arguments are required: --envs"),
        (["sweep", "--seeds", "0", "--envs", "sim:a", "--envs", "sim/a"], "two of them would"),
    ],
)
def test_wrong_files_are_one_sentence(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1")
    (tmp_path / "best.pt").write_text("")
    os.mkfifo(tmp_path / "pipe")
    if words[1] == "{}":
        (tmp_path / "best.pt").unlink()
    result = run("-m", "dime_robot", *(word.format(tmp_path) for word in words))
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_report_names_the_run(sig: int, tmp_path: Path) -> None:
    code = (
        "import sys, time, dime_robot.report as report, dime_robot.train as train\n"
        "report.write_report = lambda folder: (print('reporting', flush=True), time.sleep(60))\n"
        "from dime_robot.runtime.io.command import run_command\n"
        f"run_command(lambda: train.main({[*SMALL[1:], '--out', str(tmp_path / 'run')]!r}))\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    while "reporting" not in child.stdout.readline():
        assert child.poll() is None
    child.send_signal(sig)
    began = time.monotonic()
    _, err = child.communicate(timeout=60)
    assert time.monotonic() - began < 4
    assert child.returncode == 130
    assert err.startswith("interrupted") and f"--resume {tmp_path / 'run'}" in err


def test_an_interruption_within_the_import_of_a_c_module_is_one() -> None:
    interrupted = ImportError("initialization failed")
    interrupted.__cause__ = KeyboardInterrupt()
    for error, expected in (
        (interrupted, KeyboardInterrupt),
        (ImportError("no such module"), ImportError),
    ):
        with pytest.raises(expected), interruption_as_itself():
            raise error
