"""Lists that are parquet: columns of text, and perhaps one that holds the images themselves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval.errors import UnreadableImageError
from retrieval.sources.file_bytes import open_regular
from retrieval.sources.list_columns import Columns, UnusableListError, check_names, columns_named
from retrieval.sources.sample import printable

_BINARY = (pa.binary(), pa.large_binary())


def parquet_list(file: BinaryIO) -> Columns:
    """The columns of a parquet file, all as text; of images that it holds only what they are called.

    Numbers, dates and truth values are as Arrow prints them, nested values JSON, Hugging Face's class numbers
    their names.

    Raises:
        UnusableListError: It is none, has no column of paths or images, or one without a form as text.
    """
    try:
        # Not pq.read_table: that takes folders named like a=b for columns.
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
            check_names(schema.names)
            images = next((column.name for column in schema if _holds_images(column.type)), None)
            texts = [column for column in schema if column.name != images]
            for column in texts:
                if column.type not in _BINARY and _holds_bytes(column.type):
                    raise _no_text(column.name)
            table = parquet.read(
                None if images is None else [*(column.name for column in texts), f"{images}.path"]
            )
            groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        table.validate(full=True)
        columns = {column.name: _as_text(column, table[column.name], schema) for column in texts}
        if images is None:
            return columns_named(columns)
        paths = pa.nulls(rows, pa.large_string())
        if images in table.column_names:
            paths = pc.cast(pc.struct_field(table[images], "path"), pa.large_string())
        return columns_named(
            columns | {images: paths},
            images=images,
            group_rows=[group.num_rows for group in groups],
            group_gaps=[_may_have_gaps(group, f"{images}.bytes") for group in groups],
        )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(printable(str(error)).split())[:200]
        raise UnusableListError(f"not a parquet file, or a damaged one ({reason})") from error


def holds_images(path: Path) -> bool:
    """Whether a file is parquet and has a column of images, by its schema."""
    try:
        with open_regular(path) as file, pq.ParquetFile(file) as parquet:
            return any(_holds_images(column.type) for column in parquet.schema_arrow)
    except (UnreadableImageError, pa.ArrowException, OSError, UnicodeDecodeError):
        return False  # reading it will fail, and say why


def _holds_images(kind: pa.DataType) -> bool:
    """Whether values are structs of `bytes`, and perhaps of `path`."""
    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    return fields.get("bytes") in _BINARY and fields.keys() <= {"bytes", "path"}


def _may_have_gaps(group: pq.RowGroupMetaData, name: str) -> bool:
    """Whether some rows of a group may have nothing in a column; not all writers say so."""
    columns = map(group.column, range(group.num_columns))
    said = next(column.statistics for column in columns if column.path_in_schema == name)
    return said is None or not said.has_null_count or said.null_count > 0


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return "binary" in str(kind)  # by name: older Arrow lacks some of these types


def _as_text(field: pa.Field, column: pa.ChunkedArray, schema: pa.Schema) -> pa.ChunkedArray:
    try:
        if pa.types.is_integer(field.type) and (names := _class_names(schema, field.name)):
            return _named(column, names)
        # Arrow casts no nested values, and of an extension only its storage, which may be bytes.
        if pa.types.is_nested(field.type) or isinstance(field.type, pa.BaseExtensionType):
            chunks = [[_text(value) for value in chunk.to_pylist()] for chunk in column.chunks]
            return pa.chunked_array(chunks, pa.large_string())
        return pc.cast(column, pa.large_string())
    # Bytes that some writers call text, or times that Python does not know.
    except (ValueError, OverflowError) as error:
        raise _no_text(field.name) from error


def _class_names(schema: pa.Schema, name: str) -> list[str] | None:
    """What Hugging Face's metadata call the classes that a column has the numbers of."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][name]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(each, str) for each in names) else None


def _named(column: pa.ChunkedArray, names: Sequence[str]) -> pa.ChunkedArray:
    """Numbers as names, -1 and whatever else is the number of none as null."""
    known = pc.and_(pc.greater_equal(column, 0), pc.less(column, len(names)))
    return pc.take(pa.array(names, pa.large_string()), pc.if_else(known, column, None))


def _no_text(name: str) -> UnusableListError:
    return UnusableListError(
        f"column {name!r} holds what has no form as text, such as bytes; leave it out of the list"
    )


def _text(value: Any) -> str | None:
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return None if value is None else str(value)
