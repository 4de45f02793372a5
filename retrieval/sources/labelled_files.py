"""Labelled image files for training: one subfolder a class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from retrieval.sources.decode import decode
from retrieval.sources.file_bytes import read_regular
from retrieval.sources.labelled_images import LabelledImages


def labelled_files(
    folder: Path, keys: Sequence[str], text: str, mode: str, class_to_idx: Mapping[str, int] | None
) -> LabelledImages:
    """Image files by number: see `retrieval.sources.labelled.open_labelled`.

    Args:
        folder: Where they are.
        keys: Paths relative to it, POSIX; what is before the first slash is the class.
        text: What the user calls the folder.
        mode: ``L`` or ``RGB``.
        class_to_idx: Numbers of the classes; None counts those that are there.

    Raises:
        TrainingError: There are none, or a class has no number.
    """
    labels = [key.partition("/")[0] for key in keys]
    read = _Files(folder, keys, mode)
    return LabelledImages(labels, keys, runs=[len(keys)], read=read, text=text, class_to_idx=class_to_idx)


class _Files:
    """Image files by number."""

    def __init__(self, folder: Path, keys: Sequence[str], mode: str) -> None:
        self._folder, self._keys, self._mode = folder, keys, mode

    def __call__(self, i: int) -> Image.Image:
        return decode(read_regular(self._folder / self._keys[i]), mode=self._mode)
