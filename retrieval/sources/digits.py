"""scikit-learn's handwritten digits as real image files: the demo's corpus and queries, offline."""

from pathlib import Path

import numpy as np
from PIL import Image

from matvit.files.full_disk import naming
from retrieval.errors import MissingExtraError

_DIRECTIONS = {
    **{"n": (0, -1), "e": (1, 0), "s": (0, 1), "w": (-1, 0)},
    **{"ne": (1, -1), "se": (1, 1), "sw": (-1, 1), "nw": (-1, -1)},
}
"""Pixels to the right and down."""


def write_digits(folder: Path) -> tuple[Path, Path]:
    """Write the 1,797 digits, 8 x 8 grey PNG files in one subfolder a class, split 80/20 by class.

    The split is scikit-learn's stratified one with ``random_state=0``; training sees only the 80 %.

    Returns:
        The folders ``train`` (1,437 images, also the demo's corpus) and ``test`` (360, its queries).

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "the demo needs scikit-learn: in the clone of matvit, pip install -e '.[demo]'"
        ) from error
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    rows = np.arange(len(pixels))
    train, test = train_test_split(rows, test_size=0.2, stratify=digits.target, random_state=0)
    for split, chosen in (("train", train), ("test", test)):
        for row in chosen:
            class_folder = folder / split / str(digits.target[row])
            class_folder.mkdir(parents=True, exist_ok=True)
            with naming(class_folder):
                Image.fromarray(pixels[row]).save(class_folder / f"{row:04d}.png")
    return folder / "train", folder / "test"


def write_off_centre(digits: Path, folder: Path) -> Path:
    """Write copies of digits that `write_digits` wrote, each moved by a pixel in each of eight directions.

    Training moved its images by less, so that these are harder than the digits as they are.

    Args:
        digits: Those to copy, in one subfolder a class.
        folder: Where to; ``2/0051-sw.png`` is the digit ``2/0051.png``, moved down and to the left.
    """
    for file in sorted(digits.glob("*/*.png")):
        class_folder = folder / file.parent.name
        class_folder.mkdir(parents=True, exist_ok=True)
        with naming(class_folder), Image.open(file) as digit:
            for name, (right, down) in _DIRECTIONS.items():
                moved = digit.transform(digit.size, Image.Transform.AFFINE, (1, 0, -right, 0, 1, -down))
                moved.save(class_folder / f"{file.stem}-{name}.png")
    return folder
