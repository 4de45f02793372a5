"""Where a corpus lives: what every kind of store can do, in keys, conditions and vectors.

How a store numbers its rows is its own affair. A directory, `indexes.Index`, is the first kind.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes.disk.manifest import Manifest
from indexes.disk.origin import Origin
from indexes.faiss_kinds.options import KindOptions
from indexes.progress import Progress


class Entry(NamedTuple):
    """What a store says of one image.

    Attributes:
        key: Its name in the corpus.
        path: The image file, or the shard or parquet file that holds it.
        label: Its class, where the corpus has one.
    """

    key: str
    path: str
    label: str | None


class Found(NamedTuple):
    """What a search found.

    Attributes:
        scores: Cosines, Q x k, best first.
        entries: Of every query its k images, best first.
        searched: What was searched, for people.
    """

    scores: NDArray[np.float32]
    entries: list[list[Entry]]
    searched: str


class Store(Protocol):
    """A corpus as it was when it was opened, which any number of threads may search.

    What others change meanwhile is seen by whoever opens it anew: see `is_current` and `reopened`.
    """

    @property
    def location(self) -> str:
        """Where it is, for messages and commands."""

    @property
    def manifest(self) -> Manifest:
        """What made it."""

    def __len__(self) -> int:
        """Images that can be found."""

    @property
    def is_exact(self) -> bool:
        """Whether `search` finds just what `exact` does."""

    @property
    def duplicates(self) -> int:
        """How many images that can be found are the very bytes of an earlier one."""

    def search(self, queries_QD: NDArray[np.floating], k: int, where: str | None = None) -> Found:
        """Find the images whose vectors have the largest inner product with each query.

        Args:
            queries_QD: L2-normalised by the caller, so that scores are cosines; nothing is normalised here.
            k: Images a query, at least 1. So many are found wherever there are so many.
            where: Which images to search among, a condition as `indexes.filters` understands it; None is all.

        Raises:
            ValueError: Queries of the wrong shape or not finite, or k below 1.
            FilterError: The condition cannot be understood.
            IndexReplacedError: The corpus was replaced since it was opened, and what is gone is needed.
        """

    def exact(
        self, queries_QD: NDArray[np.floating], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """As `search`, of all images, each of which is compared: for measurements, with very many neighbours.

        Returns:
            Scores and positions in `entries`, Q x k, best first. An `Entry` for each of them would take
            longer than to find them.

        Raises:
            ValueError: As `search`.
            IndexReplacedError: As `search`.
        """

    def entries(self, columns: Sequence[str] | None = None) -> pa.Table:
        """What is known of all images that can be found, in the order in which `blocks` gives their vectors.

        Args:
            columns: Names, of which those that the corpus lacks are left out; None is all there are. Every
                corpus has key, path and label, and all hold text.
        """

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """The vectors of all images that can be found, (n, D) at a time.

        Raises:
            IndexReplacedError: As `search`.
        """

    def fetch(self, keys: Collection[str]) -> list[Entry]:
        """The images with these keys, in the order given.

        Raises:
            UnknownKeyError: No image that can be found has one of them.
        """

    def vectors_of(self, keys: Collection[str]) -> NDArray[np.float32]:
        """Their vectors, (N, D), in the order given.

        Raises:
            UnknownKeyError: As `fetch`.
            IndexReplacedError: As `search`.
        """

    def sound_vectors_of(self, keys: Collection[str]) -> NDArray[np.float32]:
        """The same, to be written elsewhere: damage must not be sealed as sound.

        Raises:
            UnknownKeyError: As `fetch`.
            IndexDamagedError: They are not as they were written.
            IndexReplacedError: As `search`.
        """

    def failures(self) -> pa.Table:
        """Key and reason of every image that could not be embedded."""

    def kept_out(self) -> pa.Table:
        """Images that `remove` and `remove_where` took, and that are not to come back unasked: key, path, and
        state and content of the file, which may be null."""

    def used_keys(self) -> pa.ChunkedArray:
        """Keys that new sources had better keep off: of all images, of those that failed, and, as long as the
        store knows, of those that were removed, whose file may come back."""

    def remove(self, keys: Collection[str], *, command: str) -> int:
        """Let images with these keys be found no more by whoever opens the corpus from now on, nor come back.

        Args:
            keys: Of images that can be found.
            command: What was run.

        Returns:
            How many were removed.

        Raises:
            UnknownKeyError: As `fetch`; nothing is removed.
            EmptyIndexError: None would be left; nothing is removed.
            IndexBusyError: Another process is writing the corpus.
            IndexDamagedError: It is no longer whole.
        """

    def remove_where(self, where: str, *, command: str) -> int:
        """The same by a condition, which may be true of none; raises FilterError, too."""

    def remove_files(self, paths: Collection[str], *, command: str) -> int:
        """The same by the files that images come from, of which none need be in the corpus; but where a file
        comes back, so may its images."""

    def use(self, device: str) -> str:
        """Search on a device from now on, where the store can.

        Args:
            device: As torch names it.

        Returns:
            What searches from now on, and where.
        """

    def facts(self) -> Mapping[str, Any]:
        """What there is to tell of the corpus: counts, what made it, and what searches it."""

    def is_current(self) -> bool:
        """Whether the corpus still is what was opened."""

    def reopened(self) -> Self:
        """The corpus as it is now.

        Raises:
            IndexDamagedError: It is no longer whole.
        """


class StoreWriter(Protocol):
    """Makes a corpus, or adds to one, part by part. A context manager: inside it, nobody else writes it.

    Leaving without `commit`, by an error or by being killed, keeps the finished parts for the next attempt.
    """

    @property
    def base(self) -> Store | None:
        """The corpus that is added to; None of a new one."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def plan(self, parts: Sequence[tuple[str, str]]) -> None:
        """Say name and fingerprint of every part, before any work; unchanged ones that are done are kept."""

    def is_done(self, i: int) -> bool:
        """Whether part `i` is finished."""

    def rows_done(self, i: int) -> tuple[int, int]:
        """How many rows and how many failures the finished part `i` has."""

    def write_part(
        self,
        i: int,
        vectors: NDArray[np.floating],
        rows: Sequence[Mapping[str, str | None]],
        failures: Sequence[tuple[str, str]],
    ) -> None:
        """Write part `i`, whole or not at all.

        Args:
            i: Position in the plan.
            vectors: L2-normalised, one a row.
            rows: `key`, `path`, optional `label` and other text of every image, in the vectors' order.
            failures: Key and reason of every image that could not be embedded.
        """

    def rows(self) -> pa.Table:
        """The rows of all parts, with the keys that they were written with."""

    def failures(self) -> pa.Table:
        """Key and reason of what could not be embedded in all parts, likewise."""

    def commit(
        self,
        origin: Origin,
        options: KindOptions,
        progress: Progress,
        *,
        key_prefix: str,
        moved: Collection[str],
        kept_out: Collection[str],
    ) -> Manifest:
        """Make the finished parts the corpus, or part of it: all at once, or not at all.

        Args:
            origin: What made the new rows.
            options: How to search a new corpus.
            progress: Told of the steps of indexing.
            key_prefix: What to put before every new key.
            moved: Keys of images that new rows replace, beside those of the same files.
            kept_out: Keys, as they were written, of new rows that are not to be found.

        Raises:
            DuplicateKeyError: Two images have the same key.
            EmptyIndexError: There are none at all.
        """
