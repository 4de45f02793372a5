"""Kinds of FAISS index: chosen, trained, filled, tuned and measured.

What is chosen and measured of the same vectors is the same again: samples and FAISS's clusterings are seeded,
and times decide nothing unless `max_query_ms` is set. FAISS 1.15.1 built the same HNSW graph, byte for byte,
with one, two and four threads; FAISS promises that for no release.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from indexes.choices import choices
from indexes.errors import IndexKindError
from indexes.factory import default_rerank, empty_index
from indexes.files import written_whole
from indexes.filling import Progress, add, filled, size_bytes
from indexes.manifest import Kind, Manifest
from indexes.measure import Queries, measure, median_ms
from indexes.search import load, require_faiss
from indexes.tuning import MOST_SETTINGS, tune
from indexes.vectors import Vectors

_MANY_ROWS = 10**8


@dataclass(frozen=True, kw_only=True)
class KindOptions:
    """What a caller asks for.

    Attributes:
        factory: FAISS factory string, or auto: what fits the corpus, the memory and the time.
        rerank: Candidates a query that are scored again by the stored vectors, 0 for none; None is 100 for
            compressed kinds, else 0.
        max_memory_bytes: What the FAISS index may take. Stored vectors, of which reranking reads a few a
            query, are not counted.
        max_query_ms: What the median search for one query may take.
        recall_target: Share of the true 10 nearest that the search parameters are tuned to find.
    """

    factory: str = "auto"
    rerank: int | None = None
    max_memory_bytes: int | None = None
    max_query_ms: float | None = None
    recall_target: float = 0.95


AUTO = KindOptions()


def check(options: KindOptions, dim: int) -> None:
    """Refuse a factory that would suit no number of vectors, before work is spent on them.

    Raises:
        IndexKindError: As `build`.
    """
    if options.factory != "auto":
        empty_index(options.factory, dim, _MANY_ROWS)


def build(
    vectors: Vectors, path: Path, options: KindOptions, on_progress: Progress = lambda *_: None
) -> Kind:
    """Write the FAISS file, whole or not at all.

    A factory that was asked for is kept with whatever recall it has. `auto` takes the first kind that
    reaches the target, or the one that comes nearest to it.

    Args:
        vectors: What to index, at least one.
        path: The file.
        options: How.
        on_progress: Told of every step.

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
            index = filled(factory, queries, max_memory_bytes=limit, on_progress=on_progress)
            kind = _measured(index, factory, rerank, queries, options.recall_target, on_progress)
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
    on_progress: Progress = lambda *_: None,
) -> Kind:
    """Write the FAISS file of vectors of which another has the first already, whole or not at all.

    The kind stays what it was and is not trained again. Its search parameters stay too, unless less is found
    with them now than they were tuned for.

    Args:
        base: The file that has the first vectors.
        manifest: Of the index that `base` belongs to.
        vectors: All of them.
        path: The new file.
        on_progress: Told of every step.

    Returns:
        What was measured.

    Raises:
        IndexDamagedError: `base` is damaged, or not the one that the manifest tells of.
    """
    load(base, manifest)
    index = require_faiss().read_index(str(base))  # into memory: a mapped one takes no more vectors
    old = manifest.kind
    add(index, old.factory, vectors, range(manifest.ntotal, len(vectors)), on_progress)
    kind = _measured(
        index,
        old.factory,
        old.rerank,
        Queries(vectors),
        old.recall_target,
        on_progress,
        parameters=old.parameters,
    )
    with written_whole(path) as file:
        _write(index, file)
    return kind


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
    on_progress: Progress,
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
        tried = count(1)
        found = tune(
            index,
            queries,
            recall_target=recall_target,
            rerank=rerank,
            on_setting=lambda _: on_progress(f"{factory}: tuning", next(tried), MOST_SETTINGS),
        )
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
