"""Folders of images, flat or with one subfolder a class."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from retrieval.errors import UnreadableImageError
from retrieval.files import read_regular, state_of
from retrieval.formats import is_image_name
from retrieval.samples import Failure, Part, Sample, is_utf8, printable

PART_SIZE = 10_000


def find_images(root: Path) -> list[str]:
    """Keys of all image candidates under `root`, sorted: anything named like an image, whatever it is.

    A candidate that turns out to be no readable image fails when it is read, not here. Symlinks are
    followed, except back into a folder that is being walked.

    Raises:
        OSError: If `root` itself cannot be listed.
    """
    keys: list[str] = []
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        prefix, above = pending.pop()
        folder = root / prefix
        try:
            status = folder.stat()
            entries = list(os.scandir(folder))
        except OSError:
            if not prefix:
                raise
            keys.append(
                prefix.rstrip("/")
            )  # reading it will fail too and say why: nothing is lost in silence
            continue
        here = (status.st_dev, status.st_ino)
        if here in above:
            continue
        for entry in entries:
            key = prefix + entry.name
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if is_image_name(entry.name):
                keys.append(key)
            elif _may_be_folder(entry):
                pending.append((f"{key}/", above | {here}))
    return sorted(keys)


def file_parts(root: Path, keys: Sequence[str]) -> tuple[Part, ...]:
    """Parts of `PART_SIZE` images each.

    Args:
        root: Absolute path of the folder.
        keys: Paths relative to `root`, POSIX, sorted.
    """
    pieces = [(name, keys[rows.start : rows.stop]) for name, rows in part_rows(len(keys))]
    return tuple(
        Part(
            name=name,
            fingerprint=fingerprint((key, root / key) for key in some),
            size=len(some),
            read=partial(_read, root, some),
            names=partial(_names, root, some),
        )
        for name, some in pieces
    )


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


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return True  # cannot be told from here: walking into it will fail and say why


def _names(root: Path, keys: Sequence[str]) -> list[tuple[str, str]]:
    return [(key, str(root / key)) for key in keys if is_utf8(key)]


def _read(root: Path, keys: Sequence[str]) -> Iterator[Sample | Failure]:
    for key in keys:
        label, slash, _ = key.partition("/")
        try:
            if not is_utf8(key):
                raise UnreadableImageError("file name is not UTF-8")
            state = state_of(root / key)  # before the bytes: what changes in between is read again next time
            data = read_regular(root / key)
        except UnreadableImageError as error:
            yield Failure(printable(key), str(error))
        else:
            yield Sample(key, str(root / key), label if slash else None, {}, data, state)
