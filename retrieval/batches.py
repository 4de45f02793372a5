"""Parts to batches of preprocessed images, decoded by other processes while the encoder is at work."""

import ctypes
import gc
import os
import signal
import sys
import warnings
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retrieval.encoder import Encoder
from retrieval.errors import UnreadableImageError
from retrieval.preprocess import Preprocess
from retrieval.samples import Failure, Part, Sample, content_of

_FEW_IMAGES = 256
"""So many are decoded before other processes would have started."""
_MAX_WORKERS = 16
_NICEST = 19
_PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent dies


@dataclass
class Batch:
    """Consecutive images of a part, those that could be read and what could not.

    Attributes:
        part: Number of the part.
        last: Whether it is the part's last batch.
        samples: One a row of `images`, without their encoded bytes.
        images: Preprocessed, (B, C, H, W); B may be 0.
        contents: Hashes of the encoded images, in hexadecimal: the same bytes have the same one.
        failures: What could not be read.
        known: Images that need no embedding, with their hashes: they are not decoded.
    """

    part: int
    last: bool
    samples: list[Sample] = field(default_factory=list)
    images: Tensor = field(default_factory=lambda: torch.empty(0))
    contents: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    known: list[tuple[Sample, str]] = field(default_factory=list)

    def pin_memory(self) -> "Batch":
        """This batch, where a GPU can fetch it; the DataLoader calls it."""
        self.images = self.images.pin_memory()
        return self


def batches(
    parts: Sequence[Part],
    encoder: Encoder,
    *,
    batch_size: int,
    workers: int | None = None,
    known: Container[str] = (),
) -> Iterator[Batch]:
    """The images of parts in their own order; no batch holds images of two parts, and every part has one.

    Args:
        parts: Read in this process, one after the other.
        encoder: Whose preprocessing the images get.
        batch_size: Images a batch; the last of a part may hold fewer.
        workers: Processes that decode; 0 decodes in this one, None is one a core, or 0 for few images.
        known: Hashes of images that need no embedding; can be pickled.
    """
    if workers is None:
        few = all(part.size is not None for part in parts)
        few = few and sum(part.size or 0 for part in parts) <= _FEW_IMAGES
        workers = 0 if few else min(cores(), _MAX_WORKERS)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "This DataLoader will create"
        )  # more than cores, if one asks for it
        return iter(_loader(parts, encoder, batch_size, workers, known))


def _loader(
    parts: Sequence[Part], encoder: Encoder, batch_size: int, workers: int, known: Container[str]
) -> "DataLoader[Batch]":
    return DataLoader(
        _Decode(encoder.preprocess, encoder.dtype, known),
        batch_sampler=_Tasks(parts, batch_size),  # type: ignore[arg-type]  # Tasks for what are indices elsewhere.
        num_workers=workers,
        worker_init_fn=partial(_begin, parent=os.getpid(), gives_way=encoder.device.type == "cpu"),
        collate_fn=_as_it_is,  # type: ignore[arg-type]  # of what `__getitems__` gave
        pin_memory=encoder.device.type == "cuda",
    )


@dataclass(frozen=True)
class _Task:
    part: int
    items: list[Sample | Failure]
    last: bool


class _Tasks:
    """The batches to make, in order."""

    def __init__(self, parts: Sequence[Part], batch_size: int) -> None:
        self._parts, self._batch_size = parts, batch_size

    def __iter__(self) -> Iterator[_Task]:
        for number, part in enumerate(self._parts):
            items = iter(part.read())
            now = list(islice(items, self._batch_size))
            while following := list(islice(items, self._batch_size)):
                yield _Task(number, now, last=False)
                now = following
            yield _Task(number, now, last=True)


class _Decode(Dataset[Batch]):
    """What a worker process does: a task's samples to a batch."""

    def __init__(self, preprocess: Preprocess, dtype: torch.dtype, known: Container[str]) -> None:
        self._preprocess, self._dtype, self._known = preprocess, dtype, known

    def __getitems__(self, task: _Task) -> Batch:
        batch, tensors = Batch(task.part, task.last), []
        for item in task.items:
            if isinstance(item, Failure):
                batch.failures.append(item)
                continue
            content = content_of(item.data)
            if content in self._known:
                batch.known.append((replace(item, data=b""), content))
                continue
            try:
                tensors.append(self._preprocess(item.data))
            except UnreadableImageError as error:
                batch.failures.append(Failure(item.key, str(error)))
                continue
            batch.contents.append(content)
            # The encoded bytes have done their work; a million rows must not carry them along.
            batch.samples.append(replace(item, data=b""))
        if tensors:
            batch.images = torch.stack(tensors).to(self._dtype)
        return batch


def _begin(_: int, *, parent: int, gives_way: bool) -> None:
    # torch's own watch over the parent begins later: were it dead by then, a worker would wait for ever.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    # What was inherited is shared until it is written to, as Python's collector would, in every object.
    gc.freeze()
    if gives_way:  # On a processor, the encoder goes first: each of its threads waits for the others.
        os.nice(_NICEST)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _as_it_is(batch: Batch) -> Batch:
    return batch
