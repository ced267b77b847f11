"""`eval.csv`: the evaluations of a run, one row each."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
MIN = {"step": 0, "seed": 0, "episodes": 1}  # of the integers; the others are floats


def read_eval_csv(path: Path) -> list[EvalRow]:
    """Read the rows of an `eval.csv`.

    Raises:
        InputError: no such file, other columns, or an invalid row.
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
    numbers: dict[str, Any] = {
        name: (int if name in MIN else float)(words[name]) for name in COLUMNS
    }
    row = EvalRow(**numbers)
    if len(words) > len(COLUMNS):
        raise ValueError(f"{len(words)} cells or more at step {row.step}")
    for name, number in numbers.items():
        if name not in MIN and not math.isfinite(number):
            raise InputError(
                f"{path}: seed {row.seed}, step {row.step}: expected a finite {name}, got {number}"
            )
        if name in MIN and number < MIN[name]:
            raise InputError(
                f"{path}: expected {name} to be at least {MIN[name]}, got {number}"[:300]
            )
        if name in MIN and number >= 2**63:
            raise InputError(f"{path}: expected {name} to be below 2^63, got {number!s:.30}")
    return row


def write_eval_csv(path: Path, rows: Sequence[EvalRow]) -> None:
    """Replace the file, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for r in rows:
        mean, std, seconds = f"{r.return_mean:.6g}", f"{r.return_std:.6g}", f"{r.wall_seconds:.1f}"
        writer.writerow([r.step, r.seed, mean, std, r.episodes, seconds])
    write_atomically(path, text.getvalue().encode(), RUN_AGAIN)
