"""Changes of finished indexes: each makes a new index, of hard links where it can, and swaps it in whole."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.assembly import Origin, assemble, check_counts, link
from indexes.errors import EmptyIndexError, IndexDamagedError
from indexes.factory import training_rows
from indexes.files import sha256_of
from indexes.filling import Progress
from indexes.index import Index
from indexes.kinds import AUTO, KindOptions
from indexes.manifest import FileEntry, Manifest
from indexes.rows import concatenate, count, read_failures, read_rows, write_table
from indexes.schema import Calibration, checked
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
                options=AUTO,
                base=index,
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
        options: How to index; None is as the first of them is, or auto where too few rows are left for that.
        on_progress: Told of the steps of indexing.

    Raises:
        DuplicateKeyError: Two of them have the same key.
        WrongEncoderError: They were made by different encoders.
        IndexBusyError: Another process is writing `out`.
        IndexDamagedError: One is no whole index.
        IndexReplacedError: One was replaced meanwhile.
    """
    with Staging(out, replaces=out in paths) as staging:
        indexes = [Index.open(path) for path in paths]
        first = indexes[0].manifest
        for index in indexes:
            first.require_encoder(index.manifest.encoder)
        if options is None:
            enough = training_rows(first.kind.factory) <= sum(len(index) for index in indexes)
            kind = first.kind
            options = KindOptions(
                factory=kind.factory if enough else "auto",
                rerank=kind.rerank if enough else None,
                recall_target=kind.recall_target,
            )
        staging.scratch.mkdir()
        parts: list[Path] = []
        known: dict[Path, FileEntry] = {}
        failures = []
        for i, index in enumerate(indexes):
            try:
                parts += _live_parts(index, staging.scratch / str(i), known)
                failures.append(read_failures(index.path / "failures.parquet"))
            finally:
                index.check_generation()  # Nobody holds the lock of those that are only read.
        return assemble(
            staging,
            parts,
            failures=concatenate(failures),
            removed=np.array([], dtype=np.int64),
            origin=origin_of([index.manifest for index in indexes], command),
            options=options,
            known=known,
            on_progress=on_progress,
        )


def note_calibration(path: Path, calibration: Mapping[str, Any]) -> None:
    """Write down what the budget `auto` means for an index.

    Args:
        path: The index.
        calibration: See `indexes.schema.Calibration`, but for the `rows`.

    Raises:
        ValueError: It is no such record.
        IndexBusyError: Another process is writing this index.
        IndexDamagedError: There is no whole index.
    """
    with Staging(path, replaces=True) as staging:
        index = Index.open(path)
        origin = origin_of([index.manifest], index.manifest.command)
        record = checked({**calibration, "rows": len(index)}, Calibration)
        assemble(
            staging,
            index.vector_files,
            failures=read_failures(path / "failures.parquet"),
            removed=index.removed,
            origin=replace(origin, calibration=record),
            options=AUTO,
            base=index,
        )


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
        calibration=first.calibration if len(manifests) == 1 else None,
    )


def _live_parts(index: Index, folder: Path, known: dict[Path, FileEntry]) -> Iterator[Path]:
    """The parts of an index without their removed rows, in a new folder: links, or copies where some are.

    Args:
        index: Whose.
        folder: Where to.
        known: Gets what the links were when they were written.

    Raises:
        IndexDamagedError: What is to be copied is not as it was written.
    """
    folder.mkdir()
    start, dim, live_N, written = 0, index.manifest.encoder.embed_dim, index.live, index.files
    _ = index.vectors  # which raises where there are not as many as rows
    for file in index.vector_files:
        vectors_ND, copy = read_vectors(file, dim), folder / file.name
        check_counts(file, len(vectors_ND), count(file.with_suffix(".parquet")))
        here_N = live_N[start : start + len(vectors_ND)]
        start += len(vectors_ND)
        if not here_N.any():
            continue
        for suffix in (".npy", ".parquet"):
            source = file.with_suffix(suffix)
            if here_N.all():
                link(source, copy.with_suffix(suffix))
                known[copy.with_suffix(suffix)] = written[source]
            elif sha256_of(source) != written[source].sha256:
                raise IndexDamagedError(f"{source} has changed since it was written: restore it")
        if not here_N.all():
            write_vectors(copy, vectors_ND[here_N])
            write_table(copy.with_suffix(".parquet"), read_rows(file.with_suffix(".parquet")).filter(here_N))
        yield copy
