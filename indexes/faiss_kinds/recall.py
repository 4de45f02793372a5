"""What a FAISS index finds and how long it takes, against exact search."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.disk.vectors import Vectors
from indexes.faiss_kinds.search import candidates, exact, rank_again, require_faiss

NEIGHBOURS = 10  # as in recall@10

_QUERIES = 1000
_SEED = 0
# Scores this close are a tie: rounding to the stored float16 moves a cosine by about as much.
_TIE = 1e-5


class Queries:
    """A random sample of a corpus' rows, each a query for the other rows.

    The same rows for the same corpus, every time.

    Attributes:
        corpus: All rows.
        rows: The numbers of the sample, ascending.
        vectors_QD: Its vectors.
        wanted: How many neighbours each has to find.
    """

    def __init__(self, corpus: Vectors) -> None:
        self.corpus = corpus
        count = min(_QUERIES, len(corpus))
        self.rows = np.sort(np.random.default_rng(_SEED).choice(len(corpus), count, replace=False))
        self.vectors_QD = corpus.take(self.rows)
        self.wanted = min(NEIGHBOURS, len(corpus) - 1)

    @cached_property
    def worst_right(self) -> NDArray[np.float32]:
        """The score of the last of each query's true neighbours: what scores as much is as right."""
        scores_QK, rows_QK = exact(self.vectors_QD, self.corpus, self.wanted + 1)
        own_QK = rows_QK == self.rows[:, None]
        own_QK[~own_QK.any(axis=1), -1] = True  # so many copies of it that it is not among the first itself
        return scores_QK[~own_QK].reshape(len(self.rows), self.wanted)[:, -1]

    def recall(self, found_QK: NDArray[np.int64]) -> float:
        """The share of true neighbours among rows that were found; -1 is none, and so is the query's own."""
        if not self.wanted:
            return 1.0
        right = 0
        for own, query_D, worst, found in zip(
            self.rows, self.vectors_QD, self.worst_right, found_QK, strict=True
        ):
            others = found[(found >= 0) & (found != own)][: self.wanted]
            right += int((self.corpus.take(others) @ query_D >= worst - _TIE).sum())
        return right / (len(self.rows) * self.wanted)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A setting of the search parameters and what was measured of it.

    Attributes:
        parameters: As `faiss.ParameterSpace` takes them.
        recall: Share of the true `NEIGHBOURS` nearest that are found.
        query_ms: Median time of a search for one query.
    """

    parameters: str
    recall: float
    query_ms: float


def measure(index: Any, queries: Queries, *, rerank: int, parameters: str = "") -> Measured:
    """Search for one query at a time, as users do, for what lies nearest to it beside itself.

    A graph leads from a row straight to its neighbours, which a query from outside would still have to find:
    on an HNSW32, rows found 0.89 of them where queries from outside found 0.66. So the row is hidden while it
    is the query, which gave 0.65: a little less than the truth, for the graph lacks the row's links as well.
    """
    require_faiss().ParameterSpace().set_index_parameters(index, parameters)
    storage = _graph_storage(index)
    found_QK = np.full((len(queries.rows), NEIGHBOURS + 1), -1)  # most find themselves too
    times_ms = []
    for i, row in enumerate(queries.rows):
        query_1D = queries.vectors_QD[i : i + 1]
        with nullcontext() if storage is None else _hidden(storage, int(row)):
            start = perf_counter()
            found_1K = _search(index, query_1D, NEIGHBOURS + 1, queries.corpus, rerank)
            times_ms.append(1000 * (perf_counter() - start))
        found_QK[i, : found_1K.shape[1]] = found_1K
    return Measured(
        parameters=parameters, recall=queries.recall(found_QK), query_ms=float(np.median(times_ms))
    )


def median_ms(index: Any, queries: Queries, *, seconds: float = 2.0) -> float:
    """The median time of a search for one query, of as many as can be done in so many seconds."""
    times_ms: list[float] = []
    for i in range(min(100, len(queries.rows))):
        start = perf_counter()
        _search(index, queries.vectors_QD[i : i + 1], NEIGHBOURS, queries.corpus, 0)
        times_ms.append(1000 * (perf_counter() - start))
        if sum(times_ms) > 1000 * seconds:
            break
    return float(np.median(times_ms))


def _search(
    index: Any, query_1D: NDArray[np.float32], k: int, corpus: Vectors, rerank: int
) -> NDArray[np.int64]:
    _, rows_1K = candidates(index, query_1D, min(max(k, rerank), len(corpus)))
    if rerank:
        _, rows_1K = rank_again(query_1D, rows_1K, corpus, k)
    return rows_1K


def _graph_storage(index: Any) -> Any:
    """Where the graph that an index searches keeps its vectors, or None where it searches none."""
    faiss = require_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return _graph_storage(index.index)
    if isinstance(index, faiss.IndexRefine):
        return _graph_storage(index.base_index)
    return faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSW) else None


@contextmanager
def _hidden(storage: Any, row: int) -> Iterator[None]:
    """Turn a vector round while the block runs: to itself it is then the last that a search would choose."""
    faiss = require_faiss()
    codes = faiss.rev_swig_ptr(storage.codes.data(), storage.ntotal * storage.code_size)
    code = codes[row * storage.code_size : (row + 1) * storage.code_size]
    before = code.copy()
    code[:] = storage.sa_encode(-storage.reconstruct(row)[None])[0]
    try:
        yield
    finally:
        code[:] = before
