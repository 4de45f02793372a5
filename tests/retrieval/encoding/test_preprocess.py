"""Preprocessing as other processes get it."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_world import files_of, picture, random_matvit

from matvit import CheckpointError
from retrieval import Encoder
from retrieval.encoding.preprocess import Preprocess
from retrieval.errors import UnreadableImageError


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
    assert len(pickle.dumps(encoder.preprocess)) < 6000


@pytest.mark.parametrize("kind", [AttributeError, TypeError, ValueError, LookupError, RuntimeError])
def test_a_fault_of_our_own_is_no_nonsense_of_a_config(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnFaultError(kind):  # type: ignore[misc, valid-type]
        pass

    def broken(_: object) -> None:
        raise OwnFaultError("ours")

    monkeypatch.setattr("retrieval.encoding.preprocess._check", broken)
    with pytest.raises(OwnFaultError, match="ours"):
        Preprocess(random_matvit(0))


@pytest.mark.parametrize(
    "overlay",
    [
        {"input_size": "many"},
        {"input_size": (3, 16)},
        {"input_size": (3, "16", 16)},
        {"crop_pct": "all"},
        {"crop_pct": float("nan")},
        {"mean": "grey"},
        {"std": (0, 0, 0)},
        {"std": (float("inf"),) * 3},
        *({"crop_mode": mode} for mode in (float("nan"), 7, ["center"], "\ud800")),
        {"interpolation": 7},
        {"interpolation": "psychic"},
    ],
    ids=str,
)
def test_a_config_that_is_nonsense_is_one_line(overlay: dict) -> None:
    model = random_matvit(0)
    model.pretrained_cfg = {**model.pretrained_cfg, **overlay}
    model.patch_embed.strict_img_size = False
    with pytest.raises(CheckpointError, match=r"^somewhere: its preprocessing makes no sense: .") as caught:
        Encoder(model, device=torch.device("cpu"), dtype=torch.float32, location="somewhere")
    assert "\n" not in str(caught.value)


def test_arrays_and_tensors_are_images_too(encoder: Encoder, corpus: Path) -> None:
    image = Image.open(files_of(corpus)[0]).convert("RGB")
    wanted = encoder.preprocess(image)
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for same in (
        array,
        tensor,
        tensor / 255,
        (tensor / 255).half(),
        (tensor / 255).double().requires_grad_(),
    ):
        assert torch.equal(encoder.preprocess(same), wanted)
    grey = encoder.preprocess(image.convert("L"))
    for same in (np.array(image.convert("L")), torch.from_numpy(np.array(image.convert("L")))[None]):
        assert torch.equal(encoder.preprocess(same), grey)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8, 3)),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        torch.zeros(8, 8, 3),
        torch.zeros(8, 8),
        torch.zeros(3, 0, 8),
        torch.full((3, 8, 8), 255.0),
        torch.full((3, 8, 8), torch.nan),
        torch.zeros(3, 8, 8, dtype=torch.int64),
    ],
    ids=lambda pixels: f"{type(pixels).__name__} {tuple(pixels.shape)} {pixels.dtype}",
)
def test_other_arrays_are_refused_with_what_would_do(encoder: Encoder, pixels: object) -> None:
    with pytest.raises(UnreadableImageError, match=r"is no image: give (an array|a tensor) \("):
        encoder.preprocess(pixels)


@pytest.mark.parametrize("image", [5, None, ["a.jpg"], {"a": 1}], ids=repr)
def test_what_is_no_image_at_all_is_named(encoder: Encoder, image: object) -> None:
    with pytest.raises(TypeError, match=f"an image is a path, .* or a tensor, not a {type(image).__name__}"):
        encoder.preprocess(image)
