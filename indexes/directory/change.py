"""Changes of finished indexes: each makes a new index, of hard links where it can, and swaps it in whole."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes.directory.merging import prefixes_of
from indexes.directory.numbered_rows import NumberedRows
from indexes.directory.parts_to_index import assemble, check_counts, link
from indexes.disk.durable import sha256_of
from indexes.disk.key_prefixes import with_prefix
from indexes.disk.manifest import FileEntry, Manifest
from indexes.disk.origin import Origin
from indexes.disk.rows import concatenate, count, kept_out_table, read_failures, read_rows, write_table
from indexes.disk.schema import Calibration, MeasuredCurve, checked
from indexes.disk.staging import Staging
from indexes.disk.vectors import read_vectors, write_vectors
from indexes.errors import EmptyIndexError, IndexDamagedError
from indexes.faiss_kinds.factory import training_rows
from indexes.faiss_kinds.options import AUTO, KindOptions
from indexes.progress import Progress, silent

_log = logging.getLogger(__name__)


def remove(
    path: Path, choose: Callable[[NumberedRows], NDArray[np.bool_]], *, keep_out: bool = True, command: str
) -> int:
    """Mark rows as removed: no search finds them, and nothing counts them. `compact` frees their space.

    Args:
        path: The index.
        choose: Which of its rows to remove.
        keep_out: Whether to remember their images as ones that are not to come back.
        command: What was run.

    Returns:
        How many were removed.

    Raises:
        EmptyIndexError: None would be left.
        IndexBusyError: Another process is writing this index.
        IndexDamagedError: There is no whole index.
    """
    with Staging(path, replaces=True) as staging:
        index = NumberedRows.open(path)
        chosen = np.flatnonzero(choose(index) & index.live)
        if len(chosen) == len(index):
            raise EmptyIndexError(f"that is every row of {path}: remove the directory instead")
        if len(chosen):
            kept_out = index.kept_out
            if keep_out:
                kept_out = concatenate([kept_out, kept_out_table(index.rows.take(pa.array(chosen)))])
            assemble(
                staging,
                index.vector_files,
                failures=read_failures(path / "failures.parquet"),
                removed=np.union1d(index.removed, chosen),
                kept_out=kept_out,
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
    progress: Progress = silent,
) -> Manifest:
    """Make one index of the rows that can be found in several, or in one to free the space of the others.

    Keys of an index some of whose names earlier ones have get a prefix, which is logged.

    Args:
        paths: Indexes made by the same encoder.
        out: The new index; may be one of them, which it replaces.
        command: What was run.
        options: How to index; None is as the first of them is, or auto where too few rows are left for that.
        progress: Told of the steps of indexing.

    Raises:
        DuplicateKeyError: Two of them have the same image.
        WrongEncoderError: They were made by different encoders.
        IndexBusyError: Another process is writing `out`.
        IndexDamagedError: One is no whole index.
        IndexReplacedError: One was replaced meanwhile.
    """
    with Staging(out, replaces=out in paths) as staging:
        indexes = [NumberedRows.open(path) for path in paths]
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
        failures, kept_out = [], []
        prefixes = prefixes_of(indexes)
        for i, (index, prefix) in enumerate(zip(indexes, prefixes, strict=True)):
            if prefix:
                message = "%s has names that are taken: its keys begin with %s in %s"
                _log.info(message, index.path, prefix, out)
            try:
                parts += _live_parts(index, staging.scratch / str(i), known, prefix)
                failures.append(with_prefix(read_failures(index.path / "failures.parquet"), prefix))
                kept_out.append(with_prefix(index.kept_out, prefix))
            finally:
                index.check_generation()  # Nobody holds the lock of those that are only read.
        return assemble(
            staging,
            parts,
            failures=concatenate(failures),
            removed=np.array([], dtype=np.int64),
            kept_out=concatenate(kept_out),
            origin=origin_of([index.manifest for index in indexes], command, prefixes),
            options=options,
            known=known,
            progress=progress,
        )


def note_calibration(path: Path, calibration: Mapping[str, Any]) -> None:
    """Write down what the budget `auto` means for an index.

    Args:
        path: The index.
        calibration: See `indexes.disk.schema.Calibration`, but for the `rows`.

    Raises:
        ValueError: It is no such record.
        IndexBusyError: Another process is writing this index.
        IndexDamagedError: There is no whole index.
    """
    _note(path, lambda index: {"calibration": checked({**calibration, "rows": len(index)}, Calibration)})


def note_curve(path: Path, curve: Mapping[str, Any]) -> None:
    """Write down the submodels that budgets choose from for an index.

    Args:
        path: The index.
        curve: See `indexes.disk.schema.MeasuredCurve`.

    Raises:
        ValueError: It is no such record.
        IndexBusyError: Another process is writing this index.
        IndexDamagedError: There is no whole index.
    """
    _note(path, lambda _: {"curve": checked(dict(curve), MeasuredCurve)})


def note_excludes(path: Path, source: str, globs: Sequence[str]) -> None:
    """Write down what is left out of a source of an index: see `Manifest`; raises as `note_calibration`."""
    _note(path, lambda index: {"excludes": {**index.manifest.excludes, source: list(globs)}})


def _note(path: Path, facts: Callable[[NumberedRows], dict[str, Any]]) -> None:
    """Change what the manifest of an index says of where it comes from, and nothing else."""
    with Staging(path, replaces=True) as staging:
        index = NumberedRows.open(path)
        assemble(
            staging,
            index.vector_files,
            failures=read_failures(path / "failures.parquet"),
            removed=index.removed,
            kept_out=index.kept_out,
            origin=replace(origin_of([index.manifest], index.manifest.command), **facts(index)),
            options=AUTO,
            base=index,
        )


def origin_of(manifests: Sequence[Manifest], command: str, prefixes: Sequence[str] = ("",)) -> Origin:
    """What made the vectors of indexes that are joined, as far as one can say it of all of them.

    Args:
        manifests: Of the indexes.
        command: What was run.
        prefixes: What the keys of each begin with from now on.
    """
    first = manifests[0]
    key_prefixes: dict[str, str] = {}
    for manifest, prefix in zip(manifests, prefixes, strict=True):
        for source in manifest.sources:  # Of what two of them have, new rows go on as in the first.
            key_prefixes.setdefault(source, prefix + manifest.key_prefixes.get(source, ""))
    return Origin(
        encoder=first.encoder,
        dtype=first.dtype,
        device=first.device,
        checkpoint=first.checkpoint,
        sources=list(dict.fromkeys(source for manifest in manifests for source in manifest.sources)),
        command=command,
        key_prefixes=key_prefixes,
        excludes={source: globs for manifest in manifests for source, globs in manifest.excludes.items()},
        calibration=first.calibration if len(manifests) == 1 else None,
        curve=first.curve if len(manifests) == 1 else None,
    )


def _live_parts(
    index: NumberedRows, folder: Path, known: dict[Path, FileEntry], prefix: str = ""
) -> Iterator[Path]:
    """The parts of an index without their removed rows, in a new folder: links, or copies where some are.

    Args:
        index: Whose.
        folder: Where to.
        known: Gets what the links were when they were written.
        prefix: To put before every key.

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
        if here_N.all():
            _link_written(file, copy, known, written)
        else:
            _require_sound(file, written)
            write_vectors(copy, vectors_ND[here_N])
        rows, rows_copy = file.with_suffix(".parquet"), copy.with_suffix(".parquet")
        if here_N.all() and not prefix:
            _link_written(rows, rows_copy, known, written)
        else:
            _require_sound(rows, written)
            write_table(rows_copy, with_prefix(read_rows(rows).filter(here_N), prefix))
        yield copy


@dataclass(frozen=True)
class Relocation:
    """Where the files of an index are now.

    Attributes:
        files: Path of a row, or of an image kept out -> the new path and the state of the file there.
        sources: See `Manifest`.
        key_prefixes: See `Manifest`.
        excludes: See `Manifest`.
    """

    files: Mapping[str, tuple[str, str]]
    sources: list[str]
    key_prefixes: Mapping[str, str]
    excludes: Mapping[str, Sequence[str]] = field(default_factory=dict)


def relocate(path: Path, where: Callable[[NumberedRows], Relocation], *, command: str) -> None:
    """Write down where the files of an index are now. Vectors and keys stay as they are.

    Args:
        path: The index.
        where: Finds out.
        command: What was run.

    Raises:
        IndexBusyError: Another process is writing this index.
        IndexDamagedError: There is no whole index, or rows are not as they were written.
    """
    with Staging(path, replaces=True) as staging:
        index = NumberedRows.open(path)
        now = where(index)
        staging.scratch.mkdir()
        known: dict[Path, FileEntry] = {}
        parts = list(_relocated_parts(index, staging.scratch, known, now.files))
        origin = origin_of([index.manifest], command)
        assemble(
            staging,
            parts,
            failures=read_failures(path / "failures.parquet"),
            removed=index.removed,
            kept_out=_relocated(index.kept_out, now.files),
            origin=replace(origin, sources=now.sources, key_prefixes=now.key_prefixes, excludes=now.excludes),
            options=AUTO,
            base=index,
            known=known,
        )


def _relocated_parts(
    index: NumberedRows, folder: Path, known: dict[Path, FileEntry], files: Mapping[str, tuple[str, str]]
) -> Iterator[Path]:
    written = index.files
    for file in index.vector_files:
        copy, rows = folder / file.name, file.with_suffix(".parquet")
        _link_written(file, copy, known, written)
        table = read_rows(rows)
        if files.keys().isdisjoint(table["path"].to_pylist()):
            _link_written(rows, copy.with_suffix(".parquet"), known, written)
        else:
            _require_sound(rows, written)
            write_table(copy.with_suffix(".parquet"), _relocated(table, files))
        yield copy


def _relocated(table: pa.Table, files: Mapping[str, tuple[str, str]]) -> pa.Table:
    """Rows whose files are elsewhere now, in part."""
    found = [files.get(path) for path in table["path"].to_pylist()]
    for column, name in enumerate(("path", "state")):
        if name in table.column_names:
            values = zip(table[name].to_pylist(), found, strict=True)
            texts = [new[column] if new else old for old, new in values]
            table = table.set_column(table.column_names.index(name), name, pa.array(texts, pa.string()))
    return table


def _link_written(
    source: Path, copy: Path, known: dict[Path, FileEntry], written: Mapping[Path, FileEntry]
) -> None:
    link(source, copy)
    known[copy] = written[source]


def _require_sound(source: Path, written: Mapping[Path, FileEntry]) -> None:
    if sha256_of(source) != written[source].sha256:
        raise IndexDamagedError(f"{source} has changed since it was written: restore it")
