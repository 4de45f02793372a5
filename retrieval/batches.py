"""Samples to batches of preprocessed images: threads decode while the encoder works on the batch before."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from retrieval.encoder import Encoder
from retrieval.errors import UnreadableImageError
from retrieval.samples import Failure, Sample


@dataclass
class Batch:
    """Images that could be read, and what could not.

    Attributes:
        samples: One a row of `images`, without their encoded bytes.
        images: Preprocessed, (B, C, H, W); B may be 0.
        failures: Those met while this batch was filled.
    """

    samples: list[Sample] = field(default_factory=list)
    images: Tensor = field(default_factory=lambda: torch.empty(0))
    failures: list[Failure] = field(default_factory=list)


def batches(
    items: Iterable[Sample | Failure], encoder: Encoder, *, batch_size: int, workers: int | None = None
) -> Iterator[Batch]:
    """Group samples into batches, in their own order.

    Args:
        items: What a source yields.
        encoder: Whose preprocessing the images get.
        batch_size: Images a batch; the last one may hold fewer.
        workers: Decoding threads; None is one a core. Pillow and torch decode outside the interpreter lock.
    """
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        tensors: list[Tensor] = []
        batch = Batch()
        for sample, result in _decoded(iter(items), encoder, pool, window=2 * batch_size):
            if isinstance(result, Failure):
                batch.failures.append(result)
            else:
                assert sample is not None
                batch.samples.append(sample)
                tensors.append(result)
            if len(tensors) == batch_size:
                batch.images = torch.stack(tensors)
                yield batch
                tensors, batch = [], Batch()
        if tensors:
            batch.images = torch.stack(tensors)
        if tensors or batch.failures:
            yield batch


_Outcome = tuple[Sample | None, Tensor | Failure]


def _decoded(
    items: Iterator[Sample | Failure], encoder: Encoder, pool: ThreadPoolExecutor, window: int
) -> Iterator[_Outcome]:
    """Decode ahead by at most `window` samples, in order."""
    pending: deque[Future[_Outcome]] = deque(
        pool.submit(_decode, item, encoder) for item in islice(items, window)
    )
    while pending:
        yield pending.popleft().result()
        pending.extend(pool.submit(_decode, item, encoder) for item in islice(items, 1))


def _decode(item: Sample | Failure, encoder: Encoder) -> _Outcome:
    if isinstance(item, Failure):
        return None, item
    try:
        image = encoder.preprocess(item.data)
    except UnreadableImageError as error:
        return None, Failure(item.key, str(error))
    # The encoded bytes have done their work; a million rows must not carry them along.
    return Sample(item.key, item.path, item.label, item.extra, b""), image
