"""Folders of images, flat or with one subfolder a class."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from retrieval.errors import UnreadableImageError
from retrieval.files import read_regular
from retrieval.samples import Failure, Part, Sample, is_utf8, printable

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
PART_SIZE = 10_000


def is_image_name(name: str) -> bool:
    """Whether `name` ends as the name of an image does."""
    return name.lower().endswith(EXTENSIONS)


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
    slices = [(start, keys[start : start + PART_SIZE]) for start in range(0, len(keys), PART_SIZE)]
    return tuple(
        Part(
            name=f"images {start}-{start + len(some) - 1}",
            fingerprint=_fingerprint(root, some),
            size=len(some),
            read=partial(_read, root, some),
        )
        for start, some in slices
    )


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return True  # cannot be told from here: walking into it will fail and say why


def _fingerprint(root: Path, keys: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for key in keys:
        try:
            status = (root / key).stat()
            state = f"{status.st_size}\0{status.st_mtime_ns}"
        except OSError:
            state = "\0"
        digest.update(f"{key}\0{state}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read(root: Path, keys: Sequence[str]) -> Iterator[Sample | Failure]:
    for key in keys:
        label, slash, _ = key.partition("/")
        try:
            if not is_utf8(key):
                raise UnreadableImageError("file name is not UTF-8")
            data = read_regular(root / key)
        except UnreadableImageError as error:
            yield Failure(printable(key), str(error))
        else:
            yield Sample(key, str(root / key), label if slash else None, {}, data)
