"""Search of a directory by row number: its FAISS file or a GPU, and one by one where those fall short."""

from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexes.directory.numbered_rows import NumberedRows
from indexes.faiss_kinds import search
from indexes.faiss_kinds.device_search import DeviceSearch
from indexes.faiss_kinds.selection import Selection

_FEW_ROWS = 20_000
"""So many can be compared one by one in about the time that a filtered search takes."""
_MOST_SPARE = 1000


class FoundRows(NamedTuple):
    """What a search found.

    Attributes:
        scores: Cosines, Q x k, best first.
        rows: Row numbers, Q x k.
        searched: What was searched, for people.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    searched: str


class RowSearch:
    """Searches the rows of one directory, in any number of threads.

    Args:
        directory: Whose.
    """

    def __init__(self, directory: NumberedRows) -> None:
        self._directory = directory
        self._device = "cpu"
        self._moving = Lock()
        self._moved: tuple[DeviceSearch | None] | None = None  # not tried yet

    def use(self, device: str) -> str:
        """Search on a device from now on, where the search is exact and the vectors fit into its memory.

        Returns:
            What searches from now on, and where.
        """
        with self._moving:
            self._device, self._moved = device, None
        return self.backend

    @property
    def backend(self) -> str:
        """What searches, and where."""
        if self.is_exact and self._on_device is not None:
            return f"matrix products on {self._device}"
        return search.backend()

    @property
    def is_exact(self) -> bool:
        """Whether `search` finds just what `exact` does."""
        return self._directory.manifest.kind.factory == "Flat"

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
            return DeviceSearch(self._directory.vectors, self._device)
        except MemoryError:
            return None

    def search(self, queries_QD: NDArray[np.floating], k: int, among: Selection | None = None) -> FoundRows:
        """Find the rows with the largest inner product.

        As many as k are found wherever there are so many: what an approximate index does not find among the
        rows asked for is searched for exactly.

        Args:
            queries_QD: L2-normalised by the caller, so that scores are cosines; nothing is normalised here.
            k: Rows a query, at least 1; clipped to the number of rows that can be found.
            among: Rows to search among, all of which can be found; None is all that can.

        Raises:
            ValueError: Queries of the wrong shape or not finite, or k below 1.
            IndexReplacedError: The index was replaced since it was opened, and what is on disk is needed.
        """
        queries_QD = self._checked(queries_QD, k)
        manifest = self._directory.manifest
        kind = manifest.kind
        among = self._directory.findable if among is None else among
        count = manifest.ntotal if among is None else among.count
        k = min(k, count)
        searched = kind.factory if among is None else f"{kind.factory} among {count} rows"
        if self.is_exact and (on_device := self._on_device) is not None:
            return FoundRows(*on_device.search(queries_QD, k, among), searched)
        faiss = self._directory.faiss
        # Kinds that cannot search among some rows find so many more, of which the others are then dropped.
        spare = 0 if among is None or search.selects(faiss) else manifest.ntotal - count
        if among is not None and (count <= _FEW_ROWS or spare > _MOST_SPARE):
            found = search.exact(queries_QD, self._directory.vectors, k, among)
            return FoundRows(*found, f"{count} rows one by one")
        wanted = min(max(k, kind.rerank), count)
        scores_QK, rows_QK = search.candidates(faiss, queries_QD, wanted + spare, None if spare else among)
        if among is not None and spare:
            dropped_QK = (rows_QK >= 0) & ~among.chosen_N[rows_QK]
            scores_QK[dropped_QK], rows_QK[dropped_QK] = -np.inf, -1
            scores_QK, rows_QK = search.best(scores_QK, rows_QK, wanted)
        if kind.rerank:
            scores_QK, rows_QK = search.rank_again(queries_QD, rows_QK, self._directory.vectors, k)
        if (rows_QK < 0).any():
            lacking_J = np.flatnonzero((rows_QK < 0).any(axis=1))
            scores_QK[lacking_J], rows_QK[lacking_J] = search.exact(
                queries_QD[lacking_J], self._directory.vectors, k, among
            )
            searched += f"; for {len(lacking_J)} of {len(queries_QD)} queries one by one"
        return FoundRows(scores_QK, rows_QK, searched)

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
        if self.is_exact:
            return self.search(queries_QD, k)[:2]
        queries_QD, k = self._checked(queries_QD, k), min(k, len(self._directory))
        if (on_device := self._on_device) is not None:
            return on_device.search(queries_QD, k, self._directory.findable)
        return search.exact(queries_QD, self._directory.vectors, k, self._directory.findable)

    def _checked(self, queries_QD: NDArray[np.floating], k: int) -> NDArray[np.float32]:
        if k < 1:
            raise ValueError(f"k is {k}, not at least 1")
        queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
        dim = self._directory.manifest.encoder.embed_dim
        if queries_QD.ndim != 2 or queries_QD.shape[1] != dim:
            raise ValueError(f"queries are {queries_QD.shape}, not (Q, {dim})")
        if not np.isfinite(queries_QD).all():
            raise ValueError("queries hold a NaN or an infinity")
        return queries_QD
