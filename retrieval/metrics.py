"""Measures of retrieval, one number a query: from its neighbours, nearest first, to what is averaged.

Sources: weighted k-NN as in DINO (arXiv 2104.14294, section 4.1, after arXiv 1805.01978); recall@k and mAP@k
as in metric learning (arXiv 2003.08505).
"""

import numpy as np
from numpy.typing import NDArray

KNN = (10, 20, 100, 200)
"""Neighbours that vote, as in DINO's protocol."""
TEMPERATURE = 0.07
RANKS = (10, 100)
"""Where recall@k and mAP@k are measured."""
DEPTH = max(*KNN, *RANKS)
"""Neighbours a query that all of these need."""

NO_LABEL = -1


def knn_labels(
    scores_QK: NDArray[np.float32], labels_QK: NDArray[np.int64], *, temperature: float = TEMPERATURE
) -> NDArray[np.int64]:
    """What the k nearest vote for: each for its label, with the weight exp(score / temperature).

    Args:
        scores_QK: Cosines, best first.
        labels_QK: Labels as numbers; those without one, `NO_LABEL`, do not vote.
        temperature: The lower it is, the more the nearest count.

    Returns:
        Labels, Q; the lower where votes tie, `NO_LABEL` where nobody votes.
    """
    weights_QK = np.exp((scores_QK - scores_QK.max(axis=1, keepdims=True)).astype(np.float64) / temperature)
    weights_QK[labels_QK == NO_LABEL] = 0
    # Votes are summed over runs of equal labels: a table of them all would be queries x classes.
    order_QK = np.argsort(labels_QK, axis=1, kind="stable")
    sorted_QK = np.take_along_axis(labels_QK, order_QK, 1)
    sums_QK = np.cumsum(np.take_along_axis(weights_QK, order_QK, 1), axis=1)
    last_QK = np.ones(labels_QK.shape, dtype=bool)
    last_QK[:, :-1] = sorted_QK[:, :-1] != sorted_QK[:, 1:]
    # What a run adds up to is the running sum at its end less that at the end of the run before.
    ends_QK = np.where(last_QK, sums_QK, 0)
    before_QK = np.zeros_like(ends_QK)
    before_QK[:, 1:] = np.maximum.accumulate(ends_QK, axis=1)[:, :-1]
    votes_QK = np.where(last_QK, sums_QK - before_QK, -1)
    winner_Q = sorted_QK[np.arange(len(labels_QK)), votes_QK.argmax(axis=1)]
    return np.where((labels_QK == NO_LABEL).all(axis=1), NO_LABEL, winner_Q)


def recall(relevant_QK: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether any of the k nearest is relevant, Q."""
    return np.asarray(relevant_QK.any(axis=1))


def average_precision(relevant_QK: NDArray[np.bool_], relevant_Q: NDArray[np.int64]) -> NDArray[np.float64]:
    """The precision at the rank of each relevant one, summed and divided by how many there could be, Q.

    Args:
        relevant_QK: Whether each of the k nearest is relevant.
        relevant_Q: How many rows of the whole corpus are; at most k of them can be among the k nearest.
            Where there is none, the average precision is 0.
    """
    ranks_K = np.arange(1, relevant_QK.shape[1] + 1)
    precision_QK = np.cumsum(relevant_QK, axis=1) / ranks_K
    possible_Q = np.clip(relevant_Q, 1, len(ranks_K))
    return (precision_QK * relevant_QK).sum(axis=1) / possible_Q


def overlap(one_QK: NDArray[np.int64], other_QK: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of k rows that two searches have in common, Q; no row comes twice in one of them."""
    return (one_QK[:, :, None] == other_QK[:, None, :]).any(axis=2).mean(axis=1)


def divergence(log_p_QC: NDArray[np.floating], log_q_QC: NDArray[np.floating]) -> NDArray[np.float64]:
    """The Kullback-Leibler divergence of q from p in nats, Q: what is lost when q stands for p."""
    log_p_QC = log_p_QC.astype(np.float64)
    return (np.exp(log_p_QC) * (log_p_QC - log_q_QC)).sum(axis=1)
