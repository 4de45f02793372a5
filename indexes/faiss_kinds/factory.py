"""FAISS factory strings: made into an empty index, or refused in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from indexes.errors import IndexKindError
from indexes.faiss_kinds.search import require_faiss

# As many as FAISS asks for before it warns that a clustering has too little to learn from.
POINTS_A_CENTROID = 39
RERANK = 100
_LONGEST = 200  # FAISS's parser recurses: 100,000 brackets end the process
_LARGEST_NUMBER = 65_536
_SUFFIXES = {"": 1, "k": 1024, "M": 1024 * 1024}


def empty_index(factory: str, dim: int, ntotal: int) -> Any:
    """Return the untrained inner-product index that a factory string describes.

    Args:
        factory: As `faiss.index_factory` takes it.
        dim: Length of a vector.
        ntotal: Vectors that it will be trained and filled with; FAISS id i must come to mean vector i.

    Raises:
        IndexKindError: FAISS does not know the factory, it does not fit these vectors, or it is one of those
            that number vectors themselves, compare by another metric, cannot be filled block by block, or
            crash the process.
    """
    faiss = require_faiss()
    _refuse_unsafe(factory)
    needed = training_rows(factory)
    if needed > ntotal:
        raise IndexKindError(
            f"index kind {factory!r} needs at least {needed} vectors to train and there are {ntotal}: "
            "choose a smaller kind, or auto"
        )
    with plain_errors(factory, dim):
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        _require_refinable(index)
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:  # FAISS forgets the metric of HNSW32_PQ8, say
        raise IndexKindError(f"index kind {factory!r} cannot compare by inner product: choose another")
    return index


def training_rows(factory: str) -> int:
    """Return how many vectors the clusterings of a factory string need; 0 where there are none."""
    lists = [int(n) * _SUFFIXES[suffix] for n, suffix in re.findall(r"IVF(\d+)([kM]?)", factory)]
    bits = [int(n) for n in re.findall(r"x(\d+)", factory)]
    if re.search(r"PQ\d+(?![\dx])", factory):
        bits.append(8)  # of a PQ that names none, and of every OPQ while it learns its rotation
    return POINTS_A_CENTROID * max([0, *lists, *(2 ** min(n, 64) for n in bits)])


def default_rerank(factory: str) -> int:
    """Return how many candidates to score again by the stored vectors: some where the codes lose much."""
    lossy = re.search(r"PQ|SQ(?!fp16)|RQ|RaBitQ|PCA", factory) and not re.search("Refine|RFlat", factory)
    return RERANK if lossy else 0


@contextmanager
def plain_errors(factory: str, dim: int) -> Iterator[None]:
    """Turn FAISS's own errors into one that is one line long and names the factory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = " ".join(str(error).split())
        # "Error in <C++ signature> at <file>:<line>: Error: '<condition>' failed: <what a person can read>"
        reason = re.sub(r"^.*\.(?:cpp|h):\d+: ", "", text)
        reason = re.sub(r"^Error: '(.*)' failed(?:: )?(.*)$", lambda found: found[2] or found[1], reason)
        raise IndexKindError(
            f"FAISS refuses index kind {factory!r} for vectors of length {dim} "
            f"({reason or 'out of memory'}): choose another, or auto"
        ) from error


def _refuse_unsafe(factory: str) -> None:
    beside_lists = [int(n) for n in re.findall(r"\d+", re.sub(r"IVF\d+", "", factory[:_LONGEST]))]
    reason = None
    if not (factory.isascii() and factory.isprintable() and len(factory) <= _LONGEST):
        reason = "is not a FAISS factory string"
    elif "IDMap" in factory:
        reason = "numbers vectors itself, but ids here are row numbers"
    elif "NSG" in factory:
        reason = "cannot be filled block by block"
    elif re.search(r"(?<!\d)0+(?!\d)|HNSW0*1(?!\d)", factory):
        reason = "has a number that is too small"  # and FAISS would end the process: HNSW1, PQ8x0, RQ0x8
    elif max(beside_lists, default=0) > _LARGEST_NUMBER:
        reason = "has a number that is too large"
    if reason is not None:
        raise IndexKindError(f"index kind {factory[:40]!r} {reason}: choose another, or auto")


def _require_refinable(index: Any) -> None:
    """Raise here and now what a search would raise in one of FAISS's threads, which ends the process."""
    faiss = require_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        _require_refinable(index.index)
    elif isinstance(index, faiss.IndexRefine):
        index.refine_index.get_distance_computer()
        _require_refinable(index.base_index)
