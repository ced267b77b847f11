"""Age, latency and jitter, measured at every step without allocation.

Percentiles are exact over the last `WINDOW` seconds, so a slow start does not count for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from dime_robot.runtime.contract.names import Name
from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.contract.units import MAX_RATE
from dime_robot.runtime.io.errors import InputError, first_problem
from dime_robot.runtime.io.untrusted_files import read_text

WINDOW = 10.0  # [s]
MAX_BYTES = 64 * 1024  # of a file with a distribution, which has 3 kB
MAX_WINDOW = 5_000  # samples: sorting them takes well under a millisecond


class LatencySample(NamedTuple):
    """One step; all but `time` and `missed` in seconds."""

    time: float  # steady clock at publishing
    age_by_stamp: float  # of the observation at publishing, by its stamp; clocks may differ
    age_by_receipt: float  # the same, by its arrival in this process
    inference: float  # the policy alone
    # from the arrival of the observation (with a timer: from the deadline) to publishing
    end_to_end: float
    period: float  # since the previous command was published
    missed: float  # 1 where that took longer than a period


SAMPLE_LABEL = ",".join(LatencySample._fields)  # layout label on ~/latency
TIMES = ("age_by_stamp", "age_by_receipt", "inference", "end_to_end", "period")


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of one quantity over the window [s]."""

    p50: float
    p99: float
    max: float


class LatencyRecorder:
    """A ring buffer of samples.

    Args:
        rate: control rate [Hz].
    """

    def __init__(self, rate: float) -> None:
        capacity = min(MAX_WINDOW, max(50, round(WINDOW * rate)))
        self._ring: npt.NDArray[np.float64] = np.zeros((capacity, len(LatencySample._fields)))
        self.steps = 0
        self.misses = 0
        self.miss_streak = 0
        self.longest_miss_streak = 0

    def add(self, sample: LatencySample) -> None:
        """Add the sample of a step."""
        self._ring[self.steps % len(self._ring)] = sample
        self.steps += 1
        if sample.missed:
            self.misses += 1
            self.miss_streak += 1
            self.longest_miss_streak = max(self.longest_miss_streak, self.miss_streak)
        else:
            self.miss_streak = 0

    def window(self) -> npt.NDArray[np.float64]:
        """Return the last samples, unordered, shape (n, fields of LatencySample)."""
        return self._ring[: min(self.steps, len(self._ring))]

    def jitter(self, period: float) -> Percentiles | None:
        """Return the percentiles of |period - nominal period| over the window [s].

        Args:
            period: the nominal one [s].
        """
        if not self.steps:
            return None
        off = np.abs(self.window()[:, LatencySample._fields.index("period")] - period)
        return Percentiles(*map(float, np.percentile(off, (50, 99, 100))))

    def percentiles(self) -> dict[str, Percentiles]:
        """Return the percentiles of each of TIMES; empty before the first step."""
        return percentiles_of(self.window())


def percentiles_of(samples: npt.NDArray[np.float64]) -> dict[str, Percentiles]:
    """Return the percentiles of each of TIMES.

    Args:
        samples: shape (n, fields of LatencySample).
    """
    if not len(samples):
        return {}
    columns = [LatencySample._fields.index(name) for name in TIMES]
    p50, p99, largest = np.percentile(samples[:, columns], (50, 99, 100), axis=0)
    return {
        name: Percentiles(float(p50[i]), float(p99[i]), float(largest[i]))
        for i, name in enumerate(TIMES)
    }


class LatencyDistribution(StrictModel):
    """A measured latency, from which training can draw.

    `quantiles[i]` is the i-th of 100 equal steps from the smallest to the largest value [s].
    Draw with `np.interp(u, np.linspace(0, 1, 101), quantiles)` for u uniform in [0, 1).
    """

    quantity: Name
    policy_digest: Name
    rate: float = Field(gt=0, le=MAX_RATE)
    """Control rate [Hz]."""
    samples: int = Field(gt=0)
    cpu: Name
    quantiles: tuple[float, ...] = Field(min_length=101, max_length=101)

    @model_validator(mode="after")
    def _quantiles_rise(self) -> LatencyDistribution:
        if any(b < a for a, b in zip(self.quantiles, self.quantiles[1:], strict=False)):
            raise ValueError("quantiles: expected numbers that never fall")
        return self

    @classmethod
    def of(cls, values: npt.NDArray[np.float64], **metadata: object) -> LatencyDistribution:
        """Summarise measured values [s]; `metadata`: the other fields.

        Args:
            values: what was measured, shape (n,) [s].
            **metadata: the other fields.
        """
        quantiles = np.quantile(values, np.linspace(0, 1, 101)).tolist()
        return cls.model_validate({**metadata, "samples": len(values), "quantiles": quantiles})


def read_distribution(path: Path) -> LatencyDistribution:
    """Read a file that `latency_monitor` wrote.

    Raises:
        InputError: no such file, or it is invalid.
    """
    text = read_text(path, "a latency distribution", MAX_BYTES)
    try:
        return LatencyDistribution.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None
