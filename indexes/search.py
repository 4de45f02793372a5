"""FAISS: build, load. Id i of the FAISS index is row i of `rows.parquet`."""

from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from indexes.errors import FaissConflictError, IndexDamagedError, MissingFaissError
from indexes.files import written_whole

_HEADER_BYTES = 45  # of a flat FAISS index; four bytes a number follow


def require_faiss() -> ModuleType:
    """Import FAISS.

    Raises:
        MissingFaissError: It is not installed; the message says how to.
        FaissConflictError: Its CPU and GPU builds are installed over each other.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise
        raise MissingFaissError from error
    if all(list(distributions(name=name)) for name in ("faiss-cpu", "faiss-gpu")):
        raise FaissConflictError(
            "faiss-cpu and faiss-gpu exclude each other: pip uninstall one, reinstall the other"
        )
    module: ModuleType = faiss
    return module


def build_flat(blocks: Iterable[NDArray[np.float32]], dim: int, path: Path) -> int:
    """Write an exact inner-product index over blocks of vectors, and return how many there were."""
    faiss = require_faiss()
    index = faiss.IndexFlatIP(dim)
    for block_ND in blocks:
        index.add(block_ND)
    with written_whole(path) as file:
        # Given a path instead, FAISS would not notice a disk that is full when it closes the file.
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
    return int(index.ntotal)


def load(path: Path, *, dim: int, ntotal: int) -> Any:
    """Load a FAISS index, memory-mapped where this FAISS can.

    Raises:
        IndexDamagedError: It is missing or damaged, or not an inner-product index over `ntotal` vectors of
            length `dim`.
    """
    faiss = require_faiss()
    # The mapped reader crashes the whole process on some files that end inside their header (seen in 1.15.1).
    if not path.is_file() or path.stat().st_size < _HEADER_BYTES + 4 * dim * ntotal:
        raise _damaged(path)
    flags = getattr(faiss, "IO_FLAG_MMAP_IFC", 0)  # FAISS before 1.11 can only read a flat index into memory
    try:
        index = faiss.read_index(str(path), flags)
    except (RuntimeError, MemoryError) as error:
        raise _damaged(path) from error
    if (index.d, index.ntotal, index.metric_type) != (dim, ntotal, faiss.METRIC_INNER_PRODUCT):
        raise IndexDamagedError(
            f"{path} holds {index.ntotal} x {index.d} vectors where the manifest says {ntotal} x {dim}: "
            "restore it, or remove it and build again"
        )
    return index


def _damaged(path: Path) -> IndexDamagedError:
    return IndexDamagedError(f"{path} is missing or damaged: restore it, or remove it and build again")


def nearest(
    queries_QD: NDArray[np.float32],
    corpus_ND: NDArray[np.float32],
    k: int,
    *,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> NDArray[np.int64]:
    """The nearest rows of a corpus in memory, exactly; for cosine, callers give L2-normalised vectors.

    Returns:
        Row numbers, Q x k, nearest first; k is clipped to the size of the corpus.
    """
    faiss = require_faiss()
    kind = {"cosine": faiss.METRIC_INNER_PRODUCT, "euclidean": faiss.METRIC_L2}[metric]
    _, ids_QK = faiss.knn(queries_QD, corpus_ND, min(k, len(corpus_ND)), metric=kind)
    return np.asarray(ids_QK)
