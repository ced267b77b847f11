"""Many runs: `python -m dime_robot.sweep --envs Pendulum-v1 sim:cartpole --seeds 0-4 --jobs 2`.

Every run is a separate process of `python -m dime_robot.train`, with its own folder and log;
options after `--` apply to all of them. The same command, run again, continues all unfinished runs.
At the end the sweep writes a CSV per task, which `python -m dime_robot.report` plots, and
`summary.md`, both for the tasks and seeds of this command.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(train=("torch", "gymnasium", "mujoco", "scipy", "matplotlib", "tensorboard"))

import fcntl
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event
from types import FrameType
from typing import IO, Any

from dime_robot import train
from dime_robot.learning.config import FREE, TrainConfig, changes, option, option_words
from dime_robot.results.eval_csv import EvalRow, read_eval_csv, write_eval_csv
from dime_robot.results.tables import text_table
from dime_robot.runtime.io.command import INTERRUPTED, UNFINISHED, ReaderGoneError, run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import write_atomically
from dime_robot.training.run_folder import RunFolder, folder_name
from dime_robot.training.run_lock import remove_unfinished_start

COMMAND = "python -m dime_robot.sweep"
SIGNAL_WAIT = 0.5  # [s]
# exit codes of a stopped run: ended, interrupted before its first step, or killed
STOPPED = (0, INTERRUPTED, -signal.SIGTERM, -signal.SIGKILL)
LOG_LINES = 5  # of a failed run, shown
MAX_SEEDS = 1000
MAX_NAME = 100  # [characters] of a folder
OWN_OPTIONS = ("--env", "--seed", "--out", "--resume", "--video")  # differ from run to run


def _parser() -> Parser:
    parser = Parser(
        COMMAND,
        "Train tasks from several seeds and sum them up. Options after -- go to every run.",
    )
    add = parser.add_argument
    text = "tasks, as train's --env takes them"
    add("--envs", nargs="+", action="extend", required=True, metavar="ENV", help=text)
    add("--seeds", required=True, help="such as 0-4, or 0,2,5, or 0-2,7")
    add("--jobs", type=int, default=1, help="runs at the same time")
    add(
        "--out",
        type=Path,
        help="where runs and tables go; by default a folder in sweeps/, named after tasks and"
        " options. A later command may name more seeds: the tables are about those of the last one",
    )
    return parser


@dataclass(frozen=True)
class Run:
    """One run of the sweep: its settings and its folder."""

    config: TrainConfig
    files: RunFolder

    def __str__(self) -> str:
        return f"{self.config.env} seed {self.config.seed}"

    @property
    def log(self) -> Path:
        """The file with its process's output; outside its folder, which has to be new."""
        return self.files.path.with_name(f"{self.files.path.name}.log")

    def rows(self) -> tuple[list[EvalRow], bool]:
        """Read its evaluations (none if its settings differ), and whether it is finished."""
        from dime_robot.training import checkpoint  # torch takes seconds to load

        try:
            record = checkpoint.load(self.files.checkpoint).record
            rows = read_eval_csv(self.files.evaluations)
        except InputError:  # missing, or unusable: the run itself prints the reason
            return [], False
        free = {name: getattr(self.config, name) for name in FREE}
        config = record.config.model_copy(update=free)
        if config.model_copy(update={"steps": self.config.steps}) != self.config:
            return [], False
        finished = config == self.config and record.final and record.step >= config.steps
        return rows, bool(finished)

    def saved(self) -> TrainConfig | None:
        """Read the settings of its checkpoint; None: there is none, or it cannot be used."""
        from dime_robot.training import checkpoint  # torch takes seconds to load

        if not self.files.checkpoint.exists():
            return None
        try:
            return checkpoint.load(self.files.checkpoint).config
        except InputError:  # the run itself prints the reason, the others can go on
            return None

    def command(self, options: Sequence[str]) -> list[str]:
        """Return the command line that starts or resumes it."""
        words = [sys.executable, "-m", "dime_robot.train", "--no-video"]
        folder = str(self.files.path)
        if not self.files.checkpoint.exists():
            own = ["--env", self.config.env, "--seed", str(self.config.seed)]
            return [*words, *own, "--out", folder, *options]
        # all settings that differ now, also by an omitted option, so that train can refuse them
        changed = changes(self.config, self.saved() or self.config)
        # the user typed its name here, which permits code that the name stands for
        return [*words, "--resume", folder, "--env", self.config.env, *option_words(changed)]


def parse_seeds(text: str) -> list[int]:
    """Parse seeds, as `0-2,7` -> [0, 1, 2, 7]: ascending, each once.

    Raises:
        InputError: something other than numbers and ranges, or more than `MAX_SEEDS`.
    """
    seeds: set[int] = set()
    for part in text.split(","):
        # longer numbers are no seeds, and Python refuses to convert the longest
        match = re.fullmatch(r"\s*([0-9]{1,20})(?:-([0-9]{1,20}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InputError(
                f"--seeds {text:.60}: expected numbers and ascending ranges, such as 0-4 or 0,2,5,"
                f" got {part.strip()!r:.60}"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        seeds.update(range(first, min(last, first + MAX_SEEDS) + 1))  # refused below if too many
    if len(seeds) > MAX_SEEDS:
        raise InputError(f"--seeds {text:.60}: expected at most {MAX_SEEDS:,} seeds")
    return sorted(seeds)


def plan(
    envs: Sequence[str], seeds: Sequence[int], out: Path | None, options: Sequence[str]
) -> tuple[Path, list[Run]]:
    """Return the sweep's folder and its runs, task by task.

    Args:
        envs: names of the tasks.
        seeds: of each task, ascending.
        out: the folder; none: one named after tasks and options.
        options: of every run.

    Raises:
        InputError: options that do not fit, or that cannot be the same for all runs.
    """
    envs = list(dict.fromkeys(envs))
    if not envs or not all(env.strip() for env in envs):
        raise InputError(f"--envs: expected tasks, such as Pendulum-v1, got {envs or 'none'}")
    for word in options:
        if word.split("=")[0] in OWN_OPTIONS:
            raise InputError(f"{word} after --: expected options that fit all runs; leave it out")
    if len({folder_name(env) for env in envs}) < len(envs):
        raise InputError(f"--envs {' '.join(envs)}: two of them would share a folder; rename one")
    out = out or Path("sweeps") / _title([*envs, *options])
    runs = []
    for env in envs:
        config = train.parse([*options, "--env", env, "--seed", str(seeds[-1])]).config
        for seed in seeds:
            files = RunFolder(out / f"{folder_name(env)}-seed{seed}")
            runs.append(Run(config.model_copy(update={"seed": seed}), files))
    return out, runs


def require_same_settings(runs: Sequence[Run]) -> None:
    """Refuse options with which a run that exists already cannot go on.

    Raises:
        InputError: the first such run and its option.
    """
    from dime_robot.training.start import require_resumable  # torch takes seconds to load

    for run in runs:
        if (saved := run.saved()) is None:
            continue
        try:
            require_resumable(run.config, saved)
        except InputError as error:
            raise InputError(f"{run.files.path}: {error}; another --out begins new ones") from None


def _title(words: Sequence[str]) -> str:
    """Derive a folder's name from a command's words."""
    name = re.sub(r"[^A-Za-z0-9.=_]+", "-", " ".join(words)).strip("-.")
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(" ".join(words).encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - len(digest) - 1]}-{digest}"


def _result(row: EvalRow) -> str:
    wall = str(timedelta(seconds=round(row.wall_seconds))).removeprefix("0:").removeprefix("0")
    return f"{row.return_mean:.1f} ± {row.return_std:.1f} ({row.episodes} episodes)  {wall}"


class Sweep:
    """Starts the runs' processes and waits for them.

    Args:
        runs: in the order of their numbers, which begin at 1.
        options: of every run, in addition to its task and seed.
        jobs: processes at the same time.
        lock: a file that stays open in every process, also when the sweep itself was killed.
    """

    def __init__(
        self, runs: Sequence[Run], options: Sequence[str], jobs: int, lock: IO[Any]
    ) -> None:
        self.runs, self.options, self.jobs, self.lock = runs, options, jobs, lock
        self.failures: dict[int, str] = {}  # number of a run -> why
        self.stopping = Event()
        self._processes: list[subprocess.Popen[bytes]] = []

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal: start no new run, let running ones end; a second Ctrl-C kills them."""
        again = self.stopping.is_set()
        self.stopping.set()
        for process in self._processes:
            if not again:
                process.terminate()
            elif signum == signal.SIGINT:  # a second SIGTERM would interrupt their reports
                process.kill()
        # stdout may be closed, or in use by the very line that the signal interrupted
        with suppress(OSError, RuntimeError):
            if not again:
                print("stopping: runs write their checkpoints; again Ctrl-C kills", flush=True)

    def work(self) -> None:
        """Run everything; return when all runs have ended or, after `stop`, all processes."""
        unfinished = []
        for number, run in enumerate(self.runs, 1):
            rows, finished = run.rows()
            if finished:
                self._log(number, f"{_result(rows[-1])}  finished before")
            else:
                unfinished.append(number)
        with ThreadPoolExecutor(self.jobs) as pool:
            trained = [pool.submit(self._train, number) for number in unfinished]
            # in short waits: a signal that comes just before a wait is handled after it
            while wait(trained, timeout=SIGNAL_WAIT).not_done:
                pass
            for future in trained:
                future.result()

    def _train(self, number: int) -> None:
        if self.stopping.is_set():
            return
        try:
            process = self._start(number, self.runs[number - 1])
            self._processes.append(process)
            if self.stopping.is_set():  # a signal came meanwhile
                process.terminate()
            self._ended(number, process.wait())
        except BaseException:  # all others end now, and not when their training is done
            self.stop(signal.SIGTERM, None)
            raise

    def _log(self, number: int, text: str) -> None:
        line = f"[{number}/{len(self.runs)}] {self.runs[number - 1]}  {text}\n"
        print(line, end="", flush=True)  # at once: two threads that print would mix their lines

    def _start(self, number: int, run: Run) -> subprocess.Popen[bytes]:
        command = run.command(self.options)
        remove_unfinished_start(run.files)
        resumed = "--resume" in command
        self._log(number, "resumed" if resumed else "started")
        with run.log.open("ab" if resumed else "wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"OMP_NUM_THREADS": "1", **os.environ},
                start_new_session=True,  # a terminal's Ctrl-C reaches only the sweep
                pass_fds=(self.lock.fileno(),),
            )

    def _ended(self, number: int, code: int) -> None:
        run = self.runs[number - 1]
        rows, finished = run.rows()
        if code == 0 and finished:
            self._log(number, _result(rows[-1]))
        elif self.stopping.is_set() and code in STOPPED:
            self._log(number, "stopped")
        else:
            reason = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
            self.failures[number] = reason if code else "ended before its last step"
            with run.log.open(encoding="utf-8", errors="replace") as log:
                tail = "".join(f"\n    {line.rstrip()}" for line in deque(log, LOG_LINES))
            self._log(number, f"failed: {self.failures[number]}; its log: {run.log}{tail}")


def write_tables(out: Path, runs: Sequence[Run], failures: Mapping[int, str], command: str) -> str:
    """Write a CSV per task and `summary.md`, and return the table."""
    from dime_robot.results.curves import Curves
    from dime_robot.results.summary import LEGEND, OUTCOME, SUMMARY, outcome

    lines, notes = [], ""
    for env in dict.fromkeys(run.config.env for run in runs):
        rows: list[EvalRow] = []
        missing = []
        own = [(number, run) for number, run in enumerate(runs, 1) if run.config.env == env]
        for number, run in own:
            found, complete = run.rows()
            rows += found  # also of a failed run: without it the mean would be too high
            if not complete:
                missing.append(f"{run.config.seed}: {failures.get(number, 'stopped')}")
        path, cells = out / f"{folder_name(env)}.csv", ["-"] * len(OUTCOME)
        if rows:
            write_eval_csv(path, rows)
            cells = outcome(Curves.of(env, rows))
        elif path.exists():
            notes += f"\n\n{path.name} is an earlier command's: no run of this one can be read."
        count = f"{len(own) - len(missing)} of {len(own)}"
        lines.append([env, count, *cells, ", ".join(missing) or "-"])
    text = text_table(["task", "seeds finished", *OUTCOME, "not finished"], lines) + notes
    page = f"`{command}` makes this file and the CSVs.\n\n{LEGEND}\n\n{text}\n"
    write_atomically(out / SUMMARY, page.encode())
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    parser = _parser()
    arguments, unknown = parser.parse_known_args(words[:split])
    if unknown:
        of_runs = {option(name) for name in TrainConfig.model_fields}
        similar = "" if unknown[0].partition("=")[0] in of_runs else parser.suggestion(unknown[:1])
        raise InputError(
            f"{unknown[0]}: no option of a sweep{similar}; those of its runs go after --"
        )
    if arguments.jobs < 1:
        raise InputError(f"--jobs: expected at least 1, got {arguments.jobs}")
    from dime_robot.results.summary import SUMMARY

    options = words[split + 1 :]
    out, runs = plan(arguments.envs, parse_seeds(arguments.seeds), arguments.out, options)
    require_same_settings(runs)
    again = f"{COMMAND} {shlex.join(words)}"
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{out}: another sweep, or a run that one left, is at work there; wait until it"
                " has ended, or give another --out"
            ) from None
        sweep = Sweep(runs, options, arguments.jobs, lock)
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {sig: signal.signal(sig, sweep.stop) for sig in signals}
        try:
            sweep.work()
        except BrokenPipeError:
            print(f"stopped: the reader of the output is gone; {again}", file=sys.stderr)
            raise ReaderGoneError from None
        finally:
            for sig, handler in previous.items():
                signal.signal(sig, handler)
        print(f"\n{write_tables(out, runs, sweep.failures, again)}\n")
    print(f"summary    {out / SUMMARY}")
    unfinished = sweep.stopping.is_set() or sweep.failures
    print(f"next       {again if unfinished else f'python -m dime_robot.report {out}'}")
    return UNFINISHED if unfinished else 0


if __name__ == "__main__":
    run_command(main)
