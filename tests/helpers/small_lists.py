"""Lists of images, written and read."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval.errors import ImageSourceError
from retrieval.sources.open_images import ImageSource, open_source
from retrieval.sources.sample import Failure, Sample


def fill(root: Path, *names: str) -> None:
    """Files that hold their own names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def parquet(place: Path, **columns: Any) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), place)
    return place


def text(place: Path, content: str | bytes) -> Path:
    place.write_bytes(content if isinstance(content, bytes) else content.encode())
    return place


def read(source: ImageSource | str | Path) -> list[Sample | Failure]:
    source = source if isinstance(source, ImageSource) else open_source(source)
    return [item for part in source.parts for item in part.read()]


def extras(place: Path) -> list[dict[str, str]]:
    found = read(place)
    assert all(isinstance(item, Sample) for item in found)
    return [dict(item.extra) for item in found if isinstance(item, Sample)]


def refused(place: str | Path) -> str:
    """The one line that refuses a source."""
    with pytest.raises(ImageSourceError) as caught:
        open_source(place)
    message = str(caught.value)
    assert "\n" not in message
    assert str(place) in message
    message.encode()
    return message
