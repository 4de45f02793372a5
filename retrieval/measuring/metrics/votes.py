"""Weighted votes of neighbours, as in DINO (arXiv 2104.14294, section 4.1, after arXiv 1805.01978)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.measuring.metrics.answers import NO_LABEL, Answers

KNN = (10, 20, 100, 200)
"""Neighbours that vote, as in DINO's protocol."""
TEMPERATURE = 0.07
_MOST_VOTES = 2**23  # held at a time, in a table of queries x labels


def votes(answers: Answers) -> dict[str, NDArray[Any]]:
    """`knn_K`: whether K neighbours vote for the query's label; K above the number of rows is left out."""
    found, truth = answers.neighbours, answers.truth
    if truth is None:
        return {}
    ks = [k for k in KNN if k <= answers.depth]
    labels_Q = np.tile(truth.labels, answers.submodels)
    voted = knn_labels(found.scores, found.labels, ks, classes=truth.classes)
    return {f"knn_{k}": answers.by_submodel(voted_Q == labels_Q) for k, voted_Q in voted.items()}


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
