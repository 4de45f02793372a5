"""torchvision's sets as a source, by name."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.errors import ImageSourceError
from retrieval.sources.sample import encoded_images, none_known, printable
from retrieval.sources.source import ImageSource, Source

if TYPE_CHECKING:
    from retrieval.sources.excludes import Excludes
    from retrieval.sources.labelled_images import LabelledImages
    from retrieval.sources.sample import Known, Part

_SCHEME = "torchvision:"
_FORM = re.compile(rf"{_SCHEME}(\w+)(?:/(train|test|validation))?", re.ASCII)


class TorchvisionSource(Source):
    """``torchvision:NAME`` or ``torchvision:NAME/train``, and ``/test`` or ``/validation`` for the others."""

    help = "torchvision:NAME for a set's training images, torchvision:NAME/test for the others"
    summary = "torchvision:NAME or torchvision:NAME/test"

    def recognises(self, text: str) -> bool:
        """Whether it begins like these; what follows may be wrong."""
        return text.startswith(_SCHEME)

    def open(self, text: str, known: "Known", excludes: "Excludes") -> ImageSource:
        """Parts of one split, which is known whole."""
        named_after = Path(text.removeprefix(_SCHEME))
        return ImageSource(text, self.location(text), named_after, _parts(text, known))

    def location(self, text: str) -> str:
        """The text: a set lies in the cache."""
        return text

    def holds(self, path: str) -> bool:
        """Whether it is the path of images of such a set."""
        return self.recognises(path)

    def images(self, path: str) -> Iterator[tuple[str, bytes]]:
        """Those of one split."""
        return encoded_images(_parts(path, none_known))

    def own_key(self, path: str, key: str) -> str:
        """The split and the number of the image."""
        return key[max(0, key.rfind(f"{path.rpartition('/')[2]}/")) :]

    def labelled(
        self, text: str, mode: str, class_to_idx: Mapping[str, int] | None
    ) -> "LabelledImages | None":
        """Images of one split."""
        from matvit.errors import TrainingError
        from retrieval.sources.torchvision_sets import labelled_set

        try:
            name, split = _parsed(text)
            return labelled_set(name, mode, class_to_idx, train=split == "train")
        except ImageSourceError as error:
            raise TrainingError(str(error)) from error

    def splits(self, text: str) -> tuple[str, str | None]:
        """The training images and the others, or the split that is named alone."""
        form = _FORM.fullmatch(text)
        whole = form is not None and form[2] is None
        return (f"{text}/train", f"{text}/test") if whole else (text, None)


def _parsed(text: str) -> tuple[str, str]:
    """The name of a set as it is written, and ``train`` or ``test``."""
    form = _FORM.fullmatch(text)
    if form is None:
        said = " ".join(printable(text).split())
        raise ImageSourceError(
            f"{said}: no set of torchvision's; write torchvision:cifar10 or torchvision:cifar10/test"
        )
    return form[1], "train" if form[2] in (None, "train") else "test"


def _parts(text: str, known: "Known") -> "tuple[Part, ...]":
    from retrieval.sources.torchvision_sets import set_parts

    name, split = _parsed(text)
    path = f"{_SCHEME}{name.lower()}/{split}"
    return () if known([path]).all() else set_parts(name, path, train=split == "train")
