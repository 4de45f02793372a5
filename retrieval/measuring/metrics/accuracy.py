"""1-NN accuracy: whether the nearest row has the query's label."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.measuring.metrics.answers import Answers


def accuracy(answers: Answers) -> dict[str, NDArray[Any]]:
    """`adaptive_1nn`, by exact search; its `difference` to the full encoder's on the same queries, -1 to 1;
    `index_1nn`, through the index's own search where that is not exact.
    """
    if answers.truth is None:
        return {}
    right_SQ = answers.by_submodel(answers.neighbours.relevant[:, 0])
    values = {"adaptive_1nn": right_SQ, "difference": right_SQ.astype(np.float32) - right_SQ[0]}
    if answers.approximate is not None:
        values["index_1nn"] = answers.by_submodel(answers.approximate.relevant[:, 0])
    return values
