"""Lists of images: files of paths in many formats, and parquet files that hold images themselves."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from retrieval.embedded import embedded_parts
from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.files import open_regular, read_regular, state_of, true_place
from retrieval.folders import fingerprint, part_rows
from retrieval.list_columns import Columns, UnusableListError
from retrieval.list_parquet import parquet_list
from retrieval.list_text import OBJECTS, TABLES, json_lines, plain_list, table, text_of
from retrieval.samples import ROW_COLUMNS, Failure, Known, Part, Sample, none_known
from retrieval.shards import check_local

PARQUET = ".parquet"
TEXTS = (".txt", ".lst")
_OWN = ("key", "path", "label")


def is_list_name(name: str) -> bool:
    """Whether `name` ends as the name of a list does."""
    return name.lower().endswith((PARQUET, *TABLES, *OBJECTS, *TEXTS))


def list_parts(place: Path, known: Known = none_known) -> tuple[Part, ...]:
    """Parts of `folders.PART_SIZE` rows each, in the list's own order.

    Parquet, CSV, TSV and JSON lines have a column of paths and may have `key` and one of labels, under any of
    the names in `retrieval.list_columns`; every other column is carried along as text, nulls left out; one
    whose name an index takes for itself, or that starts with `list.`, becomes `list.NAME`. Other text is one
    path a line, with or without a label: see `retrieval.list_text`. Paths are relative to the list's folder,
    or absolute. Without a key column, an image is called what the list calls its file.

    A parquet list may hold the images themselves, as Hugging Face's do: an image is then called after the
    list, a colon, and its key, its path where all have one of their own, or its number, counted from 0.

    Args:
        place: Absolute path of the list.
        known: See `retrieval.images.open_source`.

    Raises:
        ImageSourceError: It cannot be read as such a list, is empty, has a row without a path or a key, a
            key twice, or a path with a scheme.
    """
    root = true_place(place.parent)
    columns = _columns(place)
    rows = _rows(columns, place.name)
    if columns.images:
        _check(place, rows, "key")
        if known([str(place)])[0]:
            return ()
        return embedded_parts(place, rows, columns.images, columns.group_rows)
    _check(place, rows, "path", "key")
    _check_local(place, rows["path"])
    paths = [str(root / path) for path in rows["path"].to_pylist()]
    rows = rows.filter(pa.array(~known(paths)))
    parts = []
    for name, span in part_rows(len(rows)):
        # Copied, because a slice that is sent to a worker takes the whole list along.
        some = rows.take(pa.array(span, pa.int64()))
        read, names = partial(_read, root, some), partial(_names, root, some)
        parts.append(Part(name, _fingerprint(root, some), len(some), read, names))
    return tuple(parts)


def _columns(place: Path) -> Columns:
    name = place.name.lower()
    try:
        with open_regular(place) as file:
            if name.endswith(PARQUET):
                return parquet_list(file)
            text = text_of(file)
        if name.endswith(TABLES):
            return table(text, is_tsv=name.endswith(".tsv"))
        return json_lines(text) if name.endswith(OBJECTS) else plain_list(text, place.parent)
    except UnreadableImageError as error:
        raise ImageSourceError(f"{place}: {error}; every list must be there and readable") from error
    except UnusableListError as error:
        raise ImageSourceError(f"{place}: {error}") from error


def _rows(columns: Columns, name: str) -> pa.Table:
    """Columns `key`, `path`, `label` and the others, all text."""
    paths = columns.paths
    keys = _keys_within(columns, name) if columns.images else paths if columns.keys is None else columns.keys
    own = {
        "key": keys,
        "path": paths,
        "label": pa.nulls(len(paths), pa.large_string()) if columns.labels is None else columns.labels,
    }
    return pa.table(own | {_carried(other): column for other, column in columns.others.items()})


def _keys_within(columns: Columns, name: str) -> pa.Array:
    """Keys of images that a list of this name holds."""
    keys, paths = columns.keys, columns.paths
    if keys is None and not paths.null_count and pc.count_distinct(paths).as_py() == len(paths):
        keys = paths
    if keys is None:
        keys = pc.cast(pa.array(range(len(paths)), pa.int64()), pa.large_string())
    start, nothing = (pa.scalar(text, pa.large_string()) for text in (f"{name}:", ""))
    return pc.binary_join_element_wise(start, keys, nothing)


def _carried(name: str) -> str:
    return f"list.{name}" if name in ROW_COLUMNS or name.startswith("list.") else name


def _check(place: Path, rows: pa.Table, *filled: str) -> None:
    if not len(rows):
        raise ImageSourceError(f"{place}: no entries; list one image file or more")
    for name in filled:
        is_filled = pc.fill_null(pc.not_equal(rows[name], ""), False)
        if (row := pc.index(is_filled, False).as_py()) >= 0:
            raise ImageSourceError(f"{place}: entry {row + 1} has no {name}; fill it in or remove the row")
    if pc.count_distinct(rows["key"]).as_py() < len(rows):
        counts = pc.value_counts(rows["key"])
        key = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise ImageSourceError(f"{place}: the key {key!r} comes twice; give every image its own key")


def _check_local(place: Path, paths: pa.ChunkedArray) -> None:
    for chunk in paths.filter(pc.match_substring(paths, ":")).chunks:
        for path in chunk:
            try:
                check_local(path.as_py())
            except ImageSourceError as error:
                raise ImageSourceError(f"{place}: {' '.join(str(error).split())}") from error


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
