"""A search for settings: Ray Tune draws nothing and trains nothing, it decides what to stop.

Every sample is a run of its own in the search's folder, with a process as in a sweep. Its
evaluations (eval.csv) are reported to ASHA (Li et al., 2020, arXiv 1810.05934): at each rung, a
number of steps, it stops a sample that is not among the best third of those that have come so far.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

from dime_robot.cluster.executor import INPUT_ERROR, Job, append_to
from dime_robot.cluster.run_files import RemoteFiles, RunFiles, copy
from dime_robot.cluster.run_task import Driver, NodeRun, Share
from dime_robot.results.eval_csv import EvalRow, read_eval_csv
from dime_robot.runtime.io.command import INTERRUPTED
from dime_robot.runtime.io.errors import InputError

BEAT = 1.0  # [s] between two looks at a run
SAVE_LIMIT = 120.0  # [s] that a run may take to save and end
EARLY = "stopped early"
REDUCTION = 3  # of a rung's samples one in so many goes on
STEP, RETURN, CODE = "step", "return_mean", "exit_code"  # entries of a report to Tune
# before Ray Tune is imported: it writes no files and handles no signals of its own
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # most reports only say that a run goes on
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


class RunLostError(Exception):
    """A sample's process was killed; Tune starts it again."""


@dataclass(frozen=True)
class Sample:
    """One sample of a search.

    Attributes:
        job: its process.
        steps: of its run.
    """

    job: Job
    steps: int


class Keeper:
    """The files of all samples where the search was started, for nodes without that folder."""

    def __init__(self) -> None:
        self._files: dict[Path, RunFiles] = {}

    def call(self, folder: Path, name: str, *arguments: Any) -> Any:
        """Call a method of the `RunFiles` of one folder."""
        files = self._files.setdefault(folder, RunFiles(folder))
        return getattr(files, name)(*arguments)

    def append(self, log: Path, content: bytes) -> None:
        """Add output of a run to its log."""
        append_to(log, content)


class Trial:
    """A sample's run on the node where Tune has placed it.

    Args:
        sample: what to run.
        driver: of the search.
        keeper: the sample's files where the search was started; its second part adds to the log.
    """

    def __init__(
        self, sample: Sample, driver: Driver, keeper: tuple[RemoteFiles, Callable[[bytes], Any]]
    ) -> None:
        self._sample, (self._kept, self._append) = sample, keeper
        self._run = NodeRun(sample.job, driver)
        if not self._run.shared:
            copy(self._kept, self._run)
        self._started, self._reported = False, -1
        self._saved = self._run.saved()

    def step(self) -> dict[str, Any]:
        """Return the next evaluation, or after a moment without one an empty report.

        Raises:
            RunLostError: the process was killed.
        """
        end = time.monotonic() + BEAT
        while True:
            code = self._poll() if self._started else None
            row = self._next_row(code)
            if row is not None:
                self._reported = row.step
                report: dict[str, Any] = {STEP: row.step, RETURN: row.return_mean}
                if code is not None and row.step >= self._sample.steps:
                    report |= self._ended(code)  # so that no rung stops it in its last report
                return report
            if not self._started:
                if not self._start():
                    return {"done": True, CODE: INPUT_ERROR}
            elif code is not None:
                return self._ended(code)
            if time.monotonic() > end:
                return {}
            time.sleep(BEAT / 10)

    def _next_row(self, code: int | None) -> EvalRow | None:
        """Return the next evaluation that is due; the last one only once the run has ended."""
        path = self._run.files.evaluations
        rows = read_eval_csv(path) if path.exists() else []
        row = next((row for row in rows if row.step > self._reported), None)
        last = row is not None and row.step >= self._sample.steps
        return None if last and self._started and code is None else row

    def _start(self) -> bool:
        """Start the process; write into the log why this node cannot."""
        try:
            self._run.start()
        except InputError as error:
            sentence = f"error: {error}\n".encode()
            if self._run.shared:
                append_to(self._run.log, sentence)
            else:
                self._append(sentence)
            return False
        self._started = True
        return True

    def _poll(self) -> int | None:
        while True:
            status = self._run.poll()
            if self._run.shared:
                return status.code
            if status.log:
                self._append(status.log)
            if status.saved != self._saved or (status.code is not None and not status.log):
                copy(self._run, self._kept)
                self._saved = status.saved
            if status.code is None or not status.log:
                return status.code

    def _ended(self, code: int) -> dict[str, Any]:
        finished = self._reported >= self._sample.steps
        if code < 0 or code == INTERRUPTED or (code == 0 and not finished):
            raise RunLostError(f"killed by signal {-code}" if code < 0 else "ended by a signal")
        return {"done": True, CODE: code}

    def end(self) -> None:
        """Let the process save and end; bring its files to where the search was started."""
        self._run.end(SAVE_LIMIT)
        if self._started:
            self._poll()
        self._run.close()


@dataclass(frozen=True)
class Options:
    """How a search runs.

    Attributes:
        share: of a node for each sample.
        jobs: samples at the same time; None: as many as have a place.
        retries: how often a sample that was killed or lost is started again.
        grace: steps before a sample can be stopped early.
    """

    share: Share
    jobs: int | None
    retries: int
    grace: int


def search(
    ray: ModuleType,
    samples: Sequence[Sample],
    driver: Driver,
    options: Options,
    stopping: Event,
    results: dict[int, str],
    log: Callable[[int, str], None],
) -> None:
    """Run a search to its end, or until `stopping` is set.

    Args:
        ray: the module, connected.
        samples: all that are tried.
        driver: this machine, for the nodes.
        options: of the search.
        stopping: set by a signal's handler.
        results: gets why a sample did not finish, by its number from 1 on.
        log: prints a line about a sample, given by its number.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    steps = max(sample.steps for sample in samples)
    live = Live(stopping, results, log)
    with tempfile.TemporaryDirectory(prefix="dime_robot-tune-") as folder:
        tune.Tuner(
            tune.with_resources(
                _trainable(tune, samples, driver, _keeper(ray)),
                {"CPU": options.share.cpus, "GPU": options.share.gpus},
            ),
            param_space={"number": tune.grid_search(list(range(len(samples))))},
            tune_config=tune.TuneConfig(
                metric=RETURN,
                mode="max",
                max_concurrent_trials=options.jobs,
                scheduler=ASHAScheduler(
                    time_attr=STEP,
                    max_t=max(steps, options.grace),
                    grace_period=options.grace,
                    reduction_factor=REDUCTION,
                    stop_last_trials=False,
                ),
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                stop=_stopper(tune, live),
                # runs write their own
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=options.retries),
                callbacks=[_progress(tune, live)],
                verbose=0,
            ),
        ).fit()


def _keeper(ray: ModuleType) -> Any:
    """Start the keeper on this node; None: there is no other node that could need it."""
    if sum(node["Alive"] for node in ray.nodes()) < 2:
        return None
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(Keeper).options(scheduling_strategy=here).remote()


def _trainable(
    tune: ModuleType, samples: Sequence[Sample], driver: Driver, keeper: Any
) -> type[Any]:
    """Return the class of Tune's trials.

    It is no function: Tune does not wait for a function that it stops, so its run could not save.
    """

    class Trainable(tune.Trainable):  # type: ignore[misc, name-defined]
        def setup(self, config: dict[str, Any]) -> None:
            import ray

            sample = samples[config["number"]]
            folder, log = (driver.folder / path for path in (sample.job.folder, sample.job.log))

            def call(name: str, *arguments: Any) -> Any:
                return ray.get(keeper.call.remote(folder, name, *arguments))

            def append(content: bytes) -> None:
                if keeper is not None:
                    ray.get(keeper.append.remote(log, content))

            self._trial = Trial(sample, driver, (RemoteFiles(call), append))

        def step(self) -> dict[str, Any]:
            return self._trial.step()

        def cleanup(self) -> None:
            self._trial.end()

    return Trainable


class Live:
    """What a running search is told and tells; Tune stores copies of it, which do nothing.

    Args:
        stopping: set by a signal's handler.
        results: gets why a sample did not finish, by its number from 1 on.
        log: prints a line about a sample, given by its number.
    """

    def __init__(
        self,
        stopping: Event | None = None,
        results: dict[int, str] | None = None,
        log: Callable[[int, str], None] = lambda number, text: None,
    ) -> None:
        self.stopping, self._log = stopping or Event(), log
        self._results = {} if results is None else results

    def __reduce__(self) -> tuple[type[Live], tuple[()]]:
        return Live, ()

    def __deepcopy__(self, memory: object) -> Live:
        return self

    def is_now(self, trial: Any, text: str) -> None:
        """Note and print what a sample is doing."""
        number = int(trial.config["number"]) + 1
        self._results.pop(number, None)
        if text.startswith(("failed", EARLY)):  # what its files do not say
            self._results[number] = text
        self._log(number, text)


def _stopper(tune: ModuleType, live: Live) -> Any:
    class Stopper(tune.Stopper):  # type: ignore[misc, name-defined]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return live.stopping.is_set()

    return Stopper()


def _progress(tune: ModuleType, live: Live) -> Any:
    class Progress(tune.Callback):  # type: ignore[misc, name-defined]
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            live.is_now(trial, "started")

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            live.is_now(trial, "was killed, or lost with its node")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            live.is_now(trial, "failed")

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            code = trial.last_result.get(CODE)
            if code is not None:
                live.is_now(trial, f"failed: exit code {code}" if code else "finished")
            else:
                live.is_now(trial, "stopped" if live.stopping.is_set() else EARLY)

    return Progress()
