"""What an index has already, and what of it is gone: how adding to an index finds its work."""

import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexes import Store
from retrieval.errors import UnreadableImageError
from retrieval.sources.decode import decode
from retrieval.sources.excludes import Excludes
from retrieval.sources.file_bytes import state_of
from retrieval.sources.gone import Missing
from retrieval.sources.open_images import ImageSource
from retrieval.sources.originals import everything
from retrieval.sources.sample import content_of
from retrieval.upkeep.other_sources import OtherSources, is_own


class Known:
    """The files that the rows of an index come from.

    Args:
        store: Of the rows, opened.
        check_content: Compare the bytes of images, not the size and time of their files.
        restore: Files of images that are kept out are as if never seen.

    Attributes:
        skipped: Files that were found to be as they were.
        kept_out: Files that were passed over because all their images were removed.
        claims: Sources that cannot be read, and how many files that a folder excludes may be theirs.
        doubts: Why files that are not to be had may be there all the same, and how many for each reason.
    """

    def __init__(self, store: Store, *, check_content: bool = False, restore: bool = False) -> None:
        self._rows = store.entries(["key", "path", "label", "state", "content"])
        self._kept_out = store.kept_out()
        self._seen = pa.concat_tables([self._kept_out, self._rows], promote_options="default")  # no copy
        self._manifest = store.manifest
        self._check_content, self._restore = check_content, restore
        self.skipped = self.kept_out = 0
        self.doubts: Counter[str] = Counter()
        self.claims: dict[str, int] = {}

    def unchanged(self, paths: Sequence[str]) -> NDArray[np.bool_]:
        """Which of these files, as they are now, the index has."""
        if self._check_content:
            same = np.array([self._same_images(path) for path in paths], dtype=bool)
        else:
            # As bytes: a name need not be UTF-8 here, though what an index holds is.
            states = [f"{path}\0{state_of(path)}".encode("utf-8", "surrogateescape") for path in paths]
            # Null, and so like nothing, where the writer of an index did not say.
            there = pc.binary_join_element_wise(self._seen["path"], self._seen["state"], "\0")
            same = _are_in(states, there)
        names = [path.encode("utf-8", "surrogateescape") for path in paths]
        out = _are_in(names, self._kept_out["path"])
        if self._restore:
            same &= ~out
        only_out = same & out & ~_are_in(names, self._rows["path"])
        self.kept_out += int(only_out.sum())
        self.skipped += int((same & ~only_out).sum())
        return same

    def has_labels(self, location: str) -> bool | None:
        """Whether images from a folder have labels; None where there are none."""
        there = os.path.realpath(location).rstrip("/") + "/"
        labels = self._rows["label"].filter(pc.starts_with(self._rows["path"], there))
        return labels.null_count < len(labels) if len(labels) else None

    def gone(self, source: ImageSource) -> list[str]:
        """The files that rows come from and that are no longer in a source which is a folder.

        Those that are not to be had and of which that cannot be told are in `doubts` from then on.
        """
        missing, gone = Missing(source.folder or "/"), []
        self.doubts = Counter()
        for path in self._inside(source):
            is_missing, doubt = missing.is_missing(path)
            if doubt:
                self.doubts[doubt] += 1
            elif is_missing:
                gone.append(path)
        return gone

    def excluded(self, source: ImageSource) -> list[str]:
        """The files of rows of a source which is a folder that it passes over though they are there.

        Rows that another source may have brought, such as a folder within this one or a list, are none of its
        own. Of what other sources that cannot be read may have brought there is a count in `claims` from then
        on.
        """
        root, excludes = (source.folder or "").rstrip("/"), Excludes(source.excludes)

        def is_left_out(path: str, keys: Sequence[str]) -> bool:
            name = path[len(root) + 1 :]
            return excludes.passes_over(name) and is_own(keys, name) and os.path.lexists(path)

        left_out = {path: keys for path, keys in self._inside(source).items() if is_left_out(path, keys)}
        self.claims = {}
        if not left_out:
            return []
        others = OtherSources(self._manifest, root)
        claimed = others.claimed(left_out)
        self.claims = others.unread
        return [path for path in left_out if path not in claimed]

    def _inside(self, source: ImageSource) -> dict[str, list[str]]:
        """The files below a folder that rows come from, and their keys; nothing for other sources."""
        if source.folder is None:
            return {}
        inside = self._rows.filter(pc.starts_with(self._rows["path"], source.folder.rstrip("/") + "/"))
        files: dict[str, list[str]] = {}
        for path, key in zip(inside["path"].to_pylist(), inside["key"].to_pylist(), strict=True):
            files.setdefault(path, []).append(key)
        return files

    def same_file(self, path: str, there: str, *, check_content: bool = False) -> bool:
        """Whether a file elsewhere is the one that rows come from: by size and time, or else by its images.

        Args:
            path: Of the rows.
            there: The other file.
            check_content: Look at the images, whatever size and time say.
        """
        if not check_content and (state := state_of(there)) and state == self._states.get(path):
            return True
        return self._same_images(path, there)

    def _same_images(self, path: str, there: str | None = None) -> bool:
        if None in self._contents.get(path, [None]):
            return False
        left = Counter(self._contents[path])
        for _, image in everything(there or path):
            content = content_of(image)
            if left[content]:
                left[content] -= 1
            elif _is_readable(image):  # else it has failed before, and would again
                return False
        return not left.total()

    @cached_property
    def _states(self) -> dict[str, str]:
        """File -> its size and time when it was read."""
        return dict(zip(self._seen["path"].to_pylist(), self._seen["state"].to_pylist(), strict=True))

    @cached_property
    def _contents(self) -> dict[str, list[str]]:
        """File -> hashes of the images that the index has from it."""
        grouped = self._seen.group_by("path").aggregate([("content", "list")])
        return dict(zip(grouped["path"].to_pylist(), grouped["content_list"].to_pylist(), strict=True))


def in_use(store: Store, files: Sequence[str]) -> list[str]:
    """Those of some files that images of a corpus come from."""
    paths = store.entries(["path"])["path"]
    used: list[str] = paths.filter(pc.is_in(paths, pa.array(files, pa.string()))).unique().to_pylist()
    return used


def _are_in(names: Sequence[bytes], known: pa.ChunkedArray) -> NDArray[np.bool_]:
    found = pc.is_in(pa.array(names, pa.binary()), known.cast(pa.binary()).drop_null())
    return found.to_numpy(zero_copy_only=False)


def _is_readable(image: bytes) -> bool:
    try:
        decode(image)
    except UnreadableImageError:
        return False
    return True
