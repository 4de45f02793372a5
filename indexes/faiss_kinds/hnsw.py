"""A graph of neighbours over whole vectors: the fastest search, and the largest index."""

from collections.abc import Sequence
from math import isqrt

from indexes.faiss_kinds.kind import HEADERS_BYTES, Choice

_LINKS = 32


class Hnsw:
    """For any number of vectors."""

    def choices(self, ntotal: int, dim: int) -> Sequence[Choice]:
        """See `FaissKind`."""
        return [Choice(factory=f"HNSW{_LINKS}", rerank=0, size_bytes=hnsw_bytes(ntotal, dim))]


def hnsw_bytes(ntotal: int, dim: int, links: int = _LINKS) -> int:
    """Return the size of a graph: vectors, twice `links` neighbours on the ground and `links` a floor above.

    Every floor is reached by one in `links` of the vectors on the one below, by chance: the last term is
    more than four standard deviations.
    """
    ground = 4 * dim + 4 * 2 * links + 12  # and where its neighbours are (8 bytes), and how high it is (4)
    above = 4 * links * ntotal // (links - 1)
    return ground * ntotal + above + 4 * 4 * links * (isqrt(ntotal // (links - 1)) + 2) + HEADERS_BYTES
