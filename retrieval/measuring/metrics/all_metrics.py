"""Everything that is measured of queries, by name: see the file of each metric."""

from retrieval.measuring.metrics.accuracy import accuracy
from retrieval.measuring.metrics.agreement import OVERLAP, agreement
from retrieval.measuring.metrics.answers import Metric
from retrieval.measuring.metrics.predictions import predictions
from retrieval.measuring.metrics.ranking import RANKS, ranking
from retrieval.measuring.metrics.votes import KNN, votes

METRICS: tuple[Metric, ...] = (
    accuracy,
    votes,
    ranking,
    agreement,
    predictions,
)
"""To add one, see `Metric`."""

DEPTH = max(*KNN, *RANKS, OVERLAP)
"""Neighbours a query that these look at."""
