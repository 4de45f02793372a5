"""Curves: what submodels cost and what they are worth, cheapest first."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matvit.submodels.cost import Cost, CostModel
from matvit.submodels.profile import Profile
from matvit.submodels.submodel import Submodel
from retrieval.measuring.estimate import Estimate, Share, means_of
from retrieval.measuring.summary import Measures
from retrieval.showing.csv_table import Row
from retrieval.showing.series import Series

_CONSISTENCY = {
    "equal_top1": "same nearest image",
    "overlap_10": "common among the 10 nearest",
    "equal_predictions": "same prediction of the classifier",
}


@dataclass(frozen=True)
class Point:
    """One submodel's place on a curve.

    Attributes:
        submodel: Which embedded the queries.
        cost: Of one query.
        share_of_full: Its multiply-accumulates as a share of the full encoder's, 0 to 1.
        measures: What was measured, by name: see `retrieval.measuring.metrics`; beside those, `evaluate` and
            `elasticize` say what they add.
        ms: Milliseconds of embedding one image, where they were measured.
    """

    submodel: Submodel
    cost: Cost
    share_of_full: float
    measures: Measures
    ms: float | None = None

    def __getitem__(self, measure: str) -> Share | Estimate:
        return self.measures[measure]

    def row(self) -> Row:
        """The point in plain values, each measure with the ends of its interval, `_low` and `_high`.

        Accuracies and shares are 0 to 1.
        """
        row: Row = {
            "submodel": str(self.submodel),
            "widths": " ".join(map(str, self.submodel.widths)),
            "gmacs": self.cost.gmacs,
            "gflops": self.cost.gflops,
            "mparams": self.cost.mparams,
            "share_of_xl": round(self.share_of_full, 6),
        }
        if self.ms is not None:
            row["ms"] = self.ms
        for name, measure in self.measures.items():
            low, high = measure.interval
            row |= {
                name: round(measure.value, 6),
                f"{name}_low": round(low, 6),
                f"{name}_high": round(high, 6),
            }
        return row


@dataclass(frozen=True)
class Curve:
    """Submodels beside the full encoder, on the same queries.

    Attributes:
        points: Cheapest first.
        full: Cost of the full encoder.
        queries: How many there were.
    """

    points: tuple[Point, ...]
    full: Cost
    queries: int

    @classmethod
    def of(
        cls,
        submodels: Sequence[Submodel],
        measures: Sequence[Measures],
        *,
        cost: CostModel,
        full: Submodel,
        queries: int,
        profile: Profile | None = None,
    ) -> "Curve":
        """The curve through submodels, in any order, each with what was measured of it."""

        def point(submodel: Submodel, measured: Measures) -> Point:
            own = cost(submodel)
            ms = profile(submodel) if profile else None
            return Point(submodel, own, own.macs / cost(full).macs, measured, ms)

        points = map(point, submodels, measures)
        return cls(tuple(sorted(points, key=lambda each: each.cost.macs)), cost(full), queries)

    def only(self, submodels: Container[Submodel]) -> "Curve":
        """The points of some submodels."""
        return replace(self, points=tuple(each for each in self.points if each.submodel in submodels))

    def timed(self, profile: Profile) -> "Curve":
        """The same with milliseconds."""
        return replace(self, points=tuple(replace(each, ms=profile(each.submodel)) for each in self.points))

    def series(self, measure: str, name: str) -> Series:
        """A measure along the curve, of the points where it was measured."""
        points = [point for point in self.points if measure in point.measures]
        return Series(
            name,
            [point.cost.gmacs for point in points],
            [point[measure].value for point in points],
            [point[measure].interval for point in points],
            [str(point.submodel) for point in points],
        )

    def plot_consistency(self, path: Path) -> None:
        """Draw how much of the full encoder's answers remains: see `retrieval.showing.figures`."""
        from retrieval.showing.figures import plot_consistency  # Here, for it loads matplotlib.

        cosines = [self.series("cosine", "mean"), self.series("cosine_p5", "5th percentile")]
        shares = [self.series(measure, name) for measure, name in _CONSISTENCY.items()]
        drawn = [series for series in shares if series.values]
        plot_consistency(path, cosines, drawn, full_gmacs=self.full.gmacs)

    def table(self) -> list[Row]:
        """One row a point, all with the same keys; empty where a point lacks what others have."""
        rows = [point.row() for point in self.points]
        keys = dict.fromkeys(key for row in rows for key in row)
        return [{key: row.get(key, "") for key in keys} | {"queries": self.queries} for row in rows]


def above_line(costs: Sequence[float], ends: Sequence[bool], right: NDArray[np.bool_]) -> list[Estimate]:
    """How far each point's accuracy is above the line between the ends on either side of it, at its cost.

    Args:
        costs: Of the points, ascending.
        ends: Which of them the lines join; points outside are held against the nearest end.
        right: Whether each point answers each query rightly, (points, queries).

    Returns:
        Differences of accuracies, -1 to 1, below 0 where a point is below the line, with intervals that know
        that all points answered the same queries.
    """
    ends_E = np.flatnonzero(ends)
    right_PQ, above_QP = right.astype(np.float64), np.zeros(right.shape[::-1])
    for point, cost in enumerate(costs):
        left = int(ends_E[ends_E <= point].max(initial=ends_E[0]))
        following = int(ends_E[ends_E >= point].min(initial=ends_E[-1]))
        share = 0.0 if left == following else (cost - costs[left]) / (costs[following] - costs[left])
        line_Q = (1 - share) * right_PQ[left] + share * right_PQ[following]
        above_QP[:, point] = right_PQ[point] - line_Q
    return means_of(above_QP)
