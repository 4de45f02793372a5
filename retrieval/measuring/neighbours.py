"""Right and wrong neighbours: a query never counts itself among them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from indexes import Entry, Store
from retrieval.measuring.metrics.answers import NO_LABEL, Neighbours
from retrieval.sources.all_sources import own_key
from retrieval.sources.sample import Sample

_UNKNOWN = -2  # of a query whose label no row has
_NO_ROW = -2  # for -1 stands for a row that was not found


class LabelledRows:
    """The labels of a corpus, by row, in the order of its `entries`.

    Args:
        labels: Of every row, None where it has none.
        paths: Of every row's image.
        keys: Of every row. A query with the path of a row, and in a shard its name there, is that very image,
            whatever prefix an index has put before its key.
    """

    def __init__(self, labels: Sequence[str | None], paths: Sequence[str], keys: Sequence[str]) -> None:
        self._row_of: dict[tuple[str, str], int] = {}
        self._row_at: dict[tuple[str, str], int] = {}  # a file may have several keys
        for row, (path, key) in enumerate(zip(paths, keys, strict=True)):
            self._row_of[path, key] = self._row_at[path, own_key(path, key)] = row
        self._numbers = {name: i for i, name in enumerate(dict.fromkeys(n for n in labels if n is not None))}
        numbers = [NO_LABEL if name is None else self._numbers[name] for name in labels]
        self._labels_N = np.array([*numbers, NO_LABEL, NO_LABEL], np.int64)  # the last two of no row
        self._counts = np.bincount(self._labels_N[self._labels_N != NO_LABEL], minlength=self.classes)

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "LabelledRows":
        """Rows in the order of the samples."""
        return cls([s.label for s in samples], [s.path for s in samples], [s.key for s in samples])

    @classmethod
    def of_store(cls, store: Store) -> "LabelledRows":
        """Rows in the order of the store's `entries`."""
        entries = store.entries(["label", "path", "key"])
        return cls(*(column.to_pylist() for column in entries.columns))

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return len(self._numbers)

    def row_of(self, query: Sample) -> int | None:
        """The row that is the query itself, if it lies in the corpus."""
        there = query.path, own_key(query.path, query.key)
        return self._row_of.get((query.path, query.key), self._row_at.get(there))

    def rows_of(self, found: Sequence[Sequence[Entry]]) -> NDArray[np.int64]:
        """The rows of what a search found for each query, Q x k."""
        depth = len(found[0]) if found else 0
        rows = (self._row_of[entry.path, entry.key] for entries in found for entry in entries)
        return np.fromiter(rows, np.int64).reshape(len(found), depth)

    def numbers_of(self, queries: Sequence[Sample]) -> NDArray[np.int64]:
        """Labels of queries as numbers, Q; one that no row has is the number of no label."""
        return np.array([self._numbers.get(query.label or "", _UNKNOWN) for query in queries], np.int64)

    def relevant(self, queries: Sequence[Sample]) -> NDArray[np.int64]:
        """How many rows beside itself have the label of each query, Q."""
        numbers_Q = self.numbers_of(queries)
        itself_Q = self._labels_N[self._own(queries)] == numbers_Q
        return np.where(numbers_Q < 0, 0, self._counts[np.maximum(numbers_Q, 0)] - itself_Q)

    def neighbours(
        self, queries: Sequence[Sample], scores_QK: NDArray[np.float32], rows_QK: NDArray[np.int64]
    ) -> Neighbours:
        """What a search found, without the queries themselves: one neighbour less than was asked for.

        Args:
            queries: With labels.
            scores_QK: Of the nearest rows, best first.
            rows_QK: Those rows: one to spare for the query itself.
        """
        if rows_QK.shape[1] < 2:  # a corpus of one image
            rows_QK = np.pad(rows_QK, ((0, 0), (0, 1)), constant_values=-1)
            scores_QK = np.pad(scores_QK, ((0, 0), (0, 1)), constant_values=-np.inf)
        own_QK = rows_QK == self._own(queries)[:, None]
        if own_QK.any():
            own_QK[~own_QK.any(axis=1), -1] = True
            kept = (len(rows_QK), rows_QK.shape[1] - 1)
            rows_QK, scores_QK = rows_QK[~own_QK].reshape(kept), scores_QK[~own_QK].reshape(kept)
        else:  # the last has been to spare
            rows_QK, scores_QK = rows_QK[:, :-1], scores_QK[:, :-1]
        labels_QK = self._labels_N[rows_QK]
        return Neighbours(scores_QK, rows_QK, labels_QK, labels_QK == self.numbers_of(queries)[:, None])

    def correct(self, queries: Sequence[Sample], nearest: NDArray[np.int64]) -> int:
        """How many queries have the label of their nearest row that is not themselves.

        Args:
            queries: With labels.
            nearest: Rows nearest to each query, best first, (Q, 2): one to spare for the query itself.
        """
        found = self.neighbours(queries, np.zeros(nearest.shape, np.float32), nearest)
        return int(found.relevant[:, 0].sum())

    def _own(self, queries: Sequence[Sample]) -> NDArray[np.int64]:
        rows = (self.row_of(query) for query in queries)
        return np.array([_NO_ROW if row is None else row for row in rows], np.int64)

    def same_images(self, other: "LabelledRows") -> bool:
        """Whether the images are those of another corpus, in any order."""
        return self._row_at.keys() == other._row_at.keys()
