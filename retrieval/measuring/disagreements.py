"""Queries that the smallest submodel and the full encoder answer differently, to look at."""

from dataclasses import replace

import numpy as np

from retrieval.hits import Hit, Hits
from retrieval.measuring.evaluation import Evaluation
from retrieval.sources.all_sources import own_key
from retrieval.sources.originals import originals


def disagreements(evaluation: Evaluation, *, limit: int = 6, k: int = 5) -> list[tuple[str, Hit, Hits]]:
    """Two rows of a contact sheet a query: by the full encoder, then by the cheapest submodel measured.

    Queries of which one of the two finds the label and the other does not come first.

    Args:
        evaluation: With the full encoder among its points; without, there is nothing to show.
        limit: Queries at most.
        k: Neighbours of each.

    Returns:
        Caption, query and neighbours, as `retrieval.showing.contact_sheet.contact_sheet` takes them.
    """
    points, searcher = evaluation.points, evaluation.searcher
    if points[-1].submodel != searcher.encoder.space.full:
        return []
    changed = evaluation.right[0] != evaluation.right[-1]
    differing = np.flatnonzero(evaluation.nearest[0] != evaluation.nearest[-1])
    rows: list[tuple[str, Hit, Hits]] = []
    for number in sorted(differing.tolist(), key=lambda q: not changed[q])[:limit]:
        sample = evaluation.samples[number]
        query = Hit(sample.key, 1.0, sample.label, sample.path)
        image = next((data for _, data in originals(sample.path, [sample.key])), None)
        if image is None:  # it has gone since it was measured
            continue
        for point in (points[-1], points[0]):
            hits = searcher.query(image, budget=point.submodel, k=k + 1)
            others = tuple(hit for hit in hits if not _is_same(hit, query))
            rows.append((f"{point.submodel}\n{sample.label}", query, replace(hits, hits=others[:k])))
    return rows


def _is_same(hit: Hit, query: Hit) -> bool:
    return (hit.path, own_key(hit.path, hit.key)) == (query.path, own_key(query.path, query.key))
