"""Exact search: every vector is compared."""

from collections.abc import Sequence

from indexes.faiss_kinds.kind import HEADERS_BYTES, Choice

# A query reads every number of a flat index: 200,000 vectors of length 384 are 307 MB, some 30 ms of one
# core's memory bandwidth. What embedding a query costs is of that order.
_MOST_NUMBERS = 200_000 * 384


class Flat:
    """While it is quick."""

    def choices(self, ntotal: int, dim: int) -> Sequence[Choice]:
        """See `FaissKind`."""
        if ntotal * dim > _MOST_NUMBERS:
            return []
        return [Choice(factory="Flat", rerank=0, size_bytes=flat_bytes(ntotal, dim))]


def flat_bytes(ntotal: int, dim: int) -> int:
    """Return the size of a flat index: its vectors."""
    return 4 * dim * ntotal + HEADERS_BYTES
