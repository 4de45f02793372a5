"""Labelled images in WebDataset shards, for training: found once, then read where they lie."""

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matvit.errors import TrainingError
from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.sources.decode import decode
from retrieval.sources.file_bytes import open_regular
from retrieval.sources.labelled_images import LabelledImages
from retrieval.sources.shard_prefixes import shard_prefixes
from retrieval.sources.shards import locate
from retrieval.sources.tars import Span

_OPEN_SHARDS = 16


def labelled_shards(
    shards: Sequence[Path], text: str, mode: str, class_to_idx: Mapping[str, int] | None
) -> LabelledImages:
    """Images in shards by number: see `retrieval.sources.labelled.open_labelled`.

    Args:
        shards: In order.
        text: What the user calls them.
        mode: ``L`` or ``RGB``.
        class_to_idx: Numbers of the classes; None counts those that are there.

    Raises:
        TrainingError: There are no images, one has no label, or a class has no number.
        ImageSourceError: A shard cannot be read.
    """
    keys: list[str] = []
    labels: list[str] = []
    spans: list[tuple[int, int, int]] = []
    runs = []
    prefixes = shard_prefixes([Path(os.path.realpath(shard.parent)) / shard.name for shard in shards])
    for number, (shard, prefix) in enumerate(zip(shards, prefixes, strict=True)):
        before = len(keys)
        for key, label, span in _located(shard):
            if label is None:
                raise TrainingError(f"{key} has no .cls member: training needs labels")
            keys.append(prefix + key)
            labels.append(label)
            spans.append((number, span.offset, span.size))
        runs.append(len(keys) - before)
    read = _Members(shards, np.array(spans, dtype=np.int64).reshape(-1, 3), mode)
    return LabelledImages(labels, keys, runs=runs, read=read, text=text, class_to_idx=class_to_idx)


def _located(shard: Path) -> list[tuple[str, str | None, Span]]:
    try:
        return list(locate(shard))
    except UnreadableImageError as error:
        raise ImageSourceError(f"{shard}: {error}") from error


class _Members:
    """Images in shards by number, read where they lie; a few shards stay open."""

    def __init__(self, shards: Sequence[Path], spans: NDArray[np.int64], mode: str) -> None:
        self._shards, self._spans, self._mode = shards, spans, mode
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __call__(self, i: int) -> Image.Image:
        shard, offset, size = self._spans[i].tolist()
        if shard not in self._open:
            if len(self._open) == _OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
            self._open[shard] = open_regular(self._shards[shard])
        self._open.move_to_end(shard)
        # Not seek and read: worker processes that were forked share the place in an open file.
        return decode(os.pread(self._open[shard].fileno(), size, offset), mode=self._mode)

    def __del__(self) -> None:
        for file in self._open.values():
            file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # Open files do not travel.
