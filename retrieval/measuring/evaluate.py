"""Retrieval measured against query compute: the curve this project exists for.

Adaptive 1-NN embeds the corpus once with the full encoder and every query with a submodel. For comparison,
same-encoder 1-NN embeds both with the submodel, which an index cannot do without being built again.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.faiss_kinds.search import nearest
from matvit.progress import Count, Progress, silent
from matvit.submodels.submodel import Submodel
from retrieval.encoding.batches import Batch, batches
from retrieval.encoding.encoder import NO_EMBEDDING, Encoder, are_units
from retrieval.errors import EvaluationError, ImageSourceError
from retrieval.measuring.curve import Curve, above_line
from retrieval.measuring.enough_queries import why_none
from retrieval.measuring.estimate import Share
from retrieval.measuring.evaluation import Evaluation
from retrieval.measuring.neighbours import LabelledRows
from retrieval.measuring.pixels import raw_pixel_1nn
from retrieval.measuring.query_results import QueryResults
from retrieval.searcher import Searcher
from retrieval.sources.open_images import ImageSource, open_source, open_sources
from retrieval.sources.sample import Failure, Sample

_log = logging.getLogger(__name__)

ALL = "all"
"""The budgets of the whole curve."""
MIXNMATCH = "mixnmatch"
"""Those of the Mix'n'Match curve, where the curve was measured and is another."""
_SEARCHED_TOGETHER = 16_384
"""Vectors, of several batches and all submodels: the corpus is read once for so many."""


def evaluate(
    searcher: Searcher,
    queries: ImageSource | str | Path,
    budgets: Sequence[str | Submodel] = (ALL,),
    *,
    same_encoder: bool = False,
    raw_pixels: bool = False,
    measure: bool = False,
    batch_size: int = 64,
    workers: int | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure the retrieval of queries encoded by each of several submodels.

    Every image is decoded once, and preprocessed once for each size that submodels read, whatever their
    number; the corpus is read once for some thousand vectors of all of them.

    Args:
        searcher: The index and its encoder.
        queries: Labelled images, or what `retrieval.sources.open_images.open_source` takes; those that lie in
            the corpus are searched without themselves.
        budgets: What to measure: budgets, submodels, `ALL` for the whole curve, or `MIXNMATCH`. The full
            encoder, which others are compared with, need not be among them.
        same_encoder: Also embed the corpus again with every submodel, reading it from where it was when the
            index was built. Holds one float16 vector for each image, query and submodel in memory.
        raw_pixels: Also measure 1-NN on raw pixels, where corpus and queries are images of one size.
        measure: Also measure milliseconds an image, once.
        batch_size: Images a batch.
        workers: Processes that decode: see `retrieval.encoding.batches`.
        progress: Told of the images that are embedded, those of the corpus included.

    Raises:
        EvaluationError: No query has a label, none of their labels is in the corpus, or `same_encoder` is
            asked for and the corpus has changed.
        ImageSourceError: The corpus is not where it was, and `same_encoder` needs it.
        BudgetError: No submodel fits one of the budgets.
    """
    if not isinstance(queries, ImageSource):
        queries = open_source(queries, labels=True)
    index, encoder = searcher.index, searcher.encoder
    if not index.manifest.classes:
        raise EvaluationError(
            "no image of the corpus has a label: build it with --labels folders of one subfolder a class, or "
            "of shards with .cls files"
        )
    submodels = _submodels(searcher, budgets)
    total = None if queries.size is None else queries.size + same_encoder * len(index)
    count = Count(progress, "images embedded", total)
    over = partial(
        _over, encoder=encoder, submodels=submodels, batch_size=batch_size, workers=workers, count=count
    )
    corpus = LabelledRows.of_store(index)
    if same_encoder:
        sources = index.manifest.sources
        rows, corpora = _embed_again(
            over(open_sources(sources, index.manifest.excludes, labels=True)), encoder, submodels
        )
        if not rows.same_images(corpus):
            raise EvaluationError(
                f"the images at {', '.join(sources)} are no longer those of the index: build it again"
            )

    profile = encoder.profile(submodels) if measure else None
    full = encoder.space.full
    embedded = list(dict.fromkeys([full, *submodels]))
    results = QueryResults(index, corpus, len(embedded))
    asked: list[list[NDArray[np.float16]]] = [[] for _ in submodels]
    seen: list[Sample] = []
    alone: list[Sample] = []
    failures: list[Failure] = []
    unlabelled = 0
    for batch in over(queries):
        failures += batch.failures
        labelled = [row for row, sample in enumerate(batch.samples) if sample.label is not None]
        unlabelled += len(batch.samples) - len(labelled)
        there = corpus.relevant([batch.samples[row] for row in labelled]) > 0
        keep = [row for row, has_others in zip(labelled, there, strict=True) if has_others]
        alone += [batch.samples[row] for row in labelled if row not in keep]
        if not keep:
            continue
        samples = [batch.samples[row] for row in keep]
        predicted = {
            submodel: encoder.predict(batch.images_for(submodel)[keep], submodel) for submodel in embedded
        }
        usable_Q = np.all([are_units(each.vectors) for each in predicted.values()], axis=0)
        if not usable_Q.all():
            failures += [Failure(samples[i].key, NO_EMBEDDING) for i in np.flatnonzero(~usable_Q)]
            samples = [samples[i] for i in np.flatnonzero(usable_Q)]
            predicted = {submodel: each.of(usable_Q) for submodel, each in predicted.items()}
        seen += samples
        results.add(samples, list(predicted.values()))
        if results.waiting >= _SEARCHED_TOGETHER:
            results.search()
        if same_encoder:
            for vectors, submodel in zip(asked, submodels, strict=True):
                vectors.append(predicted[submodel].vectors.astype(np.float16))
    if not seen:
        raise EvaluationError(why_none(queries.text, [sample.label for sample in alone], failures))
    results.search()

    macs = {submodel: encoder.cost(submodel).macs for submodel in embedded}
    ordered = sorted(submodels, key=macs.__getitem__)
    columns = [embedded.index(submodel) for submodel in ordered]
    right_SQ, measures_S = results.right()[columns], results.measures()
    measured = [measures_S[column] for column in columns]
    if same_encoder:
        for submodel, measures in zip(ordered, measured, strict=True):
            i = submodels.index(submodel)
            found = nearest(_float32(asked[i]), _float32(corpora[i]), 2)
            measures["same_encoder_1nn"] = Share(rows.correct(seen, found), len(seen))
    uniforms = set(encoder.space.uniforms())
    if uniforms <= set(submodels):
        above = above_line([macs[s] for s in ordered], [s in uniforms for s in ordered], right_SQ)
        for measures, estimate in zip(measured, above, strict=True):
            measures["to_line"] = estimate
    curve = Curve.of(ordered, measured, cost=encoder.cost, full=full, queries=len(seen), profile=profile)
    return Evaluation(
        points=curve.points,
        full=curve.full,
        queries=curve.queries,
        unlabelled=unlabelled,
        alone=len(alone),
        failures=tuple(failures),
        left_out=sum(corpus.row_of(sample) is not None for sample in seen),
        samples=tuple(seen),
        right=right_SQ,
        nearest=results.nearest()[columns],
        raw_pixels=_raw_pixels(searcher, queries) if raw_pixels else {},
        searcher=searcher,
    )


def _submodels(searcher: Searcher, budgets: Sequence[str | Submodel]) -> list[Submodel]:
    space = searcher.encoder.space
    whole = {ALL: space.curve, MIXNMATCH: space.mixnmatch}
    chosen = [
        whole[budget]
        if isinstance(budget, str) and budget in whole
        else [searcher.submodel(budget, force=True)]
        for budget in budgets
    ]
    return list(dict.fromkeys(submodel for some in chosen for submodel in some))


def _raw_pixels(searcher: Searcher, queries: ImageSource) -> dict[str, Share]:
    manifest = searcher.index.manifest
    try:
        return raw_pixel_1nn(open_sources(manifest.sources, manifest.excludes, labels=True), queries)
    except (EvaluationError, ImageSourceError) as error:
        _log.warning("raw pixels not measured: %s", error)
        return {}


def _over(
    source: ImageSource,
    encoder: Encoder,
    submodels: Sequence[Submodel],
    batch_size: int,
    workers: int | None,
    count: Count,
) -> Iterator[Batch]:
    made = batches(source.parts, encoder, batch_size=batch_size, workers=workers, submodels=submodels)
    for batch in made:
        yield batch
        count(len(batch.samples) + len(batch.failures))


def _embed_again(
    corpus: Iterable[Batch], encoder: Encoder, submodels: Sequence[Submodel]
) -> tuple[LabelledRows, list[list[NDArray[np.float16]]]]:
    """The corpus' labels, and its vectors as each submodel embeds them, in blocks."""
    blocks: list[list[NDArray[np.float16]]] = [[] for _ in submodels]
    samples: list[Sample] = []
    for batch in corpus:
        if batch.samples:
            samples += batch.samples
            for submodel, vectors in zip(submodels, blocks, strict=True):
                vectors.append(encoder.embed(batch.images_for(submodel), submodel).astype(np.float16))
    return LabelledRows.of(samples), blocks


def _float32(blocks: Sequence[NDArray[np.float16]]) -> NDArray[np.float32]:
    return np.concatenate(blocks).astype(np.float32)
