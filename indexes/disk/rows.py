"""Tables beside the vectors: one row per image that was embedded, one per image that failed.

A row has a `key`, a `path`, a `label` that may be null, and whatever other text the source carried. Of these,
`content` is a hash of the encoded image, and `state` tells whether the file it came from has changed. Of an
image that was removed and stays so, all but the label is remembered.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from indexes.disk.durable import written_whole
from indexes.errors import DuplicateKeyError, IndexDamagedError

_ROW_COLUMNS = ("key", "path", "label")
_FAILURE_COLUMNS = ("key", "reason")
_KEPT_OUT_COLUMNS = ("key", "path", "state", "content")
_NEVER_NULL = {"key", "path", "reason"}


def rows_table(rows: Sequence[Mapping[str, str | None]]) -> pa.Table:
    """Build the table of a part.

    Args:
        rows: One mapping an image. `key` and `path` are required; other columns come in order of appearance,
            null where a row lacks them.

    Raises:
        ValueError: A row has no key or no path.
    """
    for row in rows:
        if row.get("key") is None or row.get("path") is None:
            raise ValueError(f"a row needs a key and a path, and this one lacks one: {dict(row)}")
    names = dict.fromkeys((*_ROW_COLUMNS, *(name for row in rows for name in row)))
    return _table(names, rows)


def failures_table(failures: Iterable[tuple[str, str]]) -> pa.Table:
    """Build a table from (key, reason) pairs."""
    return _table(_FAILURE_COLUMNS, [{"key": key, "reason": reason} for key, reason in failures])


def kept_out_table(rows: pa.Table) -> pa.Table:
    """What is remembered of rows whose images are not to come back."""
    unknown = pa.nulls(len(rows), pa.string())
    columns = {name: rows[name] if name in rows.column_names else unknown for name in _KEPT_OUT_COLUMNS}
    return pa.table(columns)


def still_kept_out(table: pa.Table, rows: pa.Table) -> pa.Table:
    """What of a table of images kept out is no row again, by key and path; each once, as it was last seen."""
    if not len(table):
        return table
    latest = table.group_by(["key", "path"], use_threads=False).aggregate(
        [("state", "last"), ("content", "last")]
    )
    table = latest.rename_columns(_KEPT_OUT_COLUMNS)
    of_one_name = rows.filter(pc.is_in(rows["key"], table["key"]))  # few of millions are put together
    return table.filter(pc.invert(pc.is_in(_keys_and_paths(table), _keys_and_paths(of_one_name))))


def _keys_and_paths(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["key"], table["path"], "\0")


def concatenate(tables: Sequence[pa.Table]) -> pa.Table:
    """Join tables in order; a column that one of them lacks is null there."""
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


def check_unique(table: pa.Table) -> None:
    """Check that no key occurs twice.

    Raises:
        DuplicateKeyError: One does; the message names it.
    """
    seen: set[str] = set()
    for key in table["key"].to_pylist():
        if key in seen:
            raise DuplicateKeyError(f"the key {key!r} occurs more than once: give every image its own key")
        seen.add(key)


def mark_duplicates(table: pa.Table, found_N: NDArray[np.bool_]) -> pa.Table:
    """The table with a column `duplicate_of`: the key of the first row with the very same image, if another.

    Args:
        table: With the hash of each image as `content`, or null where it is not known.
        found_N: Whether a row can be found; the others are neither marked nor named.
    """
    if "content" not in table.column_names:
        return table
    known_N = found_N & table["content"].is_valid().to_numpy()
    rows = np.flatnonzero(known_N)
    hashes = table["content"].take(pa.array(rows)).combine_chunks().dictionary_encode().indices.to_numpy()
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    original = rows[first[which]]
    copies = rows != original
    named = np.full(len(table), -1)
    named[rows[copies]] = original[copies]
    keys = table["key"].take(pa.array(named, mask=named < 0))
    if "duplicate_of" in table.column_names:
        table = table.drop_columns("duplicate_of")
    return table.append_column("duplicate_of", keys)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a parquet file, whole or not at all."""
    with written_whole(path) as file:
        pq.write_table(table, file, write_page_checksum=True)


def read_rows(path: Path) -> pa.Table:
    """Read a parquet file of rows.

    Raises:
        IndexDamagedError: It is missing, cut short, damaged, or no table of rows.
    """
    return _read(path, _ROW_COLUMNS)


def read_failures(path: Path) -> pa.Table:
    """Read a parquet file of failures.

    Raises:
        IndexDamagedError: It is missing, cut short, damaged, or no table of failures.
    """
    return _read(path, _FAILURE_COLUMNS)


def read_kept_out(path: Path) -> pa.Table:
    """Read a parquet file of images that are not to come back.

    Raises:
        IndexDamagedError: It is missing, cut short, damaged, or no such table.
    """
    return _read(path, _KEPT_OUT_COLUMNS)


def count(path: Path) -> int:
    """Return the number of rows of a parquet file without reading them.

    Raises:
        IndexDamagedError: It is missing or damaged.
    """
    return int(_footer(path).num_rows)


def column_names(path: Path) -> list[str]:
    """Return the columns of a parquet file without reading them.

    Raises:
        IndexDamagedError: It is missing or damaged.
    """
    return list(_footer(path).schema.names)


def _footer(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path) from error


def _table(names: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in names]))


def _read(path: Path, columns: tuple[str, ...]) -> pa.Table:
    try:
        # Not pq.read_table: that takes folders named like a=b for columns.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(path) from error
    names = table.column_names
    if tuple(names[: len(columns)]) != columns or set(table.schema.types) != {pa.string()}:
        raise IndexDamagedError(
            f"{path} does not hold the columns {', '.join(columns)}: build the index again"
        )
    if len(set(names)) < len(names):
        raise IndexDamagedError(f"{path} holds two columns of one name: build the index again")
    if any(table[name].null_count for name in _NEVER_NULL.intersection(columns)):
        raise IndexDamagedError(f"{path} has rows without a key, path or reason: build the index again")
    return table


def _damaged(path: Path) -> IndexDamagedError:
    return IndexDamagedError(f"{path} is missing or damaged: restore it, or remove it and build again")
