"""FAISS indexes trained and filled with a corpus, block by block."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.choices import size_text
from indexes.errors import IndexKindError
from indexes.factory import empty_index, plain_errors, training_rows
from indexes.measure import Queries
from indexes.search import require_faiss
from indexes.vectors import Vectors

Progress = Callable[[str, int, int], None]
"""Told what is being done, how far it is and how far it goes."""

_BLOCK_ROWS = 16384
_TRAINING_ROWS = 65_536
_SEED = 0


def filled(factory: str, queries: Queries, *, max_memory_bytes: int | None, on_progress: Progress) -> Any:
    """Return a trained index of a whole corpus.

    Args:
        factory: FAISS factory string.
        queries: Rows of the corpus that training had better not see.
        max_memory_bytes: What the index may take.
        on_progress: Told of every step.

    Raises:
        IndexKindError: FAISS cannot make it of these vectors, or it takes more than is allowed.
    """
    vectors = queries.corpus
    index = empty_index(factory, vectors.dim, len(vectors))
    if not index.is_trained:
        _skip_polysemous_training(index)
        rows = _training_sample(queries, training_rows(factory))
        on_progress(f"{factory}: training", 0, len(rows))
        sample_ND = vectors.take(rows)
        with plain_errors(factory, vectors.dim):
            index.train(sample_ND)
        on_progress(f"{factory}: training", len(rows), len(rows))
    first = min(_BLOCK_ROWS, len(vectors))
    empty_bytes = size_bytes(index)
    add(index, factory, vectors, range(first), on_progress)
    # FAISS files grow by the vector: what the first took tells what all will.
    size = empty_bytes + (size_bytes(index) - empty_bytes) * len(vectors) // first
    if max_memory_bytes is not None and size > max_memory_bytes:
        raise IndexKindError(
            f"index kind {factory!r} takes {size_text(size)} for these vectors, more than the "
            f"{size_text(max_memory_bytes)} allowed: allow more, or choose a smaller kind, or auto"
        )
    add(index, factory, vectors, range(first, len(vectors)), on_progress)
    if index.ntotal != len(vectors):
        raise IndexKindError(f"index kind {factory!r} does not hold one entry a vector: choose another")
    return index


def add(index: Any, factory: str, vectors: Vectors, rows: range, on_progress: Progress) -> None:
    """Add vectors to an index that holds those before them."""
    for start in rows[::_BLOCK_ROWS]:
        end = min(start + _BLOCK_ROWS, rows.stop)
        block_ND = vectors.take(np.arange(start, end))
        with plain_errors(factory, vectors.dim):
            index.add(block_ND)
        on_progress(f"{factory}: adding", end, len(vectors))


def size_bytes(index: Any) -> int:
    """Return the size of the file that an index would make."""
    faiss = require_faiss()
    total = 0

    def count(chunk: bytes) -> int:
        nonlocal total
        total += len(chunk)
        return len(chunk)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count))
    return total


def _training_sample(queries: Queries, needed: int) -> NDArray[np.int64]:
    """Random rows, ascending; those that are queries only where there are too few others."""
    count, ntotal = max(needed, _TRAINING_ROWS), len(queries.corpus)
    drawn = np.random.default_rng(_SEED).choice(ntotal, min(ntotal, count + len(queries.rows)), replace=False)
    others = drawn[~np.isin(drawn, queries.rows)]
    return np.sort((others if len(others) >= max(needed, 1) else drawn)[:count])


def _skip_polysemous_training(index: Any) -> None:
    """Leave out what takes a product quantizer minutes to learn and serves only the parameter `ht`."""
    faiss = require_faiss()
    index = faiss.downcast_index(index)
    if hasattr(index, "do_polysemous_training"):
        index.do_polysemous_training = False
    for inner in ("index", "base_index", "refine_index"):
        if (part := getattr(index, inner, None)) is not None:
            _skip_polysemous_training(part)
