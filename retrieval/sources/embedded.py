"""Images that lie in a parquet file themselves, as in Hugging Face's data sets: read by row groups."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.sources import folder_walk
from retrieval.sources.file_bytes import check_size, open_regular, read_regular, state_of
from retrieval.sources.list_columns import Columns
from retrieval.sources.lists import check_rows, list_columns, list_rows, listed_labels
from retrieval.sources.sample import Failure, Known, Labelled, Part, Sample, none_known, printable

Groups = tuple[tuple[int, int], ...]
"""Numbers of row groups, and how many rows each has."""

_BATCH_ROWS = 4
# Else a whole row group, which may be of a gigabyte, would be in memory at once.
_PAGE_BY_PAGE = {"buffer_size": 2**20, "pre_buffer": False}


def embedded_parts(file: Path, known: Known = none_known) -> tuple[Part, ...]:
    """Parts of whole row groups, each of `folder_walk.PART_SIZE` rows or the first number above.

    An image is called after the file, a colon, and its key, its path where all have one of their own, or its
    number, counted from 0. Columns other than that of the images are as in
    `retrieval.sources.lists.list_parts`.

    Args:
        file: Absolute path of the file.
        known: See `retrieval.sources.open_images.open_source`. The images that the file holds are known all
            together; if they are, the files that it names where it holds none are, one by one.

    Raises:
        ImageSourceError: It cannot be read as such a file, is empty, or has a row without a key, or a key
            twice.
    """
    columns = list_columns(file)
    if columns.images is None:
        raise ImageSourceError(f"{file}: no column holds images; it is a list of files")
    rows = list_rows(columns, _keys(columns, file.name))
    check_rows(file, rows, "key")
    named = _may_name(file, columns)
    wanted_N = np.ones(len(rows), dtype=bool)
    is_known = known([str(file)])[0]
    if is_known or (known is not none_known and len(named) == len(rows)):
        named = _named(file, columns, named)
        if is_known or len(named) == len(rows):
            wanted_N[:] = False
            wanted_N[list(named)] = ~known(list(named.values()))
    parts = []
    for groups, span in _pieces(columns.group_rows):
        wanted_P = wanted_N[span.start : span.stop].copy()
        if not wanted_P.any():
            continue
        # Copied, because a slice that is sent to a worker takes the whole list along.
        some = rows.take(pa.array(span, pa.int64()))
        said = f"{columns.images}\0{span.start}\0{some.filter(pa.array(wanted_P)).to_pylist()}"
        others = [("", Path(named[row])) for row in span if row in named and wanted_N[row]]
        parts.append(
            Part(
                name=f"images {span.start}-{span.stop - 1}",
                fingerprint=folder_walk.fingerprint([(said, file), *others]),
                size=int(wanted_P.sum()),
                read=partial(_read, file, columns.images, groups, some, wanted_P),
                names=partial(_names, file),
                labels=partial(_labels, some, wanted_P),
            )
        )
    return tuple(parts)


def _pieces(group_rows: Sequence[int]) -> Iterator[tuple[Groups, range]]:
    """Row groups and rows of every part."""
    groups: list[tuple[int, int]] = []
    start = 0
    for group, count in enumerate(group_rows):
        groups.append((group, count))
        stop = start + sum(each for _, each in groups)
        if stop - start >= folder_walk.PART_SIZE or group == len(group_rows) - 1:
            yield tuple(groups), range(start, stop)
            start, groups = stop, []


def _may_name(file: Path, columns: Columns) -> dict[int, str]:
    """Rows that name a file and may hold no image, as far as statistics tell, by number, and those files."""
    named: dict[int, str] = {}
    start = 0
    for group, count in enumerate(columns.group_rows):
        if columns.group_gaps[group]:
            paths = columns.paths.slice(start, count).to_pylist()
            named |= {row: str(file.parent / path) for row, path in enumerate(paths, start) if path}
        start += count
    return named


def _named(file: Path, columns: Columns, rows: Mapping[int, str]) -> dict[int, str]:
    """Those of some rows that hold no image: only reading tells."""
    assert columns.images is not None
    named: dict[int, str] = {}
    start = 0
    for group, count in enumerate(columns.group_rows):
        span = range(start, start + count)
        if any(row in rows for row in span):
            images = zip(span, _encoded(file, columns.images, group), strict=False)
            named |= {row: rows[row] for row, image in images if image is None and row in rows}
        start += count
    return named


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


def _labels(rows: pa.Table, wanted_P: NDArray[np.bool_]) -> list[Labelled]:
    return listed_labels(rows.filter(pa.array(wanted_P)))


def _read(
    parquet: Path, images: str, groups: Groups, rows: pa.Table, wanted_P: NDArray[np.bool_]
) -> Iterator[Sample | Failure]:
    state, start = state_of(parquet), 0
    for group, count in groups:
        some = rows.slice(start, count).to_pylist()
        wanted_G = wanted_P[start : start + count]
        start += count
        if not wanted_G.any():
            continue
        for row, is_wanted, found in zip(some, wanted_G, _encoded(parquet, images, group), strict=False):
            if not is_wanted:
                continue
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
