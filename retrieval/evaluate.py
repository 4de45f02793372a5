"""1-NN accuracy against query compute: the curve this project exists for.

Adaptive 1-NN embeds the corpus once with the full encoder and every query with a submodel. For comparison,
same-encoder 1-NN embeds both with the submodel, which an index cannot do without being built again.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.search import nearest
from matvit.cost import Cost
from matvit.submodel import Submodel
from retrieval.batches import Batch, batches
from retrieval.encoder import Encoder
from retrieval.errors import EvaluationError
from retrieval.images import ImageSource, open_source
from retrieval.intervals import Share
from retrieval.samples import Failure, Sample
from retrieval.searcher import Searcher


@dataclass(frozen=True)
class Point:
    """One submodel's place on the curve.

    Attributes:
        submodel: Which encoded the queries.
        cost: Of one query.
        share_of_full: Its multiply-accumulates as a share of the full encoder's, 0 to 1.
        adaptive: 1-NN accuracy against the corpus that the full encoder embedded.
        same_encoder: 1-NN accuracy against the corpus embedded by the submodel itself, where asked for.
    """

    submodel: Submodel
    cost: Cost
    share_of_full: float
    adaptive: Share
    same_encoder: Share | None = None

    def row(self) -> dict[str, str | int | float]:
        """The point in plain values; accuracies and shares are 0 to 1."""
        row: dict[str, str | int | float] = {
            "submodel": str(self.submodel),
            "widths": " ".join(map(str, self.submodel.widths)),
            "gmacs": self.cost.gmacs,
            "gflops": self.cost.gflops,
            "mparams": self.cost.mparams,
            "share_of_xl": round(self.share_of_full, 6),
        }
        for name, share in (("adaptive_1nn", self.adaptive), ("same_encoder_1nn", self.same_encoder)):
            if share is not None:
                low, high = share.interval
                row |= {
                    name: round(share.value, 6),
                    f"{name}_low": round(low, 6),
                    f"{name}_high": round(high, 6),
                }
        return row | {"queries": self.adaptive.total}


@dataclass(frozen=True)
class Evaluation:
    """A curve and what it was measured on.

    Attributes:
        points: Cheapest first.
        queries: Labelled queries that were encoded.
        unlabelled: Queries left out because they have no label.
        failures: Queries that could not be read.
        left_out: Queries that are corpus images themselves, each searched without its own row.
    """

    points: tuple[Point, ...]
    queries: int
    unlabelled: int
    failures: tuple[Failure, ...]
    left_out: int

    def table(self) -> list[dict[str, str | int | float]]:
        """One row a point, in plain values; accuracies are shares, 0 to 1."""
        return [point.row() for point in self.points]

    def write_csv(self, path: Path) -> None:
        """Write `table` as a CSV file."""
        rows = self.table()
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def evaluate(
    searcher: Searcher,
    queries: ImageSource,
    submodels: Sequence[Submodel],
    *,
    same_encoder: bool = False,
    batch_size: int = 64,
    workers: int | None = None,
    on_images: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Measure the 1-NN accuracy of queries encoded by each of several submodels.

    Every image is decoded and preprocessed once, whatever the number of submodels.

    Args:
        searcher: The index and its encoder.
        queries: Labelled images; those that lie in the corpus are searched without themselves.
        submodels: What to measure.
        same_encoder: Also embed the corpus again with every submodel, reading it from where it was when the
            index was built. Holds one float16 vector for each image and submodel in memory.
        batch_size: Images a batch.
        workers: Decoding threads; None is one a core.
        on_images: Called with the number of images done since the last call, corpus images included.

    Raises:
        EvaluationError: No query has a label, or none of their labels is in the corpus.
        ImageSourceError: The corpus is not where it was, and `same_encoder` needs it.
    """
    index, encoder = searcher.index, searcher.encoder
    corpus = _Corpus(
        index.labels,
        list(zip(index.paths, index.keys, strict=True)),
        lambda vectors, k: index.search(vectors, k)[1],
    )
    again: list[_Corpus] = []
    if same_encoder:
        again = _embed_again(
            encoder, open_source(index.manifest.source), submodels, batch_size, workers, on_images
        )

    adaptive, own = np.zeros(len(submodels), int), np.zeros(len(submodels), int)
    seen: list[Sample] = []
    failures: list[Failure] = []
    unlabelled = 0
    for batch in _over(queries, encoder, batch_size, workers, on_images):
        failures += batch.failures
        keep = [row for row, sample in enumerate(batch.samples) if sample.label is not None]
        unlabelled += len(batch.samples) - len(keep)
        if not keep:
            continue
        samples, images = [batch.samples[row] for row in keep], batch.images[keep]
        seen += samples
        for i, submodel in enumerate(submodels):
            vectors = encoder.embed(images, submodel)
            adaptive[i] += corpus.correct(vectors, samples)
            if again:
                own[i] += again[i].correct(vectors, samples)
    _check_labels(seen, corpus, queries)

    full = encoder.costs(encoder.space.full).macs
    points = (
        Point(
            submodel,
            cost := encoder.costs(submodel),
            cost.macs / full,
            Share(int(adaptive[i]), len(seen)),
            Share(int(own[i]), len(seen)) if again else None,
        )
        for i, submodel in enumerate(submodels)
    )
    return Evaluation(
        points=tuple(sorted(points, key=lambda point: point.cost.macs)),
        queries=len(seen),
        unlabelled=unlabelled,
        failures=tuple(failures),
        left_out=sum(_identity(sample) in corpus.row_of for sample in seen),
    )


class _Corpus:
    """Labelled rows that can be searched.

    Args:
        labels: Of every row.
        identities: Path and key of every row: a query never counts itself among its neighbours.
        search: Unit vectors (Q, D) and k to row numbers (Q, k), best first.
    """

    def __init__(
        self,
        labels: Sequence[str | None],
        identities: Sequence[tuple[str, str]],
        search: Callable[[NDArray[np.float32], int], NDArray[np.int64]],
    ) -> None:
        self.labels, self._search = labels, search
        self.row_of = {identity: row for row, identity in enumerate(identities)}

    def correct(self, vectors: NDArray[np.float32], samples: Sequence[Sample]) -> int:
        """How many queries have the label of their nearest row that is not themselves."""
        return sum(
            self.labels[row] == sample.label
            for sample, rows in zip(samples, self._search(vectors, 2).tolist(), strict=True)
            for row in [row for row in rows if row != self.row_of.get(_identity(sample))][:1]
        )


def _identity(sample: Sample) -> tuple[str, str]:
    return sample.path, sample.key


def _over(
    source: ImageSource,
    encoder: Encoder,
    batch_size: int,
    workers: int | None,
    on_images: Callable[[int], None],
) -> Iterator[Batch]:
    items = (item for part in source.parts for item in part.read())
    for batch in batches(items, encoder, batch_size=batch_size, workers=workers):
        yield batch
        on_images(len(batch.samples) + len(batch.failures))


def _embed_again(
    encoder: Encoder,
    source: ImageSource,
    submodels: Sequence[Submodel],
    batch_size: int,
    workers: int | None,
    on_images: Callable[[int], None],
) -> list[_Corpus]:
    """The corpus as each submodel embeds it."""
    blocks: list[list[NDArray[np.float16]]] = [[] for _ in submodels]
    samples: list[Sample] = []
    for batch in _over(source, encoder, batch_size, workers, on_images):
        if batch.samples:
            samples += batch.samples
            for i, submodel in enumerate(submodels):
                blocks[i].append(encoder.embed(batch.images, submodel).astype(np.float16))
    labels = [sample.label for sample in samples]
    identities = [_identity(sample) for sample in samples]

    def corpus(vectors: NDArray[np.float16]) -> _Corpus:
        return _Corpus(labels, identities, lambda queries, k: nearest(queries, vectors.astype(np.float32), k))

    return [corpus(np.concatenate(parts)) for parts in blocks]


def _check_labels(seen: Sequence[Sample], corpus: _Corpus, queries: ImageSource) -> None:
    if not seen:
        raise EvaluationError(
            f"no query in {queries.text} has a label: use one subfolder a class, or shards with .cls files"
        )
    labels = {sample.label for sample in seen}
    if labels.isdisjoint(corpus.labels):
        examples = ", ".join(sorted(str(label) for label in labels)[:3])
        raise EvaluationError(f"none of the queries' labels ({examples}, ...) is a label of the corpus")
