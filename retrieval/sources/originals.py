"""The images behind rows of an index, read again from where they were."""

from collections.abc import Collection, Iterator
from pathlib import Path

from PIL import Image

from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.hits import Hit
from retrieval.sources.decode import decode
from retrieval.sources.file_bytes import read_regular
from retrieval.sources.kinds import kind_holding

_SIDE = 160


def originals(path: str, keys: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Key and encoded image of rows that come from one file, as far as they are still there.

    Args:
        path: Of the rows.
        keys: Of the rows.
    """
    left: dict[str, list[str]] = {}
    kind = kind_holding(path)
    for key in keys:
        left.setdefault(kind.own_key(path, key), []).append(key)
    for own, data in everything(path):
        yield from ((key, data) for key in left.pop(own, ()))
        if not left:
            return


def everything(path: str) -> Iterator[tuple[str, bytes]]:
    """Own key and encoded image of all that a path of rows holds: see `Source.images`."""
    try:
        yield from kind_holding(path).images(path)
    except (ImageSourceError, UnreadableImageError):
        return


def thumbnail(image: str | Path | Hit) -> Image.Image | None:
    """A small picture of an image file or of a row, or None where it is no longer there."""
    try:
        if isinstance(image, Hit):
            data = next((data for _, data in originals(image.path, [image.key])), None)
        else:
            data = read_regular(Path(image))
        small = data and decode(data)
    except UnreadableImageError:
        return None
    if small:
        small.thumbnail((_SIDE, _SIDE))
    return small or None
