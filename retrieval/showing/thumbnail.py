"""Small pictures of queries and of rows."""

from pathlib import Path

from PIL import Image

from retrieval.errors import UnreadableImageError
from retrieval.hits import Hit
from retrieval.sources.decode import decode
from retrieval.sources.file_bytes import read_regular
from retrieval.sources.originals import originals

SIDE = 240
"""Pixels of the longer side, at most."""


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
        small.thumbnail((SIDE, SIDE))
    return small or None
