"""Images that lie in a parquet file themselves, as in Hugging Face's data sets: read by row groups."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from retrieval import folders
from retrieval.errors import UnreadableImageError
from retrieval.files import check_size, open_regular, read_regular, state_of
from retrieval.samples import Failure, Part, Sample, printable

_BATCH_ROWS = 4
# Else a whole row group, which may be of a gigabyte, would be in memory at once.
_PAGE_BY_PAGE = {"buffer_size": 2**20, "pre_buffer": False}


def embedded_parts(place: Path, rows: pa.Table, images: str, group_rows: Sequence[int]) -> tuple[Part, ...]:
    """Parts of whole row groups, each of `folders.PART_SIZE` rows or the first number above.

    Args:
        place: Absolute path of the file.
        rows: `key`, `path`, which may be null, `label` and other columns, all text.
        images: The column that holds the images.
        group_rows: Rows of every row group.
    """
    parts = []
    groups: list[tuple[int, int]] = []
    start = 0
    for number, count in enumerate(group_rows):
        groups.append((number, count))
        size = sum(each for _, each in groups)
        if size >= folders.PART_SIZE or (number == len(group_rows) - 1 and size):
            # Copied, because a slice that is sent to a worker takes the whole list along.
            some = rows.take(pa.array(range(start, start + size), pa.int64()))
            said = f"{place}\0{state_of(place)}\0{images}\0{start}\0{some.to_pylist()}"
            digest = hashlib.sha256(said.encode()).hexdigest()
            name = f"images {start}-{start + size - 1}"
            read = partial(_read, place, images, tuple(groups), some)
            parts.append(Part(name, digest, size, read, partial(_names, place)))
            start, groups = start + size, []
    return tuple(parts)


def _names(place: Path) -> list[tuple[str, str]]:
    return [(place.name, str(place))]


def _read(
    place: Path, images: str, groups: Sequence[tuple[int, int]], rows: pa.Table
) -> Iterator[Sample | Failure]:
    state, start = state_of(place), 0
    for group, count in groups:
        some = rows.slice(start, count).to_pylist()
        start += count
        for row, found in zip(some, _encoded(place, images, group), strict=False):
            key, path, label = (row.pop(name) for name in ("key", "path", "label"))
            extra = {name: value for name, value in row.items() if value is not None}
            file, file_state = place, state
            try:
                if isinstance(found, UnreadableImageError):
                    raise found
                if found is None and not path:
                    raise UnreadableImageError("no image in this row")
                if found is None:
                    file = place.parent / path
                    file_state = state_of(file)
                data = read_regular(file) if found is None else found
                check_size(len(data))
            except UnreadableImageError as error:
                yield Failure(key, str(error))
            else:
                yield Sample(key, str(file), label or None, extra, data, file_state)


def _encoded(place: Path, images: str, group: int) -> Iterator[bytes | UnreadableImageError | None]:
    """The images of a row group, and without end why there are no more."""
    reason = "the row group ends before this row"
    try:
        with (
            open_regular(place) as file,
            pq.ParquetFile(file, page_checksum_verification=True, **_PAGE_BY_PAGE) as parquet,
        ):
            for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[f"{images}.bytes"]):
                for value in batch.column(0):
                    yield value["bytes"].as_py() if value.is_valid else None
    except UnreadableImageError as error:
        reason = str(error)
    except (pa.ArrowException, OSError) as error:
        reason = f"damaged parquet file ({' '.join(printable(str(error)).split())[:200]})"
    while True:
        yield UnreadableImageError(reason)
