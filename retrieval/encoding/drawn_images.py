"""Images drawn from a source: some to fit to, others to check on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matvit.progress import Count, Progress, silent
from matvit.submodels.submodel import Submodel
from retrieval.encoding.batches import batches
from retrieval.encoding.encoder import Encoder
from retrieval.errors import ImageSourceError
from retrieval.sources.open_images import open_source
from retrieval.sources.sample import Failure, Part, Sample

BATCH = 32


@dataclass(frozen=True)
class DrawnImages:
    """Preprocessed images to fit to and to check on.

    Attributes:
        fit: In batches (B, C, H, W).
        check: The others, likewise.
        labels: Of `check`, where the source has them; None where one is missing.
        failures: What could not be read.
        resized: `check` at other sizes, by the pixels of a side.
    """

    fit: tuple[Tensor, ...]
    check: tuple[Tensor, ...]
    labels: NDArray[np.str_] | None
    failures: tuple[Failure, ...]
    resized: Mapping[int, tuple[Tensor, ...]] = field(default_factory=dict)

    def check_for(self, submodel: Submodel) -> tuple[Tensor, ...]:
        """The images to check on at the size that a submodel reads."""
        return self.check if submodel.image_size is None else self.resized[submodel.image_size]

    def first(self, count: int) -> tuple[Tensor, ...]:
        """The first images to fit to, so many at most, in batches."""
        taken = [batch[: max(0, count - start * BATCH)] for start, batch in enumerate(self.fit)]
        return tuple(batch for batch in taken if len(batch))

    def digest(self, count: int) -> str:
        """What identifies the first images to fit to, and those to check on."""
        digest = sha256()
        for batch in (*self.first(count), *self.check):
            digest.update(batch.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @classmethod
    def read(
        cls,
        text: str,
        encoder: Encoder,
        *,
        fit: int,
        check: int,
        submodels: Sequence[Submodel] = (),
        seed: int = 0,
        workers: int | None = None,
        progress: Progress = silent,
    ) -> "DrawnImages":
        """Draw images from a source, of which only those drawn are read, or the first of each shard.

        Args:
            text: See `retrieval.sources.open_images.open_source`.
            encoder: Whose preprocessing they get.
            fit: Images to fit to, at most; a fifth of those there are is always left to check on.
            check: Images to check on, at most.
            submodels: The images to check on come at the sizes that these read, too.
            seed: Of the draw.
            workers: Processes that decode: see `retrieval.encoding.batches`.
            progress: Told of the images that are read.

        Raises:
            ImageSourceError: There is no such source, or it has fewer than four images that can be read.
        """
        draws, wanted = np.random.default_rng(seed), fit + check
        parts = open_source(text, known=partial(_not_drawn, draws, wanted)).parts
        parts = tuple(_first(part, -(-wanted // len(parts))) for part in parts)
        count = Count(progress, "images read", wanted)
        samples: list[Sample] = []
        images: list[Tensor] = []
        contents: list[str] = []
        failures: list[Failure] = []
        for batch in batches(parts, encoder, batch_size=BATCH, workers=workers):
            samples += batch.samples
            images += batch.images
            contents += batch.contents
            failures += batch.failures
            count(len(batch.samples) + len(batch.failures))
        if len(images) < 4:
            raise ImageSourceError(
                f"{text}: {len(images)} images that can be read are too few to fit and to check; "
                "give a few hundred"
            )
        mixed = draws.permutation(len(images))
        held_out = min(check, max(2, len(images) // 5, len(images) - fit))
        checked, fitted = mixed[:held_out], mixed[held_out:][:fit]
        labels = [samples[i].label for i in checked]
        return cls(
            _stacked([images[i] for i in fitted]),
            _stacked([images[i] for i in checked]),
            None if None in labels else np.array(labels),
            tuple(failures),
            _resized(parts, encoder, [contents[i] for i in checked], submodels, workers),
        )


def _resized(
    parts: Sequence[Part],
    encoder: Encoder,
    contents: Sequence[str],
    submodels: Sequence[Submodel],
    workers: int | None,
) -> dict[int, tuple[Tensor, ...]]:
    """Images of these contents at other sizes, in this order; they are read again, and no others decoded."""
    sizes = {submodel.image_size for submodel in submodels if submodel.image_size is not None}
    found: dict[int, dict[str, Tensor]] = {size: {} for size in sizes}
    others = _AllBut(frozenset(contents))
    again = batches(parts, encoder, batch_size=BATCH, workers=workers, known=others, submodels=submodels)
    for batch in again if sizes else ():
        for size, images in batch.resized.items():
            found[size] |= zip(batch.contents, images, strict=True)
    return {size: _stacked([images[content] for content in contents]) for size, images in found.items()}


@dataclass(frozen=True)
class _AllBut:
    """Every content but some."""

    some: frozenset[str]

    def __contains__(self, content: object) -> bool:
        return content not in self.some


def _stacked(images: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(images[start : start + BATCH]) for start in range(0, len(images), BATCH))


def _not_drawn(draws: np.random.Generator, count: int, paths: Sequence[str]) -> NDArray[np.bool_]:
    """For a source that leaves out what is known: all but so many files."""
    left_out = np.ones(len(paths), dtype=bool)
    left_out[draws.permutation(len(paths))[:count]] = False
    return left_out


def _first(part: Part, count: int) -> Part:
    return replace(part, read=partial(_read_first, part, count), size=min(part.size or count, count))


def _read_first(part: Part, count: int) -> Iterator[Sample | Failure]:
    yield from islice(part.read(), count)
