"""Images that an index has already, under whatever name and wherever they were, known by their bytes."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexes import Index
from retrieval.files import without_links
from retrieval.gone import is_gone


class KnownContents:
    """Hashes of encoded images -> rows. Small, and shared with processes that decode.

    Args:
        index: Whose rows that can be found are known; None knows nothing.
    """

    def __init__(self, index: Index | None = None) -> None:
        self._contents_N = np.array([], dtype="S1")
        self._rows_N = np.array([], dtype=np.int64)
        if index is not None and "content" in index.rows.column_names:
            rows_N = np.flatnonzero(index.live & index.rows["content"].is_valid().to_numpy())
            contents = index.rows["content"].take(pa.array(rows_N)).cast(pa.binary())
            contents_N = np.array(contents.to_pylist(), dtype=np.bytes_)
            order_N = np.argsort(contents_N, kind="stable")
            self._contents_N, self._rows_N = contents_N[order_N], rows_N[order_N]

    def __contains__(self, content: object) -> bool:
        asked = str(content).encode()
        place = int(np.searchsorted(self._contents_N, asked))
        return place < len(self._contents_N) and bytes(self._contents_N[place]) == asked

    def rows(self, contents: Sequence[str]) -> NDArray[np.int64]:
        """The first row of each of some contents, all of them known."""
        asked_N = np.array([content.encode() for content in contents], dtype=np.bytes_)
        return self._rows_N[np.searchsorted(self._contents_N, asked_N)]


def recognised(index: Index, new: pa.Table) -> int:
    """How many new rows show images that an index has already."""
    if "content" not in index.rows.column_names or "content" not in new.column_names:
        return 0
    known = pc.is_in(new["content"], index.live_rows["content"].drop_null())
    return int(pc.sum(known).as_py() or 0)


def moved(index: Index, new: pa.Table) -> NDArray[np.bool_]:
    """Which rows of an index new ones follow, though their paths differ.

    Those whose files are gone and whose very images the new ones show, and those of the same key and file, of
    which a folder has become a link.

    Args:
        index: That gets the rows.
        new: Rows, with the keys that they get there.
    """
    moved_N = np.zeros(index.manifest.ntotal, dtype=bool)
    if "content" in index.rows.column_names and "content" in new.column_names:
        shown_N = pc.is_in(index.rows["content"], new["content"].drop_null()).to_numpy() & index.live
        paths = index.rows["path"].filter(pa.array(shown_N)).unique().to_pylist()
        moved_N |= shown_N & index.from_files(pa.array(filter(is_gone, paths), pa.string()))
    path_of = dict(zip(new["key"].to_pylist(), new["path"].to_pylist(), strict=True))
    for row in np.flatnonzero(pc.is_in(index.rows["key"], new["key"]).to_numpy() & index.live).tolist():
        before, now = index.paths[row], path_of[index.keys[row]]
        moved_N[row] |= before != now and without_links(before) == now
    return moved_N
