"""FAISS: load and search, and exact search beside it. Id i of the FAISS index is row i of `rows.parquet`."""

from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from indexes.disk.durable import ends_sha256
from indexes.disk.manifest import Manifest
from indexes.disk.vectors import Vectors
from indexes.errors import FaissConflictError, IndexDamagedError, MissingFaissError
from indexes.faiss_kinds.selection import Selection

_BLOCK_ROWS = 65536  # many, for what each block adds is merged by sorting


@cache
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


def backend() -> str:
    """What searches, and where."""
    faiss = require_faiss()
    return f"FAISS {faiss.__version__} on the CPU"


def load(path: Path, manifest: Manifest) -> Any:
    """Load a FAISS index, memory-mapped where this FAISS can, with its search parameters set.

    Raises:
        IndexDamagedError: It is missing or damaged, or not the one that the manifest tells of.
    """
    faiss = require_faiss()
    dim, ntotal, kind = manifest.encoder.embed_dim, manifest.ntotal, manifest.kind
    flags = getattr(faiss, "IO_FLAG_MMAP_IFC", 0)  # FAISS before 1.11 can only read a flat index into memory
    try:
        # The mapped reader crashes the process on some files that end inside their header (seen in 1.15.1).
        if ends_sha256(path) != manifest.files[path.name].ends_sha256:
            raise ValueError("not the file that was written")
        index = faiss.read_index(str(path), flags)
        faiss.ParameterSpace().set_index_parameters(index, kind.parameters)
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise _damaged(path) from error
    if (index.d, index.ntotal, index.metric_type) != (dim, ntotal, faiss.METRIC_INNER_PRODUCT):
        raise IndexDamagedError(
            f"{path} holds {index.ntotal} x {index.d} vectors where the manifest says {ntotal} x {dim}: "
            "restore it, or remove it and build again"
        )
    return index


def selects(index: Any) -> bool:
    """Whether a FAISS index can search among some of its rows only."""
    faiss = require_faiss()
    if isinstance(index, faiss.IndexPreTransform):
        return selects(faiss.downcast_index(index.index))
    # Others raise, or worse; of inverted lists, those with fast scans or additive quantizers do.
    lists = {faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ}
    kinds = (faiss.IndexFlat, faiss.IndexScalarQuantizer, faiss.IndexHNSW)
    return isinstance(index, kinds) or type(index) in lists


def candidates(
    index: Any, queries_QD: NDArray[np.float32], k: int, among: Selection | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What a FAISS index finds: scores and row numbers, Q x k, best first, -1 where it finds no more.

    Args:
        index: One that `selects`, where there is a choice of rows.
        queries_QD: L2-normalised by the caller.
        k: Rows a query.
        among: Which rows to search among; None is all.
    """
    if among is None:
        return index.search(queries_QD, k)
    faiss = require_faiss()
    selector = faiss.IDSelectorBitmap(len(among.chosen_N), faiss.swig_ptr(among.bits))
    return index.search(queries_QD, k, params=_selecting(index, selector))


def _selecting(index: Any, selector: Any) -> Any:
    """The search parameters of a FAISS index as they are set, with a choice of rows."""
    faiss = require_faiss()
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(
            index_params=_selecting(faiss.downcast_index(index.index), selector)
        )
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=index.hnsw.efSearch)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)
    return faiss.SearchParameters(sel=selector)


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


def exact(
    queries_QD: NDArray[np.float32], vectors: Vectors, k: int, among: Selection | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The stored vectors with the largest inner products, streamed from disk and compared one by one.

    Args:
        queries_QD: L2-normalised by the caller.
        vectors: The corpus.
        k: Rows a query.
        among: The only rows to look at; None is all.

    Returns:
        Scores and row numbers, Q x k, best first, the lower row first where scores tie; k is clipped to the
        number of rows looked at.
    """
    faiss = require_faiss()
    k = min(k, len(vectors) if among is None else among.count)
    scores_QK = np.empty((len(queries_QD), 0), np.float32)
    ids_QK = np.empty((len(queries_QD), 0), np.int64)
    start = 0
    for block_ND in _blocks(vectors, among):
        scores_QJ, ids_QJ = faiss.knn(queries_QD, block_ND, min(k, len(block_ND)), faiss.METRIC_INNER_PRODUCT)
        scores_QK = np.hstack([scores_QK, scores_QJ])
        ids_QK = np.hstack([ids_QK, ids_QJ + start])
        scores_QK, ids_QK = best(scores_QK, ids_QK, k)
        start += len(block_ND)
    return scores_QK, ids_QK if among is None else among.numbers[ids_QK]


def rank_again(
    queries_QD: NDArray[np.float32], candidates_QR: NDArray[np.int64], vectors: Vectors, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The best k of each query's candidates by the stored vectors, where an index knew them only roughly.

    Args:
        queries_QD: L2-normalised by the caller.
        candidates_QR: Row numbers; -1 is none.
        vectors: The corpus.
        k: Rows a query, at most R.

    Returns:
        Scores and row numbers, Q x k, best first; -1 with a score of minus infinity where candidates lack.
    """
    rows, places = np.unique(candidates_QR, return_inverse=True)
    places_QR = places.reshape(candidates_QR.shape)  # which numpy before 2 leaves flat
    taken_ND = vectors.take(np.maximum(rows, 0))
    scores_QR = np.empty(candidates_QR.shape, np.float32)
    for i, query_D in enumerate(queries_QD):
        scores_QR[i] = taken_ND[places_QR[i]] @ query_D
    scores_QR[candidates_QR < 0] = -np.inf
    return best(scores_QR, candidates_QR, k)


def _blocks(vectors: Vectors, among: Selection | None) -> Iterator[NDArray[np.float32]]:
    rows_N = np.arange(len(vectors)) if among is None else among.numbers
    for start in range(0, len(rows_N), _BLOCK_ROWS):
        yield vectors.take(rows_N[start : start + _BLOCK_ROWS])


def best(
    scores_QN: NDArray[np.float32], ids_QN: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k largest scores of each query and their ids, largest first; the lower id where scores tie."""
    order_QK = np.lexsort((ids_QN, -scores_QN), axis=1)[:, :k]
    return np.take_along_axis(scores_QN, order_QK, 1), np.take_along_axis(ids_QN, order_QK, 1)
