"""Submodels beside the full encoder, on images that they were not fitted to.

Those images are a small corpus embedded by the full encoder, in which each of them, embedded by a submodel,
looks for the rest.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matvit.progress import Count, Progress, silent
from matvit.submodels.submodel import Submodel
from retrieval.encoding.drawn_images import DrawnImages
from retrieval.encoding.encoder import Encoder
from retrieval.measuring.curve import Curve, Point
from retrieval.measuring.estimate import Estimate, Share, mean_of
from retrieval.measuring.metrics.accuracy import accuracy
from retrieval.measuring.metrics.agreement import OVERLAP, agreement
from retrieval.measuring.metrics.answers import NO_LABEL, Answers, Neighbours, Truth
from retrieval.measuring.summary import summarise, values_of

ENOUGH = 100
"""Images that have neighbours worth speaking of: among fewer, chance alone finds many of the ten nearest."""
POOR_DIFFERENCE = -0.05
"""A submodel is not worth using if its 1-NN accuracy falls by more than that, beyond chance."""
POOR_OVERLAP = 0.4
"""Nor, where no labels tell, if it finds less of the ten nearest."""
POOR_CLOSENESS = 0.8
"""Nor, where there are too few images to tell, if it is less close to the full encoder."""


def compare(
    encoder: Encoder,
    sliced: Encoder | None,
    images: DrawnImages,
    submodels: Sequence[Submodel],
    *,
    progress: Progress = silent,
) -> Curve:
    """Compare submodels with the full encoder, on the images held out.

    Args:
        encoder: The elastic one.
        sliced: The same encoder without what was refitted, for comparison at the granularities, if there is
            one.
        images: Those to check on are used.
        submodels: Which; the full encoder need not be among them.
        progress: Told of the images that are embedded.

    Returns:
        Cosines to the full encoder, and `closeness`, the same where 0 is another image's and 1 its own; of
        `ENOUGH` images, what of its answers remains (`retrieval.measuring.metrics.agreement`), and with
        labels, 1-NN accuracy of those that are not alone in their class; and for a granularity
        `slice_cosine`, of the plain slice.
    """
    full, uniforms = encoder.space.full, encoder.space.uniforms()
    wanted = list(dict.fromkeys([full, *submodels]))
    total = (len(wanted) + (sliced is not None) * (len(uniforms) - 1)) * sum(map(len, images.check))
    count = Count(progress, "images checked", total)

    def embedded(by: Encoder, submodel: Submodel) -> NDArray[np.float32]:
        blocks = []
        for batch in images.check_for(submodel):
            blocks.append(by.embed(batch, submodel))
            count(len(batch))
        return np.concatenate(blocks)

    vectors_SQD = np.stack([embedded(encoder, submodel) for submodel in wanted])
    measured = _measures(vectors_SQD, images.labels)
    for submodel, measures in zip(wanted, measured, strict=True):
        if sliced is not None and submodel in uniforms and submodel != full:
            cosines_Q = (embedded(sliced, submodel) * vectors_SQD[0]).sum(1).clip(-1, 1)
            measures["slice_cosine"] = mean_of(cosines_Q)
    asked = set(submodels)
    kept = [(s, measures) for s, measures in zip(wanted, measured, strict=True) if s in asked]
    return Curve.of(
        [submodel for submodel, _ in kept],
        [measures for _, measures in kept],
        cost=encoder.cost,
        full=full,
        queries=vectors_SQD.shape[1],
    )


def why_poor(point: Point) -> str | None:
    """Why a submodel is not worth using, if so."""
    value = {name: measure.value for name, measure in point.measures.items()}
    if value["cosine"] <= value.get("slice_cosine", -1):
        return f"{point.submodel} is no closer to the full encoder than a plain slice: use the original"
    if "difference" in value:
        points = -100 * value["difference"]
        is_poor, why = point["difference"].interval[1] < POOR_DIFFERENCE, f"loses {points:.1f} points of 1-NN"
    elif "overlap_10" in value:
        found = value["overlap_10"]
        is_poor, why = found < POOR_OVERLAP, f"finds {found:.0%} of the full encoder's ten nearest images"
    else:
        moved = 1 - value["closeness"]
        is_poor = value["closeness"] < POOR_CLOSENESS
        why = f"moves embeddings by {moved:.0%} of what sets images apart"
    return f"{point.submodel} is not worth using: it {why}" if is_poor else None


def _measures(
    vectors_SQD: NDArray[np.float32], labels_Q: NDArray[np.str_] | None
) -> list[dict[str, Share | Estimate]]:
    """Of images that look for each other: the full encoder's embeddings, which come first, are the corpus."""
    images = vectors_SQD.shape[1]
    numbers_Q, counts = np.full(images, NO_LABEL), np.zeros(images, np.int64)
    if labels_Q is not None:
        _, numbers_Q, counts = np.unique(labels_Q, return_inverse=True, return_counts=True)
    neighbours = _neighbours(vectors_SQD, numbers_Q)
    measures = summarise(values_of(Answers(vectors_SQD, neighbours), [agreement, _closeness]))
    if images < ENOUGH:
        return [{name: each[name] for name in ("cosine", "cosine_p5", "closeness")} for each in measures]
    others_Q = counts[numbers_Q] - 1  # Whatever one that is alone in its class finds is wrong.
    if (judged_Q := others_Q > 0).sum() >= ENOUGH:
        everyone = np.tile(judged_Q, len(vectors_SQD))
        found = Neighbours(
            neighbours.scores[everyone],
            neighbours.rows[everyone],
            neighbours.labels[everyone],
            neighbours.relevant[everyone],
        )
        truth = Truth(numbers_Q[judged_Q], others_Q[judged_Q], len(counts))
        right = summarise(values_of(Answers(vectors_SQD[:, judged_Q], found, truth), [accuracy]))
        measures = [{**one, **other} for one, other in zip(measures, right, strict=True)]
    return measures


def _closeness(answers: Answers) -> dict[str, NDArray[Any]]:
    """Cosines to the full encoder, on a scale where 0 is the mean of two images' and 1 an image's own."""
    full_QD = answers.vectors[0]
    images = len(full_QD)
    others = float(np.square(full_QD.sum(0, dtype=np.float64)).sum() - images) / (images * (images - 1))
    cosines_SQ = np.einsum("sqd,qd->sq", answers.vectors, full_QD)
    return {"closeness": 1 - (1 - cosines_SQ) / max(1 - others, 1e-6)}


def _neighbours(vectors_SQD: NDArray[np.float32], numbers_Q: NDArray[np.int64]) -> Neighbours:
    """The nearest images of each, itself left out, best first."""
    scores, rows = [], []
    for vectors_QD in vectors_SQD:
        scores_QQ = vectors_QD @ vectors_SQD[0].T
        np.fill_diagonal(scores_QQ, -np.inf)
        rows_QK = np.argsort(-scores_QQ, axis=1, kind="stable")[:, : min(OVERLAP, len(scores_QQ) - 1)]
        scores.append(np.take_along_axis(scores_QQ, rows_QK, 1))
        rows.append(rows_QK)
    labels = numbers_Q[np.concatenate(rows)]
    relevant = labels == np.tile(numbers_Q, len(vectors_SQD))[:, None]
    return Neighbours(np.concatenate(scores), np.concatenate(rows), labels, relevant)
