"""`eval.csv`: the evaluations of a run, a row each."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import RUN_AGAIN, write_atomically
from dime_robot.runtime.io.untrusted_files import read_text


@dataclass(frozen=True)
class EvalRow:
    """One line of `eval.csv`; returns are unscaled."""

    step: int
    seed: int
    return_mean: float
    return_std: float
    episodes: int
    wall_seconds: float


MAX_BYTES = 64 * 2**20  # of a table of evaluations: a million rows
COLUMNS = tuple(EvalRow.__dataclass_fields__)


def read_eval_csv(path: Path) -> list[EvalRow]:
    """The rows of an `eval.csv`.

    Raises:
        InputError: no such file, other columns, or a row that cannot be right.
    """
    text = read_text(path, "the evaluations of a run (eval.csv)", MAX_BYTES).removeprefix("\ufeff")
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise InputError(
                f"{path}: expected the columns {','.join(COLUMNS)}, got"
                f" {','.join(reader.fieldnames or ())[:200]}"
            )
        return [_row(path, row) for row in reader]
    except (TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: expected rows of six numbers, got: {str(error)[:200]}") from None


def _row(path: Path, words: dict[str, str]) -> EvalRow:
    row = EvalRow(
        int(words["step"]),
        int(words["seed"]),
        float(words["return_mean"]),
        float(words["return_std"]),
        int(words["episodes"]),
        float(words["wall_seconds"]),
    )
    if len(words) > len(COLUMNS):
        raise ValueError(f"{len(words)} cells or more at step {row.step}")
    for name, value, least in (
        ("step", row.step, 0),
        ("seed", row.seed, 0),
        ("episodes", row.episodes, 1),
    ):
        if value < least:
            raise InputError(f"{path}: expected {name} to be at least {least}, got {value}"[:300])
        if value >= 2**63:
            raise InputError(f"{path}: expected {name} to be below 2^63, got {value!s:.30}")
    for name in ("return_mean", "return_std", "wall_seconds"):
        number = getattr(row, name)
        if not math.isfinite(number):
            raise InputError(
                f"{path}: seed {row.seed}, step {row.step}: expected a finite {name}, got {number}"
            )
    return row


def write_eval_csv(path: Path, rows: Sequence[EvalRow]) -> None:
    """Replace the file, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(
            [
                row.step,
                row.seed,
                f"{row.return_mean:.6g}",
                f"{row.return_std:.6g}",
                row.episodes,
                f"{row.wall_seconds:.1f}",
            ]
        )
    write_atomically(path, text.getvalue().encode(), RUN_AGAIN)
