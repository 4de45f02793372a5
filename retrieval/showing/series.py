"""What a figure draws: values with their uncertainty against compute."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """One line of a figure, in order of cost.

    Attributes:
        name: For the legend.
        gmacs: Cost of each point.
        values: 0 to 1.
        intervals: Of the values, 95 %.
        labels: Of the points; those without a * are written beside them.
    """

    name: str
    gmacs: Sequence[float]
    values: Sequence[float]
    intervals: Sequence[tuple[float, float]]
    labels: Sequence[str]
