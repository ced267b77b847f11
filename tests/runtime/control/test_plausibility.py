"""Can a reading follow the one before, and does it follow the commands?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dime_robot.runtime.control.plausibility import JUMP_SLACK, TURN_SLACK, ReadingCheck
from dime_robot.runtime.control.safety_filter import SPEED_TOLERANCE
from tests.runtime.machines import UPRIGHT, T, make_robot, make_spec

POSE = np.array([0.5, 0.0, 0.25])  # wrist, wheel, rail
SPEEDS = np.array([8.0, 40.0, 2.0])
MOVING, STILL = SPEEDS, np.zeros(3)


def check(kind: str = "position", **robot: Any) -> ReadingCheck:
    return ReadingCheck(make_spec(kind), make_robot(kind, **robot))


@pytest.mark.parametrize("joint", range(3))
def test_a_jump_is_what_one_and_a_half_times_the_speed_cannot_do(joint: int) -> None:
    possible = 1.5 * SPEEDS[joint] * T + JUMP_SLACK
    for share, rejected in ((0.99, False), (1.01, True)):
        ours = check()
        assert not ours.position_jump(POSE, MOVING, 1.0)
        moved = POSE.copy()
        moved[joint] += share * possible
        why = ours.position_jump(moved, MOVING, 1.0 + T)
        assert bool(why) == rejected
        assert why.startswith(("wrist", "wheel", "rail")[joint]) or not rejected


@pytest.mark.parametrize("joint", range(3))
def test_a_joint_that_measures_no_speed_can_have_had_half_of_it(joint: int) -> None:
    possible = 0.5 * SPEEDS[joint] * T + JUMP_SLACK
    for share, rejected in ((0.99, False), (1.01, True)):
        ours = check()
        ours.position_jump(POSE, STILL, 1.0)
        moved = POSE.copy()
        moved[joint] += share * possible
        assert bool(ours.position_jump(moved, STILL, 1.0 + T)) == rejected
        ours.restart()
        ours.position_jump(POSE, STILL, 1.0)
        assert not ours.position_jump(moved, MOVING, 1.0 + T)  # it is moving by now


def test_a_glitch_is_rejected_once_and_the_next_reading_is_believed() -> None:
    ours = check()
    ours.position_jump(POSE, MOVING, 0.0)
    assert ours.position_jump(POSE + np.array([1.0, 0, 0]), MOVING, T)
    assert not ours.position_jump(POSE, MOVING, 2 * T)
    assert not ours.broken


def test_an_encoder_that_slipped_stays_unbelieved_until_restart() -> None:
    ours = check()
    ours.position_jump(POSE, MOVING, 0.0)
    for k in range(1, 4):
        assert ours.position_jump(POSE + np.array([1.4, 0, 0]), MOVING, k * T)
        assert not ours.settled
    for k in range(4, 8):  # consistent with one another, but not with the accepted ones
        assert not ours.position_jump(POSE + np.array([1.4, 0, 0]), MOVING, k * T) or k == 4
    assert ours.settled
    assert "3 such readings in a row" in ours.broken
    ours.restart()
    assert not ours.broken
    assert not ours.position_jump(POSE + np.array([1.4, 0, 0]), MOVING, 9 * T)


@pytest.mark.parametrize("slip", [0.12, 0.3, 1.4])
@pytest.mark.parametrize("speed", [-8.0, 0.0, 8.0])
def test_time_makes_no_slip_possible_and_a_glitch_is_over_after_one(
    slip: float, speed: float
) -> None:
    """Whether the joint moves meanwhile or not."""
    for lasts in (1, 50):
        ours, accepted = check(), []
        for k in range(60):
            off = slip if 10 <= k < 10 + lasts else 0.0
            pose = POSE + np.array([speed * k * T / 4 + off, 0, 0])
            accepted.append(not ours.position_jump(pose, MOVING, k * T))
        if slip <= 1.5 * 8.0 * T + JUMP_SLACK - abs(speed) * T / 4:
            continue  # as fast as the joint may move
        assert accepted[9] and not accepted[10]
        assert bool(ours.broken) == (lasts > 1)
        assert lasts > 1 or all(accepted[11:])


def test_a_joint_that_turns_freely_may_wrap() -> None:
    ours = check()
    ours.position_jump(np.array([0.5, np.pi - 0.01, 0.25]), MOVING, 0.0)
    assert not ours.position_jump(np.array([0.5, -np.pi + 0.01, 0.25]), MOVING, T)
    assert ours.position_jump(np.array([0.5, 0.0, 0.25]), MOVING, 2 * T)  # half a turn


def test_stamps_of_a_burst_tell_no_speed() -> None:
    ours = check()
    ours.position_jump(POSE, MOVING, 0.0)
    assert not ours.position_jump(POSE + np.array([8.0 * T / 2, 0, 0]), MOVING, 1e-6)


def test_the_imu_cannot_turn_faster_than_its_gyro_shows() -> None:
    ours = check(imu__max_rate=10.0)
    assert not ours.orientation_jump(UPRIGHT, 0.0)
    assert not ours.orientation_jump(-UPRIGHT, T)  # the same orientation
    assert not ours.orientation_jump(np.array([np.cos(0.1), np.sin(0.1), 0, 0]), 2 * T)
    why = ours.orientation_jump(np.array([np.cos(0.6), np.sin(0.6), 0, 0]), 3 * T)
    assert why.startswith("the imu turned by 1")


def test_what_is_no_jump_in_a_period_is_none_in_a_burst() -> None:
    """Two readings that come late together carry the noise of two periods."""
    turned = SPEED_TOLERANCE * 10.0 * T + 0.9 * TURN_SLACK  # [rad]
    ours = check(imu__max_rate=10.0)
    for stamp in (0.0, 1e-4):
        assert not ours.orientation_jump(
            np.array([np.cos(turned / 2), np.sin(turned / 2), 0, 0]), stamp
        )
        turned = 0.0
    ours.position_jump(POSE, MOVING, 0.0)
    assert not ours.position_jump(POSE + np.array([8.0 * T + 0.9 * JUMP_SLACK, 0, 0]), MOVING, 1e-4)


MOVED = 5 * (2 * np.pi / 4096 + 0.02)  # [rad]


@pytest.mark.parametrize(("kind", "value"), [("position", MOVED), ("effort", 0.2 * 8.0)])
@pytest.mark.parametrize("share", [0.98, 1.02])
def test_values_are_frozen_where_commands_moved_and_nothing_answered(
    kind: str, value: float, share: float
) -> None:
    ours = check(kind)
    velocity, found = np.zeros(3), []
    after = 0.5 if kind == "position" else 2.0
    for k in range(400):
        ours.commanded(np.array([share * value if k % 2 else 0.0, 0.0, 0.0]), k * T)
        found.append(ours.frozen(POSE, velocity, k * T))
    frozen = [bool(why) for why in found]
    assert frozen == [share > 1 and k * T >= after for k in range(400)]
    if share > 1:
        assert f"same values to the last bit for {after:.1f}" in found[int(after / T) + 1]
        assert not ours.frozen(POSE + 1e-15 * POSE, velocity + 1e-15, 400 * T)  # one bit is alive


@pytest.mark.parametrize("share", [0.98, 1.02])
def test_velocities_move_a_joint_by_their_sum(share: float) -> None:
    ours, velocity, found = check("velocity"), np.zeros(3), []
    limit = 8.0  # [rad/s] of the wrist
    for k in range(100):
        value = share * MOVED / (15 * T) if k < 16 else 0.0  # the first is before a reading
        assert value > 0.05 * limit or not value
        ours.commanded(np.array([value, 0.0, 0.0]), k * T)
        found.append(bool(ours.frozen(POSE, velocity, k * T)))
    assert found == [share > 1 and k * T >= 0.5 for k in range(100)]


def test_velocities_that_friction_may_hold_and_those_before_a_reading_do_not_count() -> None:
    ours, velocity = check("velocity"), np.zeros(3)
    for k in range(4000):
        ours.commanded(np.array([0.049 * 8.0, 0.0, 0.0]), k * T)
        assert not ours.frozen(POSE, velocity, k * T)
    for k in range(4000, 8000):  # it moves, and so do the readings
        ours.commanded(np.array([4.0, 0.0, 0.0]), k * T)
        assert not ours.frozen(POSE + k * 1e-9, velocity, k * T)
    for k in range(8000, 8200):
        ours.commanded(np.zeros(3), k * T)
        assert not ours.frozen(POSE, velocity, k * T)


def test_nothing_tells_which_joints_a_twist_moves() -> None:
    ours = check("twist")
    for k in range(400):
        ours.commanded(np.array([0.5 * (k % 2), 0.0]), k * T)
        assert not ours.frozen(POSE, np.zeros(3), k * T)


def test_standing_still_is_not_frozen() -> None:
    ours = check()
    for k in range(2000):
        ours.commanded(POSE, k * T)
        assert not ours.frozen(POSE, np.zeros(3), k * T)
