"""Images drawn from a source: some to fit to, others to check on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matvit.files.full_disk import naming
from matvit.progress import Count, Progress, silent
from matvit.submodels.submodel import Submodel
from retrieval.encoding.batches import batches
from retrieval.encoding.encoder import Encoder
from retrieval.errors import ImageSourceError
from retrieval.sources.open_images import open_source
from retrieval.sources.sample import Failure, Part, Sample

BATCH = 32


@dataclass(frozen=True)
class Rows:
    """Some of many images (C, H, W), by row; from a file, each is read as it is needed.

    Args:
        of: All of them, (N, C, H, W).
        rows: Which of them.
    """

    of: Tensor
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Tensor:
        return self.of[int(self.rows[row])]

    def __iter__(self) -> Iterator[Tensor]:
        return (self.of[int(row)] for row in self.rows)

    def first(self, count: int) -> "Rows":
        """The first of them, so many at most."""
        return Rows(self.of, self.rows[:count])

    def batches(self) -> tuple[Tensor, ...]:
        """All of them, (B, C, H, W), in memory."""
        return _stacked([*self])


@dataclass(frozen=True)
class DrawnImages:
    """Preprocessed images to fit to and to check on.

    Attributes:
        fit: Those to fit to.
        check: The others, in batches (B, C, H, W).
        labels: Of `check`, where the source has them; None where one is missing.
        failures: What could not be read.
        resized: `check` at other sizes, by the pixels of a side.
    """

    fit: Rows
    check: tuple[Tensor, ...]
    labels: NDArray[np.str_] | None
    failures: tuple[Failure, ...]
    resized: Mapping[int, tuple[Tensor, ...]] = field(default_factory=dict)

    def check_for(self, submodel: Submodel) -> tuple[Tensor, ...]:
        """The images to check on at the size that a submodel reads."""
        return self.check if submodel.image_size is None else self.resized[submodel.image_size]

    def digest(self, count: int) -> str:
        """What identifies the first images to fit to, and those to check on."""
        digest = sha256()
        for images in chain(self.fit.first(count), self.check):
            digest.update(images.contiguous().view(torch.uint8).numpy().data)
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
        directory: Path | None = None,
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
            directory: Where the pixels lie while they are in use, in a file without a name; None is
                memory.
            progress: Told of the images that are read.

        Raises:
            ImageSourceError: There is no such source, or it has fewer than four images that can be read.
        """
        draws, wanted = np.random.default_rng(seed), fit + check
        parts = open_source(text, known=partial(_not_drawn, draws, wanted)).parts
        parts = tuple(_first(part, -(-wanted // len(parts))) for part in parts)
        count = Count(progress, "images read", wanted)
        samples: list[Sample] = []
        pixels = _Pixels(directory)
        contents: list[str] = []
        failures: list[Failure] = []
        for batch in batches(parts, encoder, batch_size=BATCH, workers=workers):
            samples += batch.samples
            pixels.add(batch.images)
            contents += batch.contents
            failures += batch.failures
            count(len(batch.samples) + len(batch.failures))
        images = pixels.joined()
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
            Rows(images, fitted),
            Rows(images, checked).batches(),
            None if None in labels else np.array(labels),
            tuple(failures),
            _resized(parts, encoder, [contents[i] for i in checked], submodels, workers),
        )


class _Pixels:
    """Batches of images that become one tensor, in memory or mapped from a file."""

    def __init__(self, directory: Path | None) -> None:
        # Without a name, so that nothing is left of it once it is closed, or the process is killed.
        self._file = TemporaryFile(dir=directory) if directory else None  # noqa: SIM115
        self._directory, self._batches = directory, list[Tensor]()
        self._like, self._count = torch.empty(0), 0

    def add(self, images: Tensor) -> None:
        """Append a batch (B, C, H, W); an empty one has no shape."""
        if not len(images):
            return
        self._like, self._count = images[0], self._count + len(images)
        if self._file is None or self._directory is None:
            self._batches.append(images)
            return
        with naming(self._directory):
            self._file.write(images.contiguous().view(torch.uint8).numpy().data)
            self._file.flush()

    def joined(self) -> Tensor:
        """All of them, (N, C, H, W)."""
        if not self._count:
            return self._like
        if self._file is None:
            return torch.cat(self._batches)
        whole = torch.from_numpy(np.memmap(self._file, np.uint8, "c"))
        self._file.close()  # What is mapped stays.
        return whole.view(self._like.dtype).view(self._count, *self._like.shape)


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
