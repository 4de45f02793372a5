"""From what each query came to, to what a submodel is worth: shares and means with their uncertainty."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.measuring.estimate import Estimate, Share, means_of, percentile
from retrieval.measuring.metrics.answers import Answers, Metric

Measures = Mapping[str, Share | Estimate]
"""By name: see `retrieval.measuring.metrics`."""

_PERCENTILES = {"cosine": 5}
"""Measures of which the worst queries are told too, as `cosine_p5`."""


def values_of(answers: Answers, metrics: Sequence[Metric]) -> dict[str, NDArray[Any]]:
    """Name -> S x Q, of all metrics; numbers as float32, for there are many."""
    found = {name: values for metric in metrics for name, values in metric(answers).items()}
    return {name: v if v.dtype == np.bool_ else v.astype(np.float32) for name, v in found.items()}


def summarise(values: Mapping[str, NDArray[Any]]) -> list[dict[str, Share | Estimate]]:
    """What values (S x Q) come to, for each of the S submodels.

    Args:
        values: By name; all of them of the same queries.
    """
    submodels = len(next(iter(values.values())))
    summaries: list[dict[str, Share | Estimate]] = [{} for _ in range(submodels)]
    numbers = {name: each for name, each in values.items() if each.dtype != np.bool_}
    # In one go: drawing the resamples takes longer than using them.
    means = iter(means_of(np.concatenate(list(numbers.values())).T) if numbers else ())
    for name, values_SQ in values.items():
        for summary, values_Q in zip(summaries, values_SQ, strict=True):
            summary[name] = next(means) if name in numbers else Share.of(values_Q)
            if name in _PERCENTILES:
                summary[f"{name}_p{_PERCENTILES[name]}"] = percentile(values_Q, _PERCENTILES[name])
    return summaries
