"""Lists of images: files of paths in many formats."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from retrieval.errors import ImageSourceError, NotLocalError, UnreadableImageError
from retrieval.sources.file_bytes import open_regular, read_regular, state_of
from retrieval.sources.folder_walk import fingerprint, part_rows
from retrieval.sources.list_columns import Columns, UnusableListError
from retrieval.sources.list_parquet import parquet_list
from retrieval.sources.list_text import OBJECTS, TABLES, json_lines, plain_list, table, text_of
from retrieval.sources.local_paths import check_local, real_folder
from retrieval.sources.sample import ROW_COLUMNS, Failure, Known, Labelled, Part, Sample, none_known

PARQUET = ".parquet"
TEXTS = (".txt", ".lst")
_OWN = ("key", "path", "label")


def is_list_name(name: str) -> bool:
    """Whether `name` ends as the name of a list does."""
    return name.lower().endswith((PARQUET, *TABLES, *OBJECTS, *TEXTS))


def list_parts(file: Path, known: Known = none_known) -> tuple[Part, ...]:
    """Parts of `folder_walk.PART_SIZE` rows each, in the list's own order.

    Parquet, CSV, TSV and JSON lines have a column of paths and may have `key` and one of labels, under any of
    the names in `retrieval.sources.list_columns`; every other column is carried along as text, nulls left
    out; one whose name an index takes for itself, or that starts with `list.`, becomes `list.NAME`. Other
    text is one path a line, with or without a label: see `retrieval.sources.list_text`. Paths are relative to
    the list's folder, or absolute. Without a key column, an image is called what the list calls its file.

    Args:
        file: Absolute path of the list.
        known: See `retrieval.sources.open_images.open_source`.

    Raises:
        ImageSourceError: It cannot be read as such a list, is empty, has a row without a path or a key, a
            key twice, or a path with a scheme.
    """
    root = real_folder(file.parent)
    columns = list_columns(file)
    rows = list_rows(columns, columns.paths if columns.keys is None else columns.keys)
    check_rows(file, rows, "path", "key")
    _check_local(file, rows["path"])
    paths = [str(root / path) for path in rows["path"].to_pylist()]
    rows = rows.filter(pa.array(~known(paths)))
    parts = []
    for name, span in part_rows(len(rows)):
        # Copied, because a slice that is sent to a worker takes the whole list along.
        some = rows.take(pa.array(span, pa.int64()))
        read, names = partial(_read, root, some), partial(_names, root, some)
        labels = partial(listed_labels, some)
        parts.append(Part(name, _fingerprint(root, some), len(some), read, names, labels))
    return tuple(parts)


def list_columns(file: Path) -> Columns:
    """The columns of a list, by what its name ends in.

    Raises:
        ImageSourceError: It cannot be read as such a list.
    """
    name = file.name.lower()
    try:
        with open_regular(file) as opened:
            if name.endswith(PARQUET):
                return parquet_list(opened)
            text = text_of(opened)
        if name.endswith(TABLES):
            return table(text, is_tsv=name.endswith(".tsv"))
        return json_lines(text) if name.endswith(OBJECTS) else plain_list(text, file.parent)
    except UnreadableImageError as error:
        raise ImageSourceError(f"{file}: {error}; every list must be there and readable") from error
    except UnusableListError as error:
        raise ImageSourceError(f"{file}: {error}") from error


def list_rows(columns: Columns, keys: pa.Array) -> pa.Table:
    """Columns `key`, `path`, `label` and the others, all text."""
    paths = columns.paths
    own = {
        "key": keys,
        "path": paths,
        "label": pa.nulls(len(paths), pa.large_string()) if columns.labels is None else columns.labels,
    }
    return pa.table(own | {_carried(other): column for other, column in columns.others.items()})


def _carried(name: str) -> str:
    return f"list.{name}" if name in ROW_COLUMNS or name.startswith("list.") else name


def check_rows(file: Path, rows: pa.Table, *filled: str) -> None:
    """Check that a list has rows, that some of their columns are filled, and that no key comes twice.

    Raises:
        ImageSourceError: It is not so.
    """
    if not len(rows):
        raise ImageSourceError(f"{file}: no entries; list one image file or more")
    for name in filled:
        is_filled = pc.fill_null(pc.not_equal(rows[name], ""), False)
        if (row := pc.index(is_filled, False).as_py()) >= 0:
            raise ImageSourceError(f"{file}: entry {row + 1} has no {name}; fill it in or remove the row")
    if pc.count_distinct(rows["key"]).as_py() < len(rows):
        counts = pc.value_counts(rows["key"])
        key = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise ImageSourceError(f"{file}: the key {key!r} comes twice; give every image its own key")


def listed_labels(rows: pa.Table) -> list[Labelled]:
    """What `Part.labels` tells of rows; a label that is empty is none."""
    pairs = zip(rows["key"].to_pylist(), rows["label"].to_pylist(), strict=True)
    return [(key, label or None) for key, label in pairs]


def _check_local(file: Path, paths: pa.ChunkedArray) -> None:
    for chunk in paths.filter(pc.match_substring(paths, ":")).chunks:
        for path in chunk:
            try:
                check_local(path.as_py())
            except NotLocalError as error:
                raise NotLocalError(f"{file}: {' '.join(str(error).split())}") from error


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
            yield Sample(key, str(root / path), label or None, extra, data, state, is_file=True)
