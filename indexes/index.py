"""A finished index: opened and searched."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexes.errors import IndexDamagedError, IndexReplacedError, UnknownKeyError
from indexes.faiss_kinds import search
from indexes.faiss_kinds.device_search import DeviceSearch
from indexes.files import sha256_of
from indexes.filters import arrow
from indexes.filters.syntax import parse
from indexes.manifest import FILE_NAME, REMOVED, FileEntry, Manifest, read_manifest
from indexes.rows import read_rows
from indexes.selection import Selection
from indexes.staging import restore
from indexes.vectors import Vectors, mapped

_FILES = {"index.faiss", "rows.parquet", "failures.parquet", REMOVED}
_FEW_ROWS = 20_000
"""So many can be compared one by one in about the time that a filtered search takes."""
_MOST_SPARE = 1000


class Found(NamedTuple):
    """What a search found.

    Attributes:
        scores: Cosines, Q x k, best first.
        rows: Row numbers, Q x k.
        how: What was searched.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    how: str


class Index:
    """An image corpus that can be searched. Row i is vector i and FAISS id i.

    Attributes:
        path: Its directory.
        manifest: What made it.
        rows: pyarrow Table: key, path, label, and what else the source carried; removed rows are still there.
        removed: Numbers of the rows that are not to be found, ascending.
    """

    def __init__(
        self, path: Path, manifest: Manifest, rows: pa.Table, removed: NDArray[np.int64], faiss: Any
    ) -> None:
        self.path, self.manifest, self.rows, self.removed = path, manifest, rows, removed
        self._faiss = faiss
        self._generation = generation_of(path)
        self._device = "cpu"
        self._moving = Lock()
        self._moved: tuple[DeviceSearch | None] | None = None  # not tried yet
        self._sound: set[Path] = set()
        self._live: Selection | None = None  # all
        if len(removed):
            live_N = np.ones(manifest.ntotal, dtype=bool)
            live_N[removed] = False
            self._live = Selection(live_N)

    @classmethod
    def open(cls, path: Path) -> "Index":
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
    def _open(cls, path: Path, manifest: Manifest) -> "Index":
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
        return cls(path, manifest, rows, _read_removed(path / REMOVED, manifest), faiss)

    def use(self, device: str) -> str:
        """Search on a GPU from now on, where the search is exact and the vectors fit into its memory.

        Args:
            device: As torch names it; on ``cpu``, FAISS searches.

        Returns:
            What searches from now on, and where.
        """
        with self._moving:
            self._device, self._moved = device, None
        if self._is_exact and self._on_device is not None:
            return f"matrix products on {device}"
        return search.backend()

    @property
    def _is_exact(self) -> bool:
        return self.manifest.kind.factory == "Flat"

    @property
    def _on_device(self) -> DeviceSearch | None:
        with self._moving:  # Threads that begin at once must not move the vectors twice.
            if self._moved is None:
                self._moved = (self._move(),)
            return self._moved[0]

    def _move(self) -> DeviceSearch | None:
        if self._device == "cpu":
            return None
        try:
            return DeviceSearch(self.vectors, self._device)
        except MemoryError:
            return None

    def __len__(self) -> int:
        """Rows that can be found."""
        return self.manifest.ntotal - len(self.removed)

    @cached_property
    def keys(self) -> list[str]:
        """The key of every row."""
        keys: list[str] = self.rows["key"].to_pylist()
        return keys

    @cached_property
    def paths(self) -> list[str]:
        """Where the image of every row was."""
        paths: list[str] = self.rows["path"].to_pylist()
        return paths

    @cached_property
    def labels(self) -> list[str | None]:
        """The label of every row, None where it has none."""
        labels: list[str | None] = self.rows["label"].to_pylist()
        return labels

    @property
    def live(self) -> NDArray[np.bool_]:
        """Which rows can be found."""
        return np.ones(self.manifest.ntotal, dtype=bool) if self._live is None else self._live.chosen_N

    @property
    def live_rows(self) -> pa.Table:
        """Those rows that can be found."""
        return self.rows if self._live is None else self.rows.filter(pa.array(self._live.chosen_N))

    def matching(self, where: str) -> NDArray[np.bool_]:
        """Which rows can be found and satisfy a condition: see `indexes.filters.syntax`.

        Raises:
            FilterError: The condition cannot be understood.
        """
        return arrow.matching(self.rows, parse(where)) & self.live

    def with_keys(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Which rows can be found and have one of these keys.

        Raises:
            UnknownKeyError: There is none for one of them.
        """
        # As bytes: a key that is asked for need not be UTF-8, though those of an index are.
        asked = pa.array({key.encode("utf-8", "surrogateescape") for key in keys}, pa.binary())
        chosen_N = pc.is_in(self.rows["key"].cast(pa.binary()), asked).to_numpy() & self.live
        if chosen_N.sum() < len(asked):
            known = set(self.rows["key"].filter(pa.array(chosen_N)).to_pylist())
            unknown = next(key for key in keys if key not in known)
            raise UnknownKeyError(f"{self.path} has no row with the key {unknown!r}")
        return chosen_N

    def from_files(self, paths: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
        """Which rows can be found and come from one of these files."""
        return pc.is_in(self.rows["path"], paths).to_numpy() & self.live

    @property
    def duplicates(self) -> int:
        """How many rows that can be found hold the very image of an earlier one."""
        if "duplicate_of" not in self.rows.column_names:
            return 0
        return int((self.rows["duplicate_of"].is_valid().to_numpy() & self.live).sum())

    def search(
        self, queries_QD: NDArray[np.floating], k: int, where_N: NDArray[np.bool_] | None = None
    ) -> Found:
        """Find the rows with the largest inner product.

        As many as k are found wherever there are so many: what an approximate index does not find among the
        rows asked for is searched for exactly.

        Args:
            queries_QD: L2-normalised by the caller, so that scores are cosines; nothing is normalised here.
            k: Rows a query, at least 1; clipped to the number of rows that can be found.
            where_N: Rows to search among, as from `matching`; None is all.

        Raises:
            ValueError: Queries of the wrong shape or not finite, or k below 1.
            IndexReplacedError: The index was replaced since it was opened, and what is on disk is needed.
        """
        queries_QD = self._checked(queries_QD, k)
        kind = self.manifest.kind
        among = self._live if where_N is None else Selection(where_N & self.live)
        count = self.manifest.ntotal if among is None else among.count
        k = min(k, count)
        how = kind.factory if among is None else f"{kind.factory} among {count} rows"
        if self._is_exact and (on_device := self._on_device) is not None:
            scores_QK, rows_QK = on_device.search(queries_QD, k, among)
            return Found(scores_QK, rows_QK, how)
        # Kinds that cannot search among some rows find so many more, of which the others are then dropped.
        spare = 0 if among is None or search.selects(self._faiss) else self.manifest.ntotal - count
        if among is not None and (count <= _FEW_ROWS or spare > _MOST_SPARE):
            scores_QK, rows_QK = search.exact(queries_QD, self.vectors, k, among)
            return Found(scores_QK, rows_QK, f"{count} rows one by one")
        wanted = min(max(k, kind.rerank), count)
        scores_QK, rows_QK = search.candidates(
            self._faiss, queries_QD, wanted + spare, None if spare else among
        )
        if among is not None and spare:
            dropped_QK = (rows_QK >= 0) & ~among.chosen_N[rows_QK]
            scores_QK[dropped_QK], rows_QK[dropped_QK] = -np.inf, -1
            scores_QK, rows_QK = search.best(scores_QK, rows_QK, wanted)
        if kind.rerank:
            scores_QK, rows_QK = search.rank_again(queries_QD, rows_QK, self.vectors, k)
        if (rows_QK < 0).any():
            lacking_J = np.flatnonzero((rows_QK < 0).any(axis=1))
            scores_QK[lacking_J], rows_QK[lacking_J] = search.exact(
                queries_QD[lacking_J], self.vectors, k, among
            )
            how += f"; for {len(lacking_J)} of {len(queries_QD)} queries one by one"
        return Found(scores_QK, rows_QK, how)

    def exact(
        self, queries_QD: NDArray[np.floating], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """As `search`, but every row that can be found is compared, whatever the kind of the index.

        Returns:
            Scores and row numbers, Q x k, best first.

        Raises:
            ValueError: As `search`.
            IndexReplacedError: As `search`.
        """
        if self._is_exact:
            return self.search(queries_QD, k)[:2]
        queries_QD, k = self._checked(queries_QD, k), min(k, len(self))
        if (on_device := self._on_device) is not None:
            return on_device.search(queries_QD, k, self._live)
        return search.exact(queries_QD, self.vectors, k, self._live)

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

    def _checked(self, queries_QD: NDArray[np.floating], k: int) -> NDArray[np.float32]:
        if k < 1:
            raise ValueError(f"k is {k}, not at least 1")
        queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
        dim = self.manifest.encoder.embed_dim
        if queries_QD.ndim != 2 or queries_QD.shape[1] != dim:
            raise ValueError(f"queries are {queries_QD.shape}, not (Q, {dim})")
        if not np.isfinite(queries_QD).all():
            raise ValueError("queries hold a NaN or an infinity")
        return queries_QD


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
