"""One object for model, preprocessing and normalisation, against the same written out by hand."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_world import SIDE, files_of, picture, random_matvit
from timm.data import create_transform, resolve_model_data_config

import matvit
from matvit.device import pick_dtype
from retrieval import Encoder
from retrieval.errors import UnreadableImageError

CPU = torch.device("cpu")


def in_memory(seed: int = 0, *, dtype: torch.dtype = torch.float32, **arguments: Any) -> Encoder:
    return Encoder(random_matvit(seed, **arguments), device=CPU, dtype=dtype)


def by_hand(checkpoint: Path, files: list[Path], submodel: matvit.Submodel) -> np.ndarray:
    plain = matvit.load(checkpoint).extract(submodel)
    plain.reset_classifier(0)
    transform = create_transform(**resolve_model_data_config(plain), is_training=False)
    images = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    with torch.inference_mode():
        vectors = plain.eval()(images).numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(max_examples=15, deadline=None)
@given(widths=st.tuples(*[st.integers(1, 128)] * 4))
def test_embedding_is_the_extracted_timm_model_s_normalised(
    checkpoint: Path, encoder: Encoder, corpus: Path, widths: tuple[int, ...]
) -> None:
    files = files_of(corpus)[:3]
    submodel = matvit.Submodel(widths)
    vectors = encoder.embed(torch.stack([encoder.preprocess(file) for file in files]), submodel)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors, by_hand(checkpoint, files, submodel), atol=1e-5)


def test_no_submodel_is_the_full_encoder(encoder: Encoder, checkpoint: Path, corpus: Path) -> None:
    files = files_of(corpus)[:3]
    vectors = encoder.embed(torch.stack([encoder.preprocess(file) for file in files]))
    np.testing.assert_allclose(vectors, by_hand(checkpoint, files, encoder.space.full), atol=1e-6)


def test_a_file_its_bytes_and_its_image_are_the_same(encoder: Encoder, corpus: Path) -> None:
    file = files_of(corpus)[0]
    images = [encoder.preprocess(given) for given in (file, str(file), file.read_bytes(), Image.open(file))]
    assert all(torch.equal(image, images[0]) for image in images)


def test_preprocessing_is_the_checkpoint_s(tmp_path: Path) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    matvit.save(
        random_matvit(0, pretrained_cfg_overlay={"mean": mean, "std": std, "crop_pct": 1.0}), tmp_path / "m"
    )
    opened = Encoder.open(tmp_path / "m", device="cpu", dtype="fp32")
    image = picture("red", 0)
    expected = (np.asarray(image) / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(
        opened.preprocess(image).numpy(), expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6
    )
    assert opened.preprocess(picture("red", 0, side=50)).shape == (3, SIDE, SIDE)


def test_grey_models_see_grey_images() -> None:
    overlay = {"mean": (0.5,), "std": (0.5,), "crop_pct": 1.0}
    grey = in_memory(in_chans=1, pretrained_cfg_overlay=overlay)
    image = picture("green", 0)
    pixels = grey.preprocess(image)
    np.testing.assert_allclose(pixels[0], np.asarray(image.convert("L")) / 127.5 - 1, atol=1e-6)
    assert grey.embed(pixels[None]).shape == (1, 32)


def test_identity_is_the_weights_not_where_or_how_they_run(encoder: Encoder, checkpoint: Path) -> None:
    assert in_memory().identity == encoder.identity
    assert in_memory(dtype=torch.bfloat16).identity == encoder.identity
    assert Encoder.open(checkpoint, device="cpu", dtype="bf16").identity == encoder.identity

    other_head = random_matvit(0)
    other_head.reset_classifier(7)
    assert Encoder(other_head, device=CPU, dtype=torch.float32).identity == encoder.identity


@pytest.mark.gpu
def test_identity_is_the_same_on_a_gpu(encoder: Encoder, checkpoint: Path) -> None:
    on_gpu = Encoder.open(checkpoint, device="cuda")
    assert on_gpu.identity == encoder.identity
    image = picture("blue", 0)
    cosine = on_gpu.embed(on_gpu.preprocess(image)[None]) @ encoder.embed(encoder.preprocess(image)[None]).T
    assert cosine == pytest.approx(1, abs=0.01)


def test_identity_changes_with_any_weight_and_with_the_preprocessing(encoder: Encoder) -> None:
    touched = random_matvit(0)
    with torch.no_grad():
        touched.blocks[3].mlp.fc2.bias[-1] += 1e-6
    assert Encoder(touched, device=CPU, dtype=torch.float32).identity != encoder.identity
    assert in_memory(1).identity != encoder.identity
    assert in_memory(pretrained_cfg_overlay={"crop_pct": 1.0}).identity != encoder.identity


def test_bf16_is_close_to_fp32(encoder: Encoder) -> None:
    image = encoder.preprocess(picture("checks", 0))[None]
    rough = in_memory(dtype=pick_dtype("bf16", CPU))
    cosine = float((rough.embed(image) @ encoder.embed(image).T)[0, 0])
    assert 0.98 < cosine < 1 - 1e-7


def test_unreadable_bytes_are_refused(encoder: Encoder) -> None:
    with pytest.raises(UnreadableImageError, match="not an image"):
        encoder.preprocess(b"hello")


def test_an_open_image_is_embedded_as_its_bytes_are(encoder: Encoder, tmp_path: Path) -> None:
    grey = Image.fromarray(np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16))
    grey.save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as opened:
        from_image = encoder.preprocess(opened)
    assert torch.equal(from_image, encoder.preprocess(tmp_path / "deep.png"))


def test_an_open_image_that_is_damaged_is_unreadable(encoder: Encoder, tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-500])
    with Image.open(tmp_path / "a.jpg") as opened, pytest.raises(UnreadableImageError, match="truncated"):
        encoder.preprocess(opened)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_what_would_fill_the_memory_when_resized_is_unreadable(
    encoder: Encoder, size: tuple[int, int]
) -> None:
    with pytest.raises(UnreadableImageError, match="too elongated"):
        encoder.preprocess(Image.new("RGB", size))


def test_bf16_weights_are_the_very_weights_rounded(encoder: Encoder) -> None:
    rough = in_memory(dtype=torch.bfloat16)
    assert {p.dtype for p in rough.model.parameters()} == {torch.bfloat16}
    image = encoder.preprocess(picture("checks", 0))[None]
    for submodel in encoder.space.uniforms():
        vector = rough.embed(image, submodel)
        assert vector.dtype == np.float32
        assert float((vector @ encoder.embed(image, submodel).T)[0, 0]) > 0.98


def test_submodels_in_use_share_the_weights(encoder: Encoder) -> None:
    storages = {p.untyped_storage().data_ptr() for p in encoder.model.parameters()}
    image = encoder.preprocess(picture("checks", 0))[None]
    for submodel in encoder.space.curve:
        encoder.embed(image, submodel)
    held = {p.untyped_storage().data_ptr() for cut in encoder._cuts.values() for p in cut.parameters()}
    assert held == storages


def test_a_time_is_a_budget_here_and_as_the_encoder_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Encoder
) -> None:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    monkeypatch.setattr("matvit.latency.SETTLE_SECONDS", 0)
    assert encoder.submodel("60000ms") == encoder.space.full
    (kept,) = files_of(tmp_path)
    assert '"dtype": "float32"' in kept.read_text()
    with pytest.raises(matvit.BudgetError, match=r"below the smallest submodel, S: .* ms for one image"):
        encoder.submodel("0.0001ms")
    assert in_memory().submodel("60000ms") == encoder.space.full
    assert files_of(tmp_path) == [kept]  # The same structure: not measured again.
    in_memory(dtype=torch.bfloat16).submodel("60000ms")
    assert len(files_of(tmp_path)) == 2


def test_a_compiled_encoder_embeds_as_an_eager_one(checkpoint: Path, encoder: Encoder) -> None:
    if not shutil.which("g++"):
        pytest.skip("compiling needs g++")
    compiled = Encoder.open(checkpoint, device="cpu", dtype="fp32", compile=True)
    image = encoder.preprocess(picture("checks", 0))[None]
    small = encoder.space.smallest
    np.testing.assert_allclose(compiled.embed(image, small), encoder.embed(image, small), atol=1e-5)
    assert compiled.compiled is not None
    assert compiled.compiled.submodels == (small,)
