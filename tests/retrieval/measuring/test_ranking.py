"""Measures of retrieval against scikit-learn, and against definitions spelled out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score
from sklearn.neighbors import KNeighborsClassifier

from retrieval.measuring.metrics import agreement, predictions, ranking, votes
from retrieval.measuring.metrics.answers import NO_LABEL


def unit(rng: np.random.Generator, count: int, dim: int = 6) -> np.ndarray:
    vectors = rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def ranked(queries: np.ndarray, corpus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = queries @ corpus.T
    rows = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, rows, 1), rows


cases = given(
    st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(2, 60), st.integers(1, 6), st.integers(1, 60)
)


@cases
@settings(max_examples=60)
def test_weighted_votes_are_those_of_scikit_learn(
    seed: int, queries: int, rows: int, classes: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    k = min(k, rows)
    corpus, asked, labels = unit(rng, rows), unit(rng, queries), rng.integers(0, classes, rows)
    oracle = KNeighborsClassifier(
        k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: np.exp((1 - distances) / votes.TEMPERATURE),
    ).fit(corpus, labels)
    scores, order = ranked(asked, corpus)
    found = votes.knn_labels(scores, labels[order], sorted({1, k}), classes=classes)[k]
    sure = np.sort(np.pad(oracle.predict_proba(asked), ((0, 0), (1, 0))), axis=1)
    clear = sure[:, -1] - sure[:, -2] > 1e-4  # near ties fall either way
    np.testing.assert_array_equal(found[clear], oracle.predict(asked)[clear])


def test_votes_are_counted_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores, labels = -np.sort(-rng.random((50, 9)).astype(np.float32)), rng.integers(-1, 5, (50, 9))
    whole = votes.knn_labels(scores, labels, (2, 9), classes=5)
    monkeypatch.setattr(votes, "_MOST_VOTES", 40)
    pieces = votes.knn_labels(scores, labels, (2, 9), classes=5)
    for k in (2, 9):
        np.testing.assert_array_equal(pieces[k], whole[k])


@pytest.mark.parametrize("ks", [(2, 1), (1, 1), (1, 4)])
def test_ks_ascend_up_to_the_neighbours_there_are(ks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not ascend up to the 3 neighbours"):
        votes.knn_labels(np.ones((1, 3), np.float32), np.zeros((1, 3), np.int64), ks, classes=1)


def test_rows_without_a_label_do_not_vote() -> None:
    scores = np.array([[0.9, 0.5, 0.4], [0.9, 0.8, 0.7]], np.float32)
    labels = np.array([[NO_LABEL, 3, NO_LABEL], [NO_LABEL] * 3])
    assert votes.knn_labels(scores, labels, [3], classes=4)[3].tolist() == [3, NO_LABEL]


def test_many_far_votes_do_not_outweigh_one_near_unless_they_are_hot() -> None:
    scores = np.array([[1.0] + [0.5] * 9], np.float32)
    labels = np.array([[7] + [2] * 9])
    assert votes.knn_labels(scores, labels, [10], classes=8)[10].tolist() == [7]
    assert votes.knn_labels(scores, labels, [10], classes=8, temperature=10)[10].tolist() == [2]


@cases
@settings(max_examples=60)
def test_average_precision_over_the_whole_corpus_is_that_of_scikit_learn(
    seed: int, queries: int, rows: int, classes: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(rows, dtype=float), (queries, 1)), axis=1)
    relevant = rng.integers(0, classes, (queries, rows)) == 0
    order = np.argsort(-scores, axis=1)
    found = ranking.average_precision(np.take_along_axis(relevant, order, 1), relevant.sum(axis=1))
    for one, truth, score in zip(found, relevant, scores, strict=True):
        expected = average_precision_score(truth, score) if truth.any() else 0
        assert one == pytest.approx(expected)
    if relevant.any(axis=1).all():
        assert found.mean() == pytest.approx(label_ranking_average_precision_score(relevant, scores))


@cases
@settings(max_examples=60)
def test_average_precision_at_k_is_its_definition(
    seed: int, queries: int, rows: int, classes: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    k = min(k, rows)
    relevant = rng.integers(0, classes, (queries, rows)) == 0
    found = ranking.average_precision(relevant[:, :k], relevant.sum(axis=1))
    for one, truth in zip(found, relevant.tolist(), strict=True):
        precisions = [sum(truth[: i + 1]) / (i + 1) for i in range(k) if truth[i]]
        assert one == pytest.approx(sum(precisions) / min(k, sum(truth)) if any(truth) else 0)
    np.testing.assert_array_equal(ranking.recall(relevant[:, :k]), [any(t[:k]) for t in relevant.tolist()])


def test_perfect_retrieval_is_one_though_more_is_relevant_than_k() -> None:
    assert ranking.average_precision(np.ones((1, 10), bool), np.array([500])).tolist() == [1]


@given(st.integers(0, 2**32 - 1), st.integers(1, 10))
def test_overlap_counts_common_rows(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = (np.stack([rng.permutation(15)[:k] for _ in range(4)]) for _ in range(2))
    expected = [len(set(a) & set(b)) / k for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    assert agreement.overlap(one, other) == pytest.approx(expected)


@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
def test_divergence_is_its_definition(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = (rng.dirichlet(np.ones(classes), 3) for _ in range(2))
    found = predictions.divergence(np.log(p), np.log(q))
    assert found == pytest.approx((p * np.log(p / q)).sum(axis=1))
    assert predictions.divergence(np.log(p), np.log(p)) == pytest.approx(np.zeros(3))
