"""Changes of finished indexes: each makes a new index, of hard links where it can, and swaps it in whole."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.assembly import Base, Origin, assemble
from indexes.errors import EmptyIndexError
from indexes.filling import Progress
from indexes.index import Index
from indexes.kinds import KindOptions
from indexes.manifest import Manifest
from indexes.rows import concatenate, read_failures, read_rows, write_table
from indexes.staging import Staging
from indexes.vectors import read_vectors, write_vectors


def remove(path: Path, choose: Callable[[Index], NDArray[np.bool_]], *, command: str) -> int:
    """Mark rows as removed: no search finds them, and nothing counts them. `compact` frees their space.

    Args:
        path: The index.
        choose: Which of its rows to remove.
        command: What was run.

    Returns:
        How many were removed.

    Raises:
        EmptyIndexError: None would be left.
        IndexBusyError: Another process is writing this index.
        IndexDamagedError: There is no whole index.
    """
    with Staging(path, replaces=True) as staging:
        index = Index.open(path)
        chosen = np.flatnonzero(choose(index) & index.live)
        if len(chosen) == len(index):
            raise EmptyIndexError(f"that is every row of {path}: remove the directory instead")
        if len(chosen):
            assemble(
                staging,
                index.vector_files,
                failures=read_failures(path / "failures.parquet"),
                removed=np.union1d(index.removed, chosen),
                origin=origin_of([index.manifest], command),
                options=KindOptions(),
                base=Base(path, index.manifest),
            )
    return len(chosen)


def gather(
    paths: Sequence[Path],
    out: Path,
    *,
    command: str,
    options: KindOptions | None = None,
    on_progress: Progress = lambda *_: None,
) -> Manifest:
    """Make one index of the rows that can be found in several, or in one to free the space of the others.

    Args:
        paths: Indexes made by the same encoder.
        out: The new index; may be one of them, which it replaces.
        command: What was run.
        options: How to index; None is as the first of them is.
        on_progress: Told of the steps of indexing.

    Raises:
        DuplicateKeyError: Two of them have the same key.
        WrongEncoderError: They were made by different encoders.
        IndexBusyError: Another process is writing `out`.
        IndexDamagedError: One is no whole index.
    """
    with Staging(out, replaces=out in paths) as staging:
        indexes = [Index.open(path) for path in paths]
        first = indexes[0].manifest
        for index in indexes:
            first.require_encoder(index.manifest.encoder)
        if options is None:
            options = KindOptions(factory=first.kind.factory, rerank=first.kind.rerank)
        scratch = staging.folder / "parts"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        parts = [part for i, index in enumerate(indexes) for part in _live_parts(index, scratch, i)]
        manifest = assemble(
            staging,
            parts,
            failures=concatenate([read_failures(path / "failures.parquet") for path in paths]),
            removed=np.array([], dtype=np.int64),
            origin=origin_of([index.manifest for index in indexes], command),
            options=options,
            on_progress=on_progress,
        )
        shutil.rmtree(scratch)
    return manifest


def origin_of(manifests: Sequence[Manifest], command: str) -> Origin:
    """What made the vectors of indexes that are joined, as far as one can say it of all of them."""
    first = manifests[0]
    return Origin(
        encoder=first.encoder,
        dtype=first.dtype,
        device=first.device,
        checkpoint=first.checkpoint,
        sources=list(dict.fromkeys(source for manifest in manifests for source in manifest.sources)),
        command=command,
    )


def _live_parts(index: Index, scratch: Path, number: int) -> Iterator[Path]:
    """The parts of an index without their removed rows: as they are, or as copies in `scratch`."""
    start, dim = 0, index.manifest.encoder.embed_dim
    for file in index.vector_files:
        vectors_ND = read_vectors(file, dim)
        live_N = index.live[start : start + len(vectors_ND)]
        start += len(vectors_ND)
        if live_N.all():
            yield file
        elif live_N.any():
            copy = scratch / f"{number}-{file.name}"
            write_vectors(copy, vectors_ND[live_N])
            write_table(copy.with_suffix(".parquet"), read_rows(file.with_suffix(".parquet")).filter(live_N))
            yield copy
