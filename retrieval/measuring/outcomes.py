"""Which queries each submodel answers rightly: a submodel runs when it is asked for, and not before."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from matvit.progress import Count, Progress, silent
from matvit.submodels.submodel import Submodel
from retrieval.encoding.batches import batches
from retrieval.encoding.encoder import are_units
from retrieval.measuring.evaluate import evaluate
from retrieval.measuring.neighbours import LabelledRows
from retrieval.searcher import Searcher
from retrieval.sources.open_images import ImageSource

_DEPTH = 2
"""The nearest row, and one to spare for a query that lies in the corpus."""


class Outcomes:
    """Labelled queries, and how the full encoder answers them.

    Args:
        searcher: The index and its encoder.
        queries: Labelled images.
        batch_size: Images a batch.
        workers: Processes that decode: see `retrieval.encoding.batches`.
        progress: Told of the images that are embedded.

    Attributes:
        samples: The queries that can be answered.
        right: Whether the full encoder answers each rightly, Q.
        alone: Queries left out: see `retrieval.measuring.evaluation.Evaluation`.
        failures: Those that could not be read.

    Raises:
        EvaluationError: As `retrieval.measuring.evaluate.evaluate`.
    """

    def __init__(
        self,
        searcher: Searcher,
        queries: ImageSource,
        *,
        batch_size: int = 64,
        workers: int | None = None,
        progress: Progress = silent,
    ) -> None:
        self._index, self._encoder = searcher.index, searcher.encoder  # Which another thread may reopen.
        self._queries, self._progress = queries, progress
        self._batches = partial(batches, queries.parts, batch_size=batch_size, workers=workers)
        full = self._encoder.space.full
        by_full = evaluate(
            searcher, queries, [full], batch_size=batch_size, workers=workers, progress=progress
        )
        self.samples, self.right = by_full.samples, by_full.right[0]
        self.alone, self.failures = by_full.alone, by_full.failures
        self._places = {(sample.path, sample.key): place for place, sample in enumerate(self.samples)}
        self._corpus = LabelledRows.of_store(self._index)

    def of(self, submodel: Submodel) -> NDArray[np.bool_]:
        """Whether a submodel answers each query rightly, Q; what it makes no embedding of, it does not."""
        encoder, index = self._encoder, self._index
        vectors_QD = np.zeros((len(self.samples), index.manifest.encoder.embed_dim), np.float32)
        count = Count(self._progress, f"images embedded by {submodel}", self._queries.size)
        for batch in self._batches(encoder=encoder, submodels=[submodel]):
            keys = [(sample.path, sample.key) for sample in batch.samples]
            places = {row: self._places[key] for row, key in enumerate(keys) if key in self._places}
            if places:
                images = batch.images_for(submodel)[list(places)]
                vectors_QD[list(places.values())] = encoder.embed(images, submodel)
            count(len(batch.samples) + len(batch.failures))
        found = index.exact(vectors_QD, min(_DEPTH, len(index)))
        nearest_Q = self._corpus.neighbours(self.samples, *found).relevant[:, 0]
        return nearest_Q & are_units(vectors_QD)
