"""Is a stream alive, in order, on one clock, and at its rate?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dime_robot.runtime.control.watchdog import SEGMENT, Arrival, StreamWatchdog

NEW, REPEATED = Arrival.NEW, Arrival.REPEATED


def test_before_the_first_reading_all_is_stale() -> None:
    fresh = StreamWatchdog(0.1)
    assert fresh.is_stale(1e9, 1e9)
    assert fresh.age_by_receipt(5.0) == math.inf
    assert not fresh.is_ahead(0.0)


def test_a_reading_ages_by_receipt_and_by_stamp() -> None:
    fresh = StreamWatchdog(0.1)
    assert fresh.arrive(1000.0, 5.0, 1000.0) == NEW
    assert (fresh.age_by_receipt(5.0625), fresh.age_by_stamp(1000.03125)) == (0.0625, 0.03125)
    assert not fresh.is_stale(5.09, 1000.09)
    assert fresh.is_stale(5.11, 1000.0)  # silent, though its clock stands still
    assert fresh.is_stale(5.0, 1000.11)  # came just now, but was long on its way


def test_another_clock_is_judged_by_receipt_alone() -> None:
    fresh = StreamWatchdog(0.1, same_clock=False)
    fresh.arrive(3.0, 5.0, 0.0)
    assert not fresh.is_stale(5.09, 1e9)
    assert not fresh.is_ahead(-1e9)
    assert fresh.is_stale(5.11, 3.0)


def test_a_frozen_stamp_is_as_dead_as_silence() -> None:
    fresh = StreamWatchdog(0.1, same_clock=False)
    assert fresh.arrive(3.0, 5.0, 0.0) == NEW
    for k in range(1, 20):
        assert fresh.arrive(3.0, 5.0 + 0.01 * k, 0.0) == REPEATED
        assert fresh.arrive(2.6, 5.0 + 0.01 * k, 0.0) == REPEATED  # and so is one out of order
    assert fresh.received == 5.0
    assert fresh.is_stale(5.19, 3.0)
    assert fresh.arrive(3.02, 5.2, 0.0) == NEW
    assert fresh.interval == pytest.approx(0.02)
    assert not fresh.is_stale(5.2, 3.0)


def test_a_stamp_that_is_never_set_is_named() -> None:
    fresh = StreamWatchdog(0.1)
    assert fresh.arrive(0.0, 5.0, 1000.0) == NEW
    assert fresh.arrive(0.0, 5.1, 1000.1) == REPEATED
    assert "stamp is 0: expected a driver that sets header.stamp" in fresh.stamp_error


def test_a_stamp_in_our_future_is_remarked_and_not_stale() -> None:
    fresh = StreamWatchdog(0.1)
    fresh.arrive(10.0, 5.0, 9.9)
    assert fresh.age_by_stamp(9.5) == -0.5
    assert fresh.is_ahead(9.5)
    assert not fresh.is_ahead(9.999)  # within the tolerance
    assert not fresh.is_stale(5.0, 9.5)


def test_a_stamp_that_is_no_number_is_no_reading() -> None:
    fresh = StreamWatchdog(0.1)
    assert fresh.arrive(math.nan, 5.0, 5.0) == REPEATED
    assert fresh.arrive(1.0, 5.0, 5.0) == NEW
    assert fresh.arrive(1.0, 5.1, 5.1) == REPEATED


def test_a_stray_stamp_of_2038_does_not_stop_the_stream() -> None:
    fresh = StreamWatchdog(0.1)
    fresh.arrive(1000.0, 0.0, 1000.0)
    assert fresh.arrive(2**31, 0.02, 1000.02) == Arrival.FUTURE
    assert "stamp 2147483648.000 s lies" in fresh.stamp_error
    assert fresh.arrive(1000.04, 0.04, 1000.04) == NEW
    assert not fresh.stamp_error


def test_a_robot_whose_clock_is_set_forward_is_believed_after_three() -> None:
    fresh = StreamWatchdog(0.1)
    fresh.arrive(1000.0, 0.0, 1000.0)
    got = [fresh.arrive(1005.0 + 0.02 * k, 0.02 * k, 1000.0 + 0.02 * k) for k in range(5)]
    assert got == [Arrival.FUTURE, Arrival.FUTURE, NEW, NEW, NEW]
    assert fresh.is_ahead(1000.1)


def test_a_clock_that_went_back_is_told_from_a_message_out_of_order() -> None:
    fresh = StreamWatchdog(0.1)
    for k in range(10):
        fresh.arrive(100.0 + 0.02 * k, 0.02 * k, 100.0 + 0.02 * k)
    assert fresh.arrive(100.1, 0.2, 100.2) == REPEATED  # late by three
    assert fresh.arrive(50.0, 0.2, 100.2) == REPEATED  # one from another life
    assert fresh.arrive(100.2, 0.2, 100.2) == NEW
    got = [fresh.arrive(0.02 * k, 0.22 + 0.02 * k, 100.2) for k in range(4)]
    assert got == [REPEATED, REPEATED, Arrival.WENT_BACK, Arrival.WENT_BACK]
    fresh.restart()
    assert fresh.arrive(0.1, 0.3, 0.1) == NEW


def rates(intervals: list[float], expected: float, lossy: bool = False) -> StreamWatchdog:
    watchdog, now = StreamWatchdog(10.0, False, expected, lossy), 0.0
    for interval in intervals:
        now += interval
        watchdog.arrive(now, now, now)
    return watchdog


@pytest.mark.parametrize(
    ("rate", "off", "wrong"),
    [
        (50, 0, 0),
        (46, 0, 0),
        (44, 1, 0),
        (41, 1, 0),
        (30, 1, 1),
        (54, 0, 0),
        (59, 1, 0),
        (70, 1, 1),
    ],
)
def test_a_mean_rate_is_judged_on_both_sides(rate: float, off: int, wrong: int) -> None:
    watchdog = rates([1 / rate] * 3 * rate, 50.0)
    assert (watchdog.rate_is_off, watchdog.rate_is_wrong) == (bool(off), bool(wrong))
    assert f"50 Hz, got {rate:.0f}" in watchdog.describe_rate().replace(".0 Hz", "")


def test_a_robot_that_slows_down_is_remarked_within_a_second_and_wrong_within_two() -> None:
    for phase in np.linspace(0, SEGMENT, 7):  # wherever a segment stands when it happens
        watchdog, now = StreamWatchdog(0.035, False, 50.0), 0.0
        slow_at = 5.0 + phase
        off_at = wrong_at = math.inf
        while now < 10:
            now += 1 / 50 if now < slow_at else 1 / 30
            watchdog.arrive(now, now, now)
            off_at = min(off_at, now) if watchdog.rate_is_off else off_at
            wrong_at = min(wrong_at, now) if watchdog.rate_is_wrong else wrong_at
        assert slow_at < off_at <= slow_at + 1.0
        assert off_at < wrong_at <= slow_at + 2.0


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 6), min_size=100, max_size=200), st.sampled_from([50.0, 200.0]))
def test_bursts_at_the_right_mean_are_no_wrong_rate(bursts: list[int], rate: float) -> None:
    intervals = []
    for burst in bursts:  # so many together, then the time that they should have taken
        intervals += [1e-4] * (burst - 1) + [burst / rate - 1e-4 * (burst - 1)]
    assert not rates(intervals, rate).rate_is_wrong
    assert not rates(intervals, rate, lossy=True).rate_is_wrong


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**31), st.floats(0.0, 0.5), st.floats(0.0, 0.1))
def test_losses_on_the_way_are_no_slow_robot_where_no_step_hangs_on_each_reading(
    seed: int, lost: float, jitter: float
) -> None:
    random = np.random.default_rng(seed)
    stamps = np.arange(1000) / 200 + random.uniform(-jitter, jitter, 1000) / 400
    intervals = np.diff(stamps[random.random(1000) >= lost]).tolist()
    watchdog = rates(intervals, 200.0, lossy=True)
    assert not watchdog.rate_is_off
    if lost > 0.35:
        assert rates(intervals, 200.0).rate_is_wrong


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 2**31),
    st.one_of(st.floats(0.2, 0.75), st.floats(1.3, 3.0)),
    st.floats(0.0, 0.1),
)
def test_a_robot_at_another_rate_is_noticed_though_readings_may_be_lost(
    seed: int, factor: float, jitter: float
) -> None:
    random, rate = np.random.default_rng(seed), 200.0 * factor
    count = int(5 * rate)
    stamps = np.arange(count) / rate + random.uniform(-jitter, jitter, count) / (2 * rate)
    assert rates(np.diff(stamps).tolist(), 200.0, lossy=True).rate_is_wrong


def test_a_hiccup_is_no_wrong_rate() -> None:
    for pause in (0.1, 0.25, 0.4):
        for phase in range(40):
            watchdog = rates([0.02] * (40 + phase) + [pause] + [0.02] * 60, 50.0)
            assert not watchdog.rate_is_wrong


def test_after_a_stall_of_our_own_the_rate_is_measured_anew() -> None:
    watchdog = rates([1 / 30] * 90, 50.0)
    assert watchdog.rate_is_wrong
    watchdog.restart_rate()
    assert not watchdog.rate_is_wrong
    assert watchdog.describe_rate() == "its rate is not known yet"
