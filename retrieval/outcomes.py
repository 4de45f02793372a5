"""What became of each query under each submodel, and what that comes to.

Measures by name, all but the divergence from 0 to 1:

- `difference`: of adaptive 1-NN accuracy to the full encoder's, on the same queries (-1 to 1).
- `index_1nn`: 1-NN through the index's own search, where that is not exact.
- `knn_K`: accuracy of DINO's weighted vote of K neighbours.
- `recall_at_K`, `map_at_K`: a row is relevant if it has the query's label.
- `cosine`: of a query's embedding with the full encoder's; `cosine_p5` is the 5th percentile over queries.
- `equal_top1`, `overlap_10`: neighbours that are those of the full encoder.
- `equal_predictions`, `divergence`: of the classifier with the full encoder's, where the model has one: the
  share of equal predictions, and the Kullback-Leibler divergence in nats.

K above the number of rows that can be found is left out.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes import Index
from retrieval import metrics
from retrieval.encoder import Prediction
from retrieval.intervals import Estimate, Share, bootstrap_means, percentile
from retrieval.neighbours import LabelledRows, Neighbours
from retrieval.samples import Sample

_OVERLAP = 10


class Outcomes:
    """Of queries that come batch by batch.

    Args:
        index: What is searched.
        corpus: Its labels.
        submodels: How many there are; the first is the full encoder.

    Attributes:
        waiting: Vectors that were added and not searched for yet.
    """

    def __init__(self, index: Index, corpus: LabelledRows, submodels: int) -> None:
        self._index, self._corpus, self._submodels = index, corpus, submodels
        # One row to spare, for queries that lie in the corpus.
        self._depth = min(metrics.DEPTH + 1, len(index))
        self._added: list[tuple[Sequence[Sample], NDArray[np.float32]]] = []
        self._blocks: defaultdict[str, list[NDArray[np.floating]]] = defaultdict(list)
        self._nearest: list[NDArray[np.int64]] = []
        self.waiting = 0

    def add(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> None:
        """Take a batch of labelled queries and what each submodel makes of it, the full encoder first."""
        vectors_SQD = np.stack([each.vectors for each in predictions])
        self._keep("cosine", np.einsum("sqd,qd->sq", vectors_SQD, vectors_SQD[0]).clip(-1, 1))
        full = predictions[0].log_probabilities
        if full is not None:
            logs = [each.log_probabilities for each in predictions]
            self._keep("divergence", np.stack([metrics.divergence(full, q) for q in logs if q is not None]))
            same = [q.argmax(axis=1) == full.argmax(axis=1) for q in logs if q is not None]
            self._keep("equal_predictions", np.stack(same))
        self._added.append((samples, vectors_SQD))
        self.waiting += vectors_SQD.shape[0] * vectors_SQD.shape[1]

    def search(self) -> None:
        """Search for what is waiting, in one go."""
        if not self._added:
            return
        samples = [sample for some, _ in self._added for sample in some]
        vectors_SQD = np.concatenate([vectors for _, vectors in self._added], axis=1)
        asked = vectors_SQD.reshape(-1, vectors_SQD.shape[2])
        everyone = samples * self._submodels
        found = self._corpus.neighbours(everyone, *self._index.exact(asked, self._depth))
        self._measure(samples, found)
        if self._index.manifest.kind.factory != "Flat":
            roughly = self._index.search(asked, min(2, self._depth))
            near = self._corpus.neighbours(everyone, roughly.scores, roughly.rows)
            self._keep("index_1nn", self._by_submodel(near.relevant[:, 0]))
        self._added, self.waiting = [], 0

    def _measure(self, samples: Sequence[Sample], found: Neighbours) -> None:
        relevant_QK, depth = found.relevant, found.rows.shape[1]
        self._keep("right", self._by_submodel(relevant_QK[:, 0]))
        self._nearest.append(self._by_submodel(found.rows[:, 0]))
        numbers_Q = np.tile(self._corpus.numbers_of(samples), self._submodels)
        ks = [k for k in metrics.KNN if k <= depth]
        voted = metrics.knn_labels(found.scores, found.labels, ks, classes=self._corpus.classes)
        for k, voted_Q in voted.items():
            self._keep(f"knn_{k}", self._by_submodel(voted_Q == numbers_Q))
        there_Q = np.tile(self._corpus.relevant(samples), self._submodels)
        for k in metrics.RANKS:
            if k <= depth:
                self._keep(f"recall_at_{k}", self._by_submodel(metrics.recall(relevant_QK[:, :k])))
                precision_Q = metrics.average_precision(relevant_QK[:, :k], there_Q)
                self._keep(f"map_at_{k}", self._by_submodel(precision_Q))
        rows_SQK = found.rows[:, :_OVERLAP].reshape(self._submodels, len(samples), -1)
        self._keep("equal_top1", rows_SQK[:, :, 0] == rows_SQK[0, :, 0])
        if depth >= _OVERLAP:
            shares = [metrics.overlap(rows_QK, rows_SQK[0]) for rows_QK in rows_SQK]
            self._keep(f"overlap_{_OVERLAP}", np.stack(shares))

    def measures(self) -> list[dict[str, Share | Estimate]]:
        """What it comes to, for each submodel."""
        right_SQ = self.right().astype(np.float32)
        means = {"difference": right_SQ - right_SQ[0]}
        results: list[dict[str, Share | Estimate]] = [{} for _ in range(self._submodels)]
        for name in self._blocks:
            values_SQ = self._all(name)
            if values_SQ.dtype == np.bool_:
                if name != "right":
                    for result, values_Q in zip(results, values_SQ, strict=True):
                        result[name] = Share(int(values_Q.sum()), len(values_Q))
            else:
                means[name] = values_SQ
        intervals = bootstrap_means(np.concatenate(list(means.values())).T).reshape(len(means), -1, 2)
        for (name, values_SQ), bounds_S2 in zip(means.items(), intervals, strict=True):
            for result, values_Q, bounds in zip(results, values_SQ, bounds_S2, strict=True):
                result[name] = Estimate(float(values_Q.mean(dtype=np.float64)), tuple(bounds.tolist()))
        for result, cosines_Q in zip(results, self._all("cosine"), strict=True):
            result["cosine_p5"] = percentile(cosines_Q, 5)
        return results

    def right(self) -> NDArray[np.bool_]:
        """Whether the nearest row has the query's label, (submodels, queries)."""
        return self._all("right")

    def nearest(self) -> NDArray[np.int64]:
        """The number of the nearest row, (submodels, queries)."""
        return np.concatenate(self._nearest, axis=1)

    def _keep(self, name: str, values_SQ: NDArray[Any]) -> None:
        self._blocks[name].append(values_SQ if values_SQ.dtype == np.bool_ else values_SQ.astype(np.float32))

    def _all(self, name: str) -> NDArray[Any]:
        return np.concatenate(self._blocks[name], axis=1)

    def _by_submodel(self, values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape(self._submodels, -1)
