"""Images as a user names them, read as keyed samples: the front door to every kind of source."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from retrieval.errors import ImageSourceError, NotLocalError, UnreadableImageError
from retrieval.sources.all_sources import kind_of, understood, with_remedy
from retrieval.sources.archives import why_packed
from retrieval.sources.decode import MAX_PIXELS, decode
from retrieval.sources.excludes import Excludes
from retrieval.sources.local_paths import absolute_path, check_local, mode_at
from retrieval.sources.sample import Failure, Known, Part, Sample, none_known, printable, unlabelled
from retrieval.sources.source import ImageSource, Source

__all__ = [
    "MAX_PIXELS",
    "Failure",
    "ImageSource",
    "ImageSourceError",
    "Part",
    "Sample",
    "UnreadableImageError",
    "check_source",
    "decode",
    "location_of",
    "open_source",
    "open_sources",
]


def open_source(
    text: str | Path,
    *,
    known: Known = none_known,
    excludes: Sequence[str] = (),
    labels: bool | None = None,
) -> ImageSource:
    """Find the images that `text` stands for, without reading any.

    Args:
        text: What one of `retrieval.sources.all_sources.SOURCES` recognises: a folder of images (flat,
            nested, or one subfolder a class) or of .tar shards, WebDataset shards, a list of image files, a
            parquet file that holds images, a set of torchvision's, which is downloaded where it is not in the
            cache, or one image file. Local paths only.
        known: Paths of files, image files or shards, to which of them to leave out.
        excludes: Globs of what to leave out of a folder: see `retrieval.sources.excludes.Excludes`.
        labels: Whether the top-level folder of an image file is its label; None is where all of them are laid
            out as for training, a folder a class.

    Raises:
        ImageSourceError: If it is none of these, does not exist, or holds no image.
    """
    text, globs = str(text), Excludes(excludes)
    kind = check_source(text)
    try:
        if globs.globs and not kind.takes_excludes:
            raise ImageSourceError(f"{printable(text)}: --exclude is for folders, which this is not")
        return _labelled(kind.open(text, known, globs), labels)
    except NotLocalError as error:
        raise with_remedy(error) from error
    except OSError as error:  # a folder that may not be listed, a name too long
        raise ImageSourceError(f"{printable(text)}: cannot be read ({error.strerror})") from error


def _labelled(source: ImageSource, labels: bool | None) -> ImageSource:
    if source.labelled is None or (source.labelled if labels is None else labels):
        return source
    return replace(source, parts=tuple(map(unlabelled, source.parts)), labelled=False)


def check_source(text: str) -> Source:
    """The kind of a source, which is not looked into yet.

    Raises:
        ImageSourceError: It is none, or does not exist.
    """
    try:
        if (kind := kind_of(text)) is None:
            raise _why_unknown(text)
        return kind
    except NotLocalError as error:
        raise with_remedy(error) from error
    except OSError as error:  # a folder that may not be looked at, a name too long
        raise ImageSourceError(f"{printable(text)}: cannot be read ({error.strerror})") from error


def open_sources(
    texts: Sequence[str],
    excludes: Mapping[str, Sequence[str]] = MappingProxyType({}),
    *,
    labels: bool | None = None,
) -> ImageSource:
    """Several sources as one, in order; raises as `open_source`.

    Args:
        texts: See `open_source`.
        excludes: Globs of some of them.
        labels: See `open_source`.
    """
    opened = [open_source(text, excludes=excludes.get(text, ()), labels=labels) for text in texts]
    together = ", ".join(texts)
    parts = tuple(part for source in opened for part in source.parts)
    return ImageSource(together, together, Path(together), parts)


def location_of(text: str) -> str:
    """What opens a source again from any working directory, be it there now or not."""
    try:
        kind = kind_of(text)
    except OSError:
        kind = None
    return str(Path(text).absolute()) if kind is None else kind.location(text)


def _why_unknown(text: str) -> ImageSourceError:
    check_local(text)
    absolute_path(text)
    if reason := why_packed(text):
        return ImageSourceError(f"{text}: {reason}")
    if mode_at(text):
        return ImageSourceError(f"{text}: not a source of images; {understood()}")
    return ImageSourceError(f"{text or 'empty name'}: no such file or folder; check the path")
