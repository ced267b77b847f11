"""Ten simulated minutes of each shipped policy, and not one alarm where nothing is wrong."""

from __future__ import annotations

import pytest

from benchmarks.false_alarms import SCENARIOS, SENSORS, Scenario, SimulatedRobot

pytestmark = pytest.mark.slow
MINUTES = 10


@pytest.mark.parametrize("sensors", SENSORS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_nothing_is_wrong_and_nothing_is_said(scenario: Scenario, sensors: str) -> None:
    outcome = SimulatedRobot(scenario, sensors).run(60.0 * MINUTES)
    assert outcome.steps > 0.98 * 50 * 60 * MINUTES
    assert outcome.alarms == []
    assert outcome.falls == 0
    limits = {"position_limit", "velocity_limit", "effort_limit"}
    assert set(outcome.remarks) <= limits


def test_the_same_robot_raises_an_alarm_where_something_is_wrong() -> None:
    robot = SimulatedRobot(SCENARIOS[2], "exact")
    read = robot._read
    count = [0]

    def broken() -> None:
        count[0] += 1
        if count[0] != 500:
            read()

    robot._read = broken  # type: ignore[method-assign]
    assert len(robot.run(20.0).alarms) >= 1
