"""Folders of images, flat or with one subfolder a class."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

from retrieval.errors import UnreadableImageError
from retrieval.sources.excludes import Excludes, is_passed_over
from retrieval.sources.file_bytes import open_regular, read_regular, state_of, why_closed
from retrieval.sources.formats import HEAD_BYTES, is_image_name, looks_like_image
from retrieval.sources.sample import Failure, Known, Labelled, Part, Sample, is_utf8, printable

PART_SIZE = 10_000

_NO_PICTURES = (
    *(".json", ".jsonl", ".xml", ".xmp", ".txt", ".lst", ".cls", ".csv", ".tsv", ".md", ".html", ".ini"),
    *(".yaml", ".yml", ".db", ".log", ".aae", ".dop", ".pp3"),
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".mpg", ".mpeg", ".3gp", ".wmv"),
    *(".mp3", ".wav", ".m4a", ".aac", ".flac", ".tar", ".gz", ".tgz", ".zip", ".parquet", ".arrow"),
    *(".npy", ".npz", ".safetensors", ".pt", ".pth", ".h5"),
)
"""Endings of what lies beside pictures by the thousand: opening each would take longer than the walk."""


_DATED = re.compile(r"(?:19|20)\d\d(?!\d)").match
"""Albums are called 2019, 2019-07 Rome or 1998_summer."""


@dataclass(frozen=True)
class Found:
    """What a walk through a folder came to.

    Attributes:
        keys: Of all that may be an image, sorted: paths relative to the folder, POSIX.
        closed: Folders that could not be listed, by such a path, and why.
        excluded: Files and folders that the user's globs left out.
    """

    keys: list[str] = field(default_factory=list)
    closed: dict[str, str] = field(default_factory=dict)
    excluded: int = 0


def find_images(root: Path, excludes: Excludes | None = None) -> Found:
    """All image candidates under `root`: whatever is named like a picture or begins like one.

    A candidate that turns out to be no readable image fails when it is read, not here. Every folder is walked
    once, however many symlinks lead to it: under its own name where it has one below `root`, else under that
    of the first link, by depth in links, then by name.

    Raises:
        OSError: If `root` itself cannot be listed.
    """
    excludes = excludes or Excludes()
    keys: list[str] = []
    closed: dict[str, str] = {}
    excluded = 0
    walked: set[tuple[int, int]] = set()
    pending, links, by_link = [""], list[str](), False
    while pending or links:
        if not pending:  # all that is walked under names of its own comes before what links lead to
            pending, links, by_link = sorted(links, reverse=True), [], True
        prefix = pending.pop()
        folder = root / prefix
        below: list[str] = []
        try:
            status = folder.stat()
            here = (status.st_dev, status.st_ino)
            # Not without a link: there are shares that number all their folders alike.
            entries = [] if by_link and here in walked else _listed(folder)
        except OSError as error:
            if not prefix:
                raise
            # Whatever lies in it may not be lost in silence.
            closed[prefix.rstrip("/")] = why_closed(folder, error)
            continue
        walked.add(here)
        for entry in entries:
            key = prefix + entry.name
            is_folder, is_link = _kind(entry)
            if is_passed_over(entry.name, is_folder=is_folder):
                continue
            if excludes(f"{key}/" if is_folder else key):
                excluded += 1
            elif is_folder:
                (links if is_link else below).append(f"{key}/")
            elif is_image_name(entry.name) or _begins_like_image(entry):
                keys.append(key)
        pending += reversed(below)
    return Found(sorted(keys), closed, excluded)


def file_parts(
    root: Path, keys: Sequence[str], closed: Mapping[str, str] = MappingProxyType({})
) -> tuple[Part, ...]:
    """Parts of `PART_SIZE` images each.

    Args:
        root: Absolute path of the folder.
        keys: Paths relative to `root`, POSIX, sorted.
        closed: Folders among `keys` of which no image can be read, and why.
    """
    pieces = [(name, keys[rows.start : rows.stop]) for name, rows in part_rows(len(keys))]
    return tuple(
        Part(
            name=name,
            fingerprint=fingerprint((key, root / key) for key in some),
            size=len(some),
            read=partial(_read, root, some, {key: closed[key] for key in some if key in closed}),
            names=partial(_names, root, some),
            labels=partial(_labels, [key for key in some if key not in closed]),
        )
        for name, some in pieces
    )


def are_classes(keys: Sequence[str]) -> bool:
    """Whether images are laid out as for training: each in a folder of its class, and no class is a date.

    Args:
        keys: Paths relative to the folder, POSIX.
    """
    classes = {key.partition("/")[0] for key in keys}
    return all(key.count("/") == 1 for key in keys) and len(classes) > 1 and not any(map(_DATED, classes))


def unknown_keys(root: Path, keys: Sequence[str], known: Known) -> list[str]:
    """The keys of files below a folder that are not known."""
    known_N = known([str(root / key) for key in keys])
    return [key for key, is_known in zip(keys, known_N, strict=True) if not is_known]


def part_rows(count: int) -> list[tuple[str, range]]:
    """Name and rows of every part of `count` images, at most `PART_SIZE` in each."""
    starts = range(0, count, PART_SIZE)
    pieces = [range(start, min(start + PART_SIZE, count)) for start in starts]
    return [(f"images {rows.start}-{rows.stop - 1}", rows) for rows in pieces]


def fingerprint(files: Iterable[tuple[str, Path]]) -> str:
    """Digest of what is said of each file, its size and its time of change; a file may be missing."""
    digest = hashlib.sha256()
    for said, path in files:
        digest.update(f"{said}\0{state_of(path)}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether something is a folder, and whether a symlink."""
    try:
        return entry.is_dir(), entry.is_symlink()
    except OSError:
        return not is_image_name(entry.name), False  # not to be told: going on will fail and say why


def _names(root: Path, keys: Sequence[str]) -> list[tuple[str, str]]:
    return [(key, str(root / key)) for key in keys if is_utf8(key)]


def _labels(keys: Sequence[str]) -> list[Labelled]:
    return [(key, _label(key)) for key in keys if is_utf8(key)]


def _label(key: str) -> str | None:
    label, slash, _ = key.partition("/")
    return label if slash else None


def _begins_like_image(entry: os.DirEntry[str]) -> bool:
    try:
        is_file = not entry.name.lower().endswith(_NO_PICTURES) and entry.is_file()
    except OSError:
        return False
    return is_file and begins_like_image(Path(entry.path))


def begins_like_image(path: Path) -> bool:
    """Whether a file can be read and its first bytes are those of a picture, whatever its name."""
    try:
        with open_regular(path) as file:
            return looks_like_image(file.read(HEAD_BYTES))
    except (UnreadableImageError, OSError):
        return False


def _read(root: Path, keys: Sequence[str], closed: Mapping[str, str]) -> Iterator[Sample | Failure]:
    for key in keys:
        try:
            if key in closed:
                raise UnreadableImageError(closed[key])
            if not is_utf8(key):
                raise UnreadableImageError("file name is not UTF-8")
            state = state_of(root / key)  # before the bytes: what changes in between is read again next time
            data = read_regular(root / key)
        except UnreadableImageError as error:
            yield Failure(printable(key), str(error))
        else:
            yield Sample(key, str(root / key), _label(key), {}, data, state, is_file=True)
