"""Shares and means with their uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Z = 1.959963984540054  # The 97.5 % quantile of the normal distribution.
_RESAMPLES_AT_ONCE = 32


@dataclass(frozen=True)
class Share:
    """So many out of so many.

    Attributes:
        count: How many had the property.
        total: Out of how many, at least 1.
    """

    count: int
    total: int

    @classmethod
    def of(cls, values: NDArray[np.bool_]) -> "Share":
        """How many of some values are true."""
        return cls(int(values.sum()), len(values))

    @property
    def value(self) -> float:
        """The share itself, 0 to 1."""
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % score interval (E. B. Wilson, 1927), which stays within 0 and 1."""
        n, p = self.total, self.value
        centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        # At 0 and n of n the bound is exact; rounding must not push it past the share.
        return (0.0 if self.count == 0 else centre - half), (1.0 if self.count == n else centre + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.2f} ({100 * low:.2f}-{100 * high:.2f})"


@dataclass(frozen=True)
class Estimate:
    """A number that was estimated from a sample.

    Attributes:
        value: The estimate.
        interval: Its 95 % interval.
    """

    value: float
    interval: tuple[float, float]


def mean_of(values_Q: ArrayLike) -> Estimate:
    """The mean over queries, with the interval that `bootstrap_means` gives."""
    [estimate] = means_of(np.asarray(values_Q)[:, None])
    return estimate


def means_of(values_QM: ArrayLike) -> list[Estimate]:
    """The mean of each of several measures of the same queries (Q, M): see `bootstrap_means`."""
    means_M = np.mean(np.asarray(values_QM, dtype=np.float64), axis=0)
    intervals_M2 = bootstrap_means(values_QM).tolist()
    return [
        Estimate(mean, (low, high)) for mean, (low, high) in zip(means_M.tolist(), intervals_M2, strict=True)
    ]


def means_of_groups(values_QM: ArrayLike, groups: Sequence[str]) -> list[Estimate]:
    """As `means_of`, where some queries are alike, such as copies of one image: intervals resample groups.

    Args:
        values_QM: See `means_of`.
        groups: What each query belongs to; all groups weigh the same.
    """
    _, group_Q = np.unique(groups, return_inverse=True)
    sums_MG = [np.bincount(group_Q, weights=values_Q) for values_Q in np.asarray(values_QM).T]
    return means_of(np.transpose(sums_MG) / np.bincount(group_Q)[:, None])


def percentile(values_Q: NDArray[np.floating], percent: float) -> Estimate:
    """A percentile, with the interval between the values at the ranks that it may have by chance.

    Those ranks are binomial, here by the normal approximation, rounded outwards.
    """
    share, last = percent / 100, len(values_Q) - 1
    half = _Z * sqrt(len(values_Q) * share * (1 - share))
    ranks = np.clip([floor(len(values_Q) * share - half), ceil(len(values_Q) * share + half)], 0, last)
    low, high = np.sort(values_Q)[ranks]
    return Estimate(float(np.percentile(values_Q, percent)), (float(low), float(high)))


def bootstrap_means(values_QM: ArrayLike, *, resamples: int = 1000, seed: int = 0) -> NDArray[np.float64]:
    """95 % intervals of means over queries: the percentile bootstrap (B. Efron, 1979).

    All columns see the same resamples of the queries. What two submodels differ by is therefore a column
    like any other, one submodel's outcomes less the other's, and its interval knows that both answered the
    same queries.

    Queries that all have the same value give an interval of no width, which says that the bootstrap has
    nothing to go on, not that the mean is certain: `retrieval.measuring.paired_test` bounds a difference that
    no query has shown yet.

    Args:
        values_QM: One row a query, one column a measure, (Q, M); finite.
        resamples: How often Q queries are drawn from the Q, with replacement.
        seed: Of the draws.

    Returns:
        The 2.5 % and 97.5 % quantiles of each column's resampled means, (M, 2).

    Raises:
        ValueError: No values, values that are not finite, or not two dimensions.
    """
    values_QM = np.asarray(values_QM, dtype=np.float64)
    if values_QM.ndim != 2 or values_QM.size == 0:
        raise ValueError(f"values must be queries x measures, at least one of each, got {values_QM.shape}")
    if not np.isfinite(values_QM).all():
        raise ValueError("values must be finite")
    queries = len(values_QM)
    # Counted from the first query, a constant column is exactly zero, and rounding cannot give it a width.
    first_M = values_QM[0]
    offsets_QM = values_QM - first_M
    draws = np.random.default_rng(seed)
    means_RM = np.empty((resamples, len(first_M)))
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        block_RM = means_RM[start : start + _RESAMPLES_AT_ONCE]
        times_drawn_RQ = np.empty((len(block_RM), queries))
        for times_drawn_Q in times_drawn_RQ:
            times_drawn_Q[:] = np.bincount(draws.integers(queries, size=queries), minlength=queries)
        np.matmul(times_drawn_RQ, offsets_QM, out=block_RM)
    quantiles_2M = np.percentile(means_RM / queries, (2.5, 97.5), axis=0)
    return np.ascontiguousarray((first_M + quantiles_2M).T)
