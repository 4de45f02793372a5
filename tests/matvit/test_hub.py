"""What `-m` may be, beside directories (test_checkpoint.py) and published names (test_published.py)."""

from pathlib import Path

import pytest
import torch

import matvit
from matvit import CheckpointError, MatViT, UnknownModelError, published


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and nothing downloaded before."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("timm.models._hub._has_hf_hub", True)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("matvit_tiny_patch16_224", "MatViT"),
        ("deit_tiny_distilled_patch16_224", "MatViTDistilled"),
        ("eva02_tiny_patch14_224", "MatEva"),
        ("vit_small_patch14_dinov2.lvd142m", "MatViT"),
    ],
)
def test_costs_need_only_a_name(name, kind):
    model = matvit.load(name, weights=False)
    assert type(model).__name__ == kind
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not model.training
    assert model.cost(model.space.full).gmacs > 0.5


def test_an_architecture_without_weights_is_refused_where_they_are_needed():
    with pytest.raises(UnknownModelError, match="matvit_tiny_patch16_224 has no published weights"):
        matvit.load("matvit_tiny_patch16_224")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k"])
def test_without_a_network_pretrained_weights_are_missed_in_one_line(offline, name):
    with pytest.raises(CheckpointError, match=f"^cannot download {name}: .*connection") as caught:
        matvit.load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(
    "name, reason",
    [
        ("resnet18", "a ResNet does not nest"),
        ("swin_tiny_patch4_window7_224", "a SwinTransformer does not nest"),
        ("vit_tiny_patch16_224.nonsense", "Invalid pretrained tag"),
        ("nonsense", "no directory 'nonsense', nor a model of timm, nor one of matvit-b16-in1k"),
        ("local-dir:/tmp", "no directory 'local-dir:/tmp'"),
    ],
)
def test_what_is_no_elastic_model_is_refused_before_any_download(offline, name, reason, weights):
    with pytest.raises(UnknownModelError, match=reason):
        matvit.load(name, weights=weights)


def test_a_published_name_is_a_checkpoint_in_the_cache(monkeypatch, tmp_path, make_tiny, images):
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    name = next(iter(published.PUBLISHED))
    model = make_tiny()
    matvit.save(model, tmp_path / "published" / name)
    loaded = matvit.load(name)
    assert type(loaded) is MatViT
    assert torch.equal(loaded(images), model(images))
