"""`sweep --tune`: a real search with Ray Tune, and the parts of one."""

from __future__ import annotations

import copy
import csv
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from dime_robot import sweep, train
from dime_robot.cluster.executor import Job
from dime_robot.cluster.run_files import RemoteFiles, RunFiles
from dime_robot.cluster.run_task import driver_of
from dime_robot.cluster.search import RETURN, STEP, Live, RunLostError, Sample, Trial
from dime_robot.cluster.search_tables import SampleResult, best_of, write_samples
from dime_robot.results.eval_csv import EvalRow, write_eval_csv
from dime_robot.runtime.io.errors import InputError
from dime_robot.training import checkpoint
from tests.cluster.test_ray_sweep import OPTIONS, TASK, runs_below, step_of, wait_for

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
SPACE = "actor_lr: {loguniform: [1.0e-4, 3.0e-3]}\npolicy_delay: {choice: [1, 3]}\n"


def command(folder: Path, *more: str, steps: int = 200) -> list[str]:
    space = folder / "space.yaml"
    space.write_text(SPACE)
    words = ["--envs", TASK, "--tune", str(space), "--samples", "3", "--grace", "100"]
    return [*words, "--out", str(folder / "out"), *more, "--", *OPTIONS, "--steps", str(steps)]


@pytest.mark.slow
def test_a_search_stops_samples_early_survives_a_killed_one_and_names_the_best(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-m", "dime_robot.sweep", *command(tmp_path)]
    environment = {name: text for name, text in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            path = out / f"{TASK}-sample1/ckpt.pt"
            wait_for(lambda: step_of(path) >= 20)
            samples = {
                Path(f"/proc/{pid}/cmdline").read_text(): pid for pid in runs_below(process.pid)
            }
            (first,) = [pid for line, pid in samples.items() if "sample1\0" in line]
            os.kill(first, signal.SIGKILL)
            shown, _ = process.communicate(timeout=600)
        finally:
            process.terminate()
    assert process.returncode == 0, shown
    with (out / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("sample", "actor_lr", "policy_delay", "step", "return_mean", "return_std", "result")
    ]
    assert [row["sample"] for row in rows] == ["1", "2", "3"]
    # of two or three that came to the first rung one goes on, and the first to come always does
    assert {row["result"] for row in rows} <= {"finished", "stopped early"}
    for number, row in enumerate(rows, 1):
        state = checkpoint.load(out / f"{TASK}-sample{number}/ckpt.pt")
        assert f"{state.config.actor_lr}" == row["actor_lr"]
        assert (row["result"] == "finished") == (state.record.step == 200)
        assert state.record.step >= int(row["step"]) >= 100
    assert "[1/3] sample 1  was killed, or lost with its node" in shown
    assert "resumed at step" in (out / f"{TASK}-sample1.log").read_text()
    again = re.search(r"to train it again:\n\n    python -m dime_robot.train (.*)", shown)
    assert again is not None
    best = max((float(r["return_mean"]), r) for r in rows if r["result"] == "finished")[1]
    config = train.parse(again[1].split()).config
    assert str(config.actor_lr) == best["actor_lr"]
    assert config == checkpoint.load(out / f"{TASK}-sample{best['sample']}/ckpt.pt").config
    assert "ray" not in shown and "trial" not in shown.lower()  # Tune's own output


# -- parts ---------------------------------------------------------------------------------------


class Kept:
    """The side on which a search was started: files in a folder that the run does not see."""

    def __init__(self, folder: Path) -> None:
        self.files, self.log = RunFiles(folder), b""

    def parts(self) -> tuple[RemoteFiles, Any]:
        def append(content: bytes) -> None:
            self.log += content

        return RemoteFiles(lambda name, *words: getattr(self.files, name)(*words)), append


def trial(
    tmp_path: Path, code: str, *, shared: bool = True, needs: tuple[Path, ...] = ()
) -> tuple[Trial, Kept]:
    """A sample of 200 steps whose process runs some code, in its folder."""
    folder = tmp_path / "out/run"
    folder.parent.mkdir(exist_ok=True)
    words = (sys.executable, "-c", f"import sys, time; folder = sys.argv[1]; {code}", str(folder))
    kept = Kept(folder)
    job = Job(words, words, folder, folder.with_suffix(".log"), needs)
    with driver_of(folder.parent) as driver:
        if not shared:
            driver.token.unlink()
        return Trial(Sample(job, 200), driver, kept.parts()), kept


WRITE = (
    "from pathlib import Path; from dime_robot.results.eval_csv import EvalRow, write_eval_csv;"
    " path = Path(folder, 'eval.csv'); path.parent.mkdir(exist_ok=True);"
    " rows = [EvalRow(step, 0, float(step), 0, 5, 0) for step in (0, 100, 200)];"
)


def reports(made: Trial, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    end = time.monotonic() + 60
    while len(found) < count and time.monotonic() < end:
        found += [report] if (report := made.step()) else []
    return found


@pytest.mark.parametrize("shared", [True, False])
def test_every_evaluation_is_reported_once_and_the_last_one_when_the_run_has_ended(
    shared: bool, tmp_path: Path
) -> None:
    code = WRITE + (
        "write_eval_csv(path, rows); time.sleep(1); Path(folder, 'ckpt.pt').touch(); print('end')"
    )
    made, kept = trial(tmp_path, code, shared=shared)
    found = reports(made, 3)
    log = tmp_path / "out/run.log"
    assert (log.read_bytes() if shared else kept.log) == b"end\n"
    found += reports(made, 1)
    assert [report.get(STEP) for report in found] == [0, 100, 200, None]
    assert found[1] == {STEP: 100, RETURN: 100.0}
    assert found[3] == {"done": True, "exit_code": 0}
    made.end()
    folder = tmp_path / "out/run"
    assert {path.name for path in folder.iterdir()} == {"eval.csv", "ckpt.pt"}


def test_a_killed_run_is_lost_and_one_with_an_error_of_its_own_is_done(tmp_path: Path) -> None:
    made, _ = trial(tmp_path, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(RunLostError, match="killed by signal 9"):
        reports(made, 1)
    made.end()
    made, _ = trial(tmp_path, "sys.exit(2)")
    assert reports(made, 1) == [{"done": True, "exit_code": 2}]
    made.end()


@pytest.mark.parametrize("shared", [True, False])
def test_a_sample_whose_file_is_missing_is_done_with_a_sentence(
    shared: bool, tmp_path: Path
) -> None:
    made, kept = trial(tmp_path, "pass", shared=shared, needs=(tmp_path / "own.yaml",))
    assert reports(made, 1) == [{"done": True, "exit_code": 2}]
    made.end()
    log = (tmp_path / "out/run.log").read_bytes() if shared else kept.log
    assert re.match(rb"error: \S+own.yaml: expected this file at the same path on every node", log)


def test_a_stopped_sample_saves_before_its_trial_ends(tmp_path: Path) -> None:
    code = WRITE + (
        "import signal; signal.signal(15, lambda *_: (time.sleep(0.5), write_eval_csv(path, rows),"
        " sys.exit(0))); write_eval_csv(path, rows[:1]); time.sleep(60)"
    )
    made, _ = trial(tmp_path, code, shared=False)
    assert reports(made, 1) == [{STEP: 0, RETURN: 0.0}]
    assert not (tmp_path / "out/run/eval.csv").exists()  # it has not saved yet
    made.end()
    assert len((tmp_path / "out/run/eval.csv").read_text().splitlines()) == 4


def test_what_became_of_a_sample_is_kept_and_copies_of_the_search_do_nothing() -> None:
    results: dict[int, str] = {}
    lines: list[tuple[int, str]] = []
    live = Live(Event(), results, lambda number, text: lines.append((number, text)))
    for number, text in (
        *((0, "started"), (1, "started"), (1, "failed"), (1, "started")),
        *((0, "stopped early"), (2, "failed: exit code 2"), (3, "stopped")),
    ):
        live.is_now(SimpleNamespace(config={"number": number}), text)
    assert results == {1: "stopped early", 3: "failed: exit code 2"}
    assert lines[0] == (1, "started") and len(lines) == 7
    copied = pickle.loads(pickle.dumps(live))  # as Tune does it; an Event cannot be pickled
    copied.is_now(SimpleNamespace(config={"number": 5}), "failed")
    assert len(lines) == 7 and 6 not in results
    assert copy.deepcopy(live) is live


def result(result: str, value: float | None, **settings: Any) -> SampleResult:
    last = None if value is None else EvalRow(100, 0, value, 1.0, 5, 0)
    return SampleResult(settings, last, result, ["python", "-m", "x", "--a b"])


def test_the_best_is_a_finished_one_if_there_is_one(tmp_path: Path) -> None:
    early, good, better = (
        result("stopped early", 9.0, actor_lr=0.1),
        result("finished", 1.0, actor_lr=0.2),
        result("finished", 2.0, actor_lr=0.3),
    )
    none = result("failed", None, actor_lr=0.4)
    assert best_of([early, good, better, none]) == 2
    assert best_of([none, early]) == 1
    assert best_of([none]) is None
    text = write_samples(tmp_path, [early, good, better, none], "command")
    assert text.splitlines()[2] == "| 1      | 0.1      | 100       | 9      | 1 | stopped early |"
    assert "The best is sample 3; to train it again:\n\n    python -m x '--a b'" in text
    assert text in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "samples.csv").read_text().splitlines()[-1] == "4,0.4,-,-,-,failed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--envs", "Hopper-v5"], "--envs: expected one task with --tune, got 2"),
        (["--seeds", "0-1"], "--seeds 0-1: expected one seed with --tune"),
        (["--samples", "99999"], "--samples 99999: expected at most 10,000"),
    ],
)
def test_wrong_options_are_one_sentence(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        sweep.main(command(tmp_path, *words))
    assert not (tmp_path / "out").exists()


def test_settings_that_do_not_go_together_are_named_with_their_sample(tmp_path: Path) -> None:
    words = command(tmp_path)
    (tmp_path / "space.yaml").write_text("v_min: {uniform: [0.0, 10.0]}\nv_max: {choice: [-5]}\n")
    with pytest.raises(
        InputError, match=r"space.yaml: sample 1 \(v_min \S+, v_max -5\): .*v_min < "
    ):
        sweep.main(words)


def test_rows_of_an_earlier_command_are_reported_before_the_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "out/run"
    folder.mkdir(parents=True)
    write_eval_csv(folder / "eval.csv", [EvalRow(step, 0, 1.0, 0, 5, 0) for step in (0, 100)])
    made, _ = trial(tmp_path, "raise SystemExit('it was started')")
    assert [report[STEP] for report in reports(made, 2)] == [0, 100]
    assert not folder.with_suffix(".log").exists()
    made.end()
