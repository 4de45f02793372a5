"""Images as a user names them: a folder, one file, or WebDataset shards, read as keyed samples."""

from dataclasses import dataclass
from pathlib import Path

from retrieval.decode import MAX_PIXELS, decode
from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.files import true_place
from retrieval.folders import file_parts, find_images, is_image_name
from retrieval.samples import Failure, Part, Sample, is_utf8, printable
from retrieval.shards import UNDERSTOOD, check_local, expand, shard_parts

__all__ = [
    "MAX_PIXELS",
    "Failure",
    "ImageSource",
    "ImageSourceError",
    "Part",
    "Sample",
    "UnreadableImageError",
    "decode",
    "open_source",
]


@dataclass(frozen=True)
class ImageSource:
    """Keyed images, in parts that can each be read on their own.

    Attributes:
        text: What the user wrote.
        parts: The parts, in a fixed order. They can be pickled, so workers may read them.
    """

    text: str
    parts: tuple[Part, ...]

    @property
    def size(self) -> int | None:
        """Samples and failures in all parts; None where only reading tells."""
        sizes = [part.size for part in self.parts if part.size is not None]
        return sum(sizes) if len(sizes) == len(self.parts) else None


def open_source(text: str | Path) -> ImageSource:
    """Find the images that `text` stands for, without reading any.

    Args:
        text: A folder of images (flat, nested, or one subfolder a class) or of .tar shards, one image file,
            or WebDataset shards: `x.tar`, `x-{000..009}.tar`, `x-*.tar`. Local paths only.

    Raises:
        ImageSourceError: If it is none of these, does not exist, or holds no image.
    """
    text = str(text)
    check_local(text)
    try:
        return ImageSource(text, _parts(text))
    except OSError as error:  # a folder that may not be listed, a name too long
        raise ImageSourceError(f"{printable(text)}: cannot be read ({error.strerror})") from error


def _parts(text: str) -> tuple[Part, ...]:
    path = Path(text)
    place = path.absolute()
    if not is_utf8(str(place)):
        raise ImageSourceError(f"{printable(str(place))}: the path is not UTF-8; rename it")
    if text and path.is_dir():
        return _folder_parts(true_place(place))
    if is_image_name(path.name) and path.exists():
        return file_parts(true_place(place.parent), [path.name])
    if text.lower().endswith(".tar"):
        return shard_parts(expand(text))
    if text and path.exists():
        raise ImageSourceError(f"{text}: not a source of images; {UNDERSTOOD}")
    raise ImageSourceError(f"{text or 'empty name'}: no such file or folder; check the path")


def _folder_parts(folder: Path) -> tuple[Part, ...]:
    keys = find_images(folder)
    shards = sorted(
        entry
        for entry in folder.iterdir()
        if entry.name.lower().endswith(".tar") and not entry.name.startswith(".") and not entry.is_dir()
    )
    if keys and shards:
        raise ImageSourceError(
            f"{folder} holds both images and .tar shards: name the shards as '{folder}/*.tar', or move them"
        )
    if keys:
        return file_parts(folder, keys)
    if not shards:
        raise ImageSourceError(
            f"{folder}: no images and no .tar shards in this folder; name one that has some"
        )
    return shard_parts(shards)
