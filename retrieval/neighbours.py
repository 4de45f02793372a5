"""Right and wrong neighbours: a query never counts itself among them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.samples import Sample


class LabelledRows:
    """The labels of a corpus, by row.

    Args:
        labels: Of every row, None where it has none.
        paths: Of every row's image.
        keys: Of every row. A query with the path and the key of a row is that very image.
        live: Which rows can be found.
    """

    def __init__(
        self, labels: Sequence[str | None], paths: Sequence[str], keys: Sequence[str], live: Sequence[bool]
    ) -> None:
        self._labels = labels
        rows = enumerate(zip(paths, keys, live, strict=True))
        self._row_of = {(path, key): row for row, (path, key, found) in rows if found}

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "LabelledRows":
        """Rows in the order of the samples."""
        return cls(
            [s.label for s in samples],
            [s.path for s in samples],
            [s.key for s in samples],
            [True] * len(samples),
        )

    def row_of(self, query: Sample) -> int | None:
        """The row that is the query itself, if it lies in the corpus."""
        return self._row_of.get((query.path, query.key))

    def correct(self, queries: Sequence[Sample], nearest: NDArray[np.int64]) -> int:
        """How many queries have the label of their nearest row that is not themselves.

        Args:
            queries: With labels.
            nearest: Rows nearest to each query, best first, (Q, 2): one to spare for the query itself.
        """
        return sum(
            self._labels[row] == query.label
            for query, rows in zip(queries, nearest.tolist(), strict=True)
            for row in [row for row in rows if row != self.row_of(query)][:1]
        )

    def same_images(self, other: "LabelledRows") -> bool:
        """Whether the images are those of another corpus, in any order."""
        return self._row_of.keys() == other._row_of.keys()

    def share_no_label(self, queries: Sequence[Sample]) -> bool:
        """Whether none of the queries' labels is a label here."""
        return {query.label for query in queries}.isdisjoint(self._labels)
