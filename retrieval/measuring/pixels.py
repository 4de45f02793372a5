"""1-NN on raw pixels: the floor that any encoder must beat."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from indexes.faiss_kinds.search import nearest
from retrieval.errors import EvaluationError, UnreadableImageError
from retrieval.measuring.estimate import Share
from retrieval.measuring.neighbours import LabelledRows
from retrieval.sources.open_images import ImageSource, decode
from retrieval.sources.sample import Sample


def raw_pixel_1nn(corpus: ImageSource, queries: ImageSource) -> dict[str, Share]:
    """1-NN accuracy of grey values, by Euclidean distance and by cosine.

    Args:
        corpus: Labelled images, all of one size.
        queries: Labelled images of that size; those that lie in the corpus are searched without themselves.

    Returns:
        ``euclidean`` and ``cosine``.

    Raises:
        EvaluationError: There are no labelled images, their sizes differ, or no query's label is that of
            another image of the corpus.
    """
    pixels_NHW, known = _pixels(corpus)
    asked_QHW, samples = _pixels(queries)
    if pixels_NHW.shape[1:] != asked_QHW.shape[1:]:
        raise EvaluationError("raw pixels can only be compared between images of one size")
    rows, asked = pixels_NHW.reshape(len(known), -1), asked_QHW.reshape(len(samples), -1)
    found = {
        "euclidean": nearest(asked, rows, 2, metric="euclidean"),
        "cosine": nearest(_unit(asked), _unit(rows), 2),
    }
    labels = LabelledRows.of(known)
    there = labels.relevant(samples) > 0  # Whatever the others find is wrong.
    asked_of = [sample for sample, has_others in zip(samples, there, strict=True) if has_others]
    if not asked_of:
        raise EvaluationError("none of the queries' labels is that of another image of the corpus")
    return {name: Share(labels.correct(asked_of, ids[there]), len(asked_of)) for name, ids in found.items()}


def _pixels(source: ImageSource) -> tuple[NDArray[np.float32], list[Sample]]:
    images: list[NDArray[np.uint8]] = []
    samples: list[Sample] = []
    for sample in _labelled(source):
        try:
            images.append(np.asarray(decode(sample.data, mode="L")))
        except UnreadableImageError:
            continue  # The encoder could not read it either, and has reported it.
        samples.append(sample)
    if len({image.shape for image in images}) != 1:
        raise EvaluationError(f"raw pixels need labelled images of one size; {source.text} has others")
    return np.stack(images).astype(np.float32), samples


def _labelled(source: ImageSource) -> Sequence[Sample]:
    items = (item for part in source.parts for item in part.read())
    return [item for item in items if isinstance(item, Sample) and item.label is not None]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.divide(rows, norms, dtype=np.float32)
