"""Who has the motors of a Go2: a robot's services, with the clock in hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dime_robot.runtime.unitree.bring_up import (
    CHECK_MODE,
    MAX_RELEASES,
    RELEASE_MODE,
    SELECT_MODE,
    SPORT,
    STAND_DOWN,
    BringUp,
    Outcome,
    Request,
    Response,
)


class Robot:
    """Its motion switcher and its sport service."""

    def __init__(self, mode: str = "normal") -> None:
        self.mode = mode
        self.lying_at = -1.0  # [s]
        self.requests: list[tuple[str, int]] = []
        self.silent: set[int] = set()  # requests without a response
        self.codes: dict[int, int] = {}
        self.releases = 0
        self.stubborn = 0  # releases without effect
        self.data: str | None = None

    def respond(self, request: Request, now: float) -> Response | None:
        self.requests.append((request.service, request.api))
        if request.api in self.silent:
            return None
        code, data = self.codes.get(request.api, 0), ""
        if request.api == CHECK_MODE:
            data = json.dumps({"form": "0", "name": self.mode}) if self.data is None else self.data
        elif request.api == RELEASE_MODE and not code:
            self.releases += 1
            if self.releases > self.stubborn:
                self.mode = ""
        elif request.api == SELECT_MODE and not code:
            self.mode = json.loads(request.parameter)["name"]
        elif request.api == STAND_DOWN:
            self.lying_at = now + 1.5
        return Response(request.service, request.id, request.api, code, data)


def work(bring_up: BringUp, robot: Robot, duration: float, start: float = 0.0) -> Outcome | None:
    now = start
    outcome = None
    while now < start + duration and outcome is None:
        request = bring_up.poll(now, at_rest=robot.lying_at <= now)
        while request is not None:
            response = robot.respond(request, now)
            request = None if response is None else bring_up.take(response, now)
        outcome = bring_up.take_outcome()
        now += 0.01
    return outcome


def test_only_the_mode_is_asked_without_a_request() -> None:
    robot, bring_up = Robot(), BringUp(1)
    assert work(bring_up, robot, 5.0) is None
    assert set(robot.requests) == {("motion_switcher", CHECK_MODE)}
    assert 4 <= len(robot.requests) <= 6
    assert bring_up.mode == "normal"


def test_a_release_lies_down_first_and_is_verified() -> None:
    robot, bring_up = Robot(), BringUp(1)
    bring_up.begin_release(0.0)
    outcome = work(bring_up, robot, 20.0)
    assert outcome is not None and outcome.success, outcome
    assert [api for _, api in robot.requests] == [CHECK_MODE, STAND_DOWN, RELEASE_MODE, CHECK_MODE]
    assert robot.requests[1] == (SPORT, STAND_DOWN)
    assert (bring_up.mode, bring_up.released_mode) == ("", "normal")


def test_nothing_is_released_where_nobody_has_the_motors() -> None:
    robot, bring_up = Robot(""), BringUp(1)
    bring_up.begin_release(0.0)
    outcome = work(bring_up, robot, 20.0)
    assert outcome is not None and outcome.success
    assert robot.requests == [("motion_switcher", CHECK_MODE)]


def test_a_controller_that_stays_is_no_success() -> None:
    robot, bring_up = Robot(), BringUp(1)
    robot.stubborn = 99
    bring_up.begin_release(0.0)
    outcome = work(bring_up, robot, 60.0)
    assert outcome is not None and not outcome.success
    assert "still has the motors" in outcome.text
    assert robot.releases == MAX_RELEASES


def test_two_controllers_one_after_the_other_are_released() -> None:
    robot, bring_up = Robot(), BringUp(1)
    robot.stubborn = 1
    bring_up.begin_release(0.0)
    outcome = work(bring_up, robot, 60.0)
    assert outcome is not None and outcome.success


def test_a_robot_that_does_not_lie_keeps_its_controller() -> None:
    robot, bring_up = Robot(), BringUp(1)
    bring_up.begin_release(0.0)
    now, outcome = 0.0, None
    while outcome is None and now < 30:
        request = bring_up.poll(now, at_rest=False)
        while request is not None:
            response = robot.respond(request, now)
            request = None if response is None else bring_up.take(response, now)
        outcome = bring_up.take_outcome()
        now += 0.01
    assert outcome is not None and not outcome.success
    assert "did not lie still" in outcome.text
    assert robot.releases == 0


@pytest.mark.parametrize("api", [CHECK_MODE, STAND_DOWN, RELEASE_MODE])
@pytest.mark.parametrize("how", ["silent", "code"])
def test_a_service_that_refuses_ends_the_release(api: int, how: str) -> None:
    """Without an answer to the release itself, the mode is what counts."""
    robot, bring_up = Robot(), BringUp(1)
    if how == "silent":
        robot.silent = {api}
    else:
        robot.codes[api] = 7
    bring_up.begin_release(0.0)
    outcome = work(bring_up, robot, 60.0)
    assert outcome is not None and not outcome.success, outcome
    assert not bring_up.busy
    assert (robot.mode == "normal") is True


@pytest.mark.parametrize(
    "data", ["", "null", "[]", "{", '{"name": 3}', '{"form": "0"}', "[" * 9999]
)
def test_a_response_without_a_name_is_not_a_free_motor(data: str) -> None:
    robot, bring_up = Robot(), BringUp(1)
    robot.data = data
    bring_up.begin_release(0.0)
    outcome = work(bring_up, robot, 10.0)
    assert outcome is not None and not outcome.success
    assert bring_up.mode is None


def test_a_mode_is_given_back_and_verified() -> None:
    robot, bring_up = Robot(""), BringUp(1)
    bring_up.begin_restore("ai", 0.0)
    assert bring_up.poll(0.09, True) is None  # the last LowCmd may still be on its way
    outcome = work(bring_up, robot, 10.0)
    assert outcome == Outcome(True, "the robot's own controller: ai")
    robot.codes[SELECT_MODE] = 3
    bring_up.begin_restore("other", 10.0)
    outcome = work(bring_up, robot, 10.0, 10.0)
    assert outcome is not None and not outcome.success


def test_a_silent_switcher_is_not_believed_any_more() -> None:
    robot, bring_up = Robot(""), BringUp(1)
    work(bring_up, robot, 3.0)
    assert bring_up.mode == ""
    robot.silent = {CHECK_MODE}
    work(bring_up, robot, 5.0, 3.0)
    assert bring_up.mode is None and bring_up.silent


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1000, 1006), st.text(max_size=9))))
def test_responses_to_other_programs_change_nothing(others: list[Any]) -> None:
    bring_up = BringUp(1)
    bring_up.begin_release(0.0)
    request = bring_up.poll(0.0, at_rest=True)
    assert request is not None
    for id_, api, data in others:
        if (id_, api) != request[1:3]:
            bring_up.take(Response("motion_switcher", id_, api, 0, data), 0.0)
    assert bring_up.busy and bring_up.mode is None
