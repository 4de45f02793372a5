"""torchvision's sets of labelled images, as timm names them, downloaded to the cache."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from retrieval.errors import ImageSourceError
from retrieval.sources.decode import in_mode
from retrieval.sources.folder_walk import fingerprint, part_rows
from retrieval.sources.labelled_images import LabelledImages
from retrieval.sources.sample import Failure, Labelled, Part, Sample


@dataclass(frozen=True)
class TorchvisionSet:
    """One split of a set.

    Attributes:
        images: Pairs of an open image and the number of its class.
        labels: Class of each image.
        keys: What the images are called: `train/0`.
        classes: All of them in the order of their numbers, whether or not each has an image.
        folder: Where the set lies.
    """

    images: Any
    labels: Sequence[str]
    keys: Sequence[str]
    classes: Sequence[str]
    folder: Path


def open_set(name: str, *, train: bool) -> TorchvisionSet:
    """The training or the other images of a set, by its name in any case.

    Raises:
        ImageSourceError: There is no such set, it cannot be downloaded, or its images have no labels.
    """
    from timm.data import create_dataset

    from matvit.files.cache import cache_dir  # Loads torch, like timm.

    root = cache_dir() / "torchvision"
    try:
        images = create_dataset(
            f"torch/{name.lower()}",
            root=str(root),
            split="train" if train else "validation",
            download=True,
        )
    except Exception as error:  # Whatever a data set's own code and its server do.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageSourceError(
            f"torchvision:{name}: {reason}; torchvision keeps its sets in {root}"
        ) from error
    try:
        classes = [str(each) for each in images.classes]
        labels = [classes[int(target)] for target in images.targets]
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ImageSourceError(
            f"torchvision:{name}: not a set with one class an image; take another"
        ) from error
    split = "train" if train else "test"
    keys = [f"{split}/{i}" for i in range(len(labels))]
    return TorchvisionSet(images, labels, keys, classes, _folder(images, root))


def set_parts(name: str, path: str, *, train: bool) -> tuple[Part, ...]:
    """Parts of `folder_walk.PART_SIZE` images each.

    Args:
        name: Of the set.
        path: That rows of these images get.
        train: The training images, not the others.

    Raises:
        ImageSourceError: As `open_set`.
    """
    found = open_set(name, train=train)
    files = sorted(file for file in found.folder.rglob("*") if file.is_file())
    said = f"{name.lower()}\0{len(found.keys)}\0{version('torchvision')}"
    state = fingerprint([(said, found.folder), *((file.name, file) for file in files)])
    return tuple(
        Part(
            part,
            f"{state} {found.keys[rows.start]}",
            len(rows),
            partial(_read, found, path, rows),
            partial(_names, found, path, rows),
            partial(_labels, found, rows),
        )
        for part, rows in part_rows(len(found.keys))
    )


def labelled_set(
    name: str, mode: str, class_to_idx: Mapping[str, int] | None, *, train: bool
) -> LabelledImages:
    """Images by number: see `retrieval.sources.labelled.open_labelled`.

    Raises:
        ImageSourceError: As `open_set`.
        TrainingError: A class has no number.
    """
    found = open_set(name, train=train)
    return LabelledImages(
        found.labels,
        found.keys,
        runs=[len(found.keys)],
        read=_Pairs(found.images, mode),
        text=f"torchvision:{name}",
        class_to_idx=class_to_idx or {each: i for i, each in enumerate(found.classes)},
    )


class _Pairs:
    """The images of a data set of (image, target) pairs."""

    def __init__(self, images: Any, mode: str) -> None:
        self._images, self._mode = images, mode

    def __call__(self, i: int) -> Image.Image:
        return in_mode(self._images[i][0], self._mode)


def _folder(images: Any, root: Path) -> Path:
    """The set's own, where it has one: of images in two sets, neither may be taken for the other."""
    if hasattr(images, "raw_folder"):
        return Path(images.raw_folder).parent.absolute()
    return (root / getattr(images, "base_folder", "")).absolute()


def _names(found: TorchvisionSet, path: str, rows: Sequence[int]) -> list[tuple[str, str]]:
    return [(found.keys[i], path) for i in rows]


def _labels(found: TorchvisionSet, rows: Sequence[int]) -> list[Labelled]:
    return [(found.keys[i], found.labels[i]) for i in rows]


def _read(found: TorchvisionSet, path: str, rows: Sequence[int]) -> Iterator[Sample | Failure]:
    for i in rows:
        try:
            data = _encoded(found.images[i][0])
        except Exception as error:  # Whatever a data set's own code does.
            yield Failure(found.keys[i], " ".join(str(error).split()) or type(error).__name__)
        else:
            yield Sample(found.keys[i], path, found.labels[i], {}, data)


def _encoded(image: Image.Image) -> bytes:
    """As sources give images; BMP loses nothing and takes microseconds."""
    file = io.BytesIO()
    (image if image.mode == "L" else in_mode(image, "RGB")).save(file, "BMP")
    return file.getvalue()
