"""One object for model, preprocessing and normalisation, against the same written out by hand."""

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiler import needs_compiler
from counting import counting
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_world import SIDE, files_of, picture, random_matvit
from timm.data import create_transform, resolve_model_data_config
from toy_engine import register

import matvit
from matvit.engines.compiled import CompiledSubmodels
from matvit.engines.eager import EagerSubmodels
from matvit.errors import BudgetError, EngineError, MissingEngineError
from matvit.runtime.device import pick_dtype
from matvit.submodels.profile import Timing
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


@pytest.mark.parametrize("side, budget", [(8, "M"), (12, "XL"), (24, "3,40,128,1")])
def test_an_image_of_another_size_is_embedded_as_timm_would(
    checkpoint: Path, encoder: Encoder, corpus: Path, side: int, budget: str
) -> None:
    files = files_of(corpus)[:3]
    submodel = encoder.submodel(f"{budget}@{side}px")
    preprocess = encoder.preprocess_for(submodel)
    images = torch.stack([preprocess(file) for file in files])
    assert images.shape == (3, 3, side, side)
    plain = matvit.load(checkpoint).extract(encoder.submodel(budget))
    plain.reset_classifier(0)
    plain.set_input_size(img_size=(side, side))
    config = resolve_model_data_config(plain) | {"input_size": (3, side, side)}
    transform = create_transform(**config, is_training=False)
    by_timm = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    assert torch.equal(images, by_timm)
    with torch.inference_mode():
        wanted = torch.nn.functional.normalize(plain(by_timm), dim=-1).numpy()
    np.testing.assert_allclose(encoder.embed(images, submodel), wanted, atol=1e-5)


def test_a_size_that_no_image_can_be_made_of_is_refused(encoder: Encoder) -> None:
    with pytest.raises(BudgetError, match=r"XL@16384px: input_size"):
        encoder.preprocess_for(encoder.submodel("XL@16384px"))


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
    assert isinstance(encoder.runner, EagerSubmodels)
    cuts = [encoder.runner._cuts[submodel] for submodel in encoder.space.curve]
    held = {p.untyped_storage().data_ptr() for cut in cuts for p in cut.parameters()}
    assert held == storages


def test_a_time_is_a_budget_here_and_as_the_encoder_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Encoder
) -> None:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    monkeypatch.setattr("matvit.runtime.latency.SETTLE_SECONDS", 0)
    assert encoder.submodel("60000ms") == encoder.space.full
    (kept,) = files_of(tmp_path)
    assert '"dtype": "float32"' in kept.read_text()
    with pytest.raises(matvit.BudgetError, match=r"below the smallest submodel, S: .* ms for one image"):
        encoder.submodel("0.0001ms")
    assert in_memory().submodel("60000ms") == encoder.space.full
    assert files_of(tmp_path) == [kept]  # The same structure: not measured again.
    in_memory(dtype=torch.bfloat16).submodel("60000ms")
    assert len(files_of(tmp_path)) == 2


def test_measuring_tells_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path
) -> None:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    monkeypatch.setattr("matvit.runtime.latency.SETTLE_SECONDS", 0)
    told: list[tuple[str, int, int | None]] = []
    watched = Encoder.open(checkpoint, device="cpu", dtype="fp32", progress=lambda *each: told.append(each))
    watched.submodel("60%")
    assert told == []
    watched.submodel("60000ms")
    assert told == [("runs timed", done, len(told) - 1) for done in range(len(told))]
    assert told
    told.clear()
    watched.submodel("50000ms")
    assert told == []


def test_times_are_measured_once_an_encoder_though_they_cannot_be_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "file"))
    measured: list[torch.dtype] = []

    def measure(model: matvit.Elastic, images: dict[matvit.Submodel, torch.Tensor], *_: object) -> dict:
        measured.extend({each.dtype for each in images.values()})
        return {submodel: Timing(sum(submodel.widths), 0, 0, time.time()) for submodel in images}

    monkeypatch.setattr("matvit.runtime.latency._timings", measure)
    encoder = in_memory(dtype=torch.bfloat16)
    assert encoder.submodel("512ms") == encoder.space.full
    assert "this latency profile could not be kept" in caplog.text
    assert encoder.submodel("127ms").widths == (16, 32, 32, 32)
    with pytest.raises(matvit.BudgetError, match="S: 64 ms for one image"):
        encoder.submodel("63ms")
    assert measured == [torch.bfloat16]
    in_memory().submodel("512ms")
    assert caplog.text.count("could not be kept") == 2
    assert measured == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize(
    "name, value",
    [
        *[("crop_mode", value) for value in ("nonsense", 7, ["center"], math.nan)],
        *[("mean", value) for value in ("x", ["a", "b", "c"], 7, [[1]], {"a": 1}, [math.inf] * 3, [1, 2])],
        *[("std", value) for value in ("x", ["a", "b", "c"], 7, [[1]], [None] * 3, math.nan, [0])],
        *[("interpolation", value) for value in ("x", 7, ["bicubic"], {"a": 1})],
        *[("crop_pct", value) for value in ("x", [1], {"a": 1}, math.inf, -1, 1e-9, 1e9)],
        *[("input_size", value) for value in ("x", 7, [], [3], ["a", "b", "c"], [3, "x", "x"])],
        *[("input_size", value) for value in ([math.inf] * 3, [3, 0, 0], [1, 20, 20], [3, 1.5, 1.5], None)],
        *[("tag", value) for value in ("x", 7, ["a"], math.nan)],
        *[("nonsense", value) for value in ("x", 7, None)],
    ],
)
def test_preprocessing_that_makes_no_sense_is_said_to_or_does_no_harm(
    tmp_path: Path, name: str, value: object
) -> None:
    matvit.save(random_matvit(0), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["pretrained_cfg"][name] = value
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    try:
        opened = Encoder.open(tmp_path / "m", device="cpu", dtype="fp32")
    except matvit.CheckpointError as error:
        told = str(error)
        assert told.startswith(f"{tmp_path / 'm'}: ")
        assert "\n" not in told
    else:
        vector = opened.embed(opened.preprocess(picture("red", 0))[None])
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_images_have_the_size_that_the_model_was_made_for() -> None:
    # timm's config keeps the size of the pretrained weights.
    encoder = in_memory(pretrained_cfg_overlay={"input_size": (3, 518, 518)})
    assert encoder.preprocess(picture("red", 0)).shape == (3, 16, 16)
    assert encoder.identity.preprocess["input_size"] == [3, 16, 16]


@pytest.mark.parametrize("side", [0, 1.5, 10**6, math.inf])
def test_a_size_that_would_fill_the_memory_is_refused(side: float) -> None:
    model = random_matvit(0, pretrained_cfg_overlay={"input_size": (3, side, side)}, dynamic_img_size=True)
    with pytest.raises(matvit.CheckpointError, match="its preprocessing makes no sense"):
        Encoder(model, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("name", ["mean", "std", "interpolation"])
def test_preprocessing_that_makes_no_sense_is_a_fault_of_the_checkpoint(name: str) -> None:
    model = random_matvit(0, pretrained_cfg_overlay={name: "abc"})
    with pytest.raises(matvit.CheckpointError, match=r"^here: its preprocessing makes no sense: ."):
        Encoder(model, device=CPU, dtype=torch.float32, location="here")


@needs_compiler
def test_a_compiled_encoder_embeds_as_an_eager_one(checkpoint: Path, encoder: Encoder) -> None:
    compiled = Encoder.open(checkpoint, device="cpu", dtype="fp32", engine="compiled")
    image = encoder.preprocess(picture("checks", 0))[None]
    small = encoder.space.smallest
    np.testing.assert_allclose(compiled.embed(image, small), encoder.embed(image, small), atol=1e-5)
    assert isinstance(compiled.runner, CompiledSubmodels)
    assert compiled.runner.submodels == (small,)


def test_an_engine_of_ones_own_embeds(
    checkpoint: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = register(monkeypatch)
    own = Encoder.open(checkpoint, device="cpu", dtype="bf16", engine="toy")
    image = encoder.preprocess(picture("checks", 0))[None]
    small = encoder.space.smallest
    for submodel in (None, small):
        cosine = own.embed(image, submodel) @ encoder.embed(image, submodel).T
        assert float(cosine[0, 0]) > 0.98
    assert toy.ran == [(None, torch.bfloat16), (small, torch.bfloat16)]
    assert own.predict(image, small).vectors.shape == (1, 32)
    assert own.identity == encoder.identity
    assert own.reading_as(own.identity.preprocess).runner is own.runner


@pytest.mark.parametrize("name", ["abacus", "openvino", "", "EAGER"])
def test_an_engine_that_serves_no_queries_is_refused_before_the_model_is_looked_for(name: str) -> None:
    message = f"^'{name}' is no engine for queries: write eager or compiled$"
    with pytest.raises(EngineError, match=message):
        Encoder.open("no-such-model", device="cpu", engine=name)
    with pytest.raises(EngineError, match=message):
        Encoder(random_matvit(0), device=CPU, dtype=torch.float32, engine=name)


def test_an_engine_that_is_not_installed_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "no_such_module")
    with pytest.raises(MissingEngineError, match=r"^engine toy: not installed: pip install no_such_module$"):
        Encoder.open(checkpoint, device="cpu", engine="toy")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_that_it_is_given_is_left_alone(dtype: torch.dtype) -> None:
    # The kind: classes, mode, number format, device and tensors.
    model = random_matvit(0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(2, 3, SIDE, SIDE)
    logits = model.eval()(images)
    model.train()
    encoder = Encoder(model, device=CPU, dtype=dtype)
    encoder.embed(images)
    assert (model.num_classes, model.training, encoder.model.training) == (5, True, False)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model.eval()(images), logits)
    assert {tensor.dtype for tensor in encoder.model.parameters()} == {dtype}
    own = {tensor.data_ptr() for tensor in model.parameters()}
    shared = {tensor.data_ptr() for tensor in encoder.model.parameters()} & own
    assert bool(shared) == (dtype == torch.float32)  # nothing is copied that needs no conversion


@pytest.mark.parametrize("location", ["", "runs/x"])
def test_a_model_without_pooling_is_refused_by_name(location: str) -> None:
    model = random_matvit(0, global_pool="")
    with pytest.raises(matvit.CheckpointError, match=f"^{location}: it is saved without pooling"):
        Encoder(model, device=CPU, dtype=torch.float32, location=location)


def test_timms_name_of_a_directory_is_that_directory(encoder: Encoder, checkpoint: Path) -> None:
    opened = Encoder.open(f"local-dir:{checkpoint}", device="cpu", dtype="fp32")
    assert (opened.identity, opened.location) == (encoder.identity, str(checkpoint))
    with pytest.raises(matvit.UnknownModelError, match=r"^local-dir:/nowhere: no such directory$"):
        Encoder.open("local-dir:/nowhere")


def test_a_checkpoint_that_stepped_aside_is_found(checkpoint: Path, tmp_path: Path) -> None:
    """After a kill in the instant of replacing it, where two names cannot be swapped."""
    shutil.copytree(checkpoint, tmp_path / ".matvit-old-model")
    encoder = Encoder.open(tmp_path / "model", device="cpu")
    assert encoder.location == str(tmp_path / "model")


# --- towers with a projection ---


def tower(name: str = "vit_base_patch32_clip_224.openai") -> matvit.Elastic:
    torch.manual_seed(0)
    small = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 16}
    return matvit.elastic(name, **small).eval()


def test_a_clip_tower_embeds_into_the_space_of_its_texts() -> None:
    model = tower()
    encoder = Encoder(model, device=CPU, dtype=torch.float32)
    assert (encoder.identity.projection, encoder.identity.embed_dim) == (512, 512)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        for submodel in (None, encoder.space.smallest):
            by_timm = (model if submodel is None else model.extract(submodel))(images).numpy()
            by_timm /= np.linalg.norm(by_timm, axis=1, keepdims=True)
            prediction = encoder.predict(images, submodel)
            np.testing.assert_allclose(prediction.vectors, by_timm, atol=1e-6)
            assert prediction.log_probabilities is None
    with counting() as counter, torch.inference_mode():
        encoder.model(images[:1])
    assert encoder.cost(encoder.space.full).flops == counter.get_total_flops()


def test_a_tower_with_a_classifier_embeds_as_any_other_model() -> None:
    model = tower("vit_base_patch32_clip_224.openai_ft_in1k")
    encoder = Encoder(model, device=CPU, dtype=torch.float32)
    assert (encoder.identity.projection, encoder.identity.embed_dim) == (None, 64)
    prediction = encoder.predict(torch.randn(3, 3, 32, 32))
    assert prediction.vectors.shape == (3, 64)
    assert prediction.log_probabilities is not None
    assert prediction.log_probabilities.shape == (3, 1000)


def test_other_projections_are_other_encoders() -> None:
    model, other = tower(), tower()
    with torch.no_grad():
        other.head.weight[0, 0] += 1
    one, two = (Encoder(each, device=CPU, dtype=torch.float32).identity for each in (model, other))
    assert one.weights_sha256 != two.weights_sha256
