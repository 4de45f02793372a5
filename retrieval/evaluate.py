"""Retrieval measured against query compute: the curve this project exists for.

Adaptive 1-NN embeds the corpus once with the full encoder and every query with a submodel. For comparison,
same-encoder 1-NN embeds both with the submodel, which an index cannot do without being built again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from indexes.search import nearest
from matvit.cost import Cost
from matvit.latency import Profile
from matvit.submodel import Submodel
from retrieval.batches import Batch, batches
from retrieval.encoder import NO_EMBEDDING, Encoder, are_units
from retrieval.errors import EvaluationError
from retrieval.images import ImageSource, open_sources
from retrieval.intervals import Estimate, Share
from retrieval.line import to_line
from retrieval.neighbours import LabelledRows
from retrieval.outcomes import Outcomes
from retrieval.samples import Failure, Sample
from retrieval.searcher import Searcher
from retrieval.tables import Row, submodel_row

_SEARCHED_TOGETHER = 16_384
"""Vectors, of several batches and all submodels: the corpus is read once for so many."""


@dataclass(frozen=True)
class Point:
    """One submodel's place on the curve.

    Attributes:
        submodel: Which encoded the queries.
        cost: Of one query.
        share_of_full: Its multiply-accumulates as a share of the full encoder's, 0 to 1.
        adaptive: 1-NN accuracy against the corpus that the full encoder embedded, by exact search.
        measures: Everything else that was measured, by name: see `retrieval.outcomes`. Where all
            granularities were, also `to_line`: how far the point is above the line between those beside it.
        same_encoder: 1-NN accuracy against the corpus embedded by the submodel itself, where asked for.
        ms: Milliseconds of embedding one image, where they were measured.
    """

    submodel: Submodel
    cost: Cost
    share_of_full: float
    adaptive: Share
    measures: Mapping[str, Share | Estimate]
    same_encoder: Share | None = None
    ms: float | None = None

    def row(self) -> Row:
        """The point in plain values; accuracies and shares are 0 to 1."""
        measures: dict[str, Share | Estimate] = {"adaptive_1nn": self.adaptive}
        if self.same_encoder:
            measures["same_encoder_1nn"] = self.same_encoder
        measures |= self.measures
        row = submodel_row(self.submodel, self.cost, self.share_of_full, self.ms, measures)
        return row | {"queries": self.adaptive.total}


@dataclass(frozen=True)
class Evaluation:
    """A curve and what it was measured on.

    Attributes:
        points: Cheapest first.
        queries: Labelled queries that were encoded.
        unlabelled: Queries left out because they have no label.
        alone: Queries left out because no image of the corpus, but themselves, has their label: whatever they
            find is wrong.
        failures: Queries that could not be read.
        left_out: Queries that are corpus images themselves, each searched without its own row.
        samples: The labelled queries.
        right: Whether the nearest row has the query's label, (points, samples).
        nearest: The number of that row, (points, samples).
    """

    points: tuple[Point, ...]
    queries: int
    unlabelled: int
    alone: int
    failures: tuple[Failure, ...]
    left_out: int
    samples: tuple[Sample, ...] = field(repr=False)
    right: NDArray[np.bool_] = field(repr=False)
    nearest: NDArray[np.int64] = field(repr=False)

    def table(self) -> list[Row]:
        """One row a point, in plain values; accuracies are shares, 0 to 1."""
        return [point.row() for point in self.points]


def evaluate(
    searcher: Searcher,
    queries: ImageSource,
    submodels: Sequence[Submodel],
    *,
    same_encoder: bool = False,
    profile: Profile | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    on_images: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Measure the retrieval of queries encoded by each of several submodels.

    Every image is decoded and preprocessed once, whatever the number of submodels, and the corpus is read
    once for some thousand vectors of all of them.

    Args:
        searcher: The index and its encoder.
        queries: Labelled images; those that lie in the corpus are searched without themselves.
        submodels: What to measure. The full encoder, which others are compared with, need not be among them.
        same_encoder: Also embed the corpus again with every submodel, reading it from where it was when the
            index was built. Holds one float16 vector for each image, query and submodel in memory.
        profile: Times to tell of the submodels.
        batch_size: Images a batch.
        workers: Processes that decode: see `retrieval.batches`.
        on_images: Called with the number of images done since the last call, corpus images included.

    Raises:
        EvaluationError: No query has a label, none of their labels is in the corpus, or `same_encoder` is
            asked for and the corpus has changed.
        ImageSourceError: The corpus is not where it was, and `same_encoder` needs it.
    """
    index, encoder = searcher.index, searcher.encoder
    if not index.manifest.classes:
        raise EvaluationError("no image of the corpus has a label: use one subfolder a class, or .cls files")
    over = partial(_over, encoder=encoder, batch_size=batch_size, workers=workers, on_images=on_images)
    corpus = LabelledRows(index.labels, index.paths, index.keys, index.live.tolist())
    if same_encoder:
        sources = index.manifest.sources
        rows, corpora = _embed_again(over(open_sources(sources, index.manifest.excludes)), encoder, submodels)
        if not rows.same_images(corpus):
            raise EvaluationError(
                f"the images at {', '.join(sources)} are no longer those of the index: build it again"
            )

    full = encoder.space.full
    embedded = list(dict.fromkeys([full, *submodels]))
    outcomes = Outcomes(index, corpus, len(embedded))
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
        samples, images = [batch.samples[row] for row in keep], batch.images[keep]
        results = {submodel: encoder.predict(images, submodel) for submodel in embedded}
        usable_Q = np.all([are_units(result.vectors) for result in results.values()], axis=0)
        if not usable_Q.all():
            failures += [Failure(samples[i].key, NO_EMBEDDING) for i in np.flatnonzero(~usable_Q)]
            samples = [samples[i] for i in np.flatnonzero(usable_Q)]
            results = {submodel: result.of(usable_Q) for submodel, result in results.items()}
        seen += samples
        outcomes.add(samples, list(results.values()))
        if outcomes.waiting >= _SEARCHED_TOGETHER:
            outcomes.search()
        if same_encoder:
            for vectors, submodel in zip(asked, submodels, strict=True):
                vectors.append(results[submodel].vectors.astype(np.float16))
    if not seen:
        raise EvaluationError(_why_none(queries, alone, failures))
    outcomes.search()

    own: list[Share | None] = [None] * len(submodels)
    if same_encoder:
        own = [
            Share(rows.correct(seen, nearest(_float32(asked[i]), _float32(corpora[i]), 2)), len(seen))
            for i in range(len(submodels))
        ]
    macs = {submodel: encoder.cost(submodel).macs for submodel in embedded}
    order = sorted(range(len(submodels)), key=lambda i: macs[submodels[i]])
    places = [embedded.index(submodels[i]) for i in order]
    right_SQ, measured = outcomes.right(), outcomes.measures()
    if set(encoder.space.uniforms()) <= set(submodels):
        ends = [submodels[i] in encoder.space.uniforms() for i in order]
        above = to_line([macs[submodels[i]] for i in order], ends, right_SQ[places])
        for place, estimate in zip(places, above, strict=True):
            measured[place]["to_line"] = estimate
    points = [
        Point(
            submodel := submodels[i],
            encoder.cost(submodel),
            macs[submodel] / macs[full],
            Share(int(right_SQ[place].sum()), len(seen)),
            measured[place],
            own[i],
            profile(submodel) if profile else None,
        )
        for i, place in zip(order, places, strict=True)
    ]
    return Evaluation(
        points=tuple(points),
        queries=len(seen),
        unlabelled=unlabelled,
        alone=len(alone),
        failures=tuple(failures),
        left_out=sum(corpus.row_of(sample) is not None for sample in seen),
        samples=tuple(seen),
        right=right_SQ[places],
        nearest=outcomes.nearest()[places],
    )


def _over(
    source: ImageSource,
    encoder: Encoder,
    batch_size: int,
    workers: int | None,
    on_images: Callable[[int], None],
) -> Iterator[Batch]:
    for batch in batches(source.parts, encoder, batch_size=batch_size, workers=workers):
        yield batch
        on_images(len(batch.samples) + len(batch.failures))


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
                vectors.append(encoder.embed(batch.images, submodel).astype(np.float16))
    return LabelledRows.of(samples), blocks


def _float32(blocks: Sequence[NDArray[np.float16]]) -> NDArray[np.float32]:
    return np.concatenate(blocks).astype(np.float32)


def _why_none(queries: ImageSource, alone: Sequence[Sample], failures: Sequence[Failure]) -> str:
    if alone:
        examples = ", ".join(sorted({str(sample.label) for sample in alone})[:3])
        return f"none of the queries' labels ({examples}, ...) is that of another image of the corpus"
    if failures:
        first = failures[0]
        return f"no query in {queries.text} could be embedded (the first, {first.key}: {first.reason})"
    return f"no query in {queries.text} has a label: use one subfolder a class, or shards with .cls files"
