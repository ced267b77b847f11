"""What a search found, as a CSV and as a page: one row per sample."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dime_robot.results.eval_csv import EvalRow
from dime_robot.results.tables import text_table
from dime_robot.runtime.io.regular_files import write_atomically

SAMPLES, PAGE = "samples.csv", "summary.md"
_RESULT = ("step", "return_mean", "return_std", "result")
FINISHED = "finished"
_LEGEND = (
    "Returns are unscaled and of each sample's last evaluation. The best sample is the one with the"
    " highest return among those that finished, or among all if none did."
)


@dataclass(frozen=True)
class SampleResult:
    """One sample.

    Attributes:
        settings: that were drawn.
        last: its last evaluation; None: there is none.
        result: `finished`, or why not.
        command: words that train it again, without a folder.
    """

    settings: dict[str, Any]
    last: EvalRow | None
    result: str
    command: Sequence[str]


def best_of(results: Sequence[SampleResult]) -> int | None:
    """Return the position of the best sample; None: none was evaluated."""
    ranks = [
        (each.result == FINISHED, each.last.return_mean, -position)
        for position, each in enumerate(results)
        if each.last is not None
    ]
    return -max(ranks)[2] if ranks else None


def write_samples(out: Path, results: Sequence[SampleResult], command: str) -> str:
    """Write `samples.csv` and `summary.md`; return the table and the best sample's command.

    Args:
        out: folder of the search.
        results: of all samples, in the order of their numbers.
        command: that makes these files.
    """
    names = list(results[0].settings)
    rows = [
        [number, *(str(each.settings[name]) for name in names), *_cells(each)]
        for number, each in enumerate(results, 1)
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample", *names, *_RESULT])
    writer.writerows(rows)
    write_atomically(out / SAMPLES, text.getvalue().encode())
    page = text_table(["sample", *names, "last step", "return", "±", "result"], rows)
    if (best := best_of(results)) is not None:
        again = shlex.join(results[best].command)
        page += f"\n\nThe best is sample {best + 1}; to train it again:\n\n    {again}"
    whole = f"`{command}` makes this file and {SAMPLES}.\n\n{_LEGEND}\n\n{page}\n"
    write_atomically(out / PAGE, whole.encode())
    return page


def _cells(sample: SampleResult) -> list[Any]:
    if (last := sample.last) is None:
        return ["-", "-", "-", sample.result]
    return [last.step, f"{last.return_mean:.6g}", f"{last.return_std:.6g}", sample.result]
