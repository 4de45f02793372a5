"""Heads that make the embedding, told from those that classify it."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import matvit
from matvit.errors import UnknownModelError
from matvit.vision.projection import embedding_width, projection_of, put_aside_classifier
from matvit.weights.checkpoint import weights_sha256

SMALL = {"embed_dim": 64, "depth": 1, "num_heads": 2, "img_size": 32}
TOWER = "vit_base_patch32_clip_224.openai"
TUNED = "vit_base_patch32_clip_224.openai_ft_in1k"


def tiny(name: str = TOWER, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **SMALL, **arguments).eval()


def without_weights(name: str) -> Any:
    """A model of a name, of one layer; None if it does not nest."""
    with torch.device("meta"):
        try:
            return matvit.elastic(timm.create_model(name, depth=1))
        except (UnknownModelError, TypeError):  # of another kind; without such a depth
            return None


def test_every_clip_tower_of_timm() -> None:
    widths = {}
    for name in timm.list_models("*clip*", pretrained=True):
        model = without_weights(name)
        if model is None:
            continue
        projection = projection_of(model)
        assert (projection is None) == ("ft_in" in name), name
        widths[name] = embedding_width(model)
        expected = model.num_features if projection is None else model.num_classes
        assert widths[name] == expected, name
    assert len(widths) > 60
    assert widths["vit_base_patch32_clip_224.openai"] == 512
    assert widths["vit_large_patch14_clip_336.openai"] == 768
    assert widths["vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"] == 512
    assert widths["vit_base_patch32_clip_224.laion2b_ft_in12k_in1k"] == 768
    assert widths["eva02_large_patch14_clip_224.merged2b"] == 768


@pytest.mark.parametrize(
    "name, width",
    [
        ("vit_pe_core_tiny_patch16_384.fb", 512),
        ("vit_base_mci_224.apple_mclip", 512),
        ("vit_base_patch16_224.augreg_in21k", None),
        ("vit_base_patch16_224.bamboo", None),
        ("vit_base_patch16_224_miil.in21k", None),
        ("vit_base_patch14_dinov2.lvd142m", None),
        ("vit_base_patch16_siglip_224.webli", None),
        ("vit_betwixt_patch16_reg4_gap_256.sbb_in12k", None),
        ("eva02_base_patch14_448.mim_in22k_ft_in22k", None),
        ("deit_tiny_distilled_patch16_224.fb_in1k", None),
        ("matvit_base_patch16_224", None),
    ],
)
def test_models_that_are_not_called_clip(name: str, width: int | None) -> None:
    model = without_weights(name)
    projection = projection_of(model)
    assert (projection and projection.out_features) == width
    assert embedding_width(model) == (width or model.num_features)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 10},
        {"num_classes": 0},
        {"pretrained_cfg_overlay": {"label_names": ["cat", "dog"]}},
        {"pretrained_cfg_overlay": {"tag": "mine"}},
    ],
    ids=str,
)
def test_a_classifier_on_a_tower_is_no_projection(arguments: dict[str, Any]) -> None:
    assert projection_of(tiny(**arguments)) is None


def test_a_classifier_of_as_many_classes_was_given_a_bias() -> None:
    model = tiny()
    assert projection_of(model) is model.head
    with torch.no_grad():
        model.head.bias[3] = 0.1
    assert projection_of(model) is None


def test_what_knows_nothing_of_its_weights_has_none() -> None:
    assert projection_of(torch.nn.Linear(2, 2)) is None
    model = tiny()
    del model.pretrained_cfg
    assert projection_of(model) is None


def test_it_is_the_same_model_elastic_cut_and_saved(tmp_path: Path) -> None:
    plain = tiny()
    model = matvit.elastic(plain)
    cut = model.extract(model.space.smallest)
    matvit.save(model, tmp_path / "tower")
    matvit.save(cut, tmp_path / "cut")
    opened = [matvit.load(tmp_path / "tower"), matvit.load(tmp_path / "tower", weights=False)]
    for each in (model, cut, *opened, matvit.load(tmp_path / "cut")):
        assert projection_of(each) is each.head
        assert embedding_width(each) == 512
    assert weights_sha256(plain) == weights_sha256(model) == weights_sha256(opened[0])


def test_only_a_classifier_is_put_aside() -> None:
    images = torch.randn(2, 3, 32, 32)
    tower, tuned = tiny(), tiny(TUNED)
    before = tower(images)
    for model in (tower, tuned):
        put_aside_classifier(model)
    assert torch.equal(tower(images), before)
    assert tower(images).shape == (2, 512)
    assert tuned(images).shape == (2, 64)


@pytest.mark.parametrize("name, is_part", [(TOWER, True), (TUNED, False)])
def test_the_hash_is_of_what_makes_the_embedding(name: str, is_part: bool) -> None:
    model = tiny(name)
    before = weights_sha256(model)
    with torch.no_grad():
        model.head.weight[0, 0] += 1
    assert (weights_sha256(model) != before) == is_part


def test_costs_are_with_the_projection() -> None:
    tower, tuned = (matvit.elastic(tiny(name)) for name in (TOWER, TUNED))
    for model in (tower, tuned):
        put_aside_classifier(model)
    full = tower.space.full
    assert tower.cost(full).macs - tuned.cost(full).macs == 64 * 512
    assert tower.cost(full).params - tuned.cost(full).params == 65 * 512
