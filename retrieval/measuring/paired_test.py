"""The cheapest submodel that, with 95 % confidence, loses at most so much of the full encoder's accuracy.

Both encoders answer every query, so outcomes are paired. Of n queries the full encoder alone gets L right
(losses) and the submodel alone G (gains); the accuracies differ by (L - G) / n. With l and g the
probabilities of a loss and of a gain, and d the drop that is allowed, what has to be refuted is

    H0: l - g >= d        against        H1: l - g < d.

Outcomes are ordered by the efficient score (T. Tango, Statistics in Medicine 17, 1998)

    T(L, G) = (L - G - n d) / sqrt(n (2 g0 + d - d^2)),

where g0 is the likeliest g if l - g were d exactly, the positive root of

    2 n g^2 - [(L + G)(1 - d) - 2 d (n - L)] g - G d (1 - d) = 0.

T is held against its exact distribution (H.-M. Hsueh, J.-P. Liu and J. J. Chen, Biometrics 57, 2001): the
normal one promises too early where losses are few. H0 leaves open how often the two disagree, q = l + g.
S = L + G is Binomial(n, q) and, given S, L is Binomial(S, l / q). At every S, T grows with L, so T <= t is
L <= c(S, t), and among all l and g of the same q that is likeliest where l - g = d. Hence (R. L. Berger and
D. D. Boos, Journal of the American Statistical Association 89, 1994)

    p = gamma + max over q in C, q >= d, of  sum over s of  P(S = s) P(L <= c(s, T) | s)  at l = (q + d) / 2,

where C is the Clopper-Pearson interval of q at confidence 1 - gamma. Under H0, p <= alpha has a probability
of at most alpha, whatever q is. That queries are independent of each other is the only assumption.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from math import asin, ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_GAMMA = 1e-4
# Values of q tried, and tried again around the best: the maximum is then found to a few millionths.
_GRID = 33
# Probability left out at each end of the distribution of S.
_TAIL = 1e-12
# Discordant queries from which `queries_needed` trusts the normal distribution, which costs nothing.
_NORMAL_FROM = 10_000


@dataclass(frozen=True)
class Comparison:
    """One submodel held against the full encoder on the same queries.

    Attributes:
        column: Of the submodel in order of falling cost; 0 is the full encoder.
        losses: Queries that only the full encoder gets right.
        gains: Queries that only the submodel gets right.
        queries: All of them.
        p_value: Of the hypothesis that the submodel drops by the allowed drop or more: see `p_value`.
    """

    column: int
    losses: int
    gains: int
    queries: int
    p_value: float

    @property
    def drop(self) -> float:
        """The measured drop in accuracy, -1 to 1; negative where the submodel is the better one."""
        return (self.losses - self.gains) / self.queries


@dataclass(frozen=True)
class Choice:
    """What `choose` settled on.

    Attributes:
        column: Of the chosen submodel: see `Comparison`.
        comparisons: Every submodel that was tested, dearest first. All passed, save the last where it is not
            the one chosen.
    """

    column: int
    comparisons: tuple[Comparison, ...]


def choose(
    full_Q: NDArray[np.bool_],
    others: Iterable[NDArray[np.bool_]],
    max_drop: float,
    *,
    alpha: float = 0.05,
) -> Choice:
    """The last submodel in order of falling cost before the first that cannot be promised.

    Submodels are tested one after the other, each at the full level `alpha`, up to the first that fails: a
    fixed sequence (W. Maurer, L. A. Hothorn and W. Lehmacher, 1995; B. L. Wiens, Pharmaceutical Statistics 2,
    2003). The number of tests needs no correction: a choice can only be wrong if the first submodel in the
    sequence that truly drops too far passes its test, and one test errs with a probability of at most
    `alpha`. The order must not depend on the outcomes; order of cost does not.

    Args:
        full_Q: Whether the full encoder answered each query rightly.
        others: The same of each submodel, in order of falling cost; none is asked for after the first that
            fails.
        max_drop: The allowed drop in accuracy, above 0 and below 1; half a point is 0.005.
        alpha: The probability allowed for choosing a submodel that truly drops by `max_drop` or more.

    Raises:
        ValueError: `max_drop` is out of range.
    """
    _check_drop(max_drop)
    comparisons: list[Comparison] = []
    for column, right_Q in enumerate(others, start=1):
        losses, gains = int((full_Q & ~right_Q).sum()), int((right_Q & ~full_Q).sum())
        p = p_value(losses, gains, len(full_Q), max_drop)
        comparisons.append(Comparison(column, losses, gains, len(full_Q), p))
        if p > alpha:
            return Choice(column - 1, tuple(comparisons))
    return Choice(len(comparisons), tuple(comparisons))


def p_value(losses: int, gains: int, queries: int, max_drop: float) -> float:
    """How surprising the outcomes are if the submodel truly drops by `max_drop` or more; small is good.

    Exact and one-sided: see the module's text. Not below gamma, 0.0001. One more loss raises it and one
    more gain lowers it, but for steps of less than gamma and, above 0.4, an occasional step of about 0.01,
    where a further discordant query moves C.

    Args:
        losses: Queries that only the full encoder gets right.
        gains: Queries that only the submodel gets right.
        queries: All of them, those with equal outcomes included.
        max_drop: The allowed drop in accuracy, above 0 and below 1.

    Raises:
        ValueError: Counts that cannot be, or `max_drop` out of range.
    """
    n, d = queries, max_drop
    _check_drop(d)
    if n < 1 or min(losses, gains) < 0 or losses + gains > n:
        raise ValueError(f"{losses} losses and {gains} gains cannot be of {n} queries")
    low, high = stats.binomtest(losses + gains, n).proportion_ci(1 - _GAMMA, method="exact")
    if high < d:
        return _GAMMA
    t, highest = _score(losses, gains, n, d), 0.0
    # Equal steps in the arc sine of sqrt(q) are equal steps in standard deviations of S.
    left, right = asin(sqrt(max(low, d))), asin(sqrt(high))
    for _ in range(2):
        angles_K = np.linspace(left, right, _GRID)
        q_K1 = np.maximum(np.sin(angles_K) ** 2, d)[:, None]
        s_S = np.arange(stats.binom.ppf(_TAIL, n, q_K1[0, 0]), stats.binom.isf(_TAIL, n, q_K1[-1, 0]) + 1)
        most_S = _most_losses(t, s_S, n, d)
        terms_KS = stats.binom.pmf(s_S, n, q_K1) * stats.binom.cdf(most_S, s_S, (1 + d / q_K1) / 2)
        tail_K = terms_KS.sum(axis=1)
        best = int(tail_K.argmax())
        highest = max(highest, float(tail_K[best]))
        left, right = angles_K[max(best - 1, 0)], angles_K[min(best + 1, _GRID - 1)]
    return min(1.0, _GAMMA + highest)


def queries_needed(
    max_drop: float, *, alpha: float = 0.05, loss_rate: float = 0.0, gain_rate: float = 0.0
) -> int | None:
    """How many queries make `p_value` reach `alpha` if outcomes come at these rates.

    Without losses and gains this is exact: the fewest queries with which anything can be promised. With
    rates it is an estimate, from the expected counts rounded; as counts vary about them, that many queries
    suffice about every second time. Where it takes more than 10,000 discordant queries, T is held against
    the normal distribution.

    Args:
        max_drop: The allowed drop in accuracy, above 0 and below 1.
        alpha: The level to be reached, above gamma and below 0.5.
        loss_rate: Share of queries that only the full encoder gets right.
        gain_rate: Share of queries that only the submodel gets right.

    Returns:
        The number, or None if the rates' own drop is not below `max_drop`: no number would do.

    Raises:
        ValueError: An argument out of range.
    """
    _check_drop(max_drop)
    if not _GAMMA < alpha < 0.5:
        raise ValueError(f"alpha must be above {_GAMMA} and below 0.5, got {alpha}")
    if min(loss_rate, gain_rate) < 0 or loss_rate + gain_rate > 1:
        raise ValueError(f"rates must be shares of the queries, got {loss_rate} and {gain_rate}")
    if loss_rate - gain_rate >= max_drop:
        return None

    def enough(n: int) -> bool:
        losses = round(n * loss_rate)
        return p_value(losses, min(round(n * gain_rate), n - losses), n, max_drop) <= alpha

    # At fixed rates T grows with the square root of n.
    most = ceil((stats.norm.isf(alpha) / _score(loss_rate, gain_rate, 1, max_drop)) ** 2)
    if most * (loss_rate + gain_rate) > _NORMAL_FROM:
        return most
    while not enough(most):
        most *= 2
    return 1 + bisect_left(range(1, most), True, key=enough)


def _check_drop(max_drop: float) -> None:
    if not 0 < max_drop < 1:
        raise ValueError(f"max_drop must be above 0 and below 1, got {max_drop}")


def _score(losses: Any, gains: Any, n: int, d: float) -> Any:
    """T of the module's text, of numbers or arrays."""
    b = (losses + gains) * (1 - d) - 2 * d * (n - losses)
    g0 = (b + np.sqrt(b * b + 8 * n * gains * d * (1 - d))) / (4 * n)
    return (losses - gains - n * d) / np.sqrt(n * (2 * g0 + d - d * d))


def _most_losses(t: float, s_S: NDArray[np.float64], n: int, d: float) -> NDArray[np.float64]:
    """The most losses among s discordant queries that score at most t, by bisection; -1 where none do."""
    most_S, more_S = np.full_like(s_S, -1), s_S + 1
    while (more_S - most_S > 1).any():
        middle_S = (most_S + more_S) // 2
        # A tie counts as extreme, whatever rounding makes of it.
        extreme_S = _score(middle_S, s_S - middle_S, n, d) <= t + 1e-9
        most_S, more_S = np.where(extreme_S, middle_S, most_S), np.where(extreme_S, more_S, middle_S)
    return most_S
