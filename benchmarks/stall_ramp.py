"""Compare ramps after a short suspension of the control loop.

    python -m benchmarks.stall_ramp

A Go2 walks at 0.5 m/s in simulated time while the loop is not called for 50, 70 or 90 ms once a
second, seven times. Compared: a ramp as long as the gap, as long as the one at activation, none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.false_alarms import SCENARIOS, SimulatedRobot
from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.control.safety_filter import SafetyFilter
from dime_robot.runtime.control.state import RobotState

RUNS, SECONDS, FIRST = 10, 9.0, 2.0  # [s]
GAPS = (0.05, 0.07, 0.09)  # [s], all below the robot's time-out
Resume = Callable[[SafetyFilter, float, RobotState, float], None]


class StalledRobot(SimulatedRobot):
    """A simulated robot whose loop is repeatedly not called for a short gap."""

    def __init__(self, seed: int, gap: float) -> None:
        super().__init__(SCENARIOS[0], "exact", seed)
        starts: FloatArray = np.arange(FIRST + 0.013 * seed, SECONDS, 1.0)
        self._gaps = [(start, start + gap) for start in starts]
        read, poll = self._read, self._loop.poll
        self._read = lambda: None if self._stopped() else read()  # type: ignore[method-assign]
        self._loop.poll = lambda: None if self._stopped() else poll()  # type: ignore[method-assign]

    def _activate(self) -> None:
        if not self.outcome.falls:  # a robot that fell is not moved
            super()._activate()

    def _stopped(self) -> bool:
        return any(start <= self.now < end for start, end in self._gaps)


def main() -> None:
    """See the module's docstring."""
    as_shipped = SafetyFilter.resume

    def as_at_activation(ours: SafetyFilter, now: float, state: RobotState, gap: float) -> None:
        as_shipped(ours, now, state, ours._config.ramp)

    def without(*_: object) -> None:
        """Continue at once."""

    variants: dict[str, Resume] = {
        "as long as the gap": as_shipped,
        "as at activation": as_at_activation,
        "none": without,
    }
    for name, resume in variants.items():
        SafetyFilter.resume = resume  # type: ignore[method-assign]
        for gap in GAPS:
            falls = sum(StalledRobot(seed, gap).run(SECONDS).falls > 0 for seed in range(RUNS))
            print(f"ramp {name:20s} gaps of {1e3 * gap:.0f} ms: fell in {falls} of {RUNS}")
    SafetyFilter.resume = as_shipped  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
