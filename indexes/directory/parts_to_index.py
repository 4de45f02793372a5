"""From parts to an index: the last step of every way to make one."""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes.directory.numbered_rows import NumberedRows
from indexes.disk.durable import ends_sha256, sha256_of, sync_directory, written_whole
from indexes.disk.manifest import FILE_NAME, KEPT_OUT, REMOVED, FileEntry, Manifest
from indexes.disk.origin import Origin
from indexes.disk.rows import (
    check_unique,
    concatenate,
    mark_duplicates,
    read_rows,
    rows_table,
    still_kept_out,
    write_table,
)
from indexes.disk.staging import Staging
from indexes.disk.vectors import Vectors
from indexes.errors import EmptyIndexError, IndexDamagedError
from indexes.faiss_kinds import build
from indexes.faiss_kinds.options import KindOptions
from indexes.progress import Progress, silent


def assemble(
    staging: Staging,
    parts: Sequence[Path],
    *,
    failures: pa.Table,
    removed: NDArray[np.int64],
    kept_out: pa.Table,
    origin: Origin,
    options: KindOptions,
    base: NumberedRows | None = None,
    known: Mapping[Path, FileEntry] = MappingProxyType({}),
    progress: Progress = silent,
) -> Manifest:
    """Make an index of finished parts and move it into place.

    Args:
        staging: Where; held by the caller.
        parts: The files of vectors, in the order of the rows; those of the rows lie beside them.
        failures: What could not be embedded.
        removed: Numbers of rows that are there but must not be found, ascending.
        kept_out: Images that were removed and are not to come back, but for those that are there again.
        origin: What made the vectors.
        options: How to index them.
        base: An index whose rows are the first of these: what it has is not made again.
        known: What other files of parts were when they were written. Not found out again, lest damage that
            they have taken since be sealed as sound; nor is what `base` knows of its own.
        progress: Told of the steps of indexing.

    Raises:
        DuplicateKeyError: Two rows that can be found have the same key.
        EmptyIndexError: None can be found.
        IndexDamagedError: A part is damaged, or has not one vector a row.
        IndexKindError: FAISS cannot index these vectors like that.
    """
    staging.clear()
    index = staging.index
    files = [index / "vectors" / f"part-{i:05d}.npy" for i in range(len(parts))]
    if base is not None:
        known = {**known, **base.files}
    entries: dict[Path, FileEntry] = {}

    def take(old: Path, new: Path) -> None:
        link(old, new)
        if old in known:
            entries[new] = known[old]

    for part, file in zip(parts, files, strict=True):
        for suffix in (".npy", ".parquet"):
            take(part.with_suffix(suffix), file.with_suffix(suffix))
    sync_directory(index / "vectors")
    tables = [read_rows(file.with_suffix(".parquet")) for file in files]
    vectors = Vectors(files, origin.encoder.embed_dim)
    for part, vectors_here, table in zip(parts, vectors.counts, tables, strict=True):
        check_counts(part, vectors_here, len(table))
    if base is not None:
        _ = base.vectors  # which raises where they are not as many as the rows that its numbers count
    rows = concatenate([rows_table([]), *tables])
    found = np.ones(len(rows), dtype=bool)
    found[removed] = False
    if not found.any():
        raise EmptyIndexError(_why_empty(failures))
    findable = rows.filter(pa.array(found))
    check_unique(findable)
    kept_out = still_kept_out(kept_out, findable)
    write_table(index / "rows.parquet", mark_duplicates(rows, found))
    write_table(index / "failures.parquet", failures)
    with written_whole(index / REMOVED) as numbers:
        np.lib.format.write_array(numbers, removed, allow_pickle=False)
    if len(kept_out):
        write_table(index / KEPT_OUT, kept_out)
    faiss_file = index / "index.faiss"
    if base is None:
        kind = build.build(vectors, faiss_file, options, progress)
    elif base.manifest.ntotal == len(vectors):
        kind = base.manifest.kind
        take(base.path / "index.faiss", faiss_file)
    else:
        kind = build.extend(base.path / "index.faiss", base.manifest, vectors, faiss_file, progress)
    counts: dict[Path, int] = {
        index / "rows.parquet": len(rows),
        index / "failures.parquet": len(failures),
        index / REMOVED: len(removed),
        faiss_file: len(rows),
    }
    if len(kept_out):
        counts[index / KEPT_OUT] = len(kept_out)
    for file, table in zip(files, tables, strict=True):
        counts[file] = counts[file.with_suffix(".parquet")] = len(table)
    manifest = Manifest(
        encoder=origin.encoder,
        dtype=origin.dtype,
        device=origin.device,
        checkpoint=origin.checkpoint,
        sources=origin.sources,
        command=origin.command,
        key_prefixes={source: prefix for source, prefix in origin.key_prefixes.items() if prefix},
        excludes={source: list(globs) for source, globs in origin.excludes.items()},
        calibration=origin.calibration,
        curve=origin.curve,
        kind=kind,
        ntotal=len(rows),
        removed=len(removed),
        classes=sorted(set(findable["label"].drop_null().unique().to_pylist())),
        files={
            path.relative_to(index).as_posix(): entries.get(path) or _entry(path, number)
            for path, number in counts.items()
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    with written_whole(index / FILE_NAME) as sealed:
        sealed.write(manifest.to_json())
    sync_directory(index)
    staging.publish()
    return manifest


def check_counts(part: Path, vectors: int, rows: int) -> None:
    """Check that a part has one vector a row, without which what is found would be other rows' images.

    Raises:
        IndexDamagedError: It has not.
    """
    if vectors != rows:
        raise IndexDamagedError(
            f"{part} has {vectors} vectors for {rows} rows: restore it, or remove it and build again"
        )


def link(source: Path, target: Path) -> None:
    """The same bytes under another name: a hard link, or a copy where the file system has none."""
    with suppress(OSError):
        os.link(source, target)
        return
    with source.open("rb") as old, written_whole(target) as new:
        shutil.copyfileobj(old, new)


def _entry(path: Path, rows: int) -> FileEntry:
    ends = ends_sha256(path) if path.suffix == ".faiss" else None
    return FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path), rows=rows, ends_sha256=ends)


def _why_empty(failures: pa.Table) -> str:
    if not len(failures):
        return "there are no images: check the source"
    first = failures.slice(0, 1).to_pylist()[0]
    return (
        f"no image could be embedded, {len(failures)} failed (the first, {first['key']}: {first['reason']})"
    )
