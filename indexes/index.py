"""A finished index: opened and searched."""

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexes import filters, search
from indexes.assembly import REMOVED
from indexes.device_search import DeviceSearch
from indexes.errors import IndexDamagedError, IndexReplacedError, UnknownKeyError
from indexes.manifest import Manifest, read_manifest
from indexes.rows import read_rows
from indexes.staging import restore, staging_of
from indexes.vectors import Vectors

_FEW_ROWS = 20_000
"""So many can be compared one by one in about the time that a filtered search takes."""


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
        self._place = path.stat()
        self._on_device: DeviceSearch | None = None
        self._live_N: NDArray[np.bool_] | None = None
        if len(removed):
            self._live_N = np.ones(manifest.ntotal, dtype=bool)
            self._live_N[removed] = False

    @classmethod
    def open(cls, path: Path) -> "Index":
        """Open an index after the checks that cost little: manifest, sizes, headers and counts.

        `indexes.verify` reads every byte.

        Raises:
            IndexDamagedError: It is missing, unfinished or damaged; the message says what to do.
        """
        while True:
            if not restore(path):
                raise IndexDamagedError(why_missing(path))
            manifest = read_manifest(path)
            try:
                opened = cls._open(path, manifest)
            except IndexDamagedError:
                if path.exists() and read_manifest(path) == manifest:
                    raise
                continue  # It was replaced by a newer one between two of these lines.
            if read_manifest(path) == manifest:
                return opened

    @classmethod
    def _open(cls, path: Path, manifest: Manifest) -> "Index":
        for name, entry in manifest.files.items():
            file = path / name
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
        """Search on a GPU, where the index is exact and the vectors fit into its memory, from now on.

        Args:
            device: As torch names it; on ``cpu``, FAISS searches.

        Returns:
            What searches from now on, and where.
        """
        if device != "cpu" and self.manifest.kind.factory == "Flat":
            with suppress(MemoryError):
                self._on_device = DeviceSearch(self.vectors, device)
                return f"matrix products on {device}"
        return search.backend()

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
        return np.ones(self.manifest.ntotal, dtype=bool) if self._live_N is None else self._live_N

    def matching(self, where: str) -> NDArray[np.bool_]:
        """Which rows can be found and satisfy a condition: see `indexes.filters`.

        Raises:
            FilterError: The condition cannot be understood.
        """
        return filters.matching(self.rows, where) & self.live

    def with_keys(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Which rows can be found and have one of these keys.

        Raises:
            UnknownKeyError: There is none for one of them.
        """
        asked = pa.array(list(dict.fromkeys(keys)), pa.string())
        chosen_N = pc.is_in(self.rows["key"], asked).to_numpy() & self.live
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
        queries_QD = self._checked(queries_QD)
        if k < 1:
            raise ValueError(f"k is {k}, not at least 1")
        kind = self.manifest.kind
        asked_N = self._live_N if where_N is None else where_N & self.live
        count = self.manifest.ntotal if asked_N is None else int(asked_N.sum())
        k = min(k, count)
        rows_N = None if asked_N is None else np.flatnonzero(asked_N)
        how = kind.factory if asked_N is None else f"{kind.factory} among {count} rows"
        if self._on_device is not None:
            scores_QK, rows_QK = self._on_device.search(queries_QD, k, asked_N)
            return Found(scores_QK, rows_QK, how)
        if asked_N is not None and (count <= _FEW_ROWS or not search.selects(self._faiss)):
            scores_QK, rows_QK = search.exact(queries_QD, self.vectors, k, rows_N)
            return Found(scores_QK, rows_QK, f"{count} rows one by one")
        candidates = min(max(k, kind.rerank), count)
        scores_QK, rows_QK = search.candidates(self._faiss, queries_QD, candidates, asked_N)
        if kind.rerank:
            scores_QK, rows_QK = search.rank_again(queries_QD, rows_QK, self.vectors, k)
        if len(lacking_J := np.flatnonzero((rows_QK < 0).any(axis=1))):
            scores_QK[lacking_J], rows_QK[lacking_J] = search.exact(
                queries_QD[lacking_J], self.vectors, k, rows_N
            )
            how += f"; for {len(lacking_J)} of {len(queries_QD)} queries one by one"
        return Found(scores_QK, rows_QK, how)

    @property
    def vector_files(self) -> list[Path]:
        """Where the vectors are, in the order of the rows."""
        return [self.path / name for name in self.manifest.vector_files()]

    @cached_property
    def vectors(self) -> Vectors:
        """The vectors as they are stored, rounded to float16."""
        return Vectors(self.vector_files, self.manifest.encoder.embed_dim, check=self._check_place)

    def _check_place(self) -> None:
        try:
            same = os.path.samestat(self.path.stat(), self._place)
        except FileNotFoundError:
            same = False
        if not same:
            raise IndexReplacedError(f"{self.path} was replaced since it was opened: open it again")

    def _checked(self, queries_QD: NDArray[np.floating]) -> NDArray[np.float32]:
        queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
        dim = self.manifest.encoder.embed_dim
        if queries_QD.ndim != 2 or queries_QD.shape[1] != dim:
            raise ValueError(f"queries are {queries_QD.shape}, not (Q, {dim})")
        if not np.isfinite(queries_QD).all():
            raise ValueError("queries hold a NaN or an infinity")
        return queries_QD


def _read_removed(path: Path, manifest: Manifest) -> NDArray[np.int64]:
    try:
        with path.open("rb") as file:
            removed = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise IndexDamagedError(f"{path} is damaged: restore it, or build the index again") from error
    inside = np.array_equal(removed, np.unique(removed[(removed >= 0) & (removed < manifest.ntotal)]))
    if removed.dtype != np.int64 or removed.shape != (manifest.removed,) or not inside:
        raise IndexDamagedError(f"{path} is not that of this index: restore it, or build the index again")
    return removed


def why_missing(path: Path) -> str:
    """What to tell of an index that is not there."""
    if staging_of(path).is_dir():
        return f"{path} is not finished: run the same `matvit index build` again to continue it"
    return f"there is no index at {path}: make one with `matvit index build`"
