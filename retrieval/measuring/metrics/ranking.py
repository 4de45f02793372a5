"""recall@k and mAP@k as in metric learning (arXiv 2003.08505): rows of the query's label are relevant."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.measuring.metrics.answers import Answers

RANKS = (10, 100)
"""Where they are measured."""


def ranking(answers: Answers) -> dict[str, NDArray[Any]]:
    """`recall_at_K` and `map_at_K`; K above the number of rows is left out."""
    if answers.truth is None:
        return {}
    possible_Q = np.tile(answers.truth.relevant, answers.submodels)
    values: dict[str, NDArray[Any]] = {}
    for k in RANKS:
        if k <= answers.depth:
            relevant_QK = answers.neighbours.relevant[:, :k]
            values[f"recall_at_{k}"] = answers.by_submodel(recall(relevant_QK))
            values[f"map_at_{k}"] = answers.by_submodel(average_precision(relevant_QK, possible_Q))
    return values


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
