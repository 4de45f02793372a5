"""Embeddings of the full encoder: each image once, whatever stops the work."""

import errno
from pathlib import Path

import pytest
import torch

from matvit.refitting.teacher_embeddings import teacher_embeddings

IMAGES = torch.randn(70, 2, 3, 3)


class Encoder:
    """Embeds with 18 numbers, and counts; may fail after so many images."""

    def __init__(self, stops_after: int = 1000) -> None:
        self.seen, self._stops_after = 0, stops_after

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if self.seen + len(images) > self._stops_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        return images.flatten(1) * 2


@pytest.mark.parametrize("file", [None, "embeddings"])
def test_every_image_is_embedded_once(tmp_path, file):
    told = []
    file = file and tmp_path / file
    for images in (70, 0 if file else 70):
        encoder = Encoder()
        found = teacher_embeddings(
            IMAGES, encoder, 18, file=file, progress=lambda what, done, total: told.append((done, total))
        )
        assert torch.equal(found, IMAGES.flatten(1) * 2)
        assert encoder.seen == images
    assert told[:4] == [(0, 70), (32, 70), (64, 70), (70, 70)]
    assert told[-1] == (70, 70)


@pytest.mark.parametrize("torn", [0, 5, -7, 32 * 18 * 4])
def test_what_was_stopped_goes_on(tmp_path, torn):
    file = tmp_path / "embeddings"
    with pytest.raises(KeyboardInterrupt):
        teacher_embeddings(IMAGES, Encoder(stops_after=40), 18, file=file)
    content = file.read_bytes()
    assert len(content) == 32 * 18 * 4
    file.write_bytes(content + bytes(torn) if torn >= 0 else content[:torn])
    encoder = Encoder()
    assert torch.equal(teacher_embeddings(IMAGES, encoder, 18, file=file), IMAGES.flatten(1) * 2)
    assert encoder.seen == (38 if torn >= 0 else 39)
    assert file.stat().st_size == 70 * 18 * 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_names_the_file(tmp_path):
    (tmp_path / "embeddings").symlink_to("/dev/full")
    with pytest.raises(OSError, match="embeddings") as error:
        teacher_embeddings(IMAGES, Encoder(), 18, file=tmp_path / "embeddings")
    assert error.value.errno == errno.ENOSPC
