"""The file that latency_monitor writes: samples and a header, read and summarised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from dime_robot.runtime.contract.names import MAX_NAME
from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.control.phases import Phase, is_policy
from dime_robot.runtime.io.errors import InputError, first_problem
from dime_robot.runtime.io.npz_files import MAX_META, parse_text, read_npz, write_npz
from dime_robot.runtime.io.regular_files import write_atomically
from dime_robot.runtime.telemetry.latency import TIMES, LatencyDistribution, LatencySample

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
MAX_NUMBERS = 20_000_000  # in the samples of one record: 160 MB, 47 minutes at 1 kHz
MAX_FAULTS = 1_000  # in one record
MAX_PHASES = 1_000  # the same
PHASE_COLUMNS = ("phase", "steps", "missed", "inference p50 [ms]", "p99 [ms]")
UNKNOWN_PHASE = "unknown"  # of steps before the first one
MAX_TIME = 1e12  # of any field [s]
Samples = npt.NDArray[np.float64]


def column(samples: Samples, name: str) -> Samples:
    """Return one field of samples of shape (n, fields of LatencySample). Shape (n,)."""
    return samples[:, LatencySample._fields.index(name)]


class SeenFault(StrictModel):
    """A hold, an error or a silence that appeared on /diagnostics."""

    time: float  # on the clock of the samples [s]
    text: str  # the status' name and message


class SeenPhase(StrictModel):
    """What began to command the robot: a phase, and a policy of several."""

    time: float  # of its first step, on the clock of the samples [s]
    text: str = Field(max_length=MAX_NAME)  # see `commander_of`


class RecordHeader(StrictModel):
    """Metadata of the samples."""

    fields: tuple[str, ...]
    node: str = "unknown"  # fully qualified name; records of earlier versions have none
    topic: str
    policy: str
    policy_digest: str
    robot: str
    cpu: str
    rate: float = Field(ge=0, le=1e9, description="measured control [Hz]; 0: not known")
    lost: int = Field(ge=0, description="samples that were published and did not arrive")
    cut_short: bool  # the memory for samples was full before the end
    faults: tuple[SeenFault, ...] = Field(max_length=MAX_FAULTS)
    phases: tuple[SeenPhase, ...] = Field((), max_length=MAX_PHASES)  # earlier records have none


@dataclass(frozen=True)
class LatencyRecord:
    """A recorded run. `samples` has shape (n, fields of LatencySample), n > 0."""

    samples: Samples
    header: RecordHeader

    def column(self, name: str) -> Samples:
        """Return one field of all samples. Shape (n,)."""
        return column(self.samples, name)

    @property
    def time_range(self) -> tuple[float, ...]:
        """Smallest and largest finite time [s]; empty: there is none."""
        times = self.column("time")
        times = times[np.isfinite(times)]
        return (float(times.min()), float(times.max())) if len(times) else ()

    @property
    def acted(self) -> npt.NDArray[np.bool_]:
        """Steps in which the policy ran: not while held, damped or stopped. Shape (n,)."""
        return self.column("inference") > 0

    def acting(self, name: str) -> Samples:
        """Return the finite values of a field in the steps in which the policy ran."""
        values = self.column(name)[self.acted]
        return values[np.isfinite(values)]  # the age before a first reading is infinite

    @property
    def missed(self) -> npt.NDArray[np.bool_]:
        """Steps that missed their deadline. Shape (n,)."""
        return self.column("missed") > 0.5

    def summary(self) -> dict[str, dict[str, float]]:
        """Return PERCENTILES of each of TIMES over the steps in which the policy ran [s]."""
        values = {name: self.acting(name) for name in TIMES}
        return {
            name: dict(zip(PERCENTILES, np.percentile(found, [*PERCENTILES.values()]), strict=True))
            for name, found in values.items()
            if len(found)
        }

    @property
    def phases(self) -> tuple[list[str], npt.NDArray[np.intp]]:
        """Return all phases, with the policy of several, and the index of each step's. Shape (n,).

        No phase: the header has none, or the only one is that of a single policy.
        """
        marks = sorted(self.header.phases, key=lambda mark: mark.time)
        if {mark.text for mark in marks} <= {Phase.POLICY.value}:
            return [], np.full(len(self.samples), -1)
        texts = [UNKNOWN_PHASE, *(mark.text for mark in marks)]
        names = list(dict.fromkeys(texts))
        starts = [mark.time for mark in marks]
        places = np.searchsorted(starts, self.column("time"), side="right")
        return names, np.array([names.index(text) for text in texts])[places]

    def phase_rows(self) -> list[tuple[str, ...]]:
        """Return the cells below PHASE_COLUMNS, one row for each phase."""
        (names, places), inference, rows = self.phases, self.column("inference"), []
        for place, name in enumerate(names):
            steps = places == place
            if name == UNKNOWN_PHASE and not steps.any():
                continue
            found = inference[steps & self.acted & np.isfinite(inference)]
            times = np.percentile(1e3 * found, (50, 99)) if len(found) else ()
            counts = (int(steps.sum()), int(self.missed[steps].sum()))
            cells = [f"{count:,}" for count in counts] + [f"{time:.3f}" for time in times]
            rows.append((name, *cells, *["-"] * (len(PHASE_COLUMNS) - 1 - len(cells))))
        return rows

    def _without_policy(self) -> str:
        """Return how many steps had no policy, and why, as a phrase."""
        names, places = self.phases
        others = [
            i for i, name in enumerate(names) if name != UNKNOWN_PHASE and not is_policy(name)
        ]
        total, other = int((~self.acted).sum()), int(np.isin(places[~self.acted], others).sum())
        held = "held, damped or stopped"
        why = f"{other:,} in other phases, {total - other:,} {held}" if other else held
        return f"{total:,} steps ({why}), in neither percentiles nor distributions"

    def about(self) -> list[tuple[str, str]]:
        """Describe the record, as pairs of a name and its text."""
        header, missed, steps = self.header, self.missed, len(self.samples)
        full = ", the memory was full before the end" if header.cut_short else ""
        return [
            ("policy", f"{header.policy} {header.policy_digest}"),
            ("robot", header.robot),
            ("machine", header.cpu),
            ("node", header.node),
            ("topic", header.topic),
            ("duration", f"{np.ptp(self.time_range or (0.0, 0.0)):,.1f} s"),
            ("rate", f"{header.rate:g} Hz, by the median period" if header.rate else "unknown"),
            ("steps", f"{steps:,} recorded, {header.lost:,} lost in transport{full}"),
            ("without the policy", self._without_policy()),
            (
                "missed deadlines",
                f"{int(missed.sum()):,} of {steps:,} ({missed.mean():.3%}), at most"
                f" {longest_streak(missed):,} in a row",
            ),
            ("skipped periods", f"{skipped_periods(self.samples):,}, without a step"),
        ]


def latency_table(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Format the latencies as lines for a console.

    Args:
        rows: one of TIMES -> its p50, p99 and max [ms].
    """
    columns = ("p50", "p99", "max")
    head = f"{'[ms]':24s}" + "".join(f"{name:>9s}" for name in columns)
    return [head] + [
        f"  {name:22s}" + "".join(f"{row[column]:9.3f}" for column in columns)
        for name, row in rows.items()
    ]


def phase_table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Format the rows of `LatencyRecord.phase_rows` as lines for a console; none: no line."""
    widths = [len(title) + 2 for title in PHASE_COLUMNS[1:]]
    return (
        [
            f"{name:24.60s}" + "".join(f"{c:>{w}s}" for c, w in zip(cells, widths, strict=True))
            for name, *cells in (PHASE_COLUMNS, *rows)
        ]
        if rows
        else []
    )


def measured_rate(samples: Samples) -> float:
    """Return commands per second by the median period [Hz], four digits; 0: unknown."""
    periods = column(samples, "period")
    periods = periods[np.isfinite(periods)]
    median = float(np.median(periods)) if len(periods) else 0.0
    return float(f"{1 / median:.4g}") if median > 0 else 0.0


def lost_samples(samples: Samples) -> int:
    """Return how many steps between the first and the last sample are missing.

    Each sample has the time since the previous command: steps between that command and the
    previous sample were lost. A policy's first step after an activation has exactly the nominal
    period instead, which a measured period never is; the pause before it is not a loss.
    """
    rate = measured_rate(samples)
    if not rate or len(samples) < 2:
        return 0
    periods = column(samples, "period")[1:]
    gaps = np.diff(column(samples, "time")) - periods
    with np.errstate(divide="ignore", invalid="ignore"):
        nominal = 1 / np.round(1 / periods, 3) == periods
        missing = np.round(gaps * rate)
    counted = np.isfinite(missing) & (missing > 0) & ~nominal
    return int(missing[counted].sum())


def skipped_periods(samples: Samples) -> int:
    """Return how many periods passed without a step, by the time between two commands."""
    periods = column(samples, "period") * measured_rate(samples)
    return int(np.clip(np.round(periods[np.isfinite(periods)]) - 1, 0, None).sum())


def longest_streak(missed: npt.NDArray[np.bool_]) -> int:
    """Return the largest number of consecutive True values.

    Args:
        missed: whether each step missed its deadline, shape (n,).
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([False], missed, [False])).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def distributions(record: LatencyRecord) -> dict[str, LatencyDistribution]:
    """Return the distributions for training, by file name; empty: the rate is unknown.

    Only steps in which the policy ran count: a held command is not computed from an observation.
    The observation's age is the one by its stamp, unless the robot's clock is ahead of this one.
    """
    stamped, header = record.acting("age_by_stamp"), record.header
    usable = len(stamped) > 0 and float(np.median(stamped)) >= 0
    quantities = {
        "observation_latency.json": "age_by_stamp" if usable else "age_by_receipt",
        "end_to_end_latency.json": "end_to_end",
    }
    about = {
        "policy_digest": header.policy_digest[:MAX_NAME],
        "rate": header.rate,
        "cpu": header.cpu,
    }
    return {
        file: LatencyDistribution.of(record.acting(quantity), quantity=quantity, **about)
        for file, quantity in quantities.items()
        if header.rate and len(record.acting(quantity))
    }


def write_distribution(distribution: LatencyDistribution, path: Path) -> Path:
    """Write a file for `read_distribution`.

    Raises:
        InputError: it cannot be written.
    """
    write_atomically(path, (distribution.model_dump_json(indent=1) + "\n").encode())
    return path


def write_record(record: LatencyRecord, path: Path) -> Path:
    """Write a record as `.npz`: `samples` (float64) and `meta` (RecordHeader as JSON).

    Raises:
        InputError: it cannot be written.
    """
    meta = np.array(record.header.model_dump_json())
    write_npz(path, {"samples": record.samples, "meta": meta})
    return path


def read_record(path: Path) -> LatencyRecord:
    """Read a file of `write_record`.

    Raises:
        InputError: another file, or one of another version.
    """
    what = "a latency.npz that latency_monitor wrote"
    arrays = read_npz(path, {"samples": 8 * MAX_NUMBERS, "meta": MAX_META}, what)
    samples = arrays["samples"]
    try:
        header = RecordHeader.model_validate(parse_text(arrays["meta"]))
        if problem := _problem(samples, header):
            raise ValueError(problem)
    except ValueError as error:  # pydantic's ValidationError too
        text = first_problem(error) if isinstance(error, ValidationError) else f"{error!s:.300}"
        raise InputError(f"{path}: expected {what}, {text}") from None
    return LatencyRecord(samples, header)


def _problem(samples: Samples, header: RecordHeader) -> str:
    """Return what is invalid in a record, as a phrase; empty: nothing."""
    shape = (len(samples), len(header.fields)) if samples.ndim else None
    if header.fields != LatencySample._fields or samples.shape != shape:
        return (
            f"with the fields {', '.join(LatencySample._fields)}, got"
            f" {', '.join(header.fields):.200} for an array of shape {samples.shape}"
        )
    if samples.dtype != np.float64:
        return f"of float64, got {samples.dtype!s:.60}"
    if not len(samples):
        return "it holds no sample"
    if not np.isfinite(column(samples, "time")).all():
        return "it holds a time that is not finite"
    if (np.abs(samples[np.isfinite(samples)]) > MAX_TIME).any():  # an age may be infinite
        return "it holds a time of no clock"
    if not np.isin(column(samples, "missed"), (0, 1)).all():
        return "it holds a field missed that is neither 0 nor 1"
    return ""
