"""All kinds of FAISS index that `auto` tries, by corpus size and memory."""

from dataclasses import replace

from indexes.errors import IndexKindError
from indexes.faiss_kinds.flat import Flat
from indexes.faiss_kinds.hnsw import Hnsw
from indexes.faiss_kinds.ivf_flat import IvfFlat
from indexes.faiss_kinds.ivf_pq import IvfPq
from indexes.faiss_kinds.ivf_sq8 import IvfSq8
from indexes.faiss_kinds.kind import Choice, FaissKind

KINDS: tuple[FaissKind, ...] = (
    Flat(),
    Hnsw(),
    IvfFlat(),
    IvfSq8(),
    IvfPq(),
)
"""Every kind that `auto` knows, the preferred first: exact search while that is quick, then the fastest, then
ever smaller ones, which rank their candidates again by the stored vectors."""


def choices(
    ntotal: int, dim: int, *, max_memory_bytes: int | None = None, rerank: int | None = None
) -> tuple[Choice, ...]:
    """Return what to try for so many vectors, the preferred first.

    Args:
        ntotal: Number of vectors, at least 1.
        dim: Their length.
        max_memory_bytes: What the index may take; None is anything.
        rerank: As in `KindOptions`.

    Raises:
        IndexKindError: Nothing is as small as that; the message says what would do.
    """
    known = [choice for kind in KINDS for choice in kind.choices(ntotal, dim)]
    fitting = tuple(
        choice if rerank is None else replace(choice, rerank=rerank)
        for choice in known
        if max_memory_bytes is None or choice.size_bytes <= max_memory_bytes
    )
    if not fitting:
        smallest = min(known, key=lambda choice: choice.size_bytes)
        raise IndexKindError(
            f"no index of {ntotal} vectors of length {dim} fits into {size_text(max_memory_bytes or 0)}: "
            f"the smallest, {smallest.factory}, needs {size_text(smallest.size_bytes)}"
        )
    return fitting


def size_text(size_bytes: int) -> str:
    """Return a size in MiB, rounded up, as --max-memory takes it."""
    return f"{-(-size_bytes * 10 // 2**20) / 10:g}M"
