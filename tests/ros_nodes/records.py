"""Made-up records of runs, with known numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from dime_robot.runtime.telemetry.latency import LatencySample
from ros_nodes.latency_record import LatencyRecord, RecordHeader, Samples, measured_rate

FIELDS = LatencySample._fields
RATE = 100.0  # [Hz]


def some_samples(count: int, rate: float = RATE) -> Samples:
    random = np.random.default_rng(0)
    samples = random.gamma(4.0, 0.1e-3, (count, len(FIELDS)))
    samples[:, FIELDS.index("period")] = random.normal(1 / rate, 0.01 / rate, count)
    samples[:, FIELDS.index("time")] = 1000 + np.cumsum(samples[:, FIELDS.index("period")])
    samples[:, FIELDS.index("missed")] = random.random(count) < 0.02
    return samples


def record_of(samples: Samples, **changes: Any) -> LatencyRecord:
    given: dict[str, Any] = {
        "fields": FIELDS,
        "topic": "/policy_node/latency",
        "policy": "cartpole",
        "policy_digest": "49c80b6c6a66",
        "robot": "cart",
        "cpu": "some processor",
        "rate": measured_rate(samples),
        "lost": 0,
        "cut_short": False,
        "faults": (),
    }
    return LatencyRecord(samples, RecordHeader(**{**given, **changes}))
