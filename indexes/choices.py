"""What `auto` tries, by corpus size and memory.

All sizes are upper bounds of FAISS files, which are what an index takes in memory.
"""

from dataclasses import dataclass
from math import isqrt

from indexes.errors import IndexKindError
from indexes.factory import POINTS_A_CENTROID, default_rerank

# A query reads every number of a flat index: 200,000 vectors of length 384 are 307 MB, some 30 ms of one
# core's memory bandwidth. What embedding a query costs is of that order.
_FLAT_NUMBERS = 200_000 * 384
_HNSW_LINKS = 32
_PQ_CENTROIDS = 256
_HEADERS_BYTES = 1024


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A kind to try.

    Attributes:
        factory: FAISS factory string.
        rerank: Candidates a query to score again by the stored vectors; 0 is none.
        size_bytes: What the index takes at most.
    """

    factory: str
    rerank: int
    size_bytes: int


def choices(
    ntotal: int, dim: int, *, max_memory_bytes: int | None = None, rerank: int | None = None
) -> tuple[Choice, ...]:
    """Return what to try for so many vectors, the preferred first.

    Exact search while that is quick, then the fastest, then ever smaller ones that rank their candidates
    again by the stored vectors.

    Args:
        ntotal: Number of vectors, at least 1.
        dim: Their length.
        max_memory_bytes: What the index may take; None is anything.
        rerank: As in `KindOptions`.

    Raises:
        IndexKindError: Nothing is as small as that; the message says what would do.
    """
    factories = {}
    if ntotal * dim <= _FLAT_NUMBERS:
        factories["Flat"] = flat_bytes(ntotal, dim)
    factories["HNSW32"] = hnsw_bytes(ntotal, dim)
    lists = min(4 * isqrt(ntotal), ntotal // POINTS_A_CENTROID)
    if lists:
        factories[f"IVF{lists},Flat"] = ivf_bytes(ntotal, dim, lists, 4 * dim)
        factories[f"IVF{lists},SQ8"] = ivf_bytes(ntotal, dim, lists, dim) + 8 * dim
    if ntotal >= POINTS_A_CENTROID * _PQ_CENTROIDS:
        for code_bytes in _pq_codes(dim):
            size = ivf_bytes(ntotal, dim, lists, code_bytes) + 4 * _PQ_CENTROIDS * dim
            factories[f"IVF{lists},PQ{code_bytes}"] = size
    fitting = tuple(
        Choice(factory=factory, rerank=default_rerank(factory) if rerank is None else rerank, size_bytes=size)
        for factory, size in factories.items()
        if max_memory_bytes is None or size <= max_memory_bytes
    )
    if not fitting:
        factory, size = min(factories.items(), key=lambda item: item[1])
        raise IndexKindError(
            f"no index of {ntotal} vectors of length {dim} fits into {size_text(max_memory_bytes or 0)}: "
            f"the smallest, {factory}, needs {size_text(size)}"
        )
    return fitting


def flat_bytes(ntotal: int, dim: int) -> int:
    """Return the size of a flat index: its vectors."""
    return 4 * dim * ntotal + _HEADERS_BYTES


def hnsw_bytes(ntotal: int, dim: int, links: int = _HNSW_LINKS) -> int:
    """Return the size of a graph: vectors, twice `links` neighbours on the ground and `links` a floor above.

    Every floor is reached by one in `links` of the vectors on the one below, by chance: the last term is
    more than four standard deviations.
    """
    ground = 4 * dim + 4 * 2 * links + 12  # and where its neighbours are (8 bytes), and how high it is (4)
    above = 4 * links * ntotal // (links - 1)
    return ground * ntotal + above + 4 * 4 * links * (isqrt(ntotal // (links - 1)) + 2) + _HEADERS_BYTES


def ivf_bytes(ntotal: int, dim: int, lists: int, code_bytes: int) -> int:
    """Return the size of inverted lists: their centroids and lengths, a code and an id for every vector."""
    return (4 * dim + 8) * lists + (code_bytes + 8) * ntotal + _HEADERS_BYTES


def size_text(size_bytes: int) -> str:
    """Return a size in MiB, rounded up, as --max-memory takes it."""
    return f"{-(-size_bytes * 10 // 2**20) / 10:g}M"


def _pq_codes(dim: int) -> list[int]:
    """Lengths of product quantizer codes: divisors of the dimensions, about a 2nd to a 16th of them."""
    divisors = [m for m in range(1, dim + 1) if dim % m == 0]
    return sorted({max(m for m in divisors if m <= max(1, dim // n)) for n in (2, 4, 8, 16)}, reverse=True)
