"""Other orders of the same widths, which all cost the same, beside Mix'n'Match.

MatFormer (arXiv 2310.07707, section 4.3) found widths that grow
with depth the best of them, and as good as what an evolutionary search finds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from matvit.submodels.submodel import Submodel, SubmodelSpace
from retrieval.measuring.estimate import Estimate, Share, means_of
from retrieval.measuring.evaluation import Evaluation

Labels = tuple[str, ...]

ORDERS = ("increasing", "decreasing", "larger in the middle", "smaller in the middle", "random")
"""Of widths from the first layer to the last; the first is Mix'n'Match."""


def ordered(small: str, large: str, larger: int, depth: int, order: str, seed: int = 0) -> Labels:
    """Granularities of `depth` layers, of which `larger` are the larger one, in one of the `ORDERS`."""
    rest = depth - larger
    match order:
        case "increasing":
            return (small,) * rest + (large,) * larger
        case "decreasing":
            return (large,) * larger + (small,) * rest
        case "larger in the middle":
            return (small,) * (rest // 2) + (large,) * larger + (small,) * (rest - rest // 2)
        case "smaller in the middle":
            return (large,) * (larger // 2) + (small,) * rest + (large,) * (larger - larger // 2)
        case "random":
            labels = ordered(small, large, larger, depth, "increasing")
            return tuple(labels[i] for i in np.random.default_rng([seed, larger]).permutation(depth))
    raise ValueError(f"order must be one of {', '.join(ORDERS)}; got {order!r}")


def orders(space: SubmodelSpace, seed: int = 0) -> Iterator[tuple[str, Submodel, Submodel]]:
    """Every order of the widths of every point of the curve that has two: its name, it, and the point."""
    for small, large in pairwise(space.granularities):
        for larger in range(1, space.depth):
            point = space.labelled(ordered(small, large, larger, space.depth, "increasing"))
            for order in ORDERS:
                labels = ordered(small, large, larger, space.depth, order, seed)
                yield order, space.labelled(labels), point


@dataclass(frozen=True)
class Ordered:
    """One order of widths, measured.

    Attributes:
        order: Its name, one of `ORDERS`.
        submodel: What it makes of the widths.
        point: The submodel of the Mix'n'Match curve with the same widths, and the same cost.
        accuracy: Adaptive 1-NN.
        difference: Of that to the point's, on the same queries.
    """

    order: str
    submodel: Submodel
    point: Submodel
    accuracy: Share
    difference: Estimate


def compare_orders(
    space: SubmodelSpace, result: Evaluation, seed: int = 0
) -> tuple[list[Ordered], dict[str, Estimate]]:
    """What each order of widths comes to, of an evaluation of all `orders`.

    Returns:
        Every order of every point, and for each order its difference to Mix'n'Match, the mean over points.
    """
    place = {point.submodel: i for i, point in enumerate(result.points)}
    right_PQ = result.right.astype(np.float64)
    found = list(orders(space, seed))
    differences_QM = np.stack([right_PQ[place[s]] - right_PQ[place[point]] for _, s, point in found], axis=1)
    differences = means_of(differences_QM)
    names = np.array([order for order, _, _ in found])
    means_QO = np.stack([differences_QM[:, names == order].mean(axis=1) for order in ORDERS], axis=1)
    means = dict(zip(ORDERS, means_of(means_QO), strict=True))
    measured = [
        Ordered(
            order,
            submodel,
            point,
            Share.of(result.right[place[submodel]]),
            difference,
        )
        for (order, submodel, point), difference in zip(found, differences, strict=True)
    ]
    return measured, means
