"""What latency_monitor leaves behind: a file of samples and facts, read and summarised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.io.errors import InputError, first_problem
from dime_robot.runtime.io.npz_files import MAX_META, parse_text, read_npz, write_npz
from dime_robot.runtime.io.regular_files import write_atomically
from dime_robot.runtime.telemetry.latency import TIMES, LatencyDistribution, LatencySample

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
MAX_NUMBERS = 20_000_000  # in the samples of one record: 160 MB, 47 minutes at 1 kHz
MAX_FAULTS = 1_000  # in one record
LARGEST_TIME = 1e12  # of any field [s]
Samples = npt.NDArray[np.float64]


class SeenFault(StrictModel):
    """A hold, an error or a silence that appeared on /diagnostics."""

    time: float  # on the clock of the samples [s]
    text: str  # the status' name and message


class RecordFacts(StrictModel):
    """What the samples alone do not say."""

    fields: tuple[str, ...]
    node: str = "unknown"  # fully qualified name; records of earlier versions have none
    topic: str
    policy: str
    policy_digest: str
    robot: str
    cpu: str
    rate: float = Field(ge=0, le=1e9, description="measured control [Hz]; 0: too little to tell")
    lost: int = Field(ge=0, description="samples that were published and did not arrive")
    cut_short: bool  # the memory for samples was full before the end
    faults: tuple[SeenFault, ...] = Field(max_length=MAX_FAULTS)


@dataclass(frozen=True)
class LatencyRecord:
    """A recorded run. `samples` has shape (n, fields of LatencySample), n > 0."""

    samples: Samples
    facts: RecordFacts

    def column(self, name: str) -> Samples:
        """One field of all samples. Shape (n,)."""
        return self.samples[:, LatencySample._fields.index(name)]

    def finite(self, name: str) -> Samples:
        """The same without what is infinite: the age before a first reading."""
        values = self.column(name)
        return values[np.isfinite(values)]

    @property
    def acted(self) -> npt.NDArray[np.bool_]:
        """In which steps the policy was asked: none while held, damped or stopped. Shape (n,)."""
        return self.column("inference") > 0

    def acting(self, name: str) -> Samples:
        """The finite values of a field in those steps: an age that nobody acted on is a fault."""
        values = self.column(name)[self.acted]
        return values[np.isfinite(values)]

    @property
    def missed(self) -> npt.NDArray[np.bool_]:
        """Which steps missed their deadline. Shape (n,)."""
        return self.column("missed") > 0.5

    def summary(self) -> dict[str, dict[str, float]]:
        """PERCENTILES of each of TIMES over the steps in which the policy acted [s]."""
        found = {}
        for name in TIMES:
            values = self.acting(name)
            if len(values):
                numbers = np.percentile(values, list(PERCENTILES.values())).tolist()
                found[name] = dict(zip(PERCENTILES, numbers, strict=True))
        return found


def measured_rate(samples: Samples) -> float:
    """Commands a second by the median period [Hz], four digits; 0 where it cannot be told."""
    periods = samples[:, LatencySample._fields.index("period")]
    periods = periods[np.isfinite(periods)]
    median = float(np.median(periods)) if len(periods) else 0.0
    return float(f"{1 / median:.4g}") if median > 0 else 0.0


def lost_samples(samples: Samples) -> int:
    """How many steps between the first and the last sample are not there.

    Each sample holds the time since the previous command: what lies between that command and the
    previous sample was lost. A policy's first step after an activation has exactly the nominal
    period instead, which a measured one never is; the pause before it is no loss.
    """
    rate = measured_rate(samples)
    if not rate or len(samples) < 2:
        return 0
    times = samples[:, LatencySample._fields.index("time")]
    periods = samples[1:, LatencySample._fields.index("period")]
    gaps = np.diff(times) - periods
    with np.errstate(divide="ignore", invalid="ignore"):
        nominal = 1 / np.round(1 / periods, 3) == periods
        missing = np.round(gaps * rate)
    counted = np.isfinite(missing) & (missing > 0) & ~nominal
    return int(missing[counted].sum())


def longest_row(missed: npt.NDArray[np.bool_]) -> int:
    """The largest number of True in a row.

    Args:
        missed: whether each step missed its deadline, shape (n,).
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([False], missed, [False])).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def distributions(record: LatencyRecord) -> dict[str, LatencyDistribution]:
    """What training draws from, by file name; empty where the rate cannot be told.

    Only steps in which the policy acted count: a held command comes from no observation.
    The observation's age is the one by its stamp, unless the robot's clock is ahead of ours.
    """
    stamped = record.acting("age_by_stamp")
    usable = len(stamped) > 0 and float(np.median(stamped)) >= 0
    chosen = {
        "observation_latency.json": "age_by_stamp" if usable else "age_by_receipt",
        "end_to_end_latency.json": "end_to_end",
    }
    facts = record.facts
    return {
        file: LatencyDistribution.of(
            record.acting(quantity),
            quantity=quantity,
            policy_digest=facts.policy_digest,
            rate=facts.rate,
            cpu=facts.cpu,
        )
        for file, quantity in chosen.items()
        if facts.rate and len(record.acting(quantity))
    }


def write_distribution(distribution: LatencyDistribution, path: Path) -> Path:
    """Write a file for `read_distribution`.

    Raises:
        InputError: it cannot be written.
    """
    content = (distribution.model_dump_json(indent=1) + "\n").encode()
    write_atomically(path, content)
    return path


def write_record(record: LatencyRecord, path: Path) -> Path:
    """Write a record as `.npz`: `samples` (float64) and `meta` (RecordFacts as JSON).

    Raises:
        InputError: it cannot be written.
    """
    meta = np.array(record.facts.model_dump_json())
    write_npz(path, {"samples": record.samples, "meta": meta})
    return path


def read_record(path: Path) -> LatencyRecord:
    """Read what `write_record` wrote.

    Raises:
        InputError: it is none, or from another version.
    """
    expected = f"{path}: expected a latency.npz that latency_monitor wrote"
    arrays = read_npz(
        path,
        {"samples": 8 * MAX_NUMBERS, "meta": MAX_META},
        "a latency.npz that latency_monitor wrote",
    )
    samples = arrays["samples"]
    try:
        facts = RecordFacts.model_validate(parse_text(arrays["meta"]))
    except ValidationError as error:
        raise InputError(f"{expected}, {first_problem(error)}") from None
    except ValueError as error:
        raise InputError(f"{expected}, {error!s:.300}") from None
    shape = (len(samples), len(facts.fields)) if samples.ndim else None
    if facts.fields != LatencySample._fields or samples.shape != shape:
        raise InputError(
            f"{expected} with the fields {', '.join(LatencySample._fields)}, got"
            f" {', '.join(facts.fields):.200} for an array of shape {samples.shape}"
        )
    if samples.dtype != np.float64:
        raise InputError(f"{expected} of float64, got {samples.dtype!s:.60}")
    if not len(samples):
        raise InputError(f"{expected}, it holds no sample")
    _require_times(samples, expected)
    return LatencyRecord(samples, facts)


def _require_times(samples: Samples, expected: str) -> None:
    """Refuse what no step can have come to; an age before the first reading is infinite."""
    times = samples[:, LatencySample._fields.index("time")]
    missed = samples[:, LatencySample._fields.index("missed")]
    for wrong, what in (
        (not np.isfinite(times).all(), "a time that is not finite"),
        ((np.abs(samples[np.isfinite(samples)]) > LARGEST_TIME).any(), "a time of no clock"),
        (((missed != 0) & (missed != 1)).any(), "a field missed that is neither 0 nor 1"),
    ):
        if wrong:
            raise InputError(f"{expected}, it holds {what}")
