"""The promise's test against enumeration, its size computed exactly, and the whole choice simulated."""

import math
import time
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize_scalar

from retrieval.measuring import paired_test
from retrieval.measuring.paired_test import Choice, choose, p_value, queries_needed

GAMMA = 1e-4
DROPS = (0.02, 0.05, 0.1, 0.25, 0.5)


# --- The p-value against an oracle that lists every outcome and maximises what the module solves ---


@cache
def _outcomes_and_scores(n: int, d: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    outcomes = np.array([(lost, won) for lost in range(n + 1) for won in range(n + 1 - lost)])
    scores = []
    for lost, won in outcomes.tolist():

        def surprise(g: float, counts: tuple[int, int, int] = (lost, won, n - lost - won)) -> float:
            rates = (g + d, g, 1 - d - 2 * g)
            return -sum(k * math.log(max(rate, 1e-300)) for k, rate in zip(counts, rates, strict=True) if k)

        found = minimize_scalar(surprise, bounds=(0, (1 - d) / 2), method="bounded", options={"xatol": 1e-12})
        g0 = min((0.0, found.x), key=surprise)
        scores.append((lost - won - n * d) / math.sqrt(n * (2 * g0 + d - d * d)))
    return outcomes, np.array(scores)


def _p_by_enumeration(losses: int, gains: int, n: int, d: float) -> float:
    outcomes, scores = _outcomes_and_scores(n, d)
    seen = scores[(outcomes == (losses, gains)).all(axis=1)].item()
    extreme = outcomes[scores <= seen + 1e-5]
    s = losses + gains
    low = stats.beta.ppf(GAMMA / 2, s, n - s + 1) if s else 0.0
    high = stats.beta.isf(GAMMA / 2, s + 1, n - s) if s < n else 1.0
    counts = np.column_stack([extreme, n - extreme.sum(axis=1)])
    highest = 0.0
    for q in np.linspace(max(low, d), high, 300) if high >= d else ():
        rates = np.maximum([(q + d) / 2, (q - d) / 2, 1 - q], 0)
        highest = max(highest, stats.multinomial.pmf(counts, n, rates / rates.sum()).sum())
    return min(1.0, GAMMA + highest)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 8), d=st.sampled_from(DROPS), data=st.data())
def test_p_value_is_that_of_enumeration(n: int, d: float, data: st.DataObject) -> None:
    losses = data.draw(st.integers(0, n))
    gains = data.draw(st.integers(0, n - losses))
    assert p_value(losses, gains, n, d) == pytest.approx(_p_by_enumeration(losses, gains, n, d), abs=2e-4)


# (losses, gains, queries, drop); for every one the maximum lies elsewhere: at q = d, within C, at its end.
@pytest.mark.parametrize("case", [(0, 0, 25, 0.1), (1, 3, 25, 0.1), (2, 9, 30, 0.05), (6, 8, 20, 0.25)])
def test_p_value_of_larger_samples_is_that_of_enumeration(case: tuple[int, int, int, float]) -> None:
    assert p_value(*case) == pytest.approx(_p_by_enumeration(*case), abs=2e-5)


@settings(max_examples=80, deadline=None)
@given(n=st.integers(2, 3000), d=st.floats(0.002, 0.4), share=st.floats(0, 1), side=st.floats(0, 1))
def test_losses_raise_it_and_gains_lower_it(n: int, d: float, share: float, side: float) -> None:
    discordant = round(share * min(n - 1, 6 * n * d + 10))
    losses = round(side * discordant)
    gains = discordant - losses
    p = p_value(losses, gains, n, d)
    assume(p < 0.4)
    assert p_value(losses + 1, gains, n, d) >= p - GAMMA
    assert p_value(losses, gains + 1, n, d) <= p + GAMMA


# --- Its size, without simulation ---


@cache
def _passes(n: int, d: float, most_gains: int) -> NDArray[np.int64]:
    """The most losses that pass at 0.05 with each number of gains, (most_gains + 1,); -1: not even none."""
    most_G = np.full(most_gains + 1, -1)
    most = -1
    for gains in range(most_gains + 1):
        while most + 1 + gains <= n and p_value(most + 1, gains, n, d) <= 0.05:
            most += 1
        most_G[gains] = min(most, n - gains)
    return most_G


def _power(most_G: NDArray[np.int64], loss_rate: float, gain_rate: float) -> float:
    """The probability of a pass, summed over all outcomes."""
    n = len(most_G) - 1
    gains_G = np.arange(n + 1)
    passes_G = stats.binom.cdf(most_G, n - gains_G, min(1.0, loss_rate / (1 - gain_rate)))
    return float((stats.binom.pmf(gains_G, n, gain_rate) * passes_G).sum())


@pytest.mark.parametrize("n, d", [(30, 0.2), (60, 0.1), (120, 0.05), (150, 0.03)])
def test_size_is_at_most_alpha_and_not_far_below(n: int, d: float) -> None:
    most_G = _passes(n, d, n)
    rates_q = np.concatenate([d + np.geomspace(1e-6, 1 - d, 150), [d]])
    sizes_q = np.array([_power(most_G, (q + d) / 2, (q - d) / 2) for q in rates_q])
    # A few millionths: the maximum over q is searched on a grid.
    assert sizes_q.max() <= 0.05 + 1e-5
    assert sizes_q.max() >= 0.04
    inside = [_power(most_G, (q + 1.2 * d) / 2, (q - 1.2 * d) / 2) for q in rates_q if q >= 1.2 * d]
    assert max(inside) < sizes_q.max()


def test_power() -> None:
    # Half a point, 10,000 queries: equal encoders that disagree on one query in fifty.
    losses, gains = stats.multinomial.rvs(10_000, [0.01, 0.01, 0.98], size=50, random_state=0)[:, :2].T
    ps = [p_value(int(lost), int(won), 10_000, 0.005) for lost, won in zip(losses, gains, strict=True)]
    assert np.mean(np.array(ps) <= 0.05) >= 0.95


# --- What may be expected of it ---


def test_balanced_outcomes_pass_and_a_full_drop_does_not() -> None:
    assert p_value(150, 150, 10_000, 0.005) < 0.01
    assert p_value(200, 150, 10_000, 0.005) > 0.4
    assert p_value(0, 0, 100_000, 0.005) == GAMMA


@pytest.mark.parametrize("d, expected", [(0.005, 599), (0.01, 299), (0.02, 149)])
def test_queries_needed_without_a_loss(d: float, expected: int) -> None:
    # (1 - d)^n <= 0.05 - gamma, the rule of three.
    assert queries_needed(d) == expected == math.ceil(math.log(0.05 - GAMMA) / math.log1p(-d))
    assert p_value(0, 0, expected, d) <= 0.05 < p_value(0, 0, expected - 1, d)


@pytest.mark.parametrize("d", [0.2, 0.5, 0.9])
def test_queries_needed_is_the_first_that_passes(d: float) -> None:
    first = next(n for n in range(1, 100) if p_value(0, 0, n, d) <= 0.01)
    assert queries_needed(d, alpha=0.01) == first


def test_queries_needed_at_rates() -> None:
    n = queries_needed(0.005, loss_rate=0.015, gain_rate=0.013)
    assert n is not None
    assert p_value(round(0.015 * n), round(0.013 * n), n, 0.005) <= 0.05
    assert p_value(round(0.015 * n * 0.95), round(0.013 * n * 0.95), round(n * 0.95), 0.005) > 0.05
    assert queries_needed(0.005, loss_rate=0.02, gain_rate=0.015) is None
    assert queries_needed(0.005, loss_rate=0.03) is None


def test_queries_needed_of_many_discordant_ones_joins_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"loss_rate": 0.0165, "gain_rate": 0.0135}
    exact = queries_needed(0.005, **rates)
    assert exact is not None
    monkeypatch.setattr(paired_test, "_NORMAL_FROM", 1)
    assert queries_needed(0.005, **rates) == pytest.approx(exact, rel=0.02)
    assert queries_needed(0.005, loss_rate=0.01499, gain_rate=0.01) is not None


def test_fast_enough_for_a_curve() -> None:
    started = time.process_time()
    for _ in range(3):
        p_value(700, 600, 50_000, 0.005)
    assert (time.process_time() - started) / 3 < 0.3


@pytest.mark.parametrize("counts", [(-1, 0, 10), (0, -1, 10), (6, 5, 10), (0, 0, 0)])
def test_counts_that_cannot_be(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be of"):
        p_value(*counts, max_drop=0.1)


@pytest.mark.parametrize("d", [0.0, 1.0, -0.1, float("nan")])
def test_drops_out_of_range(d: float) -> None:
    with pytest.raises(ValueError, match="max_drop must be above 0 and below 1"):
        p_value(0, 0, 10, d)
    with pytest.raises(ValueError, match="max_drop must be above 0 and below 1"):
        queries_needed(d)
    with pytest.raises(ValueError, match="max_drop must be above 0 and below 1"):
        choose(np.ones(4, bool), (), d)


def test_other_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match="alpha must be"):
        queries_needed(0.1, alpha=GAMMA)
    with pytest.raises(ValueError, match="rates must be"):
        queries_needed(0.1, gain_rate=-0.1)
    with pytest.raises(ValueError, match="rates must be"):
        queries_needed(0.1, loss_rate=0.5, gain_rate=0.6)


# --- The choice ---


def _outcomes(n: int, lost: list[int], won: list[int]) -> NDArray[np.bool_]:
    """The full encoder is right on all but the last 100 queries; each submodel loses and gains so many."""
    correct_QS = np.ones((n, len(lost) + 1), dtype=bool)
    correct_QS[-100:] = False
    for column, (losses, gains) in enumerate(zip(lost, won, strict=True), start=1):
        correct_QS[:losses, column] = False
        correct_QS[n - gains :, column] = True
    return correct_QS


def _choose(correct_QS: NDArray[np.bool_], max_drop: float) -> tuple[Choice, int]:
    """What is chosen, and how many submodels were asked for."""
    asked = []
    others = (asked.append(column) or column for column in correct_QS.T[1:])
    return choose(correct_QS[:, 0], others, max_drop), len(asked)


def test_choice_is_the_last_before_the_first_failure() -> None:
    # The fourth would pass, but is never asked.
    chosen, asked = _choose(_outcomes(2000, [0, 3, 40, 0], [2, 3, 0, 0]), 0.01)
    assert (chosen.column, asked) == (2, 3)
    assert [(c.column, c.losses, c.gains, c.queries) for c in chosen.comparisons] == [
        (1, 0, 2, 2000),
        (2, 3, 3, 2000),
        (3, 40, 0, 2000),
    ]
    assert [c.drop for c in chosen.comparisons] == [-0.001, 0.0, 0.02]
    assert [c.p_value for c in chosen.comparisons] == [
        p_value(c.losses, c.gains, 2000, 0.01) for c in chosen.comparisons
    ]


def test_choice_at_the_ends() -> None:
    assert _choose(_outcomes(2000, [40, 0], [0, 0]), 0.01)[0].column == 0
    assert _choose(_outcomes(2000, [0, 1], [0, 1]), 0.01)[0].column == 2
    alone, asked = _choose(_outcomes(2000, [], []), 0.01)
    assert (alone.column, alone.comparisons, asked) == (0, (), 0)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(3, 8), submodels=st.integers(1, 4))
def test_choice_is_that_of_enumeration(data: st.DataObject, n: int, submodels: int) -> None:
    answers = st.lists(st.sampled_from([True, True, False]), min_size=n, max_size=n)
    correct_SQ = np.array([data.draw(answers) for _ in range(submodels + 1)])
    full_Q, others_SQ = correct_SQ[0], correct_SQ[1:]
    lost_S, won_S = (full_Q & ~others_SQ).sum(1).tolist(), (others_SQ & ~full_Q).sum(1).tolist()
    exact = [_p_by_enumeration(lost, won, n, 0.5) for lost, won in zip(lost_S, won_S, strict=True)]
    assume(min(abs(p - 0.05) for p in exact) > 1e-3)
    passed = next((s for s, p in enumerate(exact) if p > 0.05), submodels)
    chosen, asked = _choose(correct_SQ.T, 0.5)
    assert chosen.column == passed
    assert asked == len(chosen.comparisons) == min(passed + 1, submodels)


def _curves() -> dict[str, NDArray[np.float64]]:
    """True accuracies of 37 submodels, dearest first, with an allowed drop of 0.02 in mind."""
    steps = np.arange(37) / 36
    return {
        "gentle": 0.90 - 0.06 * steps,
        "steep": 0.90 - 0.30 * steps**2,
        # The worst case: nothing warns of the first submodel that drops too far, and none after it is better.
        "cliff": np.where(steps < 0.3, 0.90, 0.8799),
    }


@pytest.mark.parametrize("curve", ["gentle", "steep", "cliff"])
def test_wrong_choices_are_rare(curve: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every query has a difficulty, which wanders a little from one submodel to the next, so that neighbours
    # on the curve agree most. At each submodel it is standard normal: the accuracy is known exactly.
    runs, queries, max_drop, kept = 800, 1000, 0.02, 0.995
    most_G = _passes(queries, max_drop, 100)
    monkeypatch.setattr(paired_test, "p_value", lambda losses, gains, n, d: float(losses > most_G[gains]))
    accuracy_S = _curves()[curve]
    threshold_S1 = stats.norm.ppf(accuracy_S)[:, None]
    draws = np.random.default_rng(len(curve))
    columns = []
    for _ in range(runs):
        difficulty_SQ = draws.standard_normal((len(accuracy_S), queries))
        for s in range(1, len(accuracy_S)):
            difficulty_SQ[s] *= math.sqrt(1 - kept**2)
            difficulty_SQ[s] += kept * difficulty_SQ[s - 1]
        full_Q, *others = difficulty_SQ < threshold_S1
        columns.append(choose(full_Q, others, max_drop).column)
    wrong = int((accuracy_S[0] - accuracy_S[columns] > max_drop).sum())
    assert wrong <= stats.binom.isf(0.001, runs, 0.05)
    # Not by refusing: on each of these curves something cheaper than the full encoder is mostly chosen.
    assert np.mean(np.array(columns) > 0) > 0.5
