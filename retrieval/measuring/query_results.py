"""What became of each query under each submodel, batch by batch."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes import Store
from retrieval.encoding.encoder import Prediction
from retrieval.measuring.estimate import Estimate, Share
from retrieval.measuring.metrics.all_metrics import DEPTH, METRICS
from retrieval.measuring.metrics.answers import Answers, Neighbours, Truth
from retrieval.measuring.neighbours import LabelledRows
from retrieval.measuring.summary import summarise, values_of
from retrieval.sources.sample import Sample


class QueryResults:
    """Of queries that come batch by batch.

    Args:
        index: What is searched.
        corpus: Its labels.
        submodels: How many there are; the first is the full encoder.

    Attributes:
        waiting: Vectors that were added and not searched for yet.
    """

    def __init__(self, index: Store, corpus: LabelledRows, submodels: int) -> None:
        self._index, self._corpus, self._submodels = index, corpus, submodels
        # One row to spare, for queries that lie in the corpus.
        self._depth = min(DEPTH + 1, len(index))
        self._added: list[tuple[Sequence[Sample], Sequence[Prediction]]] = []
        self._blocks: defaultdict[str, list[NDArray[Any]]] = defaultdict(list)
        self._nearest: list[NDArray[np.int64]] = []
        self.waiting = 0

    def add(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> None:
        """Take a batch of labelled queries and what each submodel makes of it, the full encoder first."""
        self._added.append((samples, predictions))
        self.waiting += len(predictions) * len(samples)

    def search(self) -> None:
        """Search for what is waiting, in one go."""
        if not self._added:
            return
        samples = [sample for some, _ in self._added for sample in some]
        vectors_SQD = np.concatenate(
            [np.stack([each.vectors for each in predictions]) for _, predictions in self._added], axis=1
        )
        asked, everyone = vectors_SQD.reshape(-1, vectors_SQD.shape[2]), samples * self._submodels
        answers = Answers(
            vectors=vectors_SQD,
            neighbours=self._corpus.neighbours(everyone, *self._index.exact(asked, self._depth)),
            truth=Truth(
                self._corpus.numbers_of(samples), self._corpus.relevant(samples), self._corpus.classes
            ),
            approximate=self._approximate(everyone, asked),
            log_probabilities=self._log_probabilities(),
        )
        for name, values_SQ in values_of(answers, METRICS).items():
            self._blocks[name].append(values_SQ)
        self._nearest.append(answers.by_submodel(answers.neighbours.rows[:, 0]))
        self._added, self.waiting = [], 0

    def _approximate(self, everyone: Sequence[Sample], asked: NDArray[np.float32]) -> Neighbours | None:
        if self._index.is_exact:
            return None
        found = self._index.search(asked, min(2, self._depth))
        return self._corpus.neighbours(everyone, found.scores, self._corpus.rows_of(found.entries))

    def _log_probabilities(self) -> NDArray[np.float32] | None:
        blocks = []
        for _, predictions in self._added:
            logs = [each.log_probabilities for each in predictions]
            known = [log for log in logs if log is not None]
            if not known:
                return None
            blocks.append(np.stack(known))
        return np.concatenate(blocks, axis=1)

    def measures(self) -> list[dict[str, Share | Estimate]]:
        """What it comes to, for each submodel."""
        return summarise({name: self._all(name) for name in self._blocks})

    def right(self) -> NDArray[np.bool_]:
        """Whether the nearest row has the query's label, (submodels, queries)."""
        return self._all("adaptive_1nn")

    def nearest(self) -> NDArray[np.int64]:
        """The position of the nearest row, (submodels, queries)."""
        return np.concatenate(self._nearest, axis=1)

    def _all(self, name: str) -> NDArray[Any]:
        return np.concatenate(self._blocks[name], axis=1)
