"""The registered `matvit_*` models: timm's own, and what timm's test-suite asks of a Vision Transformer."""

from itertools import pairwise

import pytest
import timm
import torch
from timm.layers import create_feature_extractor
from timm.models import FeatureInfo, group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from matvit import MatViT, Submodel, SubmodelError
from matvit.vision.elastic_vit import plain_architecture

MIXED = Submodel((5, 17, 32, 100))
NAMES = ["base", "large", "small", "tiny"]
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 2, "depth": 4}
"""What makes a registered model quick; test_a_full_size_model runs one as it is."""


def small(size, **arguments):
    torch.manual_seed(0)
    return timm.create_model(f"matvit_{size}_patch16_224", **{**SMALL, **arguments}).eval()


def on_meta(name, **arguments):
    with torch.device("meta"):
        return timm.create_model(name, **arguments).eval()


each_size = pytest.mark.parametrize("size", NAMES)


# --- registration ---


def test_importing_registers_four_models_with_timm():
    assert timm.list_models("matvit*") == [f"matvit_{size}_patch16_224" for size in NAMES]


@each_size
def test_state_dict_and_preprocessing_are_those_of_timms_own_model(size):
    ours, theirs = on_meta(f"matvit_{size}_patch16_224"), on_meta(f"vit_{size}_patch16_224")
    assert type(ours) is MatViT
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    assert [k for k, _ in ours.named_modules()] == [k for k, _ in theirs.named_modules()]
    assert timm.data.resolve_model_data_config(ours) == timm.data.resolve_model_data_config(theirs)
    assert ours.default_cfg["architecture"] == f"matvit_{size}_patch16_224"
    assert plain_architecture(ours) == f"vit_{size}_patch16_224"


@pytest.mark.parametrize("full", [(), (None,), "XL"], ids=["left out", "None", "XL"])
@pytest.mark.parametrize(
    "configuration",
    [{}, {"global_pool": "avg", "class_token": False}, {"global_pool": "map"}, {"num_classes": 0}],
    ids=str,
)
def test_the_full_encoder_is_plain_timm_bit_for_bit(make_tiny, make_plain, images, full, configuration):
    model = make_tiny(**configuration)
    plain = make_plain(model, **configuration)
    arguments = (model.submodel("XL"),) if full == "XL" else full
    assert torch.equal(model(images, *arguments), plain(images))
    assert torch.equal(model.forward_features(images, *arguments), plain.forward_features(images))


def test_pretrained_weights_are_not_published():
    with pytest.raises(RuntimeError, match="pretrained weights"):
        small("tiny", pretrained=True)


def test_arguments_that_no_encoder_has_are_refused_as_timm_does():
    with pytest.raises(TypeError, match="no_such_argument"):
        small("tiny", no_such_argument=1)


@pytest.mark.parametrize("granularities", [{"half": 0.5, "whole": 1}, {"only": 1}], ids=str)
def test_granularities_are_an_argument(granularities):
    model = small("tiny", granularities=granularities)
    assert model.granularities == granularities
    assert [str(submodel) for submodel in model.space.uniforms()] == list(granularities)
    assert model.submodel(next(iter(granularities))).widths == model.space.smallest.widths
    assert model(torch.zeros(1, 3, 32, 32), model.space.smallest).shape == (1, 1000)
    with pytest.raises(SubmodelError, match="granularities must increase"):
        small("tiny", granularities={"whole": 1, "half": 0.5})


# --- what timm's tests/test_models.py asks ---


@torch.no_grad()
def test_a_full_size_model():
    model = timm.create_model("matvit_tiny_patch16_224").eval()
    x = torch.randn(1, *model.default_cfg["input_size"])
    for submodel in (None, model.submodel("S")):
        logits = model(x, submodel)
        assert logits.shape == (1, 1000)
        assert logits.isfinite().all()


@each_size
def test_backward_gives_every_parameter_a_gradient(size):
    x = torch.randn(2, 3, 32, 32)
    for budget in ("XL", "S", "S*1+M*3"):
        model = small(size, num_classes=42).train()
        logits = model(x, model.submodel(budget))
        logits.mean().backward()
        assert logits.shape == (2, 42)
        assert logits.isfinite().all()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, f"no gradient for {name}"
            assert parameter.grad.shape == parameter.shape


@each_size
def test_default_cfg(size):
    model = on_meta(f"matvit_{size}_patch16_224")
    cfg, state_dict = model.default_cfg, model.state_dict()
    assert cfg is model.pretrained_cfg
    assert cfg["num_classes"] == model.num_classes == 1000
    assert cfg["input_size"] == (3, 224, 224)
    assert cfg["fixed_input_size"]
    assert cfg["pool_size"] is None
    assert cfg["interpolation"] == "bicubic"
    assert cfg["license"] == "apache-2.0"
    assert not cfg.get("url")
    assert cfg["classifier"] + ".weight" in state_dict
    assert cfg["first_conv"] + ".weight" in state_dict
    theirs = timm.models.get_pretrained_cfg(f"vit_{size}_patch16_224").to_dict()
    for key in (
        "input_size",
        "fixed_input_size",
        "crop_pct",
        "interpolation",
        "mean",
        "std",
        "first_conv",
        "classifier",
    ):
        assert cfg[key] == theirs[key], key


@each_size
@torch.no_grad()
def test_features_without_a_classifier(size):
    x = torch.randn(1, 3, 32, 32)
    model = small(size)
    for submodel in (None, model.submodel("M")):
        features = model.forward_features(x, submodel)
        assert features.shape[-1] == model.num_features
    model.reset_classifier(0)
    assert model.num_classes == 0
    for bare in (model, small(size, num_classes=0)):
        for submodel in (None, bare.submodel("M")):
            assert bare(x, submodel).shape == (1, bare.num_features) == (1, bare.head_hidden_size)
    model.reset_classifier(0, "")
    assert model(x, model.submodel("M")).shape == (1, 17, model.num_features)
    model.reset_classifier(7, "avg")
    assert model(x, model.submodel("M")).shape == (1, 7)


def test_a_new_classifier_changes_the_cost_and_nothing_else(make_tiny, images):
    model = make_tiny()
    before = model.cost(MIXED)
    model.reset_classifier(0)
    assert model(images, MIXED).shape == (3, 32)
    after = model.cost(MIXED)
    assert (before.macs - after.macs, before.params - after.params) == (5 * 32, 5 * 33)


@torch.no_grad()
def test_forward_intermediates():
    model, x = small("tiny"), torch.randn(2, 3, 32, 32)
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    for submodel in (None, model.submodel("S*1+M*3")):
        last, found = model.forward_intermediates(x, submodel=submodel)
        assert torch.equal(last, model.forward_features(x, submodel))
        assert len(found) == len(info.channels()) == 4
        for channels, reduction, tokens in zip(info.channels(), info.reduction(), found, strict=True):
            assert tokens.shape == (2, channels, 32 // reduction, 32 // reduction)


@pytest.mark.parametrize("kind", ["getter", "hook", "fx"])
@torch.no_grad()
def test_features_only(kind):
    model = small("tiny", features_only=True, feature_cls=kind, out_indices=(0, 2))
    plain = timm.create_model(
        "vit_tiny_patch16_224", **SMALL, features_only=True, feature_cls=kind, out_indices=(0, 2)
    ).eval()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    found, wanted = model(x), plain(x)
    assert model.feature_info.channels() == [48, 48]
    assert len(found) == 2
    assert all(map(torch.equal, found, wanted))


def test_get_intermediate_layers(make_tiny, make_plain, images):
    model = make_tiny()
    plain = make_plain(model)
    options = {"n": [1, 3], "reshape": True, "return_prefix_tokens": True, "norm": True}
    for ours, theirs in zip(
        model.get_intermediate_layers(images, **options),
        plain.get_intermediate_layers(images, **options),
        strict=True,
    ):
        assert all(map(torch.equal, ours, theirs))


def test_cutting_the_depth_cuts_the_space(make_tiny, images):
    model = make_tiny()
    assert model.space.depth == 4
    assert model.prune_intermediate_layers([1], prune_norm=False, prune_head=False) == [1]
    assert model.space.depth == 2
    assert model(images, model.submodel("M")).shape == (3, 5)
    assert model.prune_intermediate_layers([0], prune_norm=True) == [0]
    assert model(images, model.submodel("M")).shape == (3, 17, 32)


def test_fx_graphs_are_of_the_full_encoder(make_tiny, make_plain, images):
    model = make_tiny()
    graph = create_feature_extractor(model, ["blocks.1", "head"])
    found, wanted = graph(images), create_feature_extractor(make_plain(model), ["blocks.1", "head"])(images)
    assert list(found) == list(wanted) == ["blocks.1", "head"]
    assert all(torch.equal(found[node], wanted[node]) for node in wanted)
    assert torch.equal(found["head"], model(images))


def test_gradients_flow_through_fx_graphs(make_tiny, images):
    model = make_tiny().train()
    graph = create_feature_extractor(model, ["head"])
    graph(images)["head"].sum().backward()
    assert all(parameter.grad is not None for parameter in graph.parameters())


@each_size
def test_gray_images(size):
    model = small(size, in_chans=1)
    assert model.patch_embed.proj.weight.shape[1] == 1
    assert model(torch.randn(2, 1, 32, 32), model.submodel("M")).shape == (2, 1000)


def test_another_input_size(make_tiny, make_plain):
    model = make_tiny()
    plain, before = make_plain(model), model.cost(MIXED)
    for each in (model, plain):
        each.set_input_size(img_size=(24, 32), patch_size=8)
    x = torch.randn(2, 1, 24, 32)
    assert torch.equal(model(x), plain(x))
    torch.testing.assert_close(model(x, MIXED), model.extract(MIXED)(x), rtol=1e-5, atol=1e-5)
    assert model.cost(MIXED).macs < before.macs
    assert model.cost(MIXED).params == sum(p.numel() for p in model.extract(MIXED).parameters())


def test_images_of_any_size_where_timm_allows_them(make_tiny, make_plain):
    model = make_tiny(dynamic_img_size=True)
    x = torch.randn(2, 1, 24, 32)
    assert torch.equal(model(x), make_plain(model, dynamic_img_size=True)(x))
    torch.testing.assert_close(model(x, MIXED), model.extract(MIXED)(x), rtol=1e-5, atol=1e-5)


def test_optimizers_group_parameters_as_for_timms_own_model(make_tiny, make_plain):
    model = make_tiny()
    plain = make_plain(model)
    assert model.no_weight_decay() == plain.no_weight_decay()
    assert model.group_matcher() == plain.group_matcher()
    assert group_parameters(model, model.group_matcher()) == group_parameters(plain, plain.group_matcher())
    for grouping in (param_groups_weight_decay, param_groups_layer_decay):
        options = {"weight_decay": 0.05, "no_weight_decay_list": model.no_weight_decay()}
        found, wanted = grouping(model, **options), grouping(plain, **options)
        assert len(found) == len(wanted)
        for ours, theirs in zip(found, wanted, strict=True):
            assert [p.shape for p in ours["params"]] == [p.shape for p in theirs["params"]]
            assert ours["weight_decay"] == theirs["weight_decay"]
            assert ours.get("lr_scale") == theirs.get("lr_scale")


def test_an_optimizer_trains_every_granularity(make_tiny, images):
    model, losses = make_tiny().train(), []
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1e-3)
    target = torch.tensor([0, 3, 1])
    for _ in range(5):
        optimizer.zero_grad()
        loss = sum(
            torch.nn.functional.cross_entropy(model(images, s), target) for s in model.space.uniforms()
        )
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(later < earlier for earlier, later in pairwise(losses))


@pytest.mark.parametrize("name, ratio", [("S", 0.5), ("M", 1), ("L", 2), ("XL", 4)])
def test_a_uniform_extract_loads_into_timms_own_model(tiny, make_plain, images, name, ratio):
    extracted = tiny.extract(tiny.space.uniform(name))
    assert torch.equal(make_plain(extracted, mlp_ratio=ratio)(images), extracted(images))
