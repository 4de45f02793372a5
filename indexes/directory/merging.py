"""Keys of indexes that are joined: the first keeps its own, later ones get a prefix where names clash."""

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from indexes.directory.numbered_rows import NumberedRows
from indexes.disk.key_prefixes import free_prefix, with_prefix
from indexes.disk.rows import read_failures
from indexes.errors import DuplicateKeyError


def prefixes_of(indexes: Sequence[NumberedRows]) -> list[str]:
    """What to put before the keys of each index, so that all are different: nothing where they are.

    What could not be embedded has a key, too: of two failures of one name, neither may hide the other.

    Raises:
        DuplicateKeyError: Two have the very same image, from the same file: a prefix would show it twice.
    """
    prefixes: list[str] = []
    taken: list[pa.ChunkedArray] = []
    for i, index in enumerate(indexes):
        own = [index.live_rows(["key"]), read_failures(index.path / "failures.parquet")]
        prefix = ""
        if any(pc.any(pc.is_in(table["key"], keys)).as_py() for table in own for keys in taken):
            for earlier in indexes[:i]:
                _refuse_shared(earlier, index)
            prefix = free_prefix(Path(os.path.abspath(index.path)).with_suffix(""), taken)  # noqa: PTH100
        prefixes.append(prefix)
        taken += [with_prefix(table, prefix)["key"] for table in own]
    return prefixes


def _refuse_shared(one: NumberedRows, other: NumberedRows) -> None:
    ours, theirs = (index.live_rows(["key", "path", "content"]) for index in (one, other))
    candidates = theirs.filter(pc.is_in(theirs["key"], ours["key"]))
    images = set(_images(ours.filter(pc.is_in(ours["key"], candidates["key"]))))
    for key, path, content in _images(candidates):
        if (key, path, content) in images:
            raise DuplicateKeyError(
                f"the image {key!r} of {path} occurs more than once, in {one.path} and in {other.path}: "
                "remove it from one of them"
            )


def _images(rows: pa.Table) -> list[tuple[str, str, str | None]]:
    contents = rows["content"].to_pylist() if "content" in rows.column_names else [None] * len(rows)
    return list(zip(rows["key"].to_pylist(), rows["path"].to_pylist(), contents, strict=True))
