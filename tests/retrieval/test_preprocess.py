"""Preprocessing as other processes get it."""

import pickle
from pathlib import Path

import pytest
import torch
from small_world import files_of, picture, random_matvit

from retrieval import Encoder
from retrieval.errors import UnreadableImageError
from retrieval.preprocess import Preprocess


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"in_chans": 1, "pretrained_cfg_overlay": {"mean": (0.5,), "std": (0.2,)}},
        {"pretrained_cfg_overlay": {"crop_mode": "squash", "interpolation": "bilinear"}},
        {"pretrained_cfg_overlay": {"crop_mode": "border", "crop_pct": 1.0}},
    ],
    ids=["plain", "grey", "squash", "border"],
)
def test_a_pickled_copy_gives_the_same_tensors(arguments: dict, corpus: Path) -> None:
    preprocess = Preprocess(random_matvit(0, **arguments))
    copy = pickle.loads(pickle.dumps(preprocess))
    assert copy.data == preprocess.data
    file = files_of(corpus)[0]
    for image in (file, str(file), file.read_bytes(), picture("red", 0, side=50)):
        assert torch.equal(copy(image), preprocess(image))
    with pytest.raises(UnreadableImageError, match="not an image"):
        copy(b"hello")


def test_no_weights_travel_to_other_processes(encoder: Encoder) -> None:
    assert len(pickle.dumps(encoder.preprocess)) < 5000
