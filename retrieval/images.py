"""Images as a user names them: a folder, shards, a list, one file or a known set, read as keyed samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval.decode import MAX_PIXELS, decode
from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.files import true_place
from retrieval.folders import file_parts, find_images
from retrieval.formats import is_image_name
from retrieval.keys import shard_prefixes
from retrieval.lists import is_list_name, list_parts
from retrieval.samples import Failure, Known, Part, Sample, is_utf8, none_known, printable
from retrieval.shards import UNDERSTOOD, check_local, expand, shard_parts
from retrieval.torchvision_sets import TORCHVISION, set_parts

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

    @property
    def note(self) -> str | None:
        """What was decided of the keys, for the user to know."""
        for part in self.parts:
            if part.size is None and "/" in part.name:
                return f"some shards have one file name: keys begin with their folders, as {part.name}:"
        return None

    @property
    def place(self) -> str:
        """What opens the source again from any working directory."""
        return self.text if self.text.startswith(TORCHVISION) else str(Path(self.text).absolute())


def open_source(text: str | Path, *, known: Known = none_known) -> ImageSource:
    """Find the images that `text` stands for, without reading any.

    Args:
        text: A folder of images (flat, nested, or one subfolder a class) or of .tar shards, one image file,
            WebDataset shards: `x.tar`, `x-{000..009}.tar`, `x-*.tar`, a list of image files: `x.parquet`,
            `x.txt`, `x.lst`, or a set of torchvision's, downloaded where it is not in the cache:
            `torchvision:NAME` for its training images, `torchvision:NAME/test` for the others. Local paths
            only.
        known: Paths of files, image files or shards, to which of them to leave out.

    Raises:
        ImageSourceError: If it is none of these, does not exist, or holds no image.
    """
    text = str(text)
    try:
        if text.startswith(TORCHVISION):
            return ImageSource(text, set_parts(text, known))
        check_local(text)
        return ImageSource(text, _parts(text, known))
    except OSError as error:  # a folder that may not be listed, a name too long
        raise ImageSourceError(f"{printable(text)}: cannot be read ({error.strerror})") from error


def open_sources(texts: Sequence[str]) -> ImageSource:
    """Several sources as one, in order; raises as `open_source`."""
    return ImageSource(", ".join(texts), tuple(part for text in texts for part in open_source(text).parts))


def _parts(text: str, known: Known) -> tuple[Part, ...]:
    path = Path(text)
    place = path.absolute()
    if not is_utf8(str(place)):
        raise ImageSourceError(f"{printable(str(place))}: the path is not UTF-8; rename it")
    if text and path.is_dir():
        return _folder_parts(true_place(place), known)
    if is_image_name(path.name) and path.exists():
        return _file_parts(true_place(place.parent), [path.name], known)
    if text.lower().endswith(".tar"):
        return _shard_parts(expand(text), known)
    if is_list_name(path.name) and path.exists():
        return list_parts(true_place(place.parent) / path.name, known)
    if text and path.exists():
        raise ImageSourceError(f"{text}: not a source of images; {UNDERSTOOD}")
    raise ImageSourceError(f"{text or 'empty name'}: no such file or folder; check the path")


def _folder_parts(folder: Path, known: Known) -> tuple[Part, ...]:
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
        return _file_parts(folder, keys, known)
    if not shards:
        raise ImageSourceError(
            f"{folder}: no images and no .tar shards in this folder; name one that has some"
        )
    return _shard_parts(shards, known)


def _file_parts(root: Path, keys: Sequence[str], known: Known) -> tuple[Part, ...]:
    new = ~known([str(root / key) for key in keys])
    return file_parts(root, [key for key, is_new in zip(keys, new, strict=True) if is_new])


def _shard_parts(shards: Sequence[Path], known: Known) -> tuple[Part, ...]:
    places = [true_place(shard.parent) / shard.name for shard in shards]
    # Of all, lest the names of some depend on what is new.
    prefixes = shard_prefixes(places)
    new = ~known([str(place) for place in places])
    named = zip(places, prefixes, new, strict=True)
    return shard_parts({place: prefix for place, prefix, is_new in named if is_new})
