"""1-NN on raw pixels: the floor that any encoder must beat."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from indexes.search import nearest
from retrieval.errors import EvaluationError, UnreadableImageError
from retrieval.images import ImageSource, decode
from retrieval.intervals import Share
from retrieval.samples import Sample


def raw_pixel_1nn(corpus: ImageSource, queries: ImageSource) -> dict[str, Share]:
    """1-NN accuracy of grey values, by Euclidean distance and by cosine.

    Args:
        corpus: Labelled images, all of one size.
        queries: Labelled images of that size, none of which lies in the corpus.

    Returns:
        ``euclidean`` and ``cosine``.

    Raises:
        EvaluationError: There are no labelled images, or their sizes differ.
    """
    rows, labels = _pixels(corpus)
    asked, wanted = _pixels(queries)
    if rows.shape[1] != asked.shape[1]:
        raise EvaluationError("raw pixels can only be compared between images of one size")
    correct = {
        "euclidean": nearest(asked, rows, 1, metric="euclidean"),
        "cosine": nearest(_unit(asked), _unit(rows), 1),
    }
    return {
        name: Share(int((labels[ids[:, 0]] == wanted).sum()), len(wanted)) for name, ids in correct.items()
    }


def _pixels(source: ImageSource) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    images: list[NDArray[np.uint8]] = []
    labels: list[str] = []
    for sample in _labelled(source):
        try:
            images.append(np.asarray(decode(sample.data, mode="L")))
        except UnreadableImageError:
            continue  # The encoder could not read it either, and has reported it.
        labels.append(str(sample.label))
    if len({image.shape for image in images}) != 1:
        raise EvaluationError(f"raw pixels need labelled images of one size; {source.text} has others")
    return np.stack(images).reshape(len(images), -1).astype(np.float32), np.array(labels)


def _labelled(source: ImageSource) -> Sequence[Sample]:
    items = (item for part in source.parts for item in part.read())
    return [item for item in items if isinstance(item, Sample) and item.label is not None]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.divide(rows, norms, dtype=np.float32)
