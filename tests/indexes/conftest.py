"""A small index to test on, built the way everything else builds one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexes import EncoderIdentity, IndexWriter
from indexes.disk.origin import Origin

DIM = 8


def unit_vectors(count: int, *, seed: int, dim: int = DIM) -> np.ndarray:
    vectors_ND = np.random.default_rng(seed).standard_normal((count, dim))
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def write_small_part(writer: IndexWriter, i: int, *, count: int = 5) -> None:
    rows = [
        {"key": f"{i}/{n}.jpg", "path": f"/photos/{i}/{n}.jpg", "label": f"class {n % 3}"}
        for n in range(count)
    ]
    writer.write_part(i, unit_vectors(count, seed=i), rows, [(f"{i}/bad.jpg", "not an image")])


@pytest.fixture
def vectors() -> Callable[..., np.ndarray]:
    return unit_vectors


@pytest.fixture
def write() -> Callable[..., None]:
    return write_small_part


@pytest.fixture
def identity() -> EncoderIdentity:
    return EncoderIdentity(
        architecture="matvit_tiny",
        weights_sha256="0123456789abcdef" * 4,
        pooling="token",
        embed_dim=DIM,
        preprocess={"size": 224, "mean": (0.5, 0.5, 0.5)},
    )


@pytest.fixture
def origin(identity: EncoderIdentity) -> Origin:
    return Origin(
        encoder=identity,
        dtype="float32",
        device="cpu",
        checkpoint="m",
        sources=["photos"],
        command="matvit index build photos",
    )


@pytest.fixture
def small(tmp_path: Path, identity: EncoderIdentity, origin: Origin) -> Path:
    """The path of a finished index of three parts."""
    out = tmp_path / "photos.index"
    with IndexWriter(out, identity) as writer:
        writer.plan([(f"part {i}", f"fingerprint {i}") for i in range(3)])
        for i in range(3):
            write_small_part(writer, i)
        writer.commit(origin)
    return out
