"""A folder of results: a figure per task, and `summary.md` with every number of them.

FOLDER/TASK.csv or TASK.PRESET.csv holds the evaluations of a task, in the columns of `eval.csv`;
FOLDER/reference/TASK.csv what others reached (step, iqm, mean, min, max over their seeds);
FOLDER/ablation/TASK/VARIANT.csv runs of a task that differ in one setting.

Statistics over seeds are those of Agarwal et al. 2021, "Deep RL at the edge of the statistical
precipice": the interquartile mean (IQM) and a stratified bootstrap, which resamples the seeds of
each task by themselves.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from scipy import stats

from dime_robot.logger import EvalRow, read_eval_csv
from dime_robot.rollout import iqm
from dime_robot.runtime.errors import InputError
from dime_robot.runtime.files import write_atomically

RESAMPLES = 2000  # of the bootstrap
FEWEST_SEEDS = 3  # for an interval: two seeds only say that they differ
SUMMARY = "summary.md"
REFERENCE_COLUMNS = ("step", "iqm", "mean", "min", "max")
COMMAND = "python -m dime_robot.report"

FloatArray = npt.NDArray[np.float64]

# columns of the tables of tasks, after the task and how many seeds there are
OUTCOME = ("steps", "IQM of the final returns", "final return of each seed")
LEGEND = (
    "Returns are unscaled. IQM: interquartile mean over the seeds; in brackets its 95 % interval"
    f" (stratified bootstrap, {RESAMPLES:,} resamples), from {FEWEST_SEEDS} seeds on. Final: each"
    " seed's last evaluation."
)


# -- statistics over seeds -----------------------------------------------------------------------


def interval(returns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """95 % percentile bootstrap interval of the IQM, (seeds, ...) -> two (...).

    Whole seeds are drawn again, so the points of a curve stay together. The draws are the same
    in every call.
    """
    result = stats.bootstrap(
        (returns,),
        iqm,
        n_resamples=RESAMPLES,
        confidence_level=0.95,
        method="percentile",
        vectorized=True,
        axis=0,
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return np.asarray(low), np.asarray(high)


@dataclass(frozen=True)
class Curves:
    """The evaluations of a task: its seeds' mean returns, unscaled."""

    name: str
    seeds: dict[int, dict[int, float]]  # seed -> step -> return, in order; at least one of each

    @classmethod
    def of(cls, name: str, rows: Sequence[EvalRow]) -> Curves:
        """Sort rows by seed and step."""
        seeds: dict[int, dict[int, float]] = {}
        for row in sorted(rows, key=lambda row: (row.seed, row.step)):
            seeds.setdefault(row.seed, {})[row.step] = row.return_mean
        return cls(name, seeds)

    @property
    def steps(self) -> list[int]:
        """The steps at which every seed was evaluated."""
        return sorted(set.intersection(*(set(curve) for curve in self.seeds.values())))

    @property
    def returns(self) -> FloatArray:
        """(seeds, steps): all seeds at the steps they share."""
        return np.array([[curve[step] for step in self.steps] for curve in self.seeds.values()])

    @property
    def last_steps(self) -> list[int]:
        """Per seed, the step of its last evaluation."""
        return [max(curve) for curve in self.seeds.values()]

    @property
    def finals(self) -> FloatArray:
        """(seeds,): the last evaluations."""
        return np.array([curve[max(curve)] for curve in self.seeds.values()])

    @property
    def averages(self) -> FloatArray:
        """(seeds,): mean over all evaluations of a seed, the area under its curve."""
        return np.array([np.mean(list(curve.values())) for curve in self.seeds.values()])


def read_curves(path: Path) -> Curves:
    """A task's or a variant's CSV.

    Raises:
        InputError: no such file, other columns, no row, a row twice, or a return of NaN or inf.
    """
    rows = read_eval_csv(path)
    if not rows:
        raise InputError(f"{path}: expected at least one evaluation, got none")
    for row in rows:
        if not np.isfinite(row.return_mean):
            raise InputError(
                f"{path}: seed {row.seed}, step {row.step}: expected a finite return_mean, got"
                f" {row.return_mean}"
            )
    (seed, step), count = Counter((row.seed, row.step) for row in rows).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{path}: expected one row per seed and step, got {count} of seed {seed} at {step};"
            " delete all but one"
        )
    return Curves.of(path.stem, rows)


def read_reference(path: Path) -> FloatArray:
    """The table of others' results, (rows, 5) in order of the steps; no rows where there is none.

    Raises:
        InputError: other columns, no row, or a value that is no finite number.
    """
    if not path.exists():
        return np.empty((0, len(REFERENCE_COLUMNS)))
    expected = f"{path}: expected the columns {','.join(REFERENCE_COLUMNS)} and finite numbers"
    try:
        with path.open(newline="") as file:
            head, *lines = list(csv.reader(file)) or [[]]
        rows = np.array([[float(value) for value in line] for line in lines])
    except ValueError as error:  # no number, or lines of different lengths
        raise InputError(f"{expected}, {error}") from None
    if tuple(head) != REFERENCE_COLUMNS or rows.shape[1:] != (len(head),):
        raise InputError(f"{expected}, got {','.join(head)} and {len(lines)} rows")
    if not np.isfinite(rows).all():
        raise InputError(f"{expected}, got NaN or inf")
    return rows[rows[:, 0].argsort()]


# -- figures -------------------------------------------------------------------------------------


def figure_of_returns(title: str, draw: Callable[[Axes], None]) -> str:
    """A figure of returns over steps as an SVG element, the same bytes for the same data."""
    with matplotlib.rc_context({"svg.hashsalt": "dime", "font.size": 10}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set(xlabel="environment steps", ylabel="return (unscaled)", title=title)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)  # over no line
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _draw_iqm(axes: Axes, curves: Curves, color: str, label: str) -> None:
    """The line over seeds, with its band where there are enough of them."""
    if not curves.steps:
        return
    axes.plot(curves.steps, iqm(curves.returns), color=color, linewidth=2, label=label)
    if len(curves.seeds) >= FEWEST_SEEDS:
        low, high = interval(curves.returns)
        axes.fill_between(curves.steps, low, high, color=color, alpha=0.2, linewidth=0)


def _how_many(curves: Curves) -> str:
    count = len(curves.seeds)
    return f"{count} seed{'s' * (count > 1)}"


def task_figure(curves: Curves, reference: FloatArray) -> str:
    """Every seed, our IQM and, where it is known, what the authors reached, as an SVG element."""

    def draw(axes: Axes) -> None:
        for number, curve in enumerate(curves.seeds.values()):
            label = None if number else "each seed"
            axes.plot(
                list(curve), list(curve.values()), color="C0", alpha=0.4, linewidth=1, label=label
            )
        if len(curves.seeds) < FEWEST_SEEDS:
            label = f"mean of {_how_many(curves)}, too few for an interval"
        else:
            label = f"IQM of {_how_many(curves)}, 95 % interval"
        _draw_iqm(axes, curves, "C0", label)
        shown = reference[reference[:, 0] <= 1.05 * max(curves.last_steps)]
        if len(shown) > 1:  # one point is no line
            step, middle, _, low, high = shown.T
            axes.fill_between(step, low, high, color="C1", alpha=0.15, linewidth=0)
            axes.plot(step, middle, color="C1", label="authors: IQM, lowest to highest")

    return figure_of_returns(curves.name, draw)


def ablation_figure(task: str, variants: Sequence[Curves]) -> str:
    """One line per variant, as an SVG element."""

    def draw(axes: Axes) -> None:
        for number, curves in enumerate(variants):
            mean = "mean of " if len(curves.seeds) < FEWEST_SEEDS else ""
            _draw_iqm(axes, curves, f"C{number}", f"{curves.name} ({mean}{_how_many(curves)})")

    return figure_of_returns(f"{task}: IQM over seeds, 95 % interval", draw)


# -- tables --------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that can be read as text, too."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def estimate(returns: FloatArray) -> str:
    """`IQM [low, high]` of (seeds,); the interval only where there are enough seeds."""
    text = f"{iqm(returns):.1f}"
    if len(returns) < FEWEST_SEEDS:
        return text
    low, high = interval(returns)
    return f"{text} [{low:.1f}, {high:.1f}]"


def outcome(curves: Curves) -> list[str]:
    """The cells under `OUTCOME`."""
    ends = sorted(set(curves.last_steps))
    steps = f"{ends[0]:,}" if len(ends) == 1 else f"{ends[0]:,} to {ends[-1]:,}"
    finals = zip(curves.seeds, curves.finals, strict=True)
    return [steps, estimate(curves.finals), ", ".join(f"{s}: {value:.1f}" for s, value in finals)]


def _against(curves: Curves, reference: FloatArray) -> list[str]:
    """Two cells: the authors' IQM [lowest, highest] at our steps, and where ours lies."""
    before = reference[reference[:, 0] <= min(curves.last_steps)]
    if not len(before):
        return ["-", "-"]
    step, middle, _, low, high = before[-1]
    ours = iqm(curves.finals)
    place = "below" if ours < low else "above" if ours > high else "within"
    return [f"{middle:g} [{low:g}, {high:g}] at {step:,.0f}", place]


def _in_order(paths: Iterable[Path]) -> list[Path]:
    """By name, numbers as numbers: N=2 before N=16, 1e-4 before 1e-3."""

    def key(path: Path) -> list[tuple[float, str]]:
        parts = re.split(r"([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)", path.stem)
        return [(float(p), "") if i % 2 else (0.0, p) for i, p in enumerate(parts)]

    return sorted(sorted(paths), key=key)


# -- the folder ----------------------------------------------------------------------------------


def write_results(folder: Path) -> list[Path]:
    """Write the figures and `summary.md`; gives what was written.

    A `summary.md` that another command made (a sweep's names its failures) stays as it is.

    Raises:
        InputError: nothing to draw, or a file in another format.
    """
    figures: dict[Path, str] = {}
    rows = []
    for path in _in_order(folder.glob("*.csv")):
        curves = read_curves(path)
        reference = read_reference(folder / "reference" / f"{path.name.split('.')[0]}.csv")
        figures[path.with_suffix(".svg")] = task_figure(curves, reference)
        cells = [*outcome(curves), *_against(curves, reference)]
        rows.append([curves.name, str(len(curves.seeds)), *cells])
    parts = [f"`{COMMAND} {shlex.quote(str(folder))}` makes this file and the figures.", LEGEND]
    if rows:
        theirs = ["authors: IQM [lowest, highest]", "ours"]
        parts.append(table(["task", "seeds", *OUTCOME, *theirs], rows))
    for task in _in_order((folder / "ablation").glob("*")):
        variants = [read_curves(path) for path in _in_order(task.glob("*.csv"))]
        if variants:
            figures[task.with_name(f"{task.name}.svg")] = ablation_figure(task.name, variants)
            head = ["variant", "seeds", *OUTCOME[:2], "IQM of the mean over all evaluations"]
            rows = [
                [v.name, str(len(v.seeds)), *outcome(v)[:2], estimate(v.averages)] for v in variants
            ]
            parts += [f"## Ablation: {task.name}", table(head, rows)]
    if not figures:
        raise InputError(
            f"{folder}: expected a run folder (ckpt.pt) or results (*.csv), got neither"
        )
    for path, svg in figures.items():
        write_atomically(path, (svg + "\n").encode())
    summary = folder / SUMMARY
    if summary.exists() and not summary.read_text().startswith(f"`{COMMAND} "):
        return list(figures)
    write_atomically(summary, ("\n\n".join(parts) + "\n").encode())
    return [*figures, summary]
