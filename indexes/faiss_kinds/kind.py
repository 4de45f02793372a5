"""What `auto` has to know of a kind of FAISS index."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

HEADERS_BYTES = 1024
"""A FAISS file has less beside its vectors and what they are searched by."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An index to try.

    Attributes:
        factory: FAISS factory string.
        rerank: Candidates a query to score again by the stored vectors; 0 is none.
        size_bytes: What the index takes in memory at most, which is the size of its FAISS file.
    """

    factory: str
    rerank: int
    size_bytes: int


class FaissKind(Protocol):
    """A kind of FAISS index; `auto` tries those that `indexes.faiss_kinds.all_kinds.KINDS` lists."""

    def choices(self, ntotal: int, dim: int) -> Sequence[Choice]:
        """Return what to try for so many vectors, the larger first; nothing where this kind is no use."""
