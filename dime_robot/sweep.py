"""Many runs: `python -m dime_robot.sweep --envs Pendulum-v1 sim:cartpole --seeds 0-4 --jobs 2`.

Every run is a `python -m dime_robot.train` of its own, with a folder and a log of its own; options
after `--` go to each of them. The same command again goes on where the last one stopped and starts
nothing that is finished. At the end there is a CSV per task, which `python -m dime_robot.report`
draws, and `summary.md`: both are about the tasks and seeds asked for.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(
        train=("torch", "gymnasium", "mujoco", "tyro", "rich", "scipy", "matplotlib", "tensorboard")
    )

import fcntl
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import IO, Annotated, Any

import tyro

from dime_robot import command_line, train
from dime_robot.learning.config import TrainConfig, train_options
from dime_robot.results.eval_csv import EvalRow, read_eval_csv, write_eval_csv
from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import write_atomically

COMMAND = "python -m dime_robot.sweep"
UNFINISHED = 1  # exit code: a run failed, or was stopped
POLL = 0.2  # [s] between two looks at the processes
LOG_LINES = 5  # of a failed run, shown
MOST_SEEDS = 1000
LONGEST_NAME = 100  # [characters] of a folder
OWN_OPTIONS = ("--env", "--seed", "--out", "--resume", "--video")  # not for all runs alike
# all that a run leaves that was killed before its first checkpoint
STILLBORN = {"config.yaml", "config.yaml.tmp", "replay.bin", "ckpt.pt.tmp"}


@dataclass(frozen=True)
class Arguments:
    """Train tasks from several seeds and sum them up. Options after -- go to every run."""

    envs: tuple[str, ...]
    """Tasks, as train's --env takes them."""
    seeds: str
    """Such as 0-4, or 0,2,5, or 0-2,7."""
    jobs: int = 1
    """Runs at the same time."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where runs and tables go; by default a folder in sweeps/, named after tasks and options. More
    seeds may be asked for there later: the tables are about those of the last command."""


@dataclass(frozen=True)
class Run:
    """One run of the sweep: what it shall be, and where."""

    config: TrainConfig
    folder: Path

    def __str__(self) -> str:
        return f"{self.config.env} seed {self.config.seed}"

    @property
    def log(self) -> Path:
        """What its process says; beside the folder, which has to be new for it."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def rows(self) -> tuple[list[EvalRow], bool]:
        """Its evaluations, none unless it is what it shall be; and whether it is finished."""
        from dime_robot.training import checkpoint  # torch takes seconds to load

        path = self.folder / "ckpt.pt"
        try:
            record = checkpoint.load(path).record
            config = record.config
            rows = read_eval_csv(self.folder / "eval.csv")
        except InputError:  # not there yet, or unusable: the run itself says it best
            return [], False
        if config.model_copy(update={"steps": self.config.steps}) != self.config:
            return [], False
        finished = config == self.config and record.final and record.step >= config.steps
        return rows, bool(finished)

    def command(self, options: Sequence[str]) -> list[str]:
        """The command line that starts it or goes on with it."""
        from dime_robot.training import checkpoint

        words = [sys.executable, "-m", "dime_robot.train", "--no-video"]
        path = self.folder / "ckpt.pt"
        if not path.exists():
            own = ["--env", self.config.env, "--seed", str(self.config.seed)]
            return [*words, *own, "--out", str(self.folder), *options]
        try:
            had = checkpoint.load(path).config
        except InputError:
            had = self.config
        # whatever differs now, an option left out included, so that train can refuse it
        return [*words, "--resume", str(self.folder), *train_options(self.config, had)]


def parse_seeds(text: str) -> list[int]:
    """`0-2,7` -> [0, 1, 2, 7]: ascending, each once.

    Raises:
        InputError: something else than numbers and ranges, or more than `MOST_SEEDS`.
    """
    seeds: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InputError(
                f"--seeds {text}: expected numbers and ascending ranges, such as 0-4 or 0,2,5, got"
                f" {part.strip()!r}"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        seeds.update(range(first, min(last, first + MOST_SEEDS) + 1))  # too many is enough
    if len(seeds) > MOST_SEEDS:
        raise InputError(f"--seeds {text}: expected at most {MOST_SEEDS:,} seeds")
    return sorted(seeds)


def plan(arguments: Arguments, options: Sequence[str]) -> tuple[Path, list[Run]]:
    """The sweep's folder and its runs, task by task.

    Raises:
        InputError: options that do not fit, or not for all runs alike.
    """
    seeds, envs = parse_seeds(arguments.seeds), list(dict.fromkeys(arguments.envs))
    if not envs or not all(env.strip() for env in envs):
        raise InputError(f"--envs: expected tasks, such as Pendulum-v1, got {envs or 'none'}")
    if arguments.jobs < 1:
        raise InputError(f"--jobs: expected at least 1, got {arguments.jobs}")
    for word in options:
        if word.split("=")[0] in OWN_OPTIONS:
            raise InputError(f"{word} after --: expected options that fit all runs; leave it out")
    if len({_name(env) for env in envs}) < len(envs):
        raise InputError(f"--envs {' '.join(envs)}: two of them would share a folder; rename one")
    out = arguments.out or Path("sweeps") / _title([*envs, *options])
    runs = []
    for env in envs:
        config = train.parse([*options, "--env", env, "--seed", str(seeds[-1])]).config
        for seed in seeds:
            own = config.model_copy(update={"seed": seed})
            runs.append(Run(own, out / f"{_name(env)}-seed{seed}"))
    return out, runs


def _name(env: str) -> str:
    return env.replace(":", "-").replace("/", "-")


def _title(words: Sequence[str]) -> str:
    """A folder's name that follows from a command's words."""
    name = re.sub(r"[^A-Za-z0-9.=_]+", "-", " ".join(words)).strip("-.")
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(" ".join(words).encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - len(digest) - 1]}-{digest}"


def _result(row: EvalRow) -> str:
    wall = str(timedelta(seconds=round(row.wall_seconds))).removeprefix("0:").removeprefix("0")
    return f"{row.return_mean:.1f} ± {row.return_std:.1f} ({row.episodes} episodes)  {wall}"


class Sweep:
    """Starts the runs' processes and waits for them.

    Args:
        runs: in the order of their numbers, which begin at 1.
        options: of every run, beside its task and its seed.
        jobs: processes at the same time.
        lock: a file that stays open in every process, also when the sweep itself was killed.
    """

    def __init__(
        self, runs: Sequence[Run], options: Sequence[str], jobs: int, lock: IO[Any]
    ) -> None:
        self.runs, self.options, self.jobs, self.lock = runs, options, jobs, lock
        self.failures: dict[int, str] = {}  # number of a run -> why
        self.stopping = self._killing = False

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """A signal's handler: no new run, and the running ones are asked to end."""
        if self.stopping and signum == signal.SIGINT:  # asked twice: now
            self._killing = True
        self.stopping = True

    def work(self) -> None:
        """Return when every run has ended or, once asked to stop, every process."""
        waiting, told = deque(enumerate(self.runs, 1)), False
        running: dict[int, subprocess.Popen[bytes]] = {}
        try:
            while running or (waiting and not self.stopping):
                while waiting and len(running) < self.jobs and not self.stopping:
                    number, run = waiting.popleft()
                    rows, finished = run.rows()
                    if finished:
                        self._say(number, f"{_result(rows[-1])}  finished before")
                    else:
                        running[number] = self._start(number, run)
                if self._killing:
                    for process in running.values():
                        process.kill()
                elif self.stopping and not told:  # once: a second one would end their reports
                    told = True
                    print("stopping: runs write their checkpoints; again Ctrl-C kills", flush=True)
                    for process in running.values():
                        process.terminate()
                for number, process in list(running.items()):
                    if process.poll() is not None:
                        del running[number]
                        self._ended(number, process.returncode)
                time.sleep(POLL)
        finally:  # whatever it was that ended us, they end as well
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()

    def _say(self, number: int, text: str) -> None:
        print(f"[{number}/{len(self.runs)}] {self.runs[number - 1]}  {text}", flush=True)

    def _start(self, number: int, run: Run) -> subprocess.Popen[bytes]:
        command = run.command(self.options)
        found = {path.name for path in run.folder.glob("*")}
        if found <= STILLBORN:  # else train says what it thinks of the folder
            for name in found:
                (run.folder / name).unlink()
        resumed = "--resume" in command
        self._say(number, "resumed" if resumed else "started")
        with run.log.open("ab" if resumed else "wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"OMP_NUM_THREADS": "1", **os.environ},
                start_new_session=True,  # a terminal's Ctrl-C reaches only us
                pass_fds=(self.lock.fileno(),),
            )

    def _ended(self, number: int, code: int) -> None:
        run = self.runs[number - 1]
        rows, finished = run.rows()
        if code == 0 and finished:
            self._say(number, _result(rows[-1]))
        elif self.stopping and code in (0, -signal.SIGTERM, -signal.SIGKILL):
            self._say(number, "stopped")
        else:
            reason = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
            self.failures[number] = reason if code else "ended before its last step"
            self._say(number, f"failed: {self.failures[number]}; its log: {run.log}")
            with run.log.open(encoding="utf-8", errors="replace") as log:
                print("".join(f"    {line.rstrip()}\n" for line in deque(log, LOG_LINES)), end="")


def write_tables(out: Path, runs: Sequence[Run], failures: Mapping[int, str], command: str) -> str:
    """Write a CSV per task and `summary.md` of what there is; gives the table."""
    from dime_robot.results.curves import Curves
    from dime_robot.results.summary import LEGEND, OUTCOME, SUMMARY, outcome, table

    lines = []
    for env in dict.fromkeys(run.config.env for run in runs):
        rows: list[EvalRow] = []
        finished, missing, count = 0, [], 0
        for number, run in enumerate(runs, 1):
            if run.config.env != env:
                continue
            count += 1
            found, complete = run.rows()
            rows += found  # of a failed run too: leaving it out would flatter the others
            if complete:
                finished += 1
            else:
                missing.append(f"{run.config.seed}: {failures.get(number, 'stopped')}")
        path, cells = out / f"{_name(env)}.csv", ["-"] * len(OUTCOME)
        if rows:
            write_eval_csv(path, rows)
            cells = outcome(Curves.of(env, rows))
        else:
            path.unlink(missing_ok=True)  # an older one is of other runs
        lines.append([env, f"{finished} of {count}", *cells, ", ".join(missing) or "-"])
    text = table(["task", "seeds finished", *OUTCOME, "not finished"], lines)
    page = f"`{command}` makes this file and the CSVs.\n\n{LEGEND}\n\n{text}\n"
    write_atomically(out / SUMMARY, page.encode())
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    command_line.refuse_repeated(words, ("--envs",))
    with command_line.complaint_as_sentence(COMMAND):
        arguments, strange = tyro.cli(
            Arguments, args=words[:split], prog=COMMAND, return_unknown_args=True
        )
    if strange:
        raise InputError(f"{strange[0]}: no option of a sweep; those of its runs go after --")
    from dime_robot.results.summary import SUMMARY

    options = words[split + 1 :]
    out, runs = plan(arguments, options)
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
        finally:
            for sig, handler in previous.items():
                signal.signal(sig, handler)
        again = f"{COMMAND} {shlex.join(words)}"
        print(f"\n{write_tables(out, runs, sweep.failures, again)}\n")
    print(f"summary    {out / SUMMARY}")
    unfinished = sweep.stopping or sweep.failures
    print(f"next       {again if unfinished else f'python -m dime_robot.report {out}'}")
    return UNFINISHED if unfinished else 0


if __name__ == "__main__":
    run_command(main)
