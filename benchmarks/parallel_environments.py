"""Training in N environments with W workers: steps per second and CPU time, from end to end.

    python -m benchmarks.parallel_environments
    python -m benchmarks.parallel_environments --envs 4 16 --workers 0 2 --rounds 1 --seconds 2

Every cell is a run of its own with the other settings of preset `parallel`, updates included, that
has begun to learn; no run evaluates or saves while it is measured. The cells take turns: in each
round each one trains for some seconds, so that a change of the machine's speed meets all of them.
`ratio` is the median over rounds of its rate by that of the same N without workers, within a round.
CPU time is that of the learner's process and its workers together. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from dime_robot.results.tables import text_table
from dime_robot.training.logger import RunLogger
from dime_robot.training.presets import preset_config
from dime_robot.training.provenance import provenance
from dime_robot.training.rollouts import LocalRollouts
from dime_robot.training.run import TrainingRun

RANDOM_STEPS = 512  # so that learning begins soon, with two batches of data
NEVER = 10**12  # [steps]


class Cell(NamedTuple):
    """A number of environments and one of workers."""

    envs: int
    workers: int


class Measured(NamedTuple):
    """What a run did in its turn."""

    steps: float  # per second
    cpu: float  # [s] per 1,000 steps


def made(env: str, cell: Cell, folder: Path, threads: int) -> tuple[TrainingRun, RunLogger]:
    settings = {"num_envs": cell.envs, "workers": cell.workers, "steps": NEVER, "threads": threads}
    never = dict.fromkeys(("eval_interval", "checkpoint_interval", "log_interval"), NEVER)
    never["checkpoint_interval"] = 100_000  # the replay's margin is kept in memory
    small = {"random_steps": RANDOM_STEPS, "buffer_size": 200_000}
    config = preset_config("parallel", env).model_copy(update={**settings, **never, **small})
    run = TrainingRun(config, folder, torch.device("cpu"))
    return run, RunLogger(run.files, config.steps, 0, quiet=True)


def cpu_seconds(run: TrainingRun) -> float:
    """Return the CPU time so far of this process and the run's workers [s]."""
    ticks = 0
    assert isinstance(run.rollouts, LocalRollouts)
    for pid in run.rollouts.envs.processes:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def turn(run: TrainingRun, logger: RunLogger, seconds: float) -> Measured:
    """Train for a while."""
    began, used, step = time.perf_counter(), cpu_seconds(run), run.step
    while (wall := time.perf_counter() - began) < seconds:
        run._environment_step(logger)
    steps = run.step - step
    return Measured(steps / wall, 1e3 * (cpu_seconds(run) - used) / steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="sim:go2-walk")
    parser.add_argument("--envs", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a turn")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in the learner")
    options = parser.parse_args()
    cells = [Cell(n, w) for n in options.envs for w in sorted({0, *options.workers}) if w <= n]
    found: dict[Cell, list[Measured]] = {cell: [] for cell in cells}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runs = {}
        for cell in cells:
            place = Path(folder) / f"{cell.envs}-{cell.workers}"
            place.mkdir()
            run, logger = made(options.env, cell, place, options.threads)
            stack.enter_context(closing(run))
            stack.enter_context(closing(logger))
            while run.step < RANDOM_STEPS + 32 * cell.envs:  # some updates, to warm up
                run._environment_step(logger)
            runs[cell] = run, logger
        for number in range(options.rounds):
            order = cells if number % 2 == 0 else cells[::-1]
            for cell in order:
                found[cell].append(turn(*runs[cell], options.seconds))
    print(f"{options.env}, preset parallel, {options.rounds} rounds of {options.seconds:g} s each")
    print(f"{provenance()}\n")
    print(text_of(found))


def text_of(found: dict[Cell, list[Measured]]) -> str:
    """Return a Markdown table."""
    rows = []
    for cell, turns in found.items():
        rates = [each.steps for each in turns]
        alone = [each.steps for each in found[Cell(cell.envs, 0)]]
        ratios = sorted(rate / base for rate, base in zip(rates, alone, strict=True))
        rows.append(
            [
                str(cell.envs),
                str(cell.workers),
                f"{median(rates):,.0f}",
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                f"{median(each.cpu for each in turns):.2f}",
            ]
        )
    head = ["N", "W", "steps/s", "range", "ratio to W = 0", "CPU s per 1,000 steps"]
    return text_table(head, rows)


if __name__ == "__main__":
    main()
