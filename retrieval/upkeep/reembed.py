"""Whether an index still holds what its encoder makes of its images."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from matvit.progress import Count, Progress, silent
from retrieval.errors import UnreadableImageError
from retrieval.searcher import Searcher
from retrieval.sources.originals import originals

SAME_COSINE = 0.99
"""What bf16 in place of fp32, or another processor, leaves at least (0.9995 was the worst seen)."""


@dataclass(frozen=True)
class Reembedded:
    """Some rows, embedded once more.

    Attributes:
        cosines: Of the stored vector with the new one, by key.
        failures: Key and reason of images that could not be embedded again.
    """

    cosines: dict[str, float]
    failures: tuple[tuple[str, str], ...]

    @property
    def changed(self) -> dict[str, float]:
        """Those whose image is another now, or whose encoder computes something else."""
        return {key: cosine for key, cosine in self.cosines.items() if cosine < SAME_COSINE}

    @property
    def worst(self) -> tuple[str, float]:
        """The key whose vector differs most, and its cosine."""
        return min(self.cosines.items(), key=lambda pair: pair[1])


def reembed(
    searcher: Searcher,
    count: int,
    *,
    seed: int | None = None,
    progress: Progress = silent,
) -> Reembedded:
    """Embed random rows of an index again, with the full encoder, from where their images were.

    Args:
        searcher: The index and its encoder.
        count: How many, at most.
        seed: Of the choice; None is another one every time.
        progress: Told of images embedded.
    """
    store = searcher.index
    count = min(count, len(store))
    chosen = np.sort(np.random.default_rng(seed).choice(len(store), count, replace=False))
    entries = store.entries(["key", "path"]).take(pa.array(chosen)).to_pylist()
    chosen_keys = [entry["key"] for entry in entries]
    stored = dict(zip(chosen_keys, store.vectors_of(chosen_keys), strict=True))
    by_path: dict[str, list[str]] = {}
    for entry in entries:
        by_path.setdefault(entry["path"], []).append(entry["key"])
    embedded = Count(progress, "images embedded", count)
    cosines: dict[str, float] = {}
    failures: list[tuple[str, str]] = []
    for path, keys in by_path.items():
        left = dict.fromkeys(keys, f"no longer at {path}")
        for key, image in originals(path, keys):
            try:
                again = searcher.encoder.embed(torch.stack([searcher.encoder.preprocess(image)]))[0]
            except UnreadableImageError as error:
                left[key] = str(error)
                continue
            del left[key]
            cosines[key] = float(again @ stored[key] / np.linalg.norm(stored[key]))
        failures += left.items()
        embedded(len(keys))
    return Reembedded(cosines, tuple(failures))
