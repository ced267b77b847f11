"""Ages and delays: exact numbers, a window that forgets, and no growth."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.telemetry.latency import (
    MAX_WINDOW,
    TIMES,
    LatencyDistribution,
    LatencyRecorder,
    LatencySample,
    read_distribution,
)


def sample(i: int, value: float, missed: bool = False) -> LatencySample:
    times = {name: value * (k + 1) for k, name in enumerate(TIMES)}
    return LatencySample(time=float(i), missed=float(missed), **times)


def test_percentiles_are_numpys_of_each_quantity() -> None:
    values = np.random.default_rng(0).exponential(1e-3, 437)
    recorder = LatencyRecorder(100.0)
    for i, value in enumerate(values):
        recorder.add(sample(i, value))
    got = recorder.percentiles()
    assert tuple(got) == TIMES
    for k, name in enumerate(TIMES):
        expected = np.percentile(values * (k + 1), [50, 99, 100])
        assert [got[name].p50, got[name].p99, got[name].max] == pytest.approx(expected)
    assert (recorder.steps, recorder.misses) == (437, 0)


def test_nothing_measured_is_no_number() -> None:
    assert LatencyRecorder(50.0).percentiles() == {}


@pytest.mark.parametrize(("rate", "capacity"), [(100.0, 1000), (1.0, 50), (1e4, MAX_WINDOW)])
def test_the_window_forgets_a_slow_start(rate: float, capacity: int) -> None:
    recorder = LatencyRecorder(rate)
    for i in range(capacity + 1):
        recorder.add(sample(i, 1.0 if i == 0 else 0.001, missed=i == 0))
        if i == capacity - 1:
            assert recorder.percentiles()["inference"].max == pytest.approx(3.0)
    assert len(recorder.window()) == capacity
    assert recorder.percentiles()["inference"].max == pytest.approx(0.003)
    assert sorted(recorder.window()[:, 0]) == list(range(1, capacity + 1))
    assert (recorder.steps, recorder.misses) == (capacity + 1, 1)  # the counts do not forget


def test_measuring_takes_no_memory() -> None:
    recorder, one = LatencyRecorder(100.0), sample(0, 0.001, missed=True)
    recorder.add(one)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20_000):
        recorder.add(one)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 2_000
    assert peak - before < 4_000


# ---- what training can draw from

FACTS: dict[str, Any] = {
    "quantity": "end_to_end", "policy_digest": "f" * 64, "rate": 50.0, "cpu": "a CPU"
}  # fmt: skip


def test_a_distribution_survives_its_file_and_draws_what_was_measured(tmp_path: Path) -> None:
    values = np.random.default_rng(1).gamma(2.0, 1e-3, 5000)
    made = LatencyDistribution.of(values, **FACTS)
    path = tmp_path / "latency.json"
    path.write_text(made.model_dump_json())
    assert read_distribution(path) == made
    assert made.samples == 5000
    assert (made.quantiles[0], made.quantiles[-1]) == (values.min(), values.max())
    u = (np.arange(5000) + 0.5) / 5000
    drawn = np.interp(u, np.linspace(0, 1, 101), made.quantiles)
    assert np.quantile(drawn, [0.1, 0.5, 0.9]) == pytest.approx(
        np.quantile(values, [0.1, 0.5, 0.9]), rel=0.01
    )


def bent(**changes: Any) -> bytes:
    made = LatencyDistribution.of(np.linspace(0, 1, 7), **FACTS)
    return made.model_copy(update=changes).model_dump_json().encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "Invalid JSON"),
        (b"[1]", "object"),
        (bent(rate=0.0), "rate"),
        (bent(samples=0), "samples"),
        (bent(quantiles=(0.0,) * 100), "quantiles"),
        (bent(quantiles=(*(0.0,) * 50, 0.1, *(0.0,) * 50)), "never fall"),
        (bent(quantiles=(*(0.0,) * 100, math.inf)), "quantiles.100"),
        (b"\xff\xfe\x00\x01", "latency.json: "),
    ],
)
def test_a_file_that_is_none_is_one_sentence(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "latency.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_distribution(path)
    assert "\n" not in str(caught.value)
