"""Inverted lists of whole vectors."""

from collections.abc import Sequence

from indexes.faiss_kinds.inverted_lists import ivf_bytes, list_count
from indexes.faiss_kinds.kind import Choice


class IvfFlat:
    """Where there are enough vectors for one list."""

    def choices(self, ntotal: int, dim: int) -> Sequence[Choice]:
        """See `FaissKind`."""
        if not (lists := list_count(ntotal)):
            return []
        size_bytes = ivf_bytes(ntotal, dim, lists, 4 * dim)
        return [Choice(factory=f"IVF{lists},Flat", rerank=0, size_bytes=size_bytes)]
