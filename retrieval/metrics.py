"""Measures of retrieval, one number a query: from its neighbours, nearest first, to what is averaged.

Sources: weighted k-NN as in DINO (arXiv 2104.14294, section 4.1, after arXiv 1805.01978); recall@k and mAP@k
as in metric learning (arXiv 2003.08505).
"""

from collections.abc import Sequence
from itertools import pairwise

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
_MOST_VOTES = 2**23  # held at a time, in a table of queries x labels


def knn_labels(
    scores_QK: NDArray[np.float32],
    labels_QK: NDArray[np.int64],
    ks: Sequence[int],
    *,
    classes: int,
    temperature: float = TEMPERATURE,
) -> dict[int, NDArray[np.int64]]:
    """What the k nearest vote for: each for its label, with the weight exp(score / temperature).

    Args:
        scores_QK: Cosines, best first.
        labels_QK: Labels as numbers below `classes`; those without one, `NO_LABEL`, do not vote.
        ks: How many vote, ascending, each at most K.
        classes: How many labels there are.
        temperature: The lower it is, the more the nearest count.

    Returns:
        For each k labels, Q; the lower where votes tie, `NO_LABEL` where nobody votes.

    Raises:
        ValueError: The `ks` do not ascend, or one is above K.
    """
    most = max(ks, default=0)
    if list(ks) != sorted(set(ks)) or most > scores_QK.shape[1]:
        raise ValueError(f"{list(ks)} do not ascend up to the {scores_QK.shape[1]} neighbours at most")
    weights_QK = np.exp((scores_QK[:, :most] - scores_QK[:, :1]) / temperature)
    winners: dict[int, list[NDArray[np.int64]]] = {k: [] for k in ks}
    rows = max(1, _MOST_VOTES // (classes + 1))
    for start in range(0, len(labels_QK), rows):
        # The first column is of those without a label, whose votes are not read.
        places_QK = labels_QK[start : start + rows] + 1
        places_QK += (classes + 1) * np.arange(len(places_QK))[:, None]
        votes = np.zeros(len(places_QK) * (classes + 1))
        for before, k in pairwise((0, *ks)):
            new = weights_QK[start : start + rows, before:k]
            votes += np.bincount(places_QK[:, before:k].ravel(), new.ravel(), len(votes))
            votes_QC = votes.reshape(len(places_QK), -1)[:, 1:]
            winners[k].append(np.where(votes_QC.any(axis=1), votes_QC.argmax(axis=1), NO_LABEL))
    return {k: np.concatenate(each) for k, each in winners.items()}


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
