"""Labelled images for training: ImageFolders, WebDataset shards and torchvision's sets, read by number."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matvit.errors import TrainingError
from retrieval.decode import decode, in_mode
from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.files import open_regular, read_regular
from retrieval.folders import Found, find_images
from retrieval.keys import shard_prefixes
from retrieval.shards import expand, locate
from retrieval.tars import Span
from retrieval.torchvision_sets import TORCHVISION, open_set

__all__ = ["TORCHVISION", "LabelledImages", "open_labelled"]

_OPEN_SHARDS = 16


class LabelledImages:
    """Images with class numbers: see `matvit.augment.LabelledImages`, which trainers ask for.

    Args:
        labels: Of each image, in order.
        keys: What the images are called, all of them different.
        runs: Images that lie together.
        read: Number of an image -> the open image. Picklable, for worker processes.
        place: Where they are, for messages.
        class_to_idx: Numbers of the classes; None counts those that are there.

    Raises:
        TrainingError: There are no images, or a class has no number.
    """

    def __init__(
        self,
        labels: Sequence[str],
        keys: Sequence[str],
        *,
        runs: Sequence[int],
        read: Callable[[int], Image.Image],
        place: str,
        class_to_idx: Mapping[str, int] | None = None,
    ) -> None:
        if not labels:
            raise TrainingError(f"no images in class folders under {place}")
        names = sorted(set(labels), key=lambda name: (int(name) if name.isdecimal() else -1, name))
        self.class_to_idx = class_to_idx or {name: i for i, name in enumerate(names)}
        if unknown := set(names) - self.class_to_idx.keys():
            raise TrainingError(f"{place} has a class that training does not know: {min(unknown)!r}")
        self.runs, self._keys, self._read, self._place = tuple(runs), keys, read, place
        self.targets: NDArray[np.int64] = np.array([self.class_to_idx[label] for label in labels])
        digest = hashlib.sha256()
        for key, label in zip(keys, labels, strict=True):
            digest.update(f"{key}\0{label}\0".encode("utf-8", "surrogateescape"))
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.targets)

    def load(self, i: int) -> tuple[str, Image.Image, int]:
        """The key, the image and the class number.

        Raises:
            TrainingError: The image cannot be read. Another one in its place would go unnoticed.
        """
        try:
            return self._keys[i], self._read(i), int(self.targets[i])
        except UnreadableImageError as error:
            place = f"{self._place}/{self._keys[i]}"
            raise TrainingError(f"{place}: {error}; remove it and train again") from error


def open_labelled(
    text: str | Path, mode: str, *, train: bool = True, class_to_idx: Mapping[str, int] | None = None
) -> LabelledImages:
    """Labelled images from where a user says they are.

    Args:
        text: A folder with a subfolder a class, a folder of shards, shards such as ``x-{000..009}.tar``, or
            ``torchvision:NAME``, which is downloaded to the cache.
        mode: ``L`` or ``RGB``.
        train: The training images of a torchvision set, not those for testing.
        class_to_idx: Numbers of the classes; None counts those that are there.

    Raises:
        TrainingError: There are no labelled images, or a class has no number.
        ImageSourceError: A shard cannot be read.
    """
    text = str(text)
    if text.startswith(TORCHVISION):
        return _torchvision(text, mode, train, class_to_idx)
    folder = Path(text)
    shards = sorted(file for file in folder.glob("[!.]*") if file.suffix.lower() == ".tar")
    found = find_images(folder) if folder.is_dir() else Found()
    if found.closed:  # its images would be missing, perhaps with a whole class
        closed, reason = min(found.closed.items())
        raise TrainingError(f"{text}/{closed}: {reason}; make it readable, or remove it")
    keys = [key for key in found.keys if "/" in key]
    if keys and shards:
        raise TrainingError(f"{text} holds both images in class folders and shards: move one kind elsewhere")
    if shards or text.lower().endswith(".tar"):
        return _shards(shards or expand(text), text, mode, class_to_idx)
    labels = [key.partition("/")[0] for key in keys]
    read = _Files(folder, keys, mode)
    return LabelledImages(labels, keys, runs=[len(keys)], read=read, place=text, class_to_idx=class_to_idx)


class _Files:
    """Image files by number."""

    def __init__(self, folder: Path, keys: Sequence[str], mode: str) -> None:
        self._folder, self._keys, self._mode = folder, keys, mode

    def __call__(self, i: int) -> Image.Image:
        return decode(read_regular(self._folder / self._keys[i]), mode=self._mode)


def _shards(
    shards: Sequence[Path], text: str, mode: str, class_to_idx: Mapping[str, int] | None
) -> LabelledImages:
    keys: list[str] = []
    labels: list[str] = []
    spans: list[tuple[int, int, int]] = []
    runs = []
    prefixes = shard_prefixes([Path(os.path.realpath(shard.parent)) / shard.name for shard in shards])
    for number, (shard, prefix) in enumerate(zip(shards, prefixes, strict=True)):
        before = len(keys)
        for key, label, span in _located(shard):
            if label is None:
                raise TrainingError(f"{key} has no .cls member: training needs labels")
            keys.append(prefix + key)
            labels.append(label)
            spans.append((number, span.offset, span.size))
        runs.append(len(keys) - before)
    read = _Members(shards, np.array(spans, dtype=np.int64).reshape(-1, 3), mode)
    return LabelledImages(labels, keys, runs=runs, read=read, place=text, class_to_idx=class_to_idx)


def _located(shard: Path) -> list[tuple[str, str | None, Span]]:
    try:
        return list(locate(shard))
    except UnreadableImageError as error:
        raise ImageSourceError(f"{shard}: {error}") from error


class _Members:
    """Images in shards by number, read where they lie; a few shards stay open."""

    def __init__(self, shards: Sequence[Path], spans: NDArray[np.int64], mode: str) -> None:
        self._shards, self._spans, self._mode = shards, spans, mode
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __call__(self, i: int) -> Image.Image:
        shard, offset, size = self._spans[i].tolist()
        if shard not in self._open:
            if len(self._open) == _OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
            self._open[shard] = open_regular(self._shards[shard])
        self._open.move_to_end(shard)
        # Not seek and read: worker processes that were forked share the place in an open file.
        return decode(os.pread(self._open[shard].fileno(), size, offset), mode=self._mode)

    def __del__(self) -> None:
        for file in self._open.values():
            file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # Open files do not travel.


def _torchvision(text: str, mode: str, train: bool, class_to_idx: Mapping[str, int] | None) -> LabelledImages:
    try:
        found = open_set(text, train=train)
    except ImageSourceError as error:
        raise TrainingError(str(error)) from error
    return LabelledImages(
        found.labels,
        found.keys,
        runs=[len(found.keys)],
        read=_Pairs(found.images, mode),
        place=text,
        class_to_idx=class_to_idx or {name: i for i, name in enumerate(found.classes)},
    )


class _Pairs:
    """The images of a data set of (image, target) pairs."""

    def __init__(self, images: Any, mode: str) -> None:
        self._images, self._mode = images, mode

    def __call__(self, i: int) -> Image.Image:
        return in_mode(self._images[i][0], self._mode)
