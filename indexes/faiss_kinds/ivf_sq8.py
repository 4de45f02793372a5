"""Inverted lists of vectors with a byte a number."""

from collections.abc import Sequence

from indexes.faiss_kinds.factory import RERANK
from indexes.faiss_kinds.inverted_lists import ivf_bytes, list_count
from indexes.faiss_kinds.kind import Choice


class IvfSq8:
    """Where there are enough vectors for one list."""

    def choices(self, ntotal: int, dim: int) -> Sequence[Choice]:
        """See `FaissKind`."""
        if not (lists := list_count(ntotal)):
            return []
        size_bytes = ivf_bytes(ntotal, dim, lists, dim) + 8 * dim  # and the range of each number
        return [Choice(factory=f"IVF{lists},SQ8", rerank=RERANK, size_bytes=size_bytes)]
