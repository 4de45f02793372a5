"""Images as a user names them: a folder, shards, a list, one file or a known set, read as keyed samples."""

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from retrieval.archives import is_packed_tar, why_packed
from retrieval.decode import MAX_PIXELS, decode
from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.excludes import Excludes, is_passed_over
from retrieval.files import true_place
from retrieval.folders import begins_like_image, file_parts, find_images
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
        excludes: Globs of what was left out of a folder.
        excluded: How many files and folders they left out.
    """

    text: str
    parts: tuple[Part, ...]
    excludes: tuple[str, ...] = ()
    excluded: int = 0

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
        return place_of(self.text)


def place_of(text: str) -> str:
    """What opens a source again from any working directory."""
    return text if text.startswith(TORCHVISION) else str(Path(text).absolute())


def open_source(text: str | Path, *, known: Known = none_known, excludes: Sequence[str] = ()) -> ImageSource:
    """Find the images that `text` stands for, without reading any.

    Args:
        text: A folder of images (flat, nested, or one subfolder a class) or of .tar shards, one image file,
            WebDataset shards: `x.tar`, `x-{000..009}.tar`, `x-*.tar`, a list of image files: `x.parquet`,
            `x.csv`, `x.tsv`, `x.jsonl`, `x.txt`, `x.lst`, a parquet file that holds images as Hugging Face's
            do, or a set of torchvision's, downloaded where it is not in the cache: `torchvision:NAME` for its
            training images, `torchvision:NAME/test` for the others. Local paths only.
        known: Paths of files, image files or shards, to which of them to leave out.
        excludes: Globs of what to leave out of a folder: see `retrieval.excludes.Excludes`.

    Raises:
        ImageSourceError: If it is none of these, does not exist, or holds no image.
    """
    text, globs = str(text), Excludes(excludes)
    try:
        if text.startswith(TORCHVISION):
            _refuse_excludes(text, globs)
            return ImageSource(text, set_parts(text, known))
        check_local(text)
        mode = _mode(Path(text)) if text else 0
        if stat.S_ISDIR(mode):
            return _folder(text, known, globs)
        _refuse_excludes(text, globs)
        return ImageSource(text, _parts(text, mode, known))
    except OSError as error:  # a folder that may not be listed, a name too long
        raise ImageSourceError(f"{printable(text)}: cannot be read ({error.strerror})") from error


def open_sources(
    texts: Sequence[str], excludes: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> ImageSource:
    """Several sources as one, in order; raises as `open_source`.

    Args:
        texts: See `open_source`.
        excludes: Globs of some of them.
    """
    opened = [open_source(text, excludes=excludes.get(text, ())) for text in texts]
    return ImageSource(", ".join(texts), tuple(part for source in opened for part in source.parts))


def _mode(path: Path) -> int:
    """What lies at `path`, as `stat` says it; 0 is nothing."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a ValueError: the path holds a NUL
        return 0


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(_mode(path))
    except OSError:  # opening it will fail and say why
        return False


def _refuse_excludes(text: str, excludes: Excludes) -> None:
    if excludes.globs:
        raise ImageSourceError(f"{printable(text)}: --exclude is for folders, which this is not")


def _placed(text: str) -> Path:
    place = Path(text).absolute()
    if not is_utf8(str(place)):
        raise ImageSourceError(f"{printable(str(place))}: the path is not UTF-8; rename it")
    return place


def _parts(text: str, mode: int, known: Known) -> tuple[Part, ...]:
    path, place = Path(text), _placed(text)
    if is_image_name(path.name) and mode:
        return _file_parts(true_place(place.parent), [path.name], known)
    if text.lower().endswith(".tar"):
        return _shard_parts(expand(text), known)
    if is_list_name(path.name) and mode:
        return list_parts(true_place(place.parent) / path.name, known)
    if reason := why_packed(text):
        raise ImageSourceError(f"{text}: {reason}")
    if stat.S_ISREG(mode) and begins_like_image(path):
        return _file_parts(true_place(place.parent), [path.name], known)
    if mode:
        raise ImageSourceError(f"{text}: not a source of images; {UNDERSTOOD}")
    raise ImageSourceError(f"{text or 'empty name'}: no such file or folder; check the path")


def _folder(text: str, known: Known, excludes: Excludes) -> ImageSource:
    folder = true_place(_placed(text))
    found = find_images(folder, excludes)
    beside = sorted(path for path in folder.iterdir() if not is_passed_over(path.name, is_folder=False))
    beside = [path for path in beside if not excludes(path.name)]
    shards = [path for path in beside if path.name.lower().endswith(".tar") and not _is_folder(path)]
    packed = [path for path in beside if (is_packed_tar if shards else why_packed)(path.name)]
    packed = [path for path in packed if not _is_folder(path)]
    if found.keys and shards:
        raise ImageSourceError(
            f"{folder} holds both images and .tar shards: name the shards as '{folder}/*.tar', or move them"
        )
    if packed and not found.keys:
        raise ImageSourceError(f"{printable(str(packed[0]))}: {why_packed(packed[0].name)}, or exclude it")
    if not (found.keys or found.closed or shards):
        nothing = "no images and no .tar shards in this folder"
        if found.excluded:
            nothing += f", with {found.excluded} files and folders excluded"
        raise ImageSourceError(f"{folder}: {nothing}; name one that has some")
    parts = _file_parts(folder, found.keys, known, found.closed)
    if shards:
        parts += _shard_parts(shards, known)
    return ImageSource(text, parts, excludes.globs, found.excluded)


def _file_parts(
    root: Path, keys: Sequence[str], known: Known, closed: Mapping[str, str] = MappingProxyType({})
) -> tuple[Part, ...]:
    new = ~known([str(root / key) for key in keys])
    wanted = [key for key, is_new in zip(keys, new, strict=True) if is_new]
    return file_parts(root, sorted([*wanted, *closed]), closed)


def _shard_parts(shards: Sequence[Path], known: Known) -> tuple[Part, ...]:
    places = [true_place(shard.parent) / shard.name for shard in shards]
    # Of all, lest the names of some depend on what is new.
    prefixes = shard_prefixes(places)
    new = ~known([str(place) for place in places])
    named = zip(places, prefixes, new, strict=True)
    return shard_parts({place: prefix for place, prefix, is_new in named if is_new})
