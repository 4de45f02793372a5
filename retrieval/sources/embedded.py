"""Images that lie in a parquet file themselves, as in Hugging Face's data sets: read by row groups."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.sources import folders
from retrieval.sources.file_bytes import check_size, open_regular, read_regular, state_of
from retrieval.sources.list_columns import Columns
from retrieval.sources.lists import check_rows, list_columns, list_rows
from retrieval.sources.sample import Failure, Known, Part, Sample, none_known, printable

_BATCH_ROWS = 4
# Else a whole row group, which may be of a gigabyte, would be in memory at once.
_PAGE_BY_PAGE = {"buffer_size": 2**20, "pre_buffer": False}


def embedded_parts(file: Path, known: Known = none_known) -> tuple[Part, ...]:
    """Parts of whole row groups, each of `folders.PART_SIZE` rows or the first number above.

    An image is called after the file, a colon, and its key, its path where all have one of their own, or its
    number, counted from 0. Columns other than that of the images are as in
    `retrieval.sources.lists.list_parts`.

    Args:
        file: Absolute path of the file.
        known: See `retrieval.sources.open_images.open_source`; the file is known whole.

    Raises:
        ImageSourceError: It cannot be read as such a file, is empty, or has a row without a key, or a key
            twice.
    """
    columns = list_columns(file)
    if columns.images is None:
        raise ImageSourceError(f"{file}: no column holds images; it is a list of files")
    rows = list_rows(columns, _keys(columns, file.name))
    check_rows(file, rows, "key")
    if known([str(file)])[0]:
        return ()
    parts = []
    groups: list[tuple[int, int]] = []
    start = 0
    for number, count in enumerate(columns.group_rows):
        groups.append((number, count))
        size = sum(each for _, each in groups)
        if size >= folders.PART_SIZE or (number == len(columns.group_rows) - 1 and size):
            # Copied, because a slice that is sent to a worker takes the whole list along.
            some = rows.take(pa.array(range(start, start + size), pa.int64()))
            said = f"{file}\0{state_of(file)}\0{columns.images}\0{start}\0{some.to_pylist()}"
            digest = hashlib.sha256(said.encode()).hexdigest()
            name = f"images {start}-{start + size - 1}"
            read = partial(_read, file, columns.images, tuple(groups), some)
            parts.append(Part(name, digest, size, read, partial(_names, file)))
            start, groups = start + size, []
    return tuple(parts)


def _keys(columns: Columns, name: str) -> pa.Array:
    """Of images in a file of this name."""
    keys, paths = columns.keys, columns.paths
    if keys is None and not paths.null_count and pc.count_distinct(paths).as_py() == len(paths):
        keys = paths
    if keys is None:
        keys = pc.cast(pa.array(range(len(paths)), pa.int64()), pa.large_string())
    start, nothing = (pa.scalar(text, pa.large_string()) for text in (f"{name}:", ""))
    return pc.binary_join_element_wise(start, keys, nothing)


def _names(parquet: Path) -> list[tuple[str, str]]:
    return [(parquet.name, str(parquet))]


def _read(
    parquet: Path, images: str, groups: Sequence[tuple[int, int]], rows: pa.Table
) -> Iterator[Sample | Failure]:
    state, start = state_of(parquet), 0
    for group, count in groups:
        some = rows.slice(start, count).to_pylist()
        start += count
        for row, found in zip(some, _encoded(parquet, images, group), strict=False):
            key, path, label = (row.pop(name) for name in ("key", "path", "label"))
            extra = {name: value for name, value in row.items() if value is not None}
            source, source_state = parquet, state
            try:
                if isinstance(found, UnreadableImageError):
                    raise found
                if found is None and not path:
                    raise UnreadableImageError("no image in this row")
                if found is None:
                    source = parquet.parent / path
                    source_state = state_of(source)
                data = read_regular(source) if found is None else found
                check_size(len(data))
            except UnreadableImageError as error:
                yield Failure(key, str(error))
            else:
                yield Sample(key, str(source), label or None, extra, data, source_state)


def _encoded(parquet: Path, images: str, group: int) -> Iterator[bytes | UnreadableImageError | None]:
    """The images of a row group, and without end why there are no more."""
    reason = "the row group ends before this row"
    try:
        with (
            open_regular(parquet) as file,
            pq.ParquetFile(file, page_checksum_verification=True, **_PAGE_BY_PAGE) as opened,
        ):
            for batch in opened.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[f"{images}.bytes"]):
                for value in batch.column(0):
                    yield value["bytes"].as_py() if value.is_valid else None
    except UnreadableImageError as error:
        reason = str(error)
    except (pa.ArrowException, OSError) as error:
        reason = f"damaged parquet file ({' '.join(printable(str(error)).split())[:200]})"
    while True:
        yield UnreadableImageError(reason)
