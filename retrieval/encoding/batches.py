"""Parts to batches of preprocessed images, decoded by other processes while the encoder is at work."""

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from matvit.submodels.submodel import Submodel
from retrieval.encoding.encoder import Encoder
from retrieval.encoding.preprocess import Preprocess
from retrieval.encoding.workers import Sent, in_processes
from retrieval.errors import UnreadableImageError
from retrieval.sources.photo import photo_columns
from retrieval.sources.sample import Failure, Part, Sample, content_of

_FEW_IMAGES = 256
"""So many are decoded before other processes would have started."""
_MAX_WORKERS = 16


@dataclass
class Batch:
    """Consecutive images of a part, those that could be read and what could not.

    Attributes:
        part: Number of the part.
        last: Whether it is the part's last batch.
        samples: One a row of `images`, without their encoded bytes.
        images: Preprocessed, (B, C, H, W); B may be 0.
        resized: The same at other sizes, by the pixels of a side.
        contents: Hashes of the encoded images, in hexadecimal: the same bytes have the same one.
        failures: What could not be read.
        known: Images that need no embedding, with their hashes: they are not decoded.
    """

    part: int
    last: bool
    samples: list[Sample] = field(default_factory=list)
    images: Tensor = field(default_factory=lambda: torch.empty(0))
    resized: dict[int, Tensor] = field(default_factory=dict)
    contents: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    known: list[tuple[Sample, str]] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        resized = {size: Sent(images) for size, images in self.resized.items()}
        return self.__dict__ | {"images": Sent(self.images), "resized": resized}

    def images_for(self, submodel: Submodel) -> Tensor:
        """The images at the size that a submodel reads."""
        return self.images if submodel.image_size is None else self.resized[submodel.image_size]


def batches(
    parts: Sequence[Part],
    encoder: Encoder,
    *,
    batch_size: int,
    workers: int | None = None,
    known: Container[str] = (),
    photos: bool = False,
    submodels: Iterable[Submodel] = (),
) -> Iterator[Batch]:
    """The images of parts in their own order; no batch holds images of two parts, and every part has one.

    Args:
        parts: Read in this process, one after the other.
        encoder: Whose preprocessing the images get.
        batch_size: Images a batch; the last of a part may hold fewer.
        workers: Processes that decode; 0 decodes in this one, None is one a core, or 0 for few images.
        known: Hashes of images that need no embedding; can be pickled.
        photos: Let samples that are files of their own carry what `retrieval.sources.photo` tells of them.
        submodels: The images come at the sizes that these read, too.
    """
    if workers is None:
        few = all(part.size is not None for part in parts)
        few = few and sum(part.size or 0 for part in parts) <= _FEW_IMAGES
        workers = 0 if few else min(cores(), _MAX_WORKERS)
    resized = {
        submodel.image_size: encoder.preprocess_for(submodel)
        for submodel in submodels
        if submodel.image_size is not None
    }
    decode = _Decode(encoder.preprocess, resized, encoder.dtype, known, photos)
    tasks = _tasks(parts, batch_size)
    device = encoder.device.type
    if workers:
        made = in_processes(decode, tasks, workers=workers, gives_way=device == "cpu")
    else:
        made = map(decode, tasks)
    for batch in made:
        if device == "cuda":
            # Where the GPU fetches it faster.
            batch.images = batch.images.pin_memory()
            batch.resized = {size: images.pin_memory() for size, images in batch.resized.items()}
        yield batch


@dataclass(frozen=True)
class _Task:
    part: int
    items: list[Sample | Failure]
    last: bool


def _tasks(parts: Sequence[Part], batch_size: int) -> Iterator[_Task]:
    """The batches to make, in order."""
    for number, part in enumerate(parts):
        items = iter(part.read())
        now = list(islice(items, batch_size))
        while following := list(islice(items, batch_size)):
            yield _Task(number, now, last=False)
            now = following
        yield _Task(number, now, last=True)


class _Decode:
    """A task's samples to a batch."""

    def __init__(
        self,
        preprocess: Preprocess,
        resized: Mapping[int, Preprocess],
        dtype: torch.dtype,
        known: Container[str],
        photos: bool,
    ) -> None:
        self._preprocess, self._resized, self._dtype = preprocess, resized, dtype
        self._known, self._photos = known, photos

    def __call__(self, task: _Task) -> Batch:
        batch, tensors = Batch(task.part, task.last), []
        resized: dict[int, list[Tensor]] = {size: [] for size in self._resized}
        for item in task.items:
            if isinstance(item, Failure):
                batch.failures.append(item)
                continue
            content, sample = content_of(item.data), self._told(item)
            if content in self._known:
                batch.known.append((sample, content))
                continue
            try:
                image = self._preprocess.read(item.data)
                tensors.append(self._preprocess.tensor(image))
                for size, preprocess in self._resized.items():
                    resized[size].append(preprocess.tensor(image))
            except UnreadableImageError as error:
                batch.failures.append(Failure(item.key, str(error)))
                continue
            batch.contents.append(content)
            batch.samples.append(sample)
        if tensors:
            batch.images = torch.stack(tensors).to(self._dtype)
            batch.resized = {size: torch.stack(made).to(self._dtype) for size, made in resized.items()}
        return batch

    def _told(self, sample: Sample) -> Sample:
        """A sample without its encoded bytes, which a million rows must not carry along."""
        extra = sample.extra
        if self._photos and sample.is_file:
            extra = {**photo_columns(sample.data), **extra}
        return replace(sample, data=b"", extra=extra)

    def divided(self, task: _Task) -> list[_Task]:
        return [replace(task, items=[item]) for item in task.items]

    def joined(self, batches: Sequence[Batch]) -> Batch:
        whole = Batch(batches[-1].part, batches[-1].last)
        for batch in batches:
            whole.samples += batch.samples
            whole.contents += batch.contents
            whole.known += batch.known
            whole.failures += batch.failures
        if some := [batch for batch in batches if batch.samples]:
            whole.images = torch.cat([batch.images for batch in some])
            whole.resized = {
                size: torch.cat([batch.resized[size] for batch in some]) for size in self._resized
            }
        return whole

    def lost(self, item: _Task) -> Batch:
        reason = "decoding it was killed, or crashed: it may take more memory than there is"
        return Batch(item.part, item.last, failures=[Failure(each.key, reason) for each in item.items])


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
