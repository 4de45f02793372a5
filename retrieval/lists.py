"""Lists of image files: parquet with a column of paths, or text with one path a line."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.files import open_regular, read_regular, state_of, true_place
from retrieval.folders import fingerprint, part_rows
from retrieval.samples import ROW_COLUMNS, Failure, Known, Part, Sample, none_known, printable
from retrieval.shards import check_local

PARQUET = ".parquet"
TEXTS = (".txt", ".lst")
_OWN = ("key", "path", "label")
_SNIFFED_BYTES = 8192


def is_list_name(name: str) -> bool:
    """Whether `name` ends as the name of a list does."""
    return name.lower().endswith((PARQUET, *TEXTS))


def list_parts(place: Path, known: Known = none_known) -> tuple[Part, ...]:
    """Parts of `folders.PART_SIZE` rows each, in the list's own order.

    A parquet list has a column `path` and may have `key` and `label`; every other column is carried along
    as text: numbers, dates and truth values as Arrow prints them, nested values as JSON, nulls left out; one
    whose name an index takes for itself, or that starts with `list.`, becomes `list.NAME`. A text list is
    UTF-8, one path a line. Paths are relative to the list's folder, or absolute. Without a key column, an
    image is called what the list calls its file.

    Args:
        place: Absolute path of the list.
        known: See `retrieval.images.open_source`.

    Raises:
        ImageSourceError: It cannot be read as such a list, is empty, has a row without a path or a key, a
            key twice, or a path with a scheme.
    """
    root = true_place(place.parent)
    rows = _rows(place)
    _check(place, rows)
    paths = [str(root / path) for path in rows["path"].to_pylist()]
    rows = rows.filter(pa.array(~known(paths)))
    parts = []
    for name, span in part_rows(len(rows)):
        # Copied, because a slice that is sent to a worker takes the whole list along.
        some = rows.take(pa.array(span, pa.int64()))
        read, names = partial(_read, root, some), partial(_names, root, some)
        parts.append(Part(name, _fingerprint(root, some), len(some), read, names))
    return tuple(parts)


def _rows(place: Path) -> pa.Table:
    """Columns `key`, `path`, `label` and the others, all text."""
    try:
        with open_regular(place) as file:
            columns = _parquet(file) if place.name.lower().endswith(PARQUET) else _lines(file)
    except UnreadableImageError as error:
        raise ImageSourceError(f"{place}: {error}; every list must be there and readable") from error
    except _UnusableListError as error:
        raise ImageSourceError(f"{place}: {error}") from error
    paths = columns["path"]
    own = {
        "key": columns.get("key", paths),
        "path": paths,
        "label": columns.get("label", pa.nulls(len(paths), pa.large_string())),
    }
    return pa.table(own | {_carried(name): columns[name] for name in columns if name not in _OWN})


def _carried(name: str) -> str:
    return f"list.{name}" if name in ROW_COLUMNS or name.startswith("list.") else name


class _UnusableListError(Exception):
    """What is wrong with a list, and what to do."""


_NO_TEXT_FILE = _UnusableListError("not UTF-8 text; a text list holds one path a line")


def _lines(file: BinaryIO) -> dict[str, Any]:
    try:
        start = file.read(_SNIFFED_BYTES)
        text = (start + (b"" if b"\0" in start else file.read())).decode("utf-8-sig")
    except OSError as error:
        raise _UnusableListError(f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _NO_TEXT_FILE from error
    if "\0" in text:
        raise _NO_TEXT_FILE
    lines = pc.utf8_rtrim(pc.split_pattern(pa.array([text], pa.large_string()), "\n").flatten(), "\r")
    return {"path": lines.filter(pc.not_equal(pc.utf8_trim_whitespace(lines), ""))}


def _parquet(file: BinaryIO) -> dict[str, Any]:
    try:
        # Not pq.read_table: that takes folders named like a=b for columns.
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            _check_columns(parquet.schema_arrow)
            table = parquet.read()
        table.validate(full=True)
        return {name: _as_text(name, table[name]) for name in table.column_names}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(printable(str(error)).split())[:200]
        raise _UnusableListError(f"not a parquet file, or a damaged one ({reason})") from error


def _check_columns(schema: pa.Schema) -> None:
    names = schema.names
    if "path" not in names:
        raise _UnusableListError(f"no column `path` among {', '.join(map(repr, names))[:200]}; name it so")
    if twice := {name for name in names if names.count(name) > 1}:
        raise _UnusableListError(f"two columns are called {min(twice)!r}; rename one")
    if "" in names:
        raise _UnusableListError("a column has no name; give it one")
    for column in schema:
        if column.type not in (pa.binary(), pa.large_binary()) and _holds_bytes(column.type):
            raise _no_text(column.name)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return "binary" in str(kind)  # by name: older Arrow lacks some of these types


def _as_text(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        # Arrow casts no nested values, and of an extension only its storage, which may be bytes.
        if pa.types.is_nested(column.type) or isinstance(column.type, pa.BaseExtensionType):
            chunks = [[_text(value) for value in chunk.to_pylist()] for chunk in column.chunks]
            return pa.chunked_array(chunks, pa.large_string())
        return pc.cast(column, pa.large_string())
    # Bytes that some writers call text, or times that Python does not know.
    except (ValueError, OverflowError) as error:
        raise _no_text(name) from error


def _no_text(name: str) -> _UnusableListError:
    return _UnusableListError(
        f"column {name!r} holds what has no form as text, such as bytes; leave it out of the list"
    )


def _text(value: object) -> str | None:
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return None if value is None else str(value)


def _check(place: Path, rows: pa.Table) -> None:
    if not len(rows):
        raise ImageSourceError(f"{place}: no entries; list one image file or more")
    for name in ("path", "key"):
        filled = pc.fill_null(pc.not_equal(rows[name], ""), False)
        if (row := pc.index(filled, False).as_py()) >= 0:
            raise ImageSourceError(f"{place}: entry {row + 1} has no {name}; fill it in or remove the row")
    with_colon = rows["path"].filter(pc.match_substring(rows["path"], ":"))
    for chunk in with_colon.chunks:
        for path in chunk:
            try:
                check_local(path.as_py())
            except ImageSourceError as error:
                raise ImageSourceError(f"{place}: {' '.join(str(error).split())}") from error
    if pc.count_distinct(rows["key"]).as_py() < len(rows):
        counts = pc.value_counts(rows["key"])
        key = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise ImageSourceError(f"{place}: the key {key!r} comes twice; give every image its own key")


def _fingerprint(root: Path, rows: pa.Table) -> str:
    return fingerprint((json.dumps(row), root / row["path"]) for row in rows.to_pylist())


def _names(root: Path, rows: pa.Table) -> list[tuple[str, str]]:
    pairs = zip(rows["key"].to_pylist(), rows["path"].to_pylist(), strict=True)
    return [(key, str(root / path)) for key, path in pairs]


def _read(root: Path, rows: pa.Table) -> Iterator[Sample | Failure]:
    for row in rows.to_pylist():
        key, path, label = (row.pop(name) for name in _OWN)
        extra = {name: value for name, value in row.items() if value is not None}
        try:
            state = state_of(root / path)
            data = read_regular(root / path)
        except UnreadableImageError as error:
            yield Failure(key, str(error))
        else:
            yield Sample(key, str(root / path), label or None, extra, data, state)
