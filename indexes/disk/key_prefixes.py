"""What the keys of a source begin with, so that equal names in two sources are two rows."""

import os
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from indexes.disk.manifest import Manifest
from indexes.errors import KeyPrefixError


def check_prefix(prefix: str) -> None:
    """Check that keys may begin like this; an empty prefix is none.

    Raises:
        KeyPrefixError: They may not; the message says why.
    """
    if reason := _unusable(prefix):
        raise KeyPrefixError(f"--key-prefix {prefix!r}: {reason}; write it as in 2024/")


def _unusable(prefix: str) -> str | None:
    try:
        prefix.encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in prefix):
        return "it holds a control character"
    if prefix.startswith("/"):
        return "keys are relative, this is absolute"
    if ".." in prefix.split("/"):
        return "a key with .. leads out of its folder"
    if ":" in prefix:
        return "a colon ends the name of a shard"
    return None


def with_prefix(table: pa.Table, prefix: str) -> pa.Table:
    """A table of rows or failures with `prefix` put before every key."""
    if not prefix:
        return table
    keys = pc.binary_join_element_wise(pa.scalar(prefix), table["key"], "")
    return table.set_column(table.column_names.index("key"), "key", keys)


def known_source(manifest: Manifest, location: str) -> str | None:
    """How an index spells a source that it has already, whatever links lead to it; None of a new one."""
    if location in manifest.sources:
        return location
    there = os.path.realpath(location)
    return next((source for source in manifest.sources if os.path.realpath(source) == there), None)


def free_prefix(location: Path, taken: Iterable[pa.ChunkedArray]) -> str:
    """The shortest prefix after a place that no key has yet: its name, with its folders where need be.

    Args:
        location: An absolute path, or a name.
        taken: The keys.
    """
    keys = list(taken)

    def is_free(prefix: str) -> bool:
        return not any(pc.any(pc.starts_with(each, prefix)).as_py() for each in keys)

    return next(filter(is_free, _named_after(location)))


def _named_after(location: Path) -> Iterator[str]:
    names = [plain(name) for name in location.parts if name != location.anchor] or ["images"]
    for start in range(len(names) - 1, -1, -1):
        yield "".join(f"{name}/" for name in names[start:])
    yield from (f"{names[-1]}-{number}/" for number in count(2))


def plain(name: str) -> str:
    """The name of a file or folder as it may stand in a prefix."""
    kept = "".join(c if c.isprintable() and c != ":" else "_" for c in name)
    return "_" if kept == ".." else kept
