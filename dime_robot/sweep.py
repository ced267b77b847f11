"""Many runs: `python -m dime_robot.sweep --envs Pendulum-v1 sim:cartpole --seeds 0-4 --jobs 2`.

Every run is a separate process of `python -m dime_robot.train`, with its own folder and log;
options after `--` apply to all of them. The same command, run again, continues all unfinished runs.
At the end the sweep writes a CSV per task, which `python -m dime_robot.report` plots, and
`summary.md`, both for the tasks and seeds of this command. With `--ray` the processes run on the
nodes of a Ray cluster, with `--tune` they are samples of a search over settings
(docs/cluster_sweeps.md).
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(train=("torch", "gymnasium", "mujoco", "scipy", "matplotlib", "tensorboard"))

import fcntl
import shlex
import signal
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from threading import Event
from types import FrameType, ModuleType
from typing import IO, TYPE_CHECKING, Any

from dime_robot.cluster.executor import Executor, LocalExecutor
from dime_robot.learning.config import TrainConfig, option, option_words
from dime_robot.results.eval_csv import EvalRow, read_eval_csv, write_eval_csv
from dime_robot.results.tables import text_table
from dime_robot.runtime.io.command import INTERRUPTED, UNFINISHED, ReaderGoneError, run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import write_atomically
from dime_robot.sweep_plan import Run, parse_seeds, plan, plan_search, require_same_settings
from dime_robot.training.run_folder import folder_name
from dime_robot.training.run_lock import remove_unfinished_start

if TYPE_CHECKING:
    from dime_robot.cluster.run_task import Driver, Share

COMMAND = "python -m dime_robot.sweep"
SIGNAL_WAIT = 0.5  # [s]
# exit codes of a stopped run: ended, interrupted before its first step, or killed
STOPPED = (0, INTERRUPTED, -signal.SIGTERM, -signal.SIGKILL)
LOG_LINES = 5  # of a failed run, shown
MAX_JOBS = 256  # runs at the same time where a cluster sets no other limit
GRACE = 9  # share of a sample's steps before which it is not stopped early: one in so many
RETRIES = 3  # of a run that was killed or lost


def _parser() -> Parser:
    parser = Parser(
        COMMAND,
        "Train tasks from several seeds and sum them up. Options after -- go to every run.",
    )
    add = parser.add_argument
    text = "tasks, as train's --env takes them"
    add("--envs", nargs="+", action="extend", required=True, metavar="ENV", help=text)
    add("--seeds", help="such as 0-4, or 0,2,5, or 0-2,7; one for a search, by default 0")
    text = "runs at the same time, by default 1; with --ray or --tune as many as have a place"
    add("--jobs", type=int, help=text)
    add(
        "--out",
        type=Path,
        help="where runs and tables go; by default a folder in sweeps/, named after tasks and"
        " options. A later command may name more seeds: the tables are about those of the last one",
    )
    group = parser.add_argument_group(
        "cluster", "On several machines, with the extra ray; docs/cluster_sweeps.md."
    )
    add = group.add_argument
    text = (
        "run on this Ray cluster (host:port, or auto); without an address on that of RAY_ADDRESS,"
        " else on this machine"
    )
    add("--ray", nargs="?", const="", metavar="ADDRESS", help=text)
    add("--cpus", type=float, help="CPUs that Ray keeps free for one run, by default 1")
    add("--gpus", type=float, help="GPUs of one run, by default none; 0.25: four runs share one")
    text = "how often a run that was killed, or lost with its node, is started again; by default 3"
    add("--retries", type=int, help=text)
    group = parser.add_argument_group("search", "Settings that train one task best, by Ray Tune.")
    add = group.add_argument
    add("--tune", type=Path, metavar="SPACE.yaml", help="settings to search, and their values")
    add("--samples", type=int, metavar="K", help="number of settings that are tried")
    text = "steps before a sample can be stopped early; by default a ninth of its steps"
    add("--grace", type=int, metavar="STEPS", help=text)
    return parser


def _result(row: EvalRow) -> str:
    wall = str(timedelta(seconds=round(row.wall_seconds))).removeprefix("0:").removeprefix("0")
    return f"{row.return_mean:.1f} ± {row.return_std:.1f} ({row.episodes} episodes)  {wall}"


class Sweep:
    """Starts the runs and waits for them.

    Args:
        runs: in the order of their numbers, which begin at 1.
        options: of every run, in addition to its task and seed.
        jobs: runs at the same time.
        executor: starts their processes.
    """

    def __init__(
        self, runs: Sequence[Run], options: Sequence[str], jobs: int, executor: Executor
    ) -> None:
        self.runs, self.options, self.jobs, self._executor = runs, options, jobs, executor
        self.failures: dict[int, str] = {}  # number of a run -> why
        self.stopping = Event()

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal: start no new run, let running ones end; a second Ctrl-C kills them."""
        again = self.stopping.is_set()
        self.stopping.set()
        if not again or signum == signal.SIGINT:  # a second SIGTERM would interrupt their reports
            self._executor.stop(kill=again)
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
        try:
            retries = self._executor.retries
            while not self.stopping.is_set() and (code := self._launch(number)) is not None:
                if not retries or not self._was_interrupted(number, code):
                    self._ended(number, code)
                    break
                self._log(number, f"{_reason(code)}; started again, up to {retries} times")
                retries -= 1
        except BaseException:  # all others end now, and not when their training is done
            self.stop(signal.SIGTERM, None)
            raise

    def _log(self, number: int, text: str) -> None:
        line = f"[{number}/{len(self.runs)}] {self.runs[number - 1]}  {text}\n"
        print(line, end="", flush=True)  # at once: two threads that print would mix their lines

    def _launch(self, number: int) -> int | None:
        run = self.runs[number - 1]
        remove_unfinished_start(run.files)
        job = run.job(self.options)
        text = "resumed" if "--resume" in job.command else "started"
        return self._executor.launch(job, lambda: self._log(number, text))

    def _was_interrupted(self, number: int, code: int) -> bool:
        """Whether a run was ended from outside: by a signal, also one after which it saved."""
        if self.stopping.is_set():
            return False
        saved = code == 0 and not self.runs[number - 1].rows()[1]
        return saved or code < 0 or code == INTERRUPTED

    def _ended(self, number: int, code: int) -> None:
        run = self.runs[number - 1]
        rows, finished = run.rows()
        if code == 0 and finished:
            self._log(number, _result(rows[-1]))
        elif self.stopping.is_set() and code in STOPPED:
            self._log(number, "stopped")
        else:
            self.failures[number] = _reason(code)
            with run.log.open(encoding="utf-8", errors="replace") as log:
                tail = "".join(f"\n    {line.rstrip()}" for line in deque(log, LOG_LINES))
            self._log(number, f"failed: {self.failures[number]}; its log: {run.log}{tail}")


def _reason(code: int) -> str:
    """Return why a run did not finish, by the exit code of its process."""
    if code == 0:
        return "ended before its last step"
    return f"exit code {code}" if code > 0 else f"killed by signal {-code}"


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
    _require_fitting(arguments)
    options, again = words[split + 1 :], f"{COMMAND} {shlex.join(words)}"
    if arguments.tune is not None:
        return _search(arguments, options, again)
    if arguments.seeds is None:
        parser.error("the following arguments are required: --seeds")
    from dime_robot.results.summary import SUMMARY

    out, runs = plan(arguments.envs, parse_seeds(arguments.seeds), arguments.out, options)
    require_same_settings(runs)
    jobs = arguments.jobs or (1 if arguments.ray is None else min(len(runs), MAX_JOBS))
    with locked(out) as lock, _executor(arguments, out, lock) as executor:
        sweep = Sweep(runs, options, jobs, executor)
        with _handled(sweep.stop):
            try:
                sweep.work()
            except BrokenPipeError:
                print(f"stopped: the reader of the output is gone; {again}", file=sys.stderr)
                raise ReaderGoneError from None
        print(f"\n{write_tables(out, runs, sweep.failures, again)}\n")
    print(f"summary    {out / SUMMARY}")
    unfinished = sweep.stopping.is_set() or sweep.failures
    print(f"next       {again if unfinished else f'python -m dime_robot.report {out}'}")
    return UNFINISHED if unfinished else 0


def _require_fitting(arguments: Namespace) -> None:
    """Refuse options that do not go together, or are out of range."""
    for name in ("jobs", "samples", "grace"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name}: expected at least 1, got {value}")
    searching = arguments.tune is not None
    for names, fits, needed in (
        (("cpus", "gpus", "retries"), arguments.ray is not None or searching, "--ray or --tune"),
        (("samples", "grace"), searching, "--tune"),
    ):
        for name in names:
            if not fits and getattr(arguments, name) is not None:
                raise InputError(f"--{name}: expected only together with {needed}; leave it out")
    if arguments.retries is not None and arguments.retries < 0:
        raise InputError(f"--retries: expected at least 0, got {arguments.retries}")


@contextmanager
def locked(out: Path) -> Iterator[IO[Any]]:
    """Make a sweep's folder, which one command at a time may use.

    Args:
        out: the folder.

    Raises:
        InputError: another command, or a run that it left, is at work there.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{out}: another sweep, or a run that one left, is at work there; wait until it"
                " has ended, or give another --out"
            ) from None
        yield lock


@contextmanager
def _handled(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM while this context is active."""
    previous = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


@contextmanager
def _executor(arguments: Namespace, out: Path, lock: IO[Any]) -> Iterator[Executor]:
    """Return what starts the runs: on this machine, or on a cluster to which this connects."""
    if arguments.ray is None:
        yield LocalExecutor(lock)
        return
    with _cluster(arguments, out) as (ray, share, driver):
        from dime_robot.cluster.ray_executor import RayExecutor

        yield RayExecutor(ray, share, driver, _retries(arguments))


@contextmanager
def _cluster(arguments: Namespace, out: Path) -> Iterator[tuple[ModuleType, Share, Driver]]:
    from dime_robot.cluster.connection import connected
    from dime_robot.cluster.run_task import Share, driver_of

    cpus = 1.0 if arguments.cpus is None else arguments.cpus
    share = Share(cpus, arguments.gpus or 0.0)
    with connected(arguments.ray or None) as ray, driver_of(out) as driver:
        share.require_possible(ray)
        yield ray, share, driver


def _retries(arguments: Namespace) -> int:
    return RETRIES if arguments.retries is None else int(arguments.retries)


def _search(arguments: Namespace, options: Sequence[str], again: str) -> int:
    """Run a search instead of a sweep."""
    from dime_robot.cluster.search import Options, Sample, search
    from dime_robot.cluster.search_tables import FINISHED, PAGE, SampleResult, write_samples

    if len(arguments.envs) != 1:
        raise InputError(f"--envs: expected one task with --tune, got {len(arguments.envs)}")
    if arguments.samples is None:
        raise InputError("--tune: expected --samples K with it, the number of settings to try")
    if len(seeds := parse_seeds(arguments.seeds or "0")) != 1:
        raise InputError(f"--seeds {arguments.seeds}: expected one seed with --tune")
    out, planned = plan_search(
        arguments.envs[0], seeds[0], arguments.out, options, arguments.tune, arguments.samples
    )
    runs = [run for _, run in planned]
    require_same_settings(runs)
    stopping = Event()
    results: dict[int, str] = {}

    def stop(signum: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        print("stopping: runs write their checkpoints; again Ctrl-C kills", flush=True)

    def log(number: int, text: str) -> None:
        path = runs[number - 1].files.evaluations
        rows = read_eval_csv(path) if path.exists() else []
        so_far = f"  step {rows[-1].step:,}  {_result(rows[-1])}" if rows else ""
        if text.startswith("failed"):
            so_far = f"; its log: {runs[number - 1].log}"
        print(f"[{number}/{len(runs)}] sample {number}  {text}{so_far}", flush=True)

    def table() -> str:
        found = []
        for number, (settings, run) in enumerate(planned, 1):
            rows, finished = run.rows()
            result = FINISHED if finished else results.get(number, "not finished")
            words = run.fresh_command([*options, *option_words(settings)])
            found.append(SampleResult(settings, rows[-1] if rows else None, result, words))
        return write_samples(out, found, again)

    with locked(out), _cluster(arguments, out) as (ray, share, driver):
        table()  # the settings stand there before any of them is tried
        steps = max(run.config.steps for run in runs)
        grace = arguments.grace or max(1, steps // GRACE)
        how = Options(share, arguments.jobs, _retries(arguments), grace)
        samples = [
            Sample(run.job([*options, *option_words(settings)]), run.config.steps)
            for settings, run in planned
        ]
        with _handled(stop):
            search(ray, samples, driver, how, stopping, results, log)
        print(f"\n{table()}\n")
    print(f"summary    {out / PAGE}")
    if stopping.is_set():
        print(f"next       {again}")
    failed = any(result.startswith("failed") for result in results.values())
    return UNFINISHED if stopping.is_set() or failed else 0


if __name__ == "__main__":
    run_command(main)
