"""Batches keep order and lose nothing, whatever the mixture of images and failures."""

import faulthandler
import io
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_world import SIDE, picture

from retrieval import Encoder
from retrieval.encoding.batches import batches
from retrieval.encoding.preprocess import Preprocess
from retrieval.errors import LostProcessError
from retrieval.sources.sample import Failure, Part, Sample, content_of


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


def part_of(items: Iterable[Sample | Failure], size: int | None = None) -> Part:
    return Part("part", "", size, lambda: iter(items))


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.lists(st.sampled_from(list(KINDS)), max_size=9), max_size=4),
    batch_size=st.integers(1, 6),
)
def test_nothing_is_lost_reordered_or_repeated(
    encoder: Encoder, parts: list[list[str]], batch_size: int
) -> None:
    everything = [[KINDS[kind](10 * p + n) for n, kind in enumerate(kinds)] for p, kinds in enumerate(parts)]
    found = list(
        batches([part_of(items, len(items)) for items in everything], encoder, batch_size=batch_size)
    )

    reasons = {"bad bytes": "not an image", "lost before": "no such file"}
    for p, kinds in enumerate(parts):
        mine = [batch for batch in found if batch.part == p]
        assert [batch.last for batch in mine] == [False] * (len(mine) - 1) + [True]
        assert [len(b.samples) + len(b.failures) for b in mine[:-1]] == [batch_size] * (len(mine) - 1)
        good = [10 * p + n for n, kind in enumerate(kinds) if kind == "good"]
        samples = [sample for batch in mine for sample in batch.samples]
        assert [sample.key for sample in samples] == [str(n) for n in good]
        assert all(sample.extra["caption"] == f"number {sample.key}" for sample in samples)
        images = [image for batch in mine if batch.samples for image in batch.images]
        contents = [content for batch in mine for content in batch.contents]
        for n, image, content in zip(good, images, contents, strict=True):
            assert torch.equal(image, encoder.preprocess(IMAGES[n % 4]))
            assert content == content_of(IMAGES[n % 4])
        failures = [failure for batch in mine for failure in batch.failures]
        bad = [(10 * p + n, kind) for n, kind in enumerate(kinds) if kind != "good"]
        assert failures == [Failure(str(n), reasons[kind]) for n, kind in bad]
    assert [batch.part for batch in found] == sorted(batch.part for batch in found)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_come_at_every_size_that_is_asked_for(encoder: Encoder, workers: int) -> None:
    submodels = [encoder.submodel(budget) for budget in ("M", "M@8px", "XL@8px", "S@24px")]
    items = [KINDS[kind](n) for n, kind in enumerate(["good", "bad bytes", "good", "good"])]
    sizes = {submodel: submodel.image_size or SIDE for submodel in submodels}
    rows = 0
    for batch in batches([part_of(items)], encoder, batch_size=2, workers=workers, submodels=submodels):
        for submodel, side in sizes.items():
            images = batch.images_for(submodel)
            assert images.shape == (len(batch.samples), 3, side, side)
            preprocess = encoder.preprocess_for(submodel)
            for sample, image in zip(batch.samples, images, strict=True):
                assert torch.equal(image, preprocess(IMAGES[int(sample.key)]))
        rows += len(batch.samples)
    assert rows == 3


def test_other_processes_give_the_same_batches(encoder: Encoder) -> None:
    items = [
        KINDS[kind](n) for n, kind in enumerate(["good", "good", "bad bytes", "lost before", "good"] * 5)
    ]
    parts = [part_of(items), part_of([]), part_of(items[:3])]
    here = list(batches(parts, encoder, batch_size=4, workers=0))
    there = list(batches(parts, encoder, batch_size=4, workers=2))
    assert [replace(batch, images=None) for batch in here] == [replace(batch, images=None) for batch in there]
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.images, other.images)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files hold for shared memory on Linux")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_need_no_shared_memory(encoder: Encoder, dtype: torch.dtype) -> None:
    of_dtype = copy(encoder)
    of_dtype.dtype = dtype
    parts = [part_of([KINDS[kind](n) for n, kind in enumerate(["good", "bad bytes", "good"])]), part_of([])]
    here = list(batches(parts, of_dtype, batch_size=2, workers=0))
    shared, limits = set(Path("/dev/shm").iterdir()), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # Enough for a lock.
    try:
        there = list(batches(parts, of_dtype, batch_size=2, workers=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [batch.images.dtype for batch in there] == [dtype, dtype, torch.float32]
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.images, other.images)
    left = {file for file in Path("/dev/shm").glob("torch_*") if file not in shared}
    assert not [file for file in left if file.exists()]  # Those of other programs do not stay.


def test_encoded_bytes_are_let_go(encoder: Encoder) -> None:
    (batch,) = batches([part_of([KINDS["good"](0)], 1)], encoder, batch_size=8)
    assert batch.samples[0].data == b""


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_ahead_is_bounded(encoder: Encoder, workers: int) -> None:
    read = 0

    def endless() -> Iterator[Sample]:
        nonlocal read
        while True:
            read += 1
            yield KINDS["good"](read)

    stream = batches([Part("", "", None, endless)], encoder, batch_size=4, workers=workers)
    next(stream)
    # One batch is out, one waits to be known for not the last, and each worker has two and the next.
    assert read <= 4 * (1 + 1 + 3 * workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_source_is_not_swallowed(encoder: Encoder, workers: int) -> None:
    def breaks() -> Iterator[Sample]:
        yield KINDS["good"](0)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(batches([Part("", "", None, breaks)], encoder, batch_size=4, workers=workers))


class Fragile:
    """Preprocessing that ends its process on some images, as a lack of memory or a decoder's bug would."""

    def __init__(self, preprocess: Preprocess, deadly: bytes, how: str) -> None:
        self._preprocess, self._deadly, self._how, self._home = preprocess, deadly, how, os.getpid()

    def read(self, image: bytes) -> Image.Image:
        if self._deadly in image and os.getpid() != self._home:
            if self._how == "exits":
                os._exit(3)
            faulthandler.disable()  # which would tell of it at length
            os.kill(os.getpid(), getattr(signal, self._how))
        return self._preprocess.read(image)

    def tensor(self, image: Image.Image) -> torch.Tensor:
        return self._preprocess.tensor(image)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "SIGABRT", "exits"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_image_that_ends_its_process_is_named_and_left_out(
    encoder: Encoder, how: str, batch_size: int
) -> None:
    fragile = copy(encoder)
    fragile.preprocess = Fragile(encoder.preprocess, b"deadly", how)
    items = [KINDS["good"](n) for n in range(13)]
    for deadly in (3, 9):
        items[deadly] = replace(items[deadly], data=IMAGES[0] + b"deadly")
    items[5] = Failure("5", "lost before")
    made = list(batches([part_of(items), part_of(items[:2])], fragile, batch_size=batch_size, workers=2))
    keys = [sample.key for batch in made for sample in batch.samples]
    assert keys == ["0", "1", "2", "4", "6", "7", "8", "10", "11", "12", "0", "1"]
    failures = {failure.key: failure.reason for batch in made for failure in batch.failures}
    killed = "decoding it was killed, or crashed: it may take more memory than there is"
    assert failures == {"3": killed, "5": "lost before", "9": killed}
    assert [batch.part for batch in made if batch.last] == [0, 1]
    for batch in made:
        assert len(batch.samples) == len(batch.contents) == len(batch.images if batch.samples else [])
        for sample, image in zip(batch.samples, batch.images, strict=False):
            assert torch.equal(image, encoder.preprocess(IMAGES[int(sample.key) % 4]))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_batch_of_which_every_image_ends_its_process_stops_nothing(
    encoder: Encoder, batch_size: int
) -> None:
    fragile = copy(encoder)
    fragile.preprocess = Fragile(encoder.preprocess, b"deadly", "SIGKILL")
    items = [KINDS["good"](n) for n in range(6)]
    items[:4] = [replace(item, data=IMAGES[0] + b"deadly") for item in items[:4]]
    made = list(batches([part_of(items), part_of([])], fragile, batch_size=batch_size, workers=1))
    assert [failure.key for batch in made for failure in batch.failures] == ["0", "1", "2", "3"]
    assert [sample.key for batch in made for sample in batch.samples] == ["4", "5"]
    assert [batch.part for batch in made if batch.last] == [0, 1]


def test_images_that_are_known_already_stay_so_beside_one_that_ends_its_process(encoder: Encoder) -> None:
    fragile = copy(encoder)
    fragile.preprocess = Fragile(encoder.preprocess, b"deadly", "SIGKILL")
    items = [KINDS["good"](n) for n in range(4)]
    items[2] = replace(items[2], data=IMAGES[0] + b"deadly")
    known = {content_of(items[1].data)}
    (batch,) = batches([part_of(items)], fragile, batch_size=4, workers=1, known=known)
    assert [sample.key for sample, _ in batch.known] == ["1"]
    assert [sample.key for sample in batch.samples] == ["0", "3"]
    assert [failure.key for failure in batch.failures] == ["2"]


def test_processes_that_end_before_they_have_an_image_are_nobody_s_fault(encoder: Encoder) -> None:
    home, dies = os.getpid(), True

    def die() -> None:
        if dies and os.getpid() != home:
            os._exit(1)

    os.register_at_fork(after_in_child=die)
    try:
        with pytest.raises(LostProcessError, match=r"before they have an image: use fewer --workers"):
            list(batches([part_of([KINDS["good"](0)])], encoder, batch_size=4, workers=1))
    finally:
        dies = False


def test_no_process_outlives_the_batches(encoder: Encoder) -> None:
    before = set(multiprocessing.active_children())  # Of other tests, which may take a while to end.
    stream = batches([part_of([KINDS["good"](n) for n in range(40)])], encoder, batch_size=2, workers=2)
    next(stream)
    assert len(set(multiprocessing.active_children()) - before) == 2
    stream.close()
    assert set(multiprocessing.active_children()) <= before
