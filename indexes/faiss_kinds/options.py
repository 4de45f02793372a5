"""What a caller asks of the FAISS index."""

from dataclasses import dataclass

from indexes.faiss_kinds.factory import empty_index

_MANY_ROWS = 10**8


@dataclass(frozen=True, kw_only=True)
class KindOptions:
    """What a caller asks for.

    Attributes:
        factory: FAISS factory string, or auto: what fits the corpus, the memory and the time.
        rerank: Candidates a query that are scored again by the stored vectors, 0 for none; None is 100 for
            compressed kinds, else 0.
        max_memory_bytes: What the FAISS index may take. Stored vectors, of which reranking reads a few a
            query, are not counted.
        max_query_ms: What the median search for one query may take.
        recall_target: Share of the true 10 nearest that the search parameters are tuned to find.
    """

    factory: str = "auto"
    rerank: int | None = None
    max_memory_bytes: int | None = None
    max_query_ms: float | None = None
    recall_target: float = 0.95


AUTO = KindOptions()


def check(options: KindOptions, dim: int) -> None:
    """Refuse a factory that would suit no number of vectors, before work is spent on them.

    Raises:
        IndexKindError: As `build`.
    """
    if options.factory != "auto":
        empty_index(options.factory, dim, _MANY_ROWS)
