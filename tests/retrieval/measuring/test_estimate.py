"""Wilson's interval and the bootstrap, against SciPy's and against what they promise."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.stats import binomtest

from retrieval.measuring.estimate import (
    Share,
    bootstrap_means,
    mean_of,
    means_of,
    means_of_groups,
    percentile,
)


@given(total=st.integers(1, 10**6), part=st.floats(0, 1))
def test_interval_is_scipy_s(total: int, part: float) -> None:
    share = Share(round(part * total), total)
    expected = binomtest(share.count, total).proportion_ci(method="wilson")
    assert share.interval == pytest.approx((expected.low, expected.high), abs=1e-12)
    low, high = share.interval
    assert 0 <= low <= share.value <= high <= 1


@pytest.mark.parametrize("total", [1, 7, 360, 10**6])
def test_none_and_all_have_one_sided_intervals(total: int) -> None:
    none, every = Share(0, total), Share(total, total)
    assert none.interval[0] == 0.0 < none.interval[1] < 1
    assert 0 < every.interval[0] < every.interval[1] == 1.0


def test_printed_in_percent() -> None:
    assert str(Share(351, 360)) == "97.50 (95.32-98.68)"


@pytest.mark.parametrize("p", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_wilson_s_interval_covers_the_truth_as_often_as_it_says(p: float) -> None:
    # Counts are whole, so coverage swings by a point or so from one n to the next: wide bounds at each n,
    # tight ones on average.
    draws = np.random.default_rng(round(100 * p))
    interval = cache(lambda count, total: Share(count, total).interval)
    coverage = []
    for total in (500, 517, 600, 733, 1000, 1409, 2000, 5000):
        inside = [
            low <= p <= high
            for low, high in (interval(c, total) for c in draws.binomial(total, p, 4000).tolist())
        ]
        coverage.append(np.mean(inside))
    assert all(0.93 <= share <= 0.97 for share in coverage)
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.006)


def _outcomes(queries: int, seed: int) -> NDArray[np.float64]:
    """Right or wrong by the full encoder and by three submodels, which fail where it does and elsewhere."""
    difficulty_Q1 = np.random.default_rng(seed).standard_normal((queries, 1))
    own_QM = np.random.default_rng([seed, 1]).standard_normal((queries, 4))
    return (0.95 * difficulty_Q1 + np.sqrt(1 - 0.95**2) * own_QM < [1.2, 1.1, 1.0, 0.5]).astype(float)


def test_bootstrap_is_scipy_s_percentile_method() -> None:
    outcomes_QM = _outcomes(400, seed=0)
    ours = bootstrap_means(outcomes_QM, resamples=20_000)
    for column, interval in enumerate(ours):
        theirs = stats.bootstrap(
            (outcomes_QM[:, column],), np.mean, n_resamples=20_000, method="percentile", rng=1
        ).confidence_interval
        assert interval == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_bootstrap_is_the_quantiles_of_means_of_drawn_queries() -> None:
    values_QM = np.random.default_rng(0).normal(size=(50, 3))
    draws = np.random.default_rng(7)
    means_RM = np.array([values_QM[draws.integers(50, size=50)].mean(axis=0) for _ in range(300)])
    expected = np.percentile(means_RM, (2.5, 97.5), axis=0).T
    assert bootstrap_means(values_QM, resamples=300, seed=7) == pytest.approx(expected, abs=1e-12)


def test_all_columns_see_the_same_queries() -> None:
    outcomes_QM = _outcomes(500, seed=1)
    intervals = bootstrap_means(outcomes_QM)
    assert bootstrap_means(outcomes_QM[:, [2]])[0] == pytest.approx(intervals[2], abs=1e-12)
    # Of a shared difficulty most cancels in the difference, which only paired resamples know.
    paired = np.diff(bootstrap_means(outcomes_QM - outcomes_QM[:, [0]]))[1]
    alone = np.diff(intervals)
    assert paired < 0.7 * np.hypot(alone[0], alone[1])


@pytest.mark.parametrize("queries, accuracy", [(600, 0.85), (600, 0.7), (2000, 0.85)])
def test_bootstrap_covers_paired_differences_as_often_as_it_says(queries: int, accuracy: float) -> None:
    # Every column is a new set of queries, answered by a full encoder (0.9) and by a submodel. That columns
    # share their resamples is no matter: a thousand of them hardly leave anything to chance.
    draws = np.random.default_rng(queries)
    difficulty_QM = draws.standard_normal((queries, 3000))
    own_QM = 0.95 * difficulty_QM + np.sqrt(1 - 0.95**2) * draws.standard_normal((queries, 3000))
    full_QM, small_QM = difficulty_QM < stats.norm.ppf(0.9), own_QM < stats.norm.ppf(accuracy)
    low_M, high_M = bootstrap_means(small_QM.astype(float) - full_QM).T
    truth = accuracy - 0.9
    assert 0.93 <= np.mean((low_M <= truth) & (truth <= high_M)) <= 0.97


def test_same_seed_same_interval() -> None:
    outcomes_QM = _outcomes(200, seed=2)
    assert (bootstrap_means(outcomes_QM) == bootstrap_means(outcomes_QM)).all()
    assert (bootstrap_means(outcomes_QM, seed=1) != bootstrap_means(outcomes_QM)).any()


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.1, 1 / 3])
def test_constant_columns_have_no_width(value: float) -> None:
    values_QM = np.column_stack([np.full(777, value), np.random.default_rng(0).random(777)])
    constant, other = bootstrap_means(values_QM, resamples=50)
    assert constant.tolist() == [value, value]
    assert other[0] < other[1]


def test_one_query_is_its_own_interval() -> None:
    assert bootstrap_means([[0.25, 1.0]]).tolist() == [[0.25, 0.25], [1.0, 1.0]]


@pytest.mark.parametrize("values", [np.ones(3), np.ones((0, 2)), np.ones((2, 0)), np.ones((2, 2, 2))])
def test_bootstrap_needs_queries_and_measures(values: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="queries x measures"):
        bootstrap_means(values)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bootstrap_refuses_what_is_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        bootstrap_means([[1.0], [value]])


@pytest.mark.parametrize("percent", [5, 50])
def test_intervals_of_percentiles_cover_the_truth(percent: float) -> None:
    draws = np.random.default_rng(0)
    truth, covered = percent / 100, 0  # of uniform numbers, a percentile is its own rank
    for _ in range(1000):
        estimate = percentile(draws.random(800), percent)
        low, high = estimate.interval
        assert low <= estimate.value <= high
        covered += low <= truth <= high
    assert 0.93 <= covered / 1000 <= 0.98


def test_means_of_columns_are_each_column_s_mean() -> None:
    values = np.random.default_rng(0).random((40, 3))
    bounds = bootstrap_means(values)
    for column, estimate, (low, high) in zip(values.T, means_of(values), bounds, strict=True):
        assert estimate.value == pytest.approx(column.mean())
        assert estimate.interval == (low, high)
        alone = mean_of(column)
        assert (alone.value, *alone.interval) == pytest.approx((estimate.value, low, high))


def test_a_share_counts_what_is_true() -> None:
    assert Share.of(np.array([True, False, True])) == Share(2, 3)


def test_copies_of_a_query_tell_nothing_more() -> None:
    values_QM = np.random.default_rng(0).random((40, 2)).round(1)
    groups = [f"g{number:02}" for number in range(40)]
    copied = means_of_groups(np.repeat(values_QM, 8, axis=0), np.repeat(groups, 8).tolist())
    for copy, own in zip(copied, means_of(values_QM), strict=True):
        assert copy.value == pytest.approx(own.value)
        assert copy.interval == pytest.approx(own.interval)
    together = means_of(np.repeat(values_QM, 8, axis=0))[0].interval
    assert together[1] - together[0] < 0.5 * (copied[0].interval[1] - copied[0].interval[0])


def test_groups_weigh_the_same_in_any_order() -> None:
    [mean] = means_of_groups([[1.0], [0.0], [0.0], [1.0]], ["b", "a", "b", "b"])
    assert mean.value == pytest.approx((0 + 2 / 3) / 2)
