"""Which of the submodels that were checked stay on a curve.

Those that find more than any cheaper one of the ten images that are nearest by the full encoder. A cosine
tells less of that: narrower FFNs at .94 found fewer of them than smaller images at .93
(`benchmarks/README.md`).

Where chance may have told two apart, the plainer one stays: smaller images need no fit, and their time falls
as fast as their multiply-accumulates; merges need no fit either; narrower layers serve images like those that
they were fitted to.
"""

from matvit.submodels.submodel import Submodel
from retrieval.measuring.curve import Curve, Point
from retrieval.measuring.estimate import Estimate, Share


def worth_keeping(curve: Curve, full: Submodel) -> list[Point]:
    """The points of a curve below the full encoder that are worth what they cost, cheapest first.

    Within each cost, it is the plainest of those that none is better than beyond chance, by the end of its
    95 % interval; of equally plain ones the best.

    Args:
        curve: Points with their cosines to the full encoder and, where there were enough images, shares of
            the ten nearest.
        full: The full encoder.
    """
    below = [point for point in curve.points if point.cost.macs < curve.full.macs]
    kept: list[Point] = []
    for limit in sorted({point.cost.macs for point in below}):
        within = [point for point in below if point.cost.macs <= limit]
        certain = max(_found(point).interval[0] for point in within)
        not_worse = [point for point in within if _found(point).value >= certain]
        chosen = min(not_worse, key=lambda point: (_plainness(point.submodel, full), _best_first(point)))
        # One that was passed over before may be what is left: it serves what the dearer ones served, too.
        kept = [point for point in kept if point.cost.macs < chosen.cost.macs] + [chosen]
    return kept


def agreement(point: Point) -> tuple[float, float]:
    """How good a submodel is: what it finds of the ten nearest, and where that tells nothing, its cosine."""
    return _found(point).value, point["cosine"].value


def _found(point: Point) -> Share | Estimate:
    # Of fewer than eleven images, the ten nearest are all.
    return point.measures.get("overlap_10", point["cosine"])


def _best_first(point: Point) -> tuple[float, float, int]:
    found, cosine = agreement(point)
    return -found, -cosine, point.cost.macs


def _plainness(submodel: Submodel, full: Submodel) -> int:
    """0 where the size of images alone differs from the full encoder's, 1 with merges, 2 with widths."""
    if submodel.widths != full.widths:
        return 2
    return int(any(submodel.merges))
