"""`python -m dime_robot.sweep`: many runs as processes, resumed, failed, stopped."""

from __future__ import annotations

import fcntl
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from dime_robot import report, sweep
from dime_robot.cluster.executor import LocalExecutor
from dime_robot.results.eval_csv import read_eval_csv
from dime_robot.runtime.io.errors import InputError
from dime_robot.training import checkpoint
from tests.test_train import SMALL

OPTIONS = [word for word in SMALL[2:] if word != "--no-video"]  # without its task
TASK = "Pendulum-v1"


def command(
    out: Path, *options: str, envs: tuple[str, ...] = (TASK,), seeds: str = "0-1", steps: int = 130
) -> list[str]:
    words = ["--envs", *envs, "--seeds", seeds, "--jobs", "2", "--out", str(out)]
    return [*words, "--", *OPTIONS, "--steps", str(steps), *options]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, really trained, on which no test writes."""
    out = tmp_path_factory.mktemp("sweeps") / "finished"
    assert sweep.main(command(out)) == 0
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "sweep"))


Start = Callable[[list[str]], subprocess.Popen[str]]
Pretend = Callable[[str], None]


@pytest.fixture
def started() -> Iterator[Start]:
    """Starts sweeps as processes; none is left at the end."""
    processes: list[subprocess.Popen[str]] = []

    def start(words: list[str]) -> subprocess.Popen[str]:
        whole = [sys.executable, "-m", "dime_robot.sweep", *words]
        processes.append(subprocess.Popen(whole, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Sets what runs do instead of training; their argument is the seed."""

    def pretend(code: str) -> None:
        words = [sys.executable, "-c", code]
        monkeypatch.setattr(sweep.Run, "command", lambda run, _: [*words, str(run.config.seed)])

    return pretend


def children(process: subprocess.Popen[str]) -> list[int]:
    of_threads = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for found in of_threads for pid in found.read_text().split()]


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.mark.slow
def test_every_seed_is_trained_and_summed_up(finished: Path) -> None:
    rows = read_eval_csv(finished / f"{TASK}.csv")
    own = [read_eval_csv(finished / f"{TASK}-seed{seed}/eval.csv") for seed in (0, 1)]
    assert rows == [*own[0], *own[1]]
    assert [row.step for row in own[1]] == [0, 100, 130]
    text = (finished / "summary.md").read_text()
    assert text.startswith("`python -m dime_robot.sweep --envs Pendulum-v1 --seeds 0-1 --jobs 2")
    ends = [seed[-1].return_mean for seed in own]
    assert f"| 0: {ends[0]:.1f}, 1: {ends[1]:.1f} " in text
    assert re.search(rf"^\| {TASK} +\| 2 of 2 +\| 130 +\| {sum(ends) / 2:.1f} ", text, re.M)
    assert not list(finished.rglob("video.mp4"))
    assert "eval     100  return" in (finished / f"{TASK}-seed1.log").read_text()


@pytest.mark.slow
def test_the_same_command_starts_nothing_that_is_finished_and_report_draws_it(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("it started a process"))
    before = (copied / f"{TASK}.csv").read_bytes()
    assert sweep.main(command(copied)) == 0
    form = r"\[{n}/2\] Pendulum-v1 seed {s}  -[\d.]+ ± [\d.]+ \(20 episodes\)  0:\d\d  finished"
    for number, line in enumerate(capsys.readouterr().out.splitlines()[:2]):
        assert re.match(form.format(n=number + 1, s=number), line), line
    assert (copied / f"{TASK}.csv").read_bytes() == before
    summary = (copied / "summary.md").read_bytes()
    monkeypatch.setattr("sys.argv", ["report", str(copied)])
    assert report.main() == 0
    assert (copied / f"{TASK}.svg").exists()
    assert (copied / "summary.md").read_bytes() == summary
    assert sweep.main(command(copied, seeds="1")) == 0  # about what is asked for
    assert {row.seed for row in read_eval_csv(copied / f"{TASK}.csv")} == {1}


@pytest.mark.slow
def test_other_options_are_refused_before_anything_starts_and_longer_ones_go_on(
    copied: Path,
) -> None:
    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in copied.rglob("*") if path.is_file()}

    before = content()
    words = command(copied, seeds="0")
    at = words.index("--actor-width")
    for other, sentence in (
        (command(copied, "--actor-lr", "0.1", seeds="0-2"), "--actor-lr 0.1: the resumed run has"),
        (command(copied, seeds="0", steps=100), "--steps 100: the resumed run has 130"),
        # an option left out is another option, too
        ([*words[:at], *words[at + 2 :]], "--actor-width 64: the resumed run has 16"),
    ):
        with pytest.raises(InputError, match=f"{TASK}-seed0: {sentence}"):
            sweep.main(other)
        assert content() == before
    assert sweep.main(command(copied, seeds="0", steps=140)) == 0
    assert "resumed at step 130" in (copied / f"{TASK}-seed0.log").read_text()
    assert [row.step for row in read_eval_csv(copied / f"{TASK}.csv")] == [0, 100, 130, 140]


@pytest.mark.slow
def test_a_failing_run_leaves_the_others_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    assert sweep.main(command(out, envs=("Hoper-v5", TASK), seeds="3")) == 1
    assert {row.seed for row in read_eval_csv(out / f"{TASK}.csv")} == {3}
    assert not (out / "Hoper-v5.csv").exists()
    shown = capsys.readouterr().out
    assert f"[1/2] Hoper-v5 seed 3  failed: exit code 2; its log: {out}/Hoper-v5-seed3.log" in shown
    assert "\n    error: Hoper-v5: " in shown
    assert re.search(r"^\| Hoper-v5 .*\| 3: exit code 2 \|$", shown, re.M)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, started: Start) -> None:
    words = command(tmp_path, "--checkpoint-interval", "20", seeds="5", steps=400)
    process = started(words)
    path = tmp_path / f"{TASK}-seed5/ckpt.pt"
    wait_for(lambda: path.exists() and checkpoint.load(path).record.step >= 20)
    os.kill(*children(process), signal.SIGKILL)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "failed: killed by signal 9" in shown
    assert read_eval_csv(tmp_path / f"{TASK}.csv")[0].step == 0  # not left out
    step = checkpoint.load(path).record.step
    assert 20 <= step < 400
    assert sweep.main(words) == 0
    assert f"resumed at step {step}\n" in (tmp_path / f"{TASK}-seed5.log").read_text()
    assert checkpoint.load(path).record.step == 400


@pytest.mark.slow
def test_sigterm_leaves_runs_that_can_go_on_and_no_process(tmp_path: Path, started: Start) -> None:
    process = started(command(tmp_path, seeds="0-2", steps=90_000))
    paths = [tmp_path / f"{TASK}-seed{seed}/ckpt.pt" for seed in (0, 1)]
    wait_for(lambda: all(p.exists() and checkpoint.load(p).record.step for p in paths))
    pids = children(process)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=60)
    assert (process.returncode, shown.count("stopping: ")) == (1, 1)
    assert len(pids) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in pids)
    for seed, path in enumerate(paths):
        assert f"[{seed + 1}/3] {TASK} seed {seed}  stopped\n" in shown
        assert 0 < checkpoint.load(path).record.step < 90_000
        assert f"--resume {path.parent}" in path.parent.with_suffix(".log").read_text()
    assert not (tmp_path / f"{TASK}-seed2").exists()
    assert "| 0: stopped, 1: stopped, 2: stopped |" in shown
    assert shown.splitlines()[-1].startswith("next       python -m dime_robot.sweep --envs Pend")


def test_a_run_without_a_checkpoint_begins_anew(tmp_path: Path, pretend: Pretend) -> None:
    pretend("")
    for name, more in (("killed", []), ("full", ["eval.csv"])):
        folder = tmp_path / name / f"{TASK}-seed0"
        folder.mkdir(parents=True)
        for file in (".lock", "config.yaml", "replay.bin", *more):
            (folder / file).touch()
        assert sweep.main(command(tmp_path / name, seeds="0")) == 1  # it did nothing
    assert not list((tmp_path / f"killed/{TASK}-seed0").iterdir())
    assert (tmp_path / f"full/{TASK}-seed0/config.yaml").exists()


def test_a_table_stays_where_no_run_can_be_read(tmp_path: Path, pretend: Pretend) -> None:
    pretend("import sys; sys.exit(2)")
    table = tmp_path / f"{TASK}.csv"
    table.write_text("of an earlier command\n")
    assert sweep.main(command(tmp_path)) == 1
    assert table.read_text() == "of an earlier command\n"
    assert f"{TASK}.csv is an earlier command's" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize("gone", [True, False])
def test_a_reader_that_is_gone_stops_a_sweep_with_one_sentence(gone: bool, tmp_path: Path) -> None:
    code = (
        "import sys; from dime_robot import sweep; from dime_robot.runtime.io.command import"
        " run_command; sweep.Run.command = lambda run, _: [sys.executable, '-c', 'x = 1'];"
        " run_command(sweep.main)"
    )
    words = [sys.executable, "-c", code, *command(tmp_path, seeds="0-3")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None and made.stderr is not None
        if gone:
            made.stdout.close()
        else:
            made.stdout.read()
        shown = made.stderr.read()
    assert made.returncode == 1
    expected = "stopped: the reader of the output is gone; python -m dime_robot.sweep --envs Pend"
    assert shown.startswith(expected) if gone else shown == ""
    assert shown.count("\n") == gone


def test_a_process_has_one_thread_and_a_session_of_its_own(
    tmp_path: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend("import os; print(os.environ['OMP_NUM_THREADS'], os.getsid(0) == os.getpid())")
    log = tmp_path / f"{TASK}-seed0.log"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    sweep.main(command(tmp_path, seeds="0"))
    assert log.read_text() == "1 True\n"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    sweep.main(command(tmp_path, seeds="0"))
    assert log.read_text() == "3 True\n"


def test_never_more_processes_than_jobs(
    tmp_path: Path, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend("import time; time.sleep(0.3)")
    sweep.main(command(tmp_path, seeds="0-4"))
    lines = capsys.readouterr().out.splitlines()
    changes = [line.endswith("started") - ("ended before its last step;" in line) for line in lines]
    running = list(accumulate(changes))
    assert (running[-1], max(running)) == (0, 2)


def test_an_error_ends_all_runs_at_once(
    tmp_path: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(
        "import sys, time, pathlib\n"
        f"seed, folder = int(sys.argv[1]), pathlib.Path(r'{tmp_path}')\n"
        "time.sleep(0.5 if seed else 60); (folder / f'done{seed}').touch()",
    )
    lines = []

    def closed(*words: str, **_: object) -> None:  # as stdout is when its reader has gone
        lines.append(words)
        if len(lines) > 2:
            raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    began = time.monotonic()
    with pytest.raises(BrokenPipeError):
        sweep.main(command(tmp_path, seeds="0-3"))
    assert time.monotonic() - began < 30
    assert [path.name for path in tmp_path.glob("done*")] == ["done1"]


def test_a_run_interrupted_before_its_first_step_is_stopped_not_failed(
    tmp_path: Path, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    # as a run does whose PyTorch still loads
    pretend(
        "import signal, sys, time, pathlib; signal.signal(15, lambda *_: sys.exit(130))\n"
        f"pathlib.Path(r'{tmp_path}', f'ready{{sys.argv[1]}}').touch(); time.sleep(60)",
    )

    def interrupt() -> None:
        wait_for(lambda: len(list(tmp_path.glob("ready*"))) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert sweep.main(command(tmp_path, seeds="0,1")) == 1
    thread.join()
    shown = capsys.readouterr().out
    assert (shown.count("  stopped\n"), shown.count("failed")) == (2, 0), shown


@pytest.mark.parametrize("second", [signal.SIGINT, None])
def test_a_second_ctrl_c_kills(
    second: int | None, tmp_path: Path, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = 60 if second else 2
    pretend(
        "import signal, sys, time, pathlib; signal.signal(15, signal.SIG_IGN)\n"
        f"seed, folder = int(sys.argv[1]), pathlib.Path(r'{tmp_path}')\n"
        "(folder / f'ready{seed}').touch()\n"
        f"time.sleep({seconds} + seed); (folder / f'done{{seed}}').touch()",
    )
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        wait_for(lambda: len(list(tmp_path.glob("ready*"))) == 2)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.6)
        if second:
            os.kill(os.getpid(), second)

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    assert sweep.main(command(tmp_path, seeds="0,1,2")) == 1
    thread.join()
    assert time.monotonic() - began < 30
    shown = capsys.readouterr().out
    assert len(list(tmp_path.glob("done*"))) == (0 if second else 2)
    assert shown.count("  stopped\n") == 2 and "seed 2  started" not in shown
    assert signal.getsignal(signal.SIGINT) is before


def test_a_folder_where_only_a_run_is_at_work_is_refused(tmp_path: Path, pretend: Pretend) -> None:
    _, runs = sweep.plan([TASK], [0], tmp_path, [])
    pretend("import time; time.sleep(60)")
    with (tmp_path / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        orphan = LocalExecutor(lock).start(runs[0].job([]))
    try:
        with pytest.raises(InputError, match="another sweep, or a run that one left, is at work"):
            sweep.main(command(tmp_path, seeds="0"))
    finally:
        orphan.kill()
        orphan.wait()
    pretend("")
    assert sweep.main(command(tmp_path, seeds="0")) == 1  # not refused


# -- the command line ----------------------------------------------------------------------------


def test_seeds() -> None:
    assert sweep.parse_seeds("0-4") == [0, 1, 2, 3, 4]
    assert sweep.parse_seeds("0,5,2,3-3") == [0, 2, 3, 5]
    assert sweep.parse_seeds("7, 1-3,2-4,7") == [1, 2, 3, 4, 7]
    assert sweep.parse_seeds("0-999") == list(range(1000))


@pytest.mark.parametrize(
    "text",
    [
        *(" ", "a", "1-", "-1", "4-0", "0,,1", "1.5", "0-4-8", "²"),
        *("0-1000", "0-9999999999", "0-600,700-1400"),
    ],
)
def test_malformed_seeds_are_one_sentence(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^--seeds {re.escape(text)}: expected") as error:
        sweep.main(["--envs", TASK, f"--seeds={text}", "--out", str(tmp_path / "x")])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x").exists()


def test_a_seed_of_many_digits_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--seeds 0-9{58}: expected numbers") as error:
        sweep.main(["--envs", TASK, f"--seeds=0-{'9' * 5000}", "--out", str(tmp_path / "x")])
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0", "--", "--seed", "3"], "--seed after --: expected options that fit all"),
        (["--seeds", "0", "--", "--out=x"], "--out=x after --"),
        (["--seeds", "0", "--jobs", "0"], "--jobs: expected at least 1, got 0"),
        (["sim:a", "sim/a", "--seeds", "0"], "two of them would share a folder"),
        (["--seeds", "0", "--", "--preset", "huge"], "--preset: expected one of official"),
        (["--seeds", "0,99999999999999999999"], "--seed: expected less than 9223372036854775808"),
        (["--seeds", "0", "--", "--wings", "2"], "unrecognized arguments: --wings 2; "),
        (["--seeds", "0", "--job", "9"], "--job: no option of a sweep; perhaps --jobs; those of"),
        (["--seeds", "0", "--steps", "9"], "--steps: no option of a sweep; those of its runs go"),
        ([" ", "--seeds", "0"], "--envs: expected tasks, such as Pendulum-v1"),
    ],
)
def test_wrong_options_are_one_sentence(words: list[str], message: str, tmp_path: Path) -> None:
    at = words.index("--") if "--" in words else len(words)
    with pytest.raises((InputError, SystemExit), match=message) as error:
        sweep.main(["--envs", TASK, *words[:at], "--out", str(tmp_path / "x"), *words[at:]])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x").exists()


def test_the_folder_follows_from_tasks_and_options_only() -> None:
    def folder(seeds: str, *options: str, envs: tuple[str, ...] = (TASK, "sim:cartpole")) -> Path:
        return sweep.plan(envs, sweep.parse_seeds(seeds), None, options)[0]

    tiny = ("--preset", "tiny")
    for seeds in ("0-1", "9"):
        assert folder(seeds, *tiny) == Path("sweeps/Pendulum-v1-sim-cartpole-preset-tiny")
    assert folder("0", *tiny, "--steps", "3000") != folder("0", *tiny)
    many = tuple(f"Pendulum-v{n}" for n in range(40))
    assert folder("0", envs=many) == folder("0", envs=many)
    assert folder("0", envs=many) != folder("0", envs=many[:-1])
    assert len(folder("0", envs=many).name) == 100


def test_tasks_and_seeds_twice_are_one_run_and_every_run_has_its_settings(tmp_path: Path) -> None:
    envs, seeds = [TASK, "sim:cartpole", TASK], sweep.parse_seeds("1,0,1")
    _, runs = sweep.plan(envs, seeds, tmp_path, ["--preset", "tiny", "--steps", "700"])
    assert [run.files.path.name for run in runs] == [
        *("Pendulum-v1-seed0", "Pendulum-v1-seed1", "sim-cartpole-seed0", "sim-cartpole-seed1")
    ]
    assert [run.config.seed for run in runs] == [0, 1, 0, 1]
    assert {run.config.steps for run in runs} == {700}
    assert (runs[1].config.v_max, runs[2].config.v_max) == (20, 110)


def test_a_line_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two threads that print at the same time mix their lines."""
    written: list[str] = []

    class Output(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stdout", Output())
    executor = LocalExecutor(io.StringIO())
    sweep.Sweep(["a run"], [], 1, executor)._log(1, "started")  # type: ignore[list-item]
    assert [text for text in written if text] == ["[1/1] a run  started\n"]
