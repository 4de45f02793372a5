"""How much of the full encoder's answers remains: embeddings and neighbours."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.measuring.metrics.answers import Answers

OVERLAP = 10


def agreement(answers: Answers) -> dict[str, NDArray[Any]]:
    """`cosine` of a query's embedding with the full encoder's; `equal_top1`, whether the nearest row is the
    full encoder's, and `overlap_10`, the share of its 10 nearest, where the corpus has so many.
    """
    vectors_SQD, rows_SQK = answers.vectors, answers.by_submodel(answers.neighbours.rows[:, :OVERLAP])
    values: dict[str, NDArray[Any]] = {
        "cosine": np.einsum("sqd,qd->sq", vectors_SQD, vectors_SQD[0]).clip(-1, 1),
        "equal_top1": rows_SQK[:, :, 0] == rows_SQK[0, :, 0],
    }
    if answers.depth >= OVERLAP:
        values[f"overlap_{OVERLAP}"] = np.stack([overlap(rows_QK, rows_SQK[0]) for rows_QK in rows_SQK])
    return values


def overlap(one_QK: NDArray[np.int64], other_QK: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of k rows that two searches have in common, Q; no row comes twice in one of them."""
    return (one_QK[:, :, None] == other_QK[:, None, :]).any(axis=2).mean(axis=1)
