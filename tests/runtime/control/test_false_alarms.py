"""Ten simulated minutes of each shipped policy, and not one alarm where nothing is wrong.

`python -m benchmarks.false_alarms` takes ten minutes with each kind of sensors.
"""

from __future__ import annotations

import pytest

from benchmarks.false_alarms import SCENARIOS, SENSORS, Scenario, SimulatedRobot

pytestmark = pytest.mark.slow
SECONDS = 200.0  # with each of the three kinds of sensors


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_nothing_is_wrong_and_nothing_is_said(scenario: Scenario) -> None:
    for sensors in SENSORS:
        outcome = SimulatedRobot(scenario, sensors).run(SECONDS)
        assert outcome.steps > 0.98 * 50 * SECONDS
        assert outcome.alarms == [], sensors
        assert outcome.falls == 0
        assert set(outcome.remarks) <= {"position_limit", "velocity_limit", "effort_limit"}


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
