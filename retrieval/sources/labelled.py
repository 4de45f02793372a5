"""Labelled images for training, from every kind of source that has them."""

from collections.abc import Mapping
from pathlib import Path

from matvit.errors import TrainingError
from retrieval.errors import NotLocalError
from retrieval.sources.all_sources import kind_of, with_remedy
from retrieval.sources.labelled_images import LabelledImages
from retrieval.sources.local_paths import check_local

__all__ = ["LabelledImages", "open_labelled", "splits"]


def open_labelled(
    text: str | Path, mode: str, *, class_to_idx: Mapping[str, int] | None = None
) -> LabelledImages:
    """Labelled images from where a user says they are.

    Args:
        text: A folder with a subfolder a class, a folder of shards, shards such as ``x-{000..009}.tar``, or
            ``torchvision:NAME``, which is downloaded to the cache, for its training images,
            ``torchvision:NAME/test`` for the others.
        mode: ``L`` or ``RGB``.
        class_to_idx: Numbers of the classes; None counts those that are there.

    Raises:
        TrainingError: There are no labelled images, or a class has no number.
        ImageSourceError: A shard cannot be read.
    """
    text = str(text)
    kind = kind_of(text)
    try:
        if kind is None:
            check_local(text)
        elif (images := kind.labelled(text, mode, class_to_idx)) is not None:
            return images
    except NotLocalError as error:
        raise with_remedy(error) from error
    raise TrainingError(f"no images in class folders under {text}")


def splits(text: str) -> tuple[str, str | None]:
    """What names the images of a source to train on, and those held out, if any are."""
    kind = kind_of(text)
    return (text, None) if kind is None else kind.splits(text)
