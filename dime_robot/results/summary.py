"""A folder of results: a figure per task, and `summary.md` with their numbers.

FOLDER/TASK.csv or TASK.PRESET.csv has the evaluations of a task, in the columns of `eval.csv`;
FOLDER/reference/TASK.csv the authors' results (step, iqm, mean, min, max over their seeds);
FOLDER/ablation/TASK/VARIANT.csv runs of a task that differ in one setting.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from dime_robot.evaluation.statistics import iqm
from dime_robot.results.curves import (
    MIN_SEEDS,
    RESAMPLES,
    Curves,
    FloatArray,
    read_curves,
    read_reference,
    spread,
)
from dime_robot.results.figures import ablation_figure, task_figure
from dime_robot.results.tables import text_table
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import write_atomically

SUMMARY = "summary.md"
COMMAND = "python -m dime_robot.report"
NEAR = 0.9  # share of a run's steps that the authors' evaluation must have for a comparison

# columns of the tables of tasks, after the task and the number of seeds
OUTCOME = ("steps", "IQM of the final returns", "last return of each seed")
LEGEND = (
    "Returns are unscaled. Final: at the last step that all seeds have. IQM: interquartile mean"
    " over the seeds, which of up to 3 is the mean. In square brackets its 95 % interval"
    f" (stratified bootstrap, {RESAMPLES:,} resamples), from {MIN_SEEDS} seeds on; in round ones"
    " the lowest and the highest seed where there are fewer."
)


def estimate(returns: FloatArray) -> str:
    """Format the IQM with its interval, or with lowest and highest of few seeds.

    Args:
        returns: one per seed, shape (seeds,).
    """
    text = f"{iqm(returns):.1f}"
    if len(returns) == 1:
        return text
    low, high = spread(returns)
    if len(returns) < MIN_SEEDS:
        return f"{text} ({low:.1f} to {high:.1f})"
    return f"{text} [{low:.1f}, {high:.1f}]"


def outcome(curves: Curves) -> list[str]:
    """Return the cells of the columns `OUTCOME`."""
    steps, longest = curves.steps, curves.longest
    last = steps[-1] if steps else None
    each = []
    for seed, curve in curves.seeds.items():
        end = max(curve)
        each.append(f"{seed}: {curve[end]:.1f}" + (f" at {end:,}" if end != last else ""))
    if last is None:
        return [f"none in common, up to {longest:,}", "-", ", ".join(each)]
    common = f"{last:,}" if last == longest else f"{last:,} in common, up to {longest:,}"
    return [common, estimate(curves.returns[:, -1]), ", ".join(each)]


def _against(curves: Curves, reference: FloatArray) -> list[str]:
    """Return two cells: the authors' IQM [lowest, highest] at these steps, and the comparison."""
    if not curves.steps:  # the seeds have no step in common: nothing to compare
        return ["-", "-"]
    last = curves.steps[-1]
    near = reference[(reference[:, 0] <= last) & (reference[:, 0] >= NEAR * last)]
    if not len(near):
        return ["-", "-"]
    step, middle, _, low, high = near[-1]
    ours = iqm(curves.returns[:, -1])
    place = "below" if ours < low else "above" if ours > high else "within"
    return [f"{middle:g} [{low:g}, {high:g}] at {step:,.0f}", place]


def _in_order(paths: Iterable[Path]) -> list[Path]:
    """Sort by name, with numbers in numeric order: N=2 before N=16, 1e-4 before 1e-3."""

    def key(path: Path) -> list[tuple[float, str]]:
        parts = re.split(r"([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)", path.stem)
        return [(float(p), "") if i % 2 else (0.0, p) for i, p in enumerate(parts)]

    return sorted(sorted(paths), key=key)


def write_results(folder: Path, theirs: Path | None = None) -> list[Path]:
    """Write the figures and `summary.md` and return the written paths.

    A `summary.md` that another command made (a sweep's lists its failures) stays unchanged.

    Args:
        folder: with the CSVs.
        theirs: folder of the CSVs with the authors' results; None: FOLDER/reference.

    Raises:
        InputError: nothing to draw, or a file in another format.
    """
    if theirs is not None and not any(theirs.glob("*.csv")):
        raise InputError(f"{theirs}: expected a CSV per task of what others reached, got none")
    theirs = theirs or folder / "reference"
    figures: dict[Path, str] = {}
    rows = []
    for path in _in_order(folder.glob("*.csv")):
        curves = read_curves(path)
        reference = read_reference(theirs / f"{path.name.split('.')[0]}.csv")
        figures[path.with_suffix(".svg")] = task_figure(curves, reference)
        cells = [*outcome(curves), *_against(curves, reference)]
        rows.append([curves.name, str(len(curves.seeds)), *cells])
    command = f"{COMMAND} {shlex.quote(folder.resolve().name)}"
    parts = [f"`{command}` makes this file and the figures.", LEGEND]
    if rows:
        against = ["authors: IQM [lowest, highest]", "ours"]
        parts.append(text_table(["task", "seeds", *OUTCOME, *against], rows))
    for task in _in_order((folder / "ablation").glob("*")):
        variants = [read_curves(path) for path in _in_order(task.glob("*.csv"))]
        if variants:
            figures[task.with_name(f"{task.name}.svg")] = ablation_figure(task.name, variants)
            head = ["variant", "seeds", *OUTCOME[:2], "IQM of the mean over the run"]
            rows = [
                [
                    *(v.name, str(len(v.seeds)), *outcome(v)[:2]),
                    estimate(v.averages) if v.steps else "-",
                ]
                for v in variants
            ]
            parts += [f"## Ablation: {task.name}", text_table(head, rows)]
    if not figures:
        raise InputError(
            f"{folder}: expected a run folder (ckpt.pt) or results (*.csv), got neither"
        )
    for path, svg in figures.items():
        write_atomically(path, (svg + "\n").encode())
    summary = folder / SUMMARY
    if summary.exists() and not summary.read_bytes().startswith(f"`{COMMAND} ".encode()):
        return list(figures)
    write_atomically(summary, ("\n\n".join(parts) + "\n").encode())
    return [*figures, summary]
