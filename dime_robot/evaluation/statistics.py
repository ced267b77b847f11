"""Statistics of returns. scipy, which takes a second to load, is loaded where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def iqm(values: npt.ArrayLike, axis: int = 0) -> FloatArray:
    """Return the interquartile mean along an axis; of three values or fewer, the mean.

    Args:
        values: numbers, shape (..., K, ...) with K of them along `axis`.
        axis: axis of the mean.
    """
    from scipy import stats

    return np.asarray(stats.trim_mean(np.asarray(values, np.float64), 0.25, axis=axis))


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean, with the same draws in every call.

    Args:
        values: the sample.
        confidence: level of the interval [1].
    """
    mean = float(np.mean(values))
    if np.ptp(values) == 0:  # nothing to resample
        return mean, mean
    low, high = bootstrap((np.asarray(values),), np.mean, confidence)
    return float(low), float(high)


def bootstrap(
    samples: Any,
    statistic: Callable[..., Any],
    confidence: float = 0.95,
    resamples: int = 9999,
    **options: Any,
) -> tuple[FloatArray, FloatArray]:
    """Return both ends of scipy's percentile bootstrap interval, from a fixed generator.

    Args:
        samples: as scipy.stats.bootstrap takes them.
        statistic: function of a resample.
        confidence: level of the interval [1].
        resamples: number of resamples.
        **options: other options of scipy's function.
    """
    from scipy import stats

    result = stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
        **options,
    )
    low, high = result.confidence_interval
    return np.asarray(low), np.asarray(high)
