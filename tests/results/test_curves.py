"""Statistics over seeds, and the CSVs they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dime_robot.evaluation.statistics import iqm
from dime_robot.results.curves import Curves, interval, read_curves, read_reference, spread
from dime_robot.results.summary import estimate
from tests.paths import ROOT
from tests.results.test_summary import HEAD, write


@pytest.mark.parametrize("seeds", [1, 3, 4, 5, 8, 10])
def test_iqm_is_the_mean_of_the_middle_half(seeds: int) -> None:
    returns = np.random.default_rng(seeds).normal(size=(seeds, 6)) * 100
    cut = seeds // 4
    assert iqm(returns) == pytest.approx(np.sort(returns, 0)[cut : seeds - cut].mean(0))


@pytest.mark.filterwarnings("ignore:random_state is deprecated:FutureWarning")
def test_iqm_and_interval_are_those_of_rliable() -> None:
    pytest.importorskip("rliable")
    from rliable import library, metrics

    for seeds in (3, 5, 10):
        returns = np.random.default_rng(seeds).gamma(2, 100, size=seeds)
        points, intervals = library.get_interval_estimates(
            {"ours": returns[:, None]},
            lambda scores: np.array([metrics.aggregate_iqm(scores)]),
            reps=20_000,
            random_state=np.random.RandomState(1),
        )
        assert float(iqm(returns)) == points["ours"][0]
        tolerance = 0.04 * np.ptp(returns)
        assert interval(returns) == pytest.approx(tuple(intervals["ours"][:, 0]), abs=tolerance)


def test_the_interval_of_a_curve_draws_whole_seeds_and_the_same_ones_every_time() -> None:
    returns = np.random.default_rng(0).normal(size=(9, 1)) * np.array([[1.0, 10.0, -1.0]])
    low, high = interval(returns)
    assert low[1] == pytest.approx(10 * low[0])
    assert (low[2], high[2]) == pytest.approx((-high[0], -low[0]))
    again = interval(returns)
    assert (low == again[0]).all() and (high == again[1]).all()
    assert low[0] < iqm(returns)[0] < high[0]


def test_steps_that_not_all_seeds_have_are_left_out() -> None:
    curves = Curves("x", {0: {0: 1.0, 10: 2.0, 20: 6.0}, 1: {0: 3.0, 15: 9.0, 20: 8.0}})
    assert curves.steps == [0, 20]
    assert curves.returns.tolist() == [[1, 6], [3, 8]]
    assert curves.longest == 20


def test_the_mean_over_a_run_does_not_depend_on_how_often_it_was_looked_at() -> None:
    dense = Curves("x", {0: {step: float(step) for step in range(0, 101, 5)}})
    sparse = Curves("x", {0: {step: float(step) for step in (0, 10, 90, 100)}})
    assert dense.averages == sparse.averages == [50]
    assert Curves("x", {0: {7: 3.0}, 1: {7: 4.0}}).averages.tolist() == [3, 4]


def test_few_seeds_get_no_interval() -> None:
    assert estimate(np.array([1.0])) == "1.0"
    assert estimate(np.array([1.0, 2.0])) == "1.5 (1.0 to 2.0)"
    assert estimate(np.array([1.0, 2.0, 4.0, 9.0])) == "3.0 (1.0 to 9.0)"
    assert estimate(np.full(5, 2.0)) == "2.0 [2.0, 2.0]"
    low, high = spread(np.array([[3.0, 1.0], [2.0, 5.0]]))
    assert (low.tolist(), high.tolist()) == ([2, 1], [3, 5])


# -- what others reached -------------------------------------------------------------------------


def test_references_are_in_order_and_plausible() -> None:
    paths = sorted((ROOT / "results/reference").glob("*.csv"))
    assert len(paths) == 7
    for path in paths:
        step, middle, mean, low, high = read_reference(path).T
        assert step.tolist() == [1, *range(24_000, 1_000_000, 24_000)], path
        for average in (middle, mean):
            assert (low <= average).all() and (average <= high).all(), path


def test_a_spreadsheet_may_have_saved_it(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(f"\ufeff{HEAD}\r\n0,0,1,1,20,2\r\n".encode())
    assert read_curves(tmp_path / "x.csv").seeds == {0: {0: 1.0}}


def test_rows_are_sorted_whatever_their_order_in_the_file(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", {1: {10: 3.0, 0: 1.0}, 0: {10: 5.0, 0: 2.0}})
    assert read_curves(tmp_path / "x.csv").seeds == {0: {0: 2.0, 10: 5.0}, 1: {0: 1.0, 10: 3.0}}
    assert list(read_curves(tmp_path / "x.csv").seeds) == [0, 1]
