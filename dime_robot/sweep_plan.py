"""Which runs a sweep or a search has: their settings, folders and command lines."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dime_robot import train
from dime_robot.cluster.executor import Job
from dime_robot.cluster.search_space import read_space
from dime_robot.learning.config import FREE, TrainConfig, changes, option_words
from dime_robot.results.eval_csv import EvalRow, read_eval_csv
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.env_name import SIM
from dime_robot.sim.config.trust import SUFFIXES
from dime_robot.training.run_folder import RunFolder, folder_name
from dime_robot.training.run_request import RunRequest

MAX_SEEDS = 1000
MAX_NAME = 100  # [characters] of a folder
OWN_OPTIONS = ("--env", "--seed", "--out", "--resume", "--video")  # differ from run to run


@dataclass(frozen=True)
class Run:
    """One run of the sweep: its settings and its folder."""

    config: TrainConfig
    files: RunFolder
    needs: tuple[Path, ...] = ()  # files that its command names

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

    def job(self, options: Sequence[str]) -> Job:
        """Return what an executor starts."""
        words = tuple(self.command(options)), tuple(self._resume())
        return Job(*words, self.files.path, self.log, self.needs)

    def fresh_command(self, options: Sequence[str]) -> list[str]:
        """Return a command line that trains it anew, into a folder that it chooses."""
        return ["python", "-m", "dime_robot.train", *self._own_options(), *options]

    def _own_options(self) -> list[str]:
        return ["--env", self.config.env, "--seed", str(self.config.seed)]

    def command(self, options: Sequence[str]) -> list[str]:
        """Return the command line that starts or resumes it."""
        if not self.files.checkpoint.exists():
            return [*_train(), *self._own_options(), "--out", str(self.files.path), *options]
        # all settings that differ now, also by an omitted option, so that train can refuse them
        changed = changes(self.config, self.saved() or self.config)
        return [*self._resume(), *option_words(changed)]

    def _resume(self) -> list[str]:
        # the user typed the task's name here, which permits code that the name stands for
        return [*_train(), "--resume", str(self.files.path), "--env", self.config.env]


def _train() -> list[str]:
    return [sys.executable, "-m", "dime_robot.train", "--no-video"]


def _named_files(request: RunRequest) -> tuple[Path, ...]:
    """Return the files that a command names: a task of the user's own, and a checkpoint."""
    env = request.config.env
    own = Path(env.removeprefix(SIM)) if env.startswith(SIM) and env.endswith(SUFFIXES) else None
    return tuple(path.absolute() for path in (own, request.init) if path is not None)


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
        request = train.parse([*options, "--env", env, "--seed", str(seeds[-1])])
        needs = _named_files(request)
        for seed in seeds:
            files = RunFolder(out / f"{folder_name(env)}-seed{seed}")
            runs.append(Run(request.config.model_copy(update={"seed": seed}), files, needs))
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


def plan_search(
    env: str, seed: int, out: Path | None, options: Sequence[str], space: Path, samples: int
) -> tuple[Path, list[tuple[dict[str, Any], Run]]]:
    """Return a search's folder, and the settings and the run of each sample.

    Args:
        env: name of the task.
        seed: of the drawn settings, and of every run.
        out: the folder; none: one named after task, space and options.
        options: of every run.
        space: file of the settings to search.
        samples: how many are drawn.

    Raises:
        InputError: options or settings that do not fit.
    """
    named = out or Path("sweeps") / _title([env, "tune", space.stem, *options])
    _, (base,) = plan([env], [seed], named, options)
    found = []
    drawn_settings = read_space(space, base.config, options).draw(samples, seed)
    for number, settings in enumerate(drawn_settings, 1):
        words = [*options, *option_words(settings), "--env", env, "--seed", str(seed)]
        try:
            request = train.parse(words)
        except InputError as error:
            drawn = ", ".join(f"{name} {value}" for name, value in settings.items())
            raise InputError(f"{space}: sample {number} ({drawn}): {error}") from None
        files = RunFolder(named / f"{folder_name(env)}-sample{number}")
        found.append((settings, Run(request.config, files, _named_files(request))))
    return named, found
