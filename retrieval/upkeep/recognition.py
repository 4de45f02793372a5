"""Images that a corpus has already, under whatever name and wherever they were, known by their bytes."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexes import Store
from retrieval.sources.file_bytes import without_links
from retrieval.sources.gone import is_gone

_NO_KEYS = pa.array([], pa.large_string())


class KnownContents:
    """Hashes of encoded images -> keys. Small, and shared with processes that decode: those get the hashes.

    Args:
        store: Whose images that can be found are known; None knows nothing.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._contents_N = np.array([], dtype="S1")
        self._positions_N = np.array([], dtype=np.int64)
        self._keys = _NO_KEYS
        if store is None or "content" not in (entries := store.entries(["key", "content"])).column_names:
            return
        entries = entries.filter(entries["content"].is_valid())
        contents_N = np.array(entries["content"].cast(pa.binary()).to_pylist(), dtype=np.bytes_)
        order_N = np.argsort(contents_N, kind="stable")
        self._contents_N, self._positions_N = contents_N[order_N], order_N
        self._keys = entries["key"].cast(pa.large_string()).combine_chunks()

    def __contains__(self, content: object) -> bool:
        asked = str(content).encode()
        position = int(np.searchsorted(self._contents_N, asked))
        return position < len(self._contents_N) and bytes(self._contents_N[position]) == asked

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_keys": _NO_KEYS}

    def keys(self, contents: Sequence[str]) -> list[str]:
        """The key of the first image with each of some contents, all of them known."""
        asked_N = np.array([content.encode() for content in contents], dtype=np.bytes_)
        positions_N = self._positions_N[np.searchsorted(self._contents_N, asked_N)]
        keys: list[str] = self._keys.take(pa.array(positions_N)).to_pylist()
        return keys


def recognised(store: Store, new: pa.Table) -> int:
    """How many new rows show images that a corpus has already."""
    known = store.entries(["key", "content"])
    if "content" not in known.column_names or "content" not in new.column_names:
        return 0
    is_known = pc.is_in(new["content"], known["content"].drop_null())
    return int(pc.sum(is_known).as_py() or 0)


def moved(store: Store, new: pa.Table) -> list[str]:
    """The keys of images that new rows follow, though their paths differ.

    Those whose files are gone and whose very images the new ones show, and those of the same key and file, of
    which a folder has become a link.

    Args:
        store: That gets the rows.
        new: Rows, with the keys that they get there.
    """
    known = store.entries(["key", "path", "content"])
    followed: list[str] = []
    if "content" in known.column_names and "content" in new.column_names:
        shown = known.filter(pc.is_in(known["content"], new["content"].drop_null()))
        gone = pa.array(filter(is_gone, shown["path"].unique().to_pylist()), pa.string())
        followed = shown["key"].filter(pc.is_in(shown["path"], gone)).to_pylist()
    path_of = dict(zip(new["key"].to_pylist(), new["path"].to_pylist(), strict=True))
    same = known.filter(pc.is_in(known["key"], new["key"]))
    for key, before in zip(same["key"].to_pylist(), same["path"].to_pylist(), strict=True):
        if before != path_of[key] and without_links(before) == path_of[key]:
            followed.append(key)
    return list(dict.fromkeys(followed))
