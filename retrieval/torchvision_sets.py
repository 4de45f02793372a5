"""torchvision's sets of labelled images, as timm names them, downloaded to the cache."""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from retrieval.decode import in_mode
from retrieval.errors import ImageSourceError
from retrieval.folders import fingerprint, part_rows
from retrieval.samples import Failure, Known, Part, Sample, none_known

TORCHVISION = "torchvision:"
_FORM = re.compile(r"torchvision:(\w+)(?:/(train|test|validation))?", re.ASCII)


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


def open_set(text: str, *, train: bool) -> TorchvisionSet:
    """The training or the other images of ``torchvision:NAME``.

    Raises:
        ImageSourceError: There is no such set, it cannot be downloaded, or its images have no labels.
    """
    from timm.data import create_dataset

    from matvit.cache import cache_dir  # Loads torch, like timm.

    root = cache_dir() / "torchvision"
    try:
        images = create_dataset(
            f"torch/{text.removeprefix(TORCHVISION).lower()}",
            root=str(root),
            split="train" if train else "validation",
            download=True,
        )
    except Exception as error:  # Whatever a data set's own code and its server do.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageSourceError(f"{text}: {reason}; torchvision keeps its sets in {root}") from error
    try:
        classes = [str(name) for name in images.classes]
        labels = [classes[int(target)] for target in images.targets]
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ImageSourceError(f"{text}: not a set with one class an image; take another") from error
    split = "train" if train else "test"
    keys = [f"{split}/{i}" for i in range(len(labels))]
    return TorchvisionSet(images, labels, keys, classes, _folder(images, root))


def set_parts(text: str, known: Known = none_known) -> tuple[Part, ...]:
    """Parts of `folders.PART_SIZE` images each.

    Args:
        text: ``torchvision:NAME`` or ``torchvision:NAME/train`` for the training images, ``/test`` or
            ``/validation`` for the others.
        known: See `retrieval.images.open_source`; a split is known whole, by the text that opens it.

    Raises:
        ImageSourceError: As `open_set`, or the text is of another form.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise ImageSourceError(
            f"{text!r} is no set of torchvision's; write torchvision:cifar10 or torchvision:cifar10/test"
        )
    train = form[2] in (None, "train")
    place = f"{TORCHVISION}{form[1].lower()}/{'train' if train else 'test'}"
    if known([place]).all():
        return ()
    found = open_set(f"{TORCHVISION}{form[1]}", train=train)
    files = sorted(file for file in found.folder.rglob("*") if file.is_file())
    said = f"{form[1].lower()}\0{len(found.keys)}\0{version('torchvision')}"
    state = fingerprint([(said, found.folder), *((file.name, file) for file in files)])
    return tuple(
        Part(
            name,
            f"{state} {found.keys[rows.start]}",
            len(rows),
            partial(_read, found, place, rows),
            partial(_names, found, place, rows),
        )
        for name, rows in part_rows(len(found.keys))
    )


def _folder(images: Any, root: Path) -> Path:
    """The set's own, where it has one: of images in two sets, neither may be taken for the other."""
    if hasattr(images, "raw_folder"):
        return Path(images.raw_folder).parent.absolute()
    return (root / getattr(images, "base_folder", "")).absolute()


def _names(found: TorchvisionSet, place: str, rows: Sequence[int]) -> list[tuple[str, str]]:
    return [(found.keys[i], place) for i in rows]


def _read(found: TorchvisionSet, place: str, rows: Sequence[int]) -> Iterator[Sample | Failure]:
    for i in rows:
        try:
            data = _encoded(found.images[i][0])
        except Exception as error:  # Whatever a data set's own code does.
            yield Failure(found.keys[i], " ".join(str(error).split()) or type(error).__name__)
        else:
            yield Sample(found.keys[i], place, found.labels[i], {}, data)


def _encoded(image: Image.Image) -> bytes:
    """As sources give images; BMP loses nothing and takes microseconds."""
    file = io.BytesIO()
    (image if image.mode == "L" else in_mode(image, "RGB")).save(file, "BMP")
    return file.getvalue()
