"""The images behind rows of an index, read again from where they were."""

from collections.abc import Collection, Iterator

from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.sources.all_sources import kind_holding


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
