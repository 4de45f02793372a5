"""Where points of a curve lie beside the straight lines between its granularities."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.intervals import Estimate, bootstrap_means


def to_line(costs: Sequence[float], ends: Sequence[bool], right: NDArray[np.bool_]) -> list[Estimate]:
    """How far each point's accuracy is above the line between the ends on either side of it, at its cost.

    Args:
        costs: Of the points, ascending.
        ends: Which of them the lines join; points outside are held against the nearest end.
        right: Whether each point answers each query rightly, (points, queries).

    Returns:
        Differences of accuracies, -1 to 1, below 0 where a point is below the line, with intervals that know
        that all points answered the same queries.
    """
    places = np.flatnonzero(ends)
    right_PQ, above_QP = right.astype(np.float64), np.zeros(right.shape[::-1])
    for point, cost in enumerate(costs):
        left = int(places[places <= point].max(initial=places[0]))
        following = int(places[places >= point].min(initial=places[-1]))
        share = 0.0 if left == following else (cost - costs[left]) / (costs[following] - costs[left])
        line_Q = (1 - share) * right_PQ[left] + share * right_PQ[following]
        above_QP[:, point] = right_PQ[point] - line_Q
    intervals = bootstrap_means(above_QP)
    return [
        Estimate(float(above_QP[:, point].mean()), (float(low), float(high)))
        for point, (low, high) in enumerate(intervals)
    ]
