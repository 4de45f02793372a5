"""An index directory, opened: its rows and vectors by number. Only `indexes` counts rows."""

from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexes.disk.durable import sha256_of
from indexes.disk.manifest import FILE_NAME, KEPT_OUT, REMOVED, FileEntry, Manifest, read_manifest
from indexes.disk.rows import kept_out_table, read_kept_out, read_rows
from indexes.disk.staging import restore
from indexes.disk.vectors import Vectors, mapped
from indexes.errors import IndexDamagedError, IndexReplacedError, UnknownKeyError
from indexes.faiss_kinds import search
from indexes.faiss_kinds.selection import Selection
from indexes.filters import arrow
from indexes.filters.syntax import parse

_FILES = {"index.faiss", "rows.parquet", "failures.parquet", REMOVED}


class NumberedRows:
    """The files of a finished index as they were when it was opened. Row i is vector i and FAISS id i.

    Attributes:
        path: Where they are.
        manifest: What made them.
        rows: pyarrow Table: key, path, label, and what else the source carried; removed rows are still there.
        removed: Numbers of the rows that are not to be found, ascending.
        kept_out: pyarrow Table: key, path, state and content of images that were removed and stay so.
        faiss: The FAISS index.
        findable: The rows that can be found; None is all.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        rows: pa.Table,
        removed: NDArray[np.int64],
        kept_out: pa.Table,
        faiss: Any,
    ) -> None:
        self.path, self.manifest, self.rows, self.removed = path, manifest, rows, removed
        self.kept_out, self.faiss = kept_out, faiss
        self._generation = generation_of(path)
        self._sound: set[Path] = set()
        self.findable: Selection | None = None
        if len(removed):
            live_N = np.ones(manifest.ntotal, dtype=bool)
            live_N[removed] = False
            self.findable = Selection(live_N)

    @classmethod
    def open(cls, path: Path) -> "NumberedRows":
        """Open an index after the checks that cost little: manifest, sizes, headers and counts.

        `indexes.verify` reads every byte.

        Raises:
            IndexDamagedError: It is missing, unfinished or damaged; the message says what to do.
            IndexBusyError: A process that is replacing it neither goes on nor ends.
        """
        while True:
            restore(path)
            before = generation_of(path)
            try:
                opened = cls._open(path, read_manifest(path))
            except IndexDamagedError:
                if path.exists() and generation_of(path) == before:
                    raise
                continue  # It was replaced by a newer one between two of these lines.
            if opened._generation == before:
                return opened

    @classmethod
    def _open(cls, path: Path, manifest: Manifest) -> "NumberedRows":
        tables = {name.removesuffix(".npy") + ".parquet" for name in manifest.vector_files()}
        if unlisted := (_FILES | tables) - manifest.files.keys():
            raise IndexDamagedError(
                f"{path / FILE_NAME} does not list {min(unlisted)}: build the index again"
            )
        for name, entry in manifest.files.items():
            file = path / name
            size = None
            with suppress(OSError):
                size = file.stat().st_size if file.is_file() else None
            if size != entry.bytes:
                what = "is missing" if size is None else f"has {size} bytes, not {entry.bytes}"
                raise IndexDamagedError(f"{file} {what}: restore it, or remove it and build again")
        rows = read_rows(path / "rows.parquet")
        if len(rows) != manifest.ntotal:
            raise IndexDamagedError(
                f"{path} has {len(rows)} rows where its manifest says {manifest.ntotal}: build it again"
            )
        faiss = search.load(path / "index.faiss", manifest)
        removed = _read_removed(path / REMOVED, manifest)
        has_kept_out = KEPT_OUT in manifest.files
        kept_out = read_kept_out(path / KEPT_OUT) if has_kept_out else kept_out_table(rows.slice(0, 0))
        return cls(path, manifest, rows, removed, kept_out, faiss)

    def __len__(self) -> int:
        """Rows that can be found."""
        return self.manifest.ntotal - len(self.removed)

    @property
    def live(self) -> NDArray[np.bool_]:
        """Which rows can be found."""
        return np.ones(self.manifest.ntotal, dtype=bool) if self.findable is None else self.findable.chosen_N

    def live_rows(self, columns: Iterable[str] | None = None) -> pa.Table:
        """Those rows that can be found: some of their columns, as far as there are such, or all."""
        rows = self.rows
        if columns is not None:
            rows = rows.select([name for name in columns if name in rows.column_names])
        return rows if self.findable is None else rows.filter(pa.array(self.findable.chosen_N))

    def matching(self, where: str) -> NDArray[np.bool_]:
        """Which rows can be found and satisfy a condition: see `indexes.filters.syntax`.

        Raises:
            FilterError: The condition cannot be understood.
        """
        return arrow.matching(self.rows, parse(where)) & self.live

    def with_keys(self, keys: Collection[str]) -> NDArray[np.bool_]:
        """Which rows can be found and have one of these keys.

        Raises:
            UnknownKeyError: There is none for one of them.
        """
        asked = pa.array(set(_as_bytes(keys)), pa.binary())
        chosen_N = pc.is_in(self.rows["key"].cast(pa.binary()), asked).to_numpy() & self.live
        if chosen_N.sum() < len(asked):
            known = set(self.rows["key"].filter(pa.array(chosen_N)).to_pylist())
            unknown = next(key for key in keys if key not in known)
            raise UnknownKeyError(f"{self.path} has no row with the key {unknown!r}")
        return chosen_N

    def numbers_of(self, keys: Collection[str]) -> NDArray[np.int64]:
        """The row with each of these keys, in the order given; raises as `with_keys`."""
        chosen_N = self.with_keys(keys)
        found = self.rows["key"].filter(pa.array(chosen_N)).cast(pa.binary()).to_pylist()
        number_of = dict(zip(found, np.flatnonzero(chosen_N).tolist(), strict=True))
        return np.array([number_of[key] for key in _as_bytes(keys)], np.int64)

    def from_files(self, paths: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
        """Which rows can be found and come from one of these files."""
        return pc.is_in(self.rows["path"], paths).to_numpy() & self.live

    @property
    def vector_files(self) -> list[Path]:
        """Where the vectors are, in the order of the rows."""
        return [self.path / name for name in self.manifest.vector_files()]

    @property
    def files(self) -> dict[Path, FileEntry]:
        """What every file was when it was written."""
        return {self.path / name: entry for name, entry in self.manifest.files.items()}

    @cached_property
    def vectors(self) -> Vectors:
        """The vectors as they are stored, rounded to float16."""
        manifest = self.manifest
        # No method of this object: see `Vectors`.
        check = partial(_check_generation, self.path, self._generation)
        vectors = Vectors(self.vector_files, manifest.encoder.embed_dim, check=check)
        if len(vectors) != manifest.ntotal:
            raise IndexDamagedError(
                f"{self.path} has {len(vectors)} vectors where its manifest says {manifest.ntotal}: "
                "build it again"
            )
        return vectors

    def sound_vectors(self, rows_N: NDArray[np.integer]) -> NDArray[np.float32]:
        """Vectors to be written elsewhere, (N, D): damage must not be sealed as sound.

        Raises:
            IndexDamagedError: A file of theirs is not as it was written.
        """
        written, files = self.files, self.vector_files
        ends = np.cumsum([written[file].rows for file in files])
        for part in np.unique(np.searchsorted(ends, rows_N, side="right")).tolist():
            if files[part] not in self._sound and sha256_of(files[part]) != written[files[part]].sha256:
                raise IndexDamagedError(f"{files[part]} has changed since it was written: restore it")
            self._sound.add(files[part])
        return self.vectors.take(rows_N)

    def is_current(self) -> bool:
        """Whether what is on disk still is what was opened."""
        return generation_of(self.path) == self._generation

    def check_generation(self) -> None:
        """Check that what is on disk still is what was opened.

        Raises:
            IndexReplacedError: It is not.
        """
        _check_generation(self.path, self._generation)


def _as_bytes(keys: Iterable[str]) -> list[bytes]:
    """Keys that are asked for: they need not be UTF-8, though those of an index are."""
    return [key.encode("utf-8", "surrogateescape") for key in keys]


def generation_of(path: Path) -> tuple[int, ...] | None:
    """What tells an index from others that were, or will be, at the same path; None where there is none."""
    try:
        sealed = (path / FILE_NAME).stat()
    except OSError:
        return None
    return sealed.st_dev, sealed.st_ino, sealed.st_mtime_ns  # the time, for inodes are used again


def _check_generation(path: Path, opened: tuple[int, ...] | None) -> None:
    if generation_of(path) != opened:
        raise IndexReplacedError(f"{path} was replaced since it was opened: open it again")


def _read_removed(path: Path, manifest: Manifest) -> NDArray[np.int64]:
    removed = np.array(mapped(path))
    right = removed.dtype == np.int64 and removed.shape == (manifest.removed,)
    # Ascending, each once, none of a row that there is not.
    if not right or not np.array_equal(removed, np.unique(removed.clip(0, manifest.ntotal - 1))):
        raise IndexDamagedError(f"{path} is not that of this index: restore it, or build the index again")
    return removed
