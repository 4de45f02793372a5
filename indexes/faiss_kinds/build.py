"""Kinds of FAISS index: chosen, trained, filled, tuned and measured.

What is chosen and measured of the same vectors is the same again: samples and FAISS's clusterings are seeded,
and times decide nothing unless `max_query_ms` is set. FAISS 1.15.1 built the same HNSW graph, byte for byte,
with one, two and four threads; FAISS promises that for no release.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from indexes.disk.durable import written_whole
from indexes.disk.manifest import Kind, Manifest
from indexes.disk.vectors import Vectors
from indexes.errors import IndexKindError
from indexes.faiss_kinds.all_kinds import choices, size_text
from indexes.faiss_kinds.factory import default_rerank, empty_index, plain_errors, training_rows
from indexes.faiss_kinds.options import KindOptions
from indexes.faiss_kinds.recall import Queries, measure, median_ms
from indexes.faiss_kinds.search import load, require_faiss
from indexes.faiss_kinds.tuning import tune
from indexes.progress import Progress, silent

_BLOCK_ROWS = 16384
_TRAINING_ROWS = 65_536
_SEED = 0


def build(vectors: Vectors, path: Path, options: KindOptions, progress: Progress = silent) -> Kind:
    """Write the FAISS file, whole or not at all.

    A factory that was asked for is kept with whatever recall it has. `auto` takes the first kind that
    reaches the target, or the one that comes nearest to it.

    Args:
        vectors: What to index, at least one.
        path: The file.
        options: What is asked of it.
        progress: Told of every step.

    Returns:
        What was chosen and measured.

    Raises:
        IndexKindError: The factory is unknown, dangerous or unfit for these vectors, the memory is too small
            or the time too short.
    """
    queries = Queries(vectors)
    best: Kind | None = None
    slow: list[str] = []
    with written_whole(path) as file:
        for factory, rerank in _asked(options, len(vectors), vectors.dim):
            # What auto tries is known to fit.
            limit = None if options.factory == "auto" else options.max_memory_bytes
            index = filled(factory, queries, max_memory_bytes=limit, progress=progress)
            kind = _measured(index, factory, rerank, queries, options.recall_target, progress)
            if options.max_query_ms is not None and (kind.query_ms or 0) > options.max_query_ms:
                slow.append(f"{factory} takes {kind.query_ms:.3g} ms")
            elif best is None or kind.recall > best.recall:
                best = kind
                _write(index, file)
            del index  # before the next takes its memory
            if best is not None and best.recall >= options.recall_target:
                break
        if best is None:
            raise IndexKindError(
                f"no index answers within {options.max_query_ms:g} ms a query ({', '.join(slow)}): "
                "allow more time, or a lower recall"
            )
    return best


def extend(
    base: Path,
    manifest: Manifest,
    vectors: Vectors,
    path: Path,
    progress: Progress = silent,
) -> Kind:
    """Write the FAISS file of vectors of which another has the first already, whole or not at all.

    The kind stays what it was and is not trained again. Its search parameters stay too, unless less is found
    with them now than they were tuned for.

    Args:
        base: The file that has the first vectors.
        manifest: Of the index that `base` belongs to.
        vectors: All of them.
        path: The new file.
        progress: Told of every step.

    Returns:
        What was measured.

    Raises:
        IndexDamagedError: `base` is damaged, or not the one that the manifest tells of.
    """
    load(base, manifest)
    index = require_faiss().read_index(str(base))  # into memory: a mapped one takes no more vectors
    old = manifest.kind
    add(index, old.factory, vectors, range(manifest.ntotal, len(vectors)), progress)
    kind = _measured(
        index,
        old.factory,
        old.rerank,
        Queries(vectors),
        old.recall_target,
        progress,
        parameters=old.parameters,
    )
    with written_whole(path) as file:
        _write(index, file)
    return kind


def filled(factory: str, queries: Queries, *, max_memory_bytes: int | None, progress: Progress) -> Any:
    """Return a trained index of a whole corpus.

    Args:
        factory: FAISS factory string.
        queries: Rows of the corpus that training had better not see.
        max_memory_bytes: What the index may take.
        progress: Told of every step.

    Raises:
        IndexKindError: FAISS cannot make it of these vectors, or it takes more than is allowed.
    """
    vectors = queries.corpus
    index = empty_index(factory, vectors.dim, len(vectors))
    if not index.is_trained:
        _skip_polysemous_training(index)
        rows = _training_sample(queries, training_rows(factory))
        progress(f"vectors that train {factory}", 0, len(rows))
        sample_ND = vectors.take(rows)
        with plain_errors(factory, vectors.dim):
            index.train(sample_ND)
        progress(f"vectors that train {factory}", len(rows), len(rows))
    first = min(_BLOCK_ROWS, len(vectors))
    empty_bytes = size_bytes(index)
    add(index, factory, vectors, range(first), progress)
    # FAISS files grow by the vector: what the first took tells what all will.
    size = empty_bytes + (size_bytes(index) - empty_bytes) * len(vectors) // first
    if max_memory_bytes is not None and size > max_memory_bytes:
        raise IndexKindError(
            f"index kind {factory!r} takes {size_text(size)} for these vectors, more than the "
            f"{size_text(max_memory_bytes)} allowed: allow more, or choose a smaller kind, or auto"
        )
    add(index, factory, vectors, range(first, len(vectors)), progress)
    if index.ntotal != len(vectors):
        raise IndexKindError(f"index kind {factory!r} does not hold one entry a vector: choose another")
    return index


def add(index: Any, factory: str, vectors: Vectors, rows: range, progress: Progress) -> None:
    """Add vectors to an index that holds those before them."""
    for start in rows[::_BLOCK_ROWS]:
        end = min(start + _BLOCK_ROWS, rows.stop)
        block_ND = vectors.take(np.arange(start, end))
        with plain_errors(factory, vectors.dim):
            index.add(block_ND)
        progress(f"vectors added to {factory}", end, len(vectors))


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


def _asked(options: KindOptions, ntotal: int, dim: int) -> Iterable[tuple[str, int]]:
    """Factories and how many candidates each ranks again."""
    if options.factory != "auto":
        rerank = default_rerank(options.factory) if options.rerank is None else options.rerank
        return [(options.factory, rerank)]
    tries = choices(ntotal, dim, max_memory_bytes=options.max_memory_bytes, rerank=options.rerank)
    return [(choice.factory, choice.rerank) for choice in tries]


def _measured(
    index: Any,
    factory: str,
    rerank: int,
    queries: Queries,
    recall_target: float,
    progress: Progress,
    *,
    parameters: str | None = None,
) -> Kind:
    """Tune a filled index and say what it is; `parameters` that reach the target already are kept."""
    bytes_per_vector = size_bytes(index) / len(queries.corpus)
    if factory == "Flat":
        return Kind(
            recall_target=recall_target,
            query_ms=median_ms(index, queries),
            bytes_per_vector=bytes_per_vector,
        )
    found = None
    if parameters is not None:
        found = measure(index, queries, rerank=rerank, parameters=parameters)
    if found is None or found.recall < recall_target:
        found = tune(index, factory, queries, recall_target=recall_target, rerank=rerank, progress=progress)
    return Kind(
        factory=factory,
        parameters=found.parameters,
        rerank=rerank,
        recall_target=recall_target,
        recall=found.recall,
        query_ms=found.query_ms,
        bytes_per_vector=bytes_per_vector,
    )


def _write(index: Any, file: BinaryIO) -> None:
    """Write an index in place of what the file holds."""
    faiss = require_faiss()
    file.seek(0)
    file.truncate()
    # Given a path instead, FAISS would not notice a disk that is full when it closes the file.
    faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


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
