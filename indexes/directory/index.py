"""An index: a corpus in a directory, the first kind of `indexes.store.Store`."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes.directory import change
from indexes.directory.facts import facts_of
from indexes.directory.numbered_rows import NumberedRows
from indexes.directory.row_search import RowSearch
from indexes.disk.manifest import Manifest
from indexes.disk.rows import read_failures
from indexes.faiss_kinds.selection import Selection
from indexes.store import Entry, Found

_CONDITIONS = 8
"""So many are kept with what they choose: streams of queries ask for the same few."""


class Index:
    """A corpus in a directory: see `Store` for what is not said here.

    Args:
        directory: Opened.
    """

    def __init__(self, directory: NumberedRows) -> None:
        self._directory = directory
        self._rows = RowSearch(directory)

        # No method: it would keep its own object, and the open files, until the garbage collector comes by.
        def matching(where: str) -> Selection:
            return Selection(directory.matching(where))

        self._matching = lru_cache(_CONDITIONS)(matching)

    @classmethod
    def open(cls, path: Path) -> "Index":
        """Open an index after the checks that cost little: manifest, sizes, headers and counts.

        `indexes.verify` reads every byte.

        Raises:
            IndexDamagedError: It is missing, unfinished or damaged; the message says what to do.
            IndexBusyError: A process that is replacing it neither goes on nor ends.
        """
        return cls(NumberedRows.open(path))

    @property
    def path(self) -> Path:
        """The directory."""
        return self._directory.path

    @property
    def location(self) -> str:
        """The same, as text."""
        return str(self.path)

    @property
    def manifest(self) -> Manifest:
        """What made it."""
        return self._directory.manifest

    def __len__(self) -> int:
        return len(self._directory)

    @property
    def is_exact(self) -> bool:
        """Whether its kind is Flat."""
        return self._rows.is_exact

    @property
    def duplicates(self) -> int:
        """How many rows that can be found hold the very image of an earlier one."""
        if "duplicate_of" not in self._directory.rows.column_names:
            return 0
        copies = self.entries(["duplicate_of"])
        return len(copies) - copies["duplicate_of"].null_count

    def search(self, queries_QD: NDArray[np.floating], k: int, where: str | None = None) -> Found:
        """See `Store`: what its kind does not find is searched for exactly."""
        among = None if where is None else self._matching(where)
        scores_QK, rows_QK, searched = self._rows.search(queries_QD, k, among)
        entries = self._entries_at(rows_QK.ravel())
        depth = rows_QK.shape[1]
        return Found(scores_QK, [entries[i * depth : (i + 1) * depth] for i in range(len(rows_QK))], searched)

    def exact(
        self, queries_QD: NDArray[np.floating], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `Store`."""
        scores_QK, rows_QK = self._rows.exact(queries_QD, k)
        return scores_QK, rows_QK if self._positions is None else self._positions[rows_QK]

    @cached_property
    def _positions(self) -> NDArray[np.int64] | None:
        """Row number -> position among the rows that can be found; None where they are the same."""
        return None if self._directory.findable is None else np.cumsum(self._directory.live) - 1

    def entries(self, columns: Sequence[str] | None = None) -> pa.Table:
        """See `Store`."""
        return self._directory.live_rows(columns)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """See `Store`."""
        start, live_N = 0, self._directory.live
        for block_ND in self._directory.vectors.blocks():
            live_here_N = live_N[start : start + len(block_ND)]
            start += len(block_ND)
            yield block_ND if live_here_N.all() else block_ND[live_here_N]

    def fetch(self, keys: Collection[str]) -> list[Entry]:
        """See `Store`."""
        return self._entries_at(self._directory.numbers_of(keys))

    def vectors_of(self, keys: Collection[str]) -> NDArray[np.float32]:
        """See `Store`."""
        return self._directory.vectors.take(self._directory.numbers_of(keys))

    def sound_vectors_of(self, keys: Collection[str]) -> NDArray[np.float32]:
        """See `Store`."""
        return self._directory.sound_vectors(self._directory.numbers_of(keys))

    def failures(self) -> pa.Table:
        """See `Store`."""
        return read_failures(self.path / "failures.parquet")

    def kept_out(self) -> pa.Table:
        """See `Store`."""
        return self._directory.kept_out

    def used_keys(self) -> pa.ChunkedArray:
        """See `Store`: rows that were replaced are known until their space is freed."""
        columns = (self._directory.rows["key"], self.failures()["key"], self.kept_out()["key"])
        return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())

    def remove(self, keys: Collection[str], *, command: str) -> int:
        """See `Store`: the rows stay until `indexes.directory.change.gather` frees their space."""
        return change.remove(self.path, lambda latest: latest.with_keys(keys), command=command)

    def remove_where(self, where: str, *, command: str) -> int:
        """See `Store`."""
        return change.remove(self.path, lambda latest: latest.matching(where), command=command)

    def remove_files(self, paths: Collection[str], *, command: str) -> int:
        """See `Store`."""
        files = pa.array(paths, pa.string())
        return change.remove(
            self.path, lambda latest: latest.from_files(files), keep_out=False, command=command
        )

    def relocate(self, find: Callable[["Index"], change.Relocation], *, command: str) -> None:
        """Write down where the files of the rows are now. Vectors and keys stay as they are.

        Args:
            find: Finds out, of the index as it is then.
            command: What was run.

        Raises:
            IndexBusyError: Another process is writing this index.
            IndexDamagedError: There is no whole index, or rows are not as they were written.
        """
        change.relocate(self.path, lambda latest: find(Index(latest)), command=command)

    def use(self, device: str) -> str:
        """Search on a GPU from now on, where the search is exact and the vectors fit into its memory.

        Args:
            device: As torch names it; on ``cpu``, FAISS searches.

        Returns:
            What searches from now on, and where.
        """
        return self._rows.use(device)

    def facts(self) -> dict[str, Any]:
        """See `Store`."""
        return facts_of(
            self.manifest,
            images=len(self),
            duplicates=self.duplicates,
            kept_out=len(self.kept_out().group_by(["path", "content"]).aggregate([])),
            columns=self._directory.rows.column_names,
            backend=self._rows.backend,
        )

    def is_current(self) -> bool:
        """Whether what is on disk still is what was opened."""
        return self._directory.is_current()

    def reopened(self) -> "Index":
        """See `Store`."""
        return Index.open(self.path)

    def _entries_at(self, rows_N: NDArray[np.int64]) -> list[Entry]:
        named = self._named.take(pa.array(rows_N))
        return list(map(Entry, *(column.to_numpy().tolist() for column in named.columns)))

    @cached_property
    def _named(self) -> pa.Table:
        """What an `Entry` says, of every row."""
        names = Entry._fields
        # In one chunk, for Arrow joins several each time it takes some; one of small strings ends at 2 GB.
        large = pa.schema([(name, pa.large_string()) for name in names])
        return self._directory.rows.select(names).cast(large).combine_chunks()
