"""What the keys of images that join an index begin with: decided before the work, where names tell enough."""

import logging
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from indexes import DuplicateKeyError, Store
from indexes.disk.key_prefixes import check_prefix, free_prefix, known_source
from retrieval.sources.all_sources import container_endings, container_of, own_key
from retrieval.sources.file_bytes import without_links
from retrieval.sources.gone import is_gone
from retrieval.sources.open_images import ImageSource

_log = logging.getLogger(__name__)


class KeyPrefix:
    """The prefix of one source in one index: asked for, remembered, or chosen on a clash of names.

    Rows that are there keep their keys, whatever is chosen for new ones.

    Args:
        base: The index that the images join; None is a new one.
        source: Where they are.
        asked: What the user asked for; None is what the index remembers of the source, or nothing.

    Attributes:
        text: The prefix.
        location: Of the source, as the index spells it if it has it already.

    Raises:
        KeyPrefixError: No key may begin like this.
    """

    def __init__(self, base: Store | None, source: ImageSource, asked: str | None) -> None:
        if asked is not None:
            check_prefix(asked)
        known = None if base is None else known_source(base.manifest, source.location)
        remembered = "" if base is None or known is None else base.manifest.key_prefixes.get(known, "")
        self.text = remembered if asked is None else asked
        self.location = known or source.location
        self._base, self._source = base, source
        self._is_new = known is None
        self._is_free = asked is None

    def settle_by_names(self) -> None:
        """Find clashes with what is known of the keys before any image is read.

        Of rows whose files are gone the images may have moved here: only reading tells.

        Raises:
            DuplicateKeyError: There is one, and the prefix was asked for.
        """
        if self._base is None:
            return
        names = [(self.text + name, path) for part in self._source.parts for name, path in part.names()]
        paths, path_of = {path for _, path in names}, dict(names)
        for name, path in _holders(self._base, list(path_of)):
            if path not in paths and without_links(path) != path_of[name] and not is_gone(path):
                self._settle(name, path)
                return
        if self._is_new and (failed := self._other_failure(path_of)):
            self._settle(failed, "an image that could not be read")

    def settle_by_rows(self, new: pa.Table, moved: Sequence[str]) -> None:
        """Find clashes with the rows of an index that stay.

        Args:
            new: The new rows, with their keys under this prefix.
            moved: Keys of rows of the index that they replace wherever their files were.

        Raises:
            DuplicateKeyError: There is one, and the prefix was asked for.
        """
        if self._base is None:
            return
        same = self._base.entries(["key", "path"])
        same = same.filter(pc.is_in(same["key"], new["key"]))
        replaced = pc.or_(
            pc.is_in(same["path"], new["path"]), pc.is_in(same["key"], pa.array(moved, pa.string()))
        )
        if clashes := same.filter(pc.invert(replaced)).slice(0, 1).to_pylist():
            self._settle(clashes[0]["key"], clashes[0]["path"])

    def _settle(self, key: str, holder: str) -> None:
        assert self._base is not None
        if not self._is_free:
            raise DuplicateKeyError(
                f"the key {key!r} is taken by {holder}: choose with --key-prefix what keys of "
                f"{self._source.text} begin with; nothing is embedded twice"
            )
        taken = [self._base.used_keys()]
        self.text, self._is_free = free_prefix(self._source.named_after, taken), False
        _log.info(
            "the key %r is taken by %s: from now on, keys of %s begin with %s",
            key,
            holder,
            self._source.text,
            self.text,
        )

    def _other_failure(self, path_of: dict[str, str]) -> str | None:
        """The name of an image that failed, is not among the new ones and is called like one of them."""
        assert self._base is not None
        manifest = self._base.manifest
        for failed in self._base.failures()["key"].to_pylist():
            for name in {failed, container_of(failed)} & path_of.keys():
                places = {
                    str(folder / name.removeprefix(manifest.key_prefixes.get(source, "")))
                    for source in manifest.sources
                    for folder in (Path(source), Path(source).parent)
                }
                if without_links(path_of[name]) not in map(without_links, places):
                    return str(name)
        return None


def _holders(store: Store, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Which names rows of an index have, and the files of those rows: see `retrieval.sources.sample.Part`."""
    rows = store.entries(["key", "path"])
    lower = pc.utf8_lower(rows["path"])
    in_containers = reduce(pc.or_, (pc.ends_with(lower, ending) for ending in container_endings()))
    wanted = pa.array(names, pa.string())
    images = rows.filter(pc.and_(pc.invert(in_containers), pc.is_in(rows["key"], wanted)))
    yield from zip(images["key"].to_pylist(), images["path"].to_pylist(), strict=True)
    containers = rows.filter(in_containers).group_by("path").aggregate([("key", "min")])
    asked = set(names)
    for path, key in zip(containers["path"].to_pylist(), containers["key_min"].to_pylist(), strict=True):
        name = key[: len(key) - len(own_key(path, key))] + Path(path).name
        if name in asked:
            yield name, path
