"""Inverted lists of product codes: a byte for every few numbers of a vector."""

from collections.abc import Sequence

from indexes.faiss_kinds.factory import POINTS_A_CENTROID, RERANK
from indexes.faiss_kinds.inverted_lists import ivf_bytes, list_count
from indexes.faiss_kinds.kind import Choice

_CENTROIDS = 256


class IvfPq:
    """Where there are enough vectors to learn the codes from."""

    def choices(self, ntotal: int, dim: int) -> Sequence[Choice]:
        """See `FaissKind`."""
        if ntotal < POINTS_A_CENTROID * _CENTROIDS:
            return []
        lists, codebooks_bytes = list_count(ntotal), 4 * _CENTROIDS * dim
        return [
            Choice(
                factory=f"IVF{lists},PQ{code_bytes}",
                rerank=RERANK,
                size_bytes=ivf_bytes(ntotal, dim, lists, code_bytes) + codebooks_bytes,
            )
            for code_bytes in _code_lengths(dim)
        ]


def _code_lengths(dim: int) -> list[int]:
    """Divisors of the dimensions, about a 2nd to a 16th of them, the longest first."""
    divisors = [m for m in range(1, dim + 1) if dim % m == 0]
    return sorted({max(m for m in divisors if m <= max(1, dim // n)) for n in (2, 4, 8, 16)}, reverse=True)
