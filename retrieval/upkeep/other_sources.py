"""Which files below a folder other sources of an index may have brought: what it excludes, they may want."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.disk.key_prefixes import check_prefix
from indexes.disk.manifest import Manifest
from indexes.errors import KeyPrefixError
from retrieval.errors import ImageSourceError
from retrieval.sources.all_sources import kind_holding, kind_of
from retrieval.sources.file_bytes import without_links
from retrieval.sources.folder_source import FolderSource
from retrieval.sources.lists import TEXTS, is_list_name
from retrieval.sources.local_paths import scheme_of
from retrieval.sources.open_images import open_source
from retrieval.sources.shard_source import ShardSource

Keys = Mapping[str, Sequence[str]]
"""Those of all rows of a file, by its path."""


class OtherSources:
    """The sources of an index beside one that is a folder.

    An index does not say which source a row came from. Its key tells, as far as its name does, and what the
    others name today; what was on a list that cannot be read any more may have been anything.

    Args:
        manifest: Of the index.
        root: The folder, without links and without a slash at its end.

    Attributes:
        unread: Sources that cannot be read, and how many of the files that were asked for may be theirs.
    """

    def __init__(self, manifest: Manifest, root: str) -> None:
        places = {each: os.path.realpath(each) for each in manifest.sources if not scheme_of(each)}
        others = {each: location for each, location in places.items() if location.rstrip("/") != root}
        folders = {each: location for each, location in others.items() if _is_folder(each)}
        self._folders = {
            f"{location.rstrip('/')}/": manifest.key_prefixes.get(each, "")
            for each, location in folders.items()
        }
        self._others = [each for each in others if each not in folders]
        self.unread: dict[str, int] = {}

    def claimed(self, files: Keys) -> set[str]:
        """Which of some files that are there may have rows of another source."""
        found = {path for path, keys in files.items() if self._in_folder(path, keys)}
        for each in self._others:
            left = {path: keys for path, keys in files.items() if path not in found}
            found |= self._named(each, left) if left else set()
        return found

    def _in_folder(self, path: str, keys: Sequence[str]) -> bool:
        """Whether a row is of a folder within or above: it may have a prefix that is its name there."""
        return any(
            path.startswith(location) and any(key.startswith(prefix + path[len(location) :]) for key in keys)
            for location, prefix in self._folders.items()
        )

    def _named(self, source: str, files: Keys) -> set[str]:
        """Which files have rows that are called as a source which is no folder calls them."""

        def known(paths: Sequence[str]) -> NDArray[np.bool_]:
            return np.array([path not in files for path in paths], dtype=bool)

        try:
            parts = open_source(source, known=known).parts
        except ImageSourceError:
            found = _named_by_unread(source, files)
            if found:
                self.unread[source] = len(found)
            return found
        names = (pair for part in parts for pair in part.names())
        return {path for name, path in names if _is_called(files.get(path, ()), name)}


def is_own(keys: Iterable[str], name: str) -> bool:
    """Whether all rows of a file may be a folder's own, which calls it by a name: with a prefix before it."""
    return all(_calls(key, name) and _may_begin(key[: _start(key, name)]) for key in keys)


def _is_folder(source: str) -> bool:
    """Whether a source is one, or is gone and was none that names files elsewhere."""
    try:
        kind = kind_of(source)
    except OSError:
        kind = None
    return isinstance(kind, FolderSource) or (kind is None and not is_list_name(source))


def _named_by_unread(source: str, files: Keys) -> set[str]:
    """Files that may be of a source: text calls them as they lie below it, or from the root on."""
    if not is_list_name(source):
        return {path for path in files if isinstance(kind_holding(path), ShardSource)}
    if not source.lower().endswith(TEXTS):
        return set(files)
    location = str(Path(without_links(source)).parent).rstrip("/") + "/"
    return {
        path
        for path, keys in files.items()
        if _is_called(keys, path) or (path.startswith(location) and _is_called(keys, path[len(location) :]))
    }


def _is_called(keys: Iterable[str], name: str) -> bool:
    return any(_calls(key, name) for key in keys)


def _calls(key: str, name: str) -> bool:
    """Whether a key, apart from a prefix, is the name of a file or that of an image in it."""
    return key.endswith(name) or f"{name}:" in key


def _start(key: str, name: str) -> int:
    return len(key) - len(name) if key.endswith(name) else key.index(f"{name}:")


def _may_begin(prefix: str) -> bool:
    try:
        check_prefix(prefix)
    except KeyPrefixError:
        return False
    return True
