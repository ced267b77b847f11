"""Learning curves of several seeds, and statistics over them.

The statistics are those of Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice":
the interquartile mean (IQM) and a stratified bootstrap, which resamples the seeds of each task
separately.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dime_robot.evaluation.statistics import bootstrap, iqm
from dime_robot.results.eval_csv import MAX_BYTES, EvalRow, read_eval_csv
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.untrusted_files import read_text

RESAMPLES = 2000  # of the bootstrap
# for an interval: with three seeds it always spans lowest to highest, far from 95 % coverage
MIN_SEEDS = 5
REFERENCE_COLUMNS = ("step", "iqm", "mean", "min", "max")

FloatArray = npt.NDArray[np.float64]


def interval(returns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the 95 % percentile bootstrap interval of the IQM: two arrays of shape (...).

    Whole seeds are resampled, so the points of a curve stay together. The draws are the same
    in every call.

    Args:
        returns: one row per seed, shape (seeds, ...).
    """
    return bootstrap((returns,), iqm, resamples=RESAMPLES, vectorized=True, axis=0)


def spread(returns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the interval if there are `MIN_SEEDS`, else lowest and highest; (seeds, ...).

    Args:
        returns: one row per seed, shape (seeds, ...).
    """
    if len(returns) >= MIN_SEEDS:
        return interval(returns)
    return returns.min(0), returns.max(0)


@dataclass(frozen=True)
class Curves:
    """The evaluations of a task: its seeds' mean returns, unscaled.

    Statistics over all seeds use the steps that all of them have: seeds that ended early or
    failed are included, and are not compared with later steps of other seeds.
    """

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
        """The steps at which every seed was evaluated; may be none."""
        return sorted(set.intersection(*(set(curve) for curve in self.seeds.values())))

    @property
    def returns(self) -> FloatArray:
        """(seeds, steps): all seeds at the steps they share."""
        return np.array([[curve[step] for step in self.steps] for curve in self.seeds.values()])

    @property
    def longest(self) -> int:
        """The last step of any seed."""
        return max(max(curve) for curve in self.seeds.values())

    @property
    def averages(self) -> FloatArray:
        """(seeds,): mean return over the shared steps, the area under the curve by its length."""
        steps, returns = self.steps, self.returns
        if len(steps) == 1:
            return returns[:, 0]
        from scipy import integrate  # a second to load

        area = integrate.trapezoid(returns, steps, axis=1)
        return np.asarray(area / (steps[-1] - steps[0]))


def read_curves(path: Path) -> Curves:
    """Read the CSV of a task or a variant.

    Raises:
        InputError: as `read_eval_csv`; or no row, or a row twice.
    """
    rows = read_eval_csv(path)
    if not rows:
        raise InputError(f"{path}: expected at least one evaluation, got none")
    (seed, step), count = Counter((row.seed, row.step) for row in rows).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{path}: expected one row per seed and step, got {count} of seed {seed} at {step};"
            " delete all but one"
        )
    return Curves.of(path.stem, rows)


def read_reference(path: Path) -> FloatArray:
    """Read a table of the authors' results, (rows, 5) in order of steps; no file: no rows.

    Raises:
        InputError: other columns, no row, or a value that is not finite.
    """
    if not path.exists():
        return np.empty((0, len(REFERENCE_COLUMNS)))
    expected = f"{path}: expected the columns {','.join(REFERENCE_COLUMNS)} and finite numbers"
    text = read_text(path, "a table of others' results", MAX_BYTES).removeprefix("\ufeff")
    try:
        head, *lines = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
        rows = np.array([[float(value) for value in line] for line in lines])
    except (ValueError, csv.Error) as error:  # not a number, or lines of different lengths
        raise InputError(f"{expected}, {error}") from None
    if tuple(head) != REFERENCE_COLUMNS or rows.shape[1:] != (len(head),):
        raise InputError(f"{expected}, got {','.join(head)} and {len(lines)} rows")
    if not np.isfinite(rows).all():
        raise InputError(f"{expected}, got NaN or inf")
    return rows[rows[:, 0].argsort()]
