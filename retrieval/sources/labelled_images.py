"""Images with class numbers, read by number, wherever they lie."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matvit.errors import TrainingError
from retrieval.errors import UnreadableImageError


class LabelledImages:
    """Images with class numbers: see `matvit.training.augment.LabelledImages`, which trainers ask for.

    Args:
        labels: Of each image, in order.
        keys: What the images are called, all of them different.
        runs: Images that lie together.
        read: Number of an image -> the open image. Picklable, for worker processes.
        text: What the user calls them, for messages.
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
        text: str,
        class_to_idx: Mapping[str, int] | None = None,
    ) -> None:
        if not labels:
            raise TrainingError(f"no images in class folders under {text}")
        names = sorted(set(labels), key=lambda name: (int(name) if name.isdecimal() else -1, name))
        self.class_to_idx = class_to_idx or {name: i for i, name in enumerate(names)}
        if unknown := set(names) - self.class_to_idx.keys():
            raise TrainingError(f"{text} has a class that training does not know: {min(unknown)!r}")
        self.runs, self._keys, self._read, self._text = tuple(runs), keys, read, text
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
            image = f"{self._text}/{self._keys[i]}"
            raise TrainingError(f"{image}: {error}; remove it and train again") from error
