"""Batches keep order and lose nothing, whatever the mixture of images and failures."""

import io
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_world import picture

from retrieval import Encoder
from retrieval.batches import batches
from retrieval.samples import Failure, Sample


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    picture("red", number).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = [encoded(number) for number in range(4)]
KINDS = {
    "good": lambda n: Sample(f"{n}", f"/{n}.png", "red", {"caption": f"number {n}"}, IMAGES[n % 4]),
    "bad bytes": lambda n: Sample(f"{n}", f"/{n}.png", "red", {}, b"no image"),
    "lost before": lambda n: Failure(f"{n}", "no such file"),
}


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(list(KINDS)), max_size=20),
    batch_size=st.integers(1, 6),
    workers=st.integers(1, 3),
)
def test_nothing_is_lost_reordered_or_repeated(
    encoder: Encoder, kinds: list[str], batch_size: int, workers: int
) -> None:
    items = [KINDS[kind](n) for n, kind in enumerate(kinds)]
    found = list(batches(iter(items), encoder, batch_size=batch_size, workers=workers))

    good = [n for n, kind in enumerate(kinds) if kind == "good"]
    samples = [sample for batch in found for sample in batch.samples]
    assert [sample.key for sample in samples] == [str(n) for n in good]
    assert all(sample.extra["caption"] == f"number {sample.key}" for sample in samples)
    images = [image for batch in found if batch.samples for image in batch.images]
    assert len(images) == len(good)
    for n, image in zip(good, images, strict=True):
        assert torch.equal(image, encoder.preprocess(IMAGES[n % 4]))

    reasons = {"bad bytes": "not an image", "lost before": "no such file"}
    failures = [failure for batch in found for failure in batch.failures]
    assert failures == [Failure(str(n), reasons[kind]) for n, kind in enumerate(kinds) if kind != "good"]
    for batch in found:
        last = max((int(sample.key) for sample in batch.samples), default=len(kinds))
        if batch is not found[-1]:
            assert all(int(failure.key) < last for failure in batch.failures), "in their place"

    sizes = [len(batch.samples) for batch in found]
    assert all(size == batch_size for size in sizes[:-1])
    assert all(0 <= size <= batch_size for size in sizes[-1:])


def test_encoded_bytes_are_let_go(encoder: Encoder) -> None:
    (batch,) = batches([KINDS["good"](0)], encoder, batch_size=8)
    assert batch.samples[0].data == b""


def test_reading_ahead_is_bounded(encoder: Encoder) -> None:
    read = 0

    def endless() -> Iterator[Sample]:
        nonlocal read
        while True:
            read += 1
            yield KINDS["good"](read)

    stream = batches(endless(), encoder, batch_size=4)
    next(stream)
    assert read <= 4 + 2 * 4
    stream.close()


def test_an_error_of_the_source_is_not_swallowed(encoder: Encoder) -> None:
    def breaks() -> Iterator[Sample]:
        yield KINDS["good"](0)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(batches(breaks(), encoder, batch_size=4))
