"""Any timm Vision Transformer made elastic: what it shares with timm's own, and where a submodel may run."""

import copy
import os
import pickle
import subprocess
import sys
import threading

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import matvit
from matvit import GRANULARITIES, BudgetError, Elastic, MatViT, Submodel, SubmodelError, UnknownModelError
from matvit.vision.elastic_vit import MatEva, MatViTDistilled, plain_architecture

MIXED = Submodel((5, 17, 32, 100))
A_FEW = ["augreg", "deit distilled", "siglip", "dinov2 giant", "parallel scaling", "eva02 base", "rope mixed"]
HALVES = {"half": 0.5, "whole": 1.0}


def a_few(argument="kind"):
    return pytest.mark.parametrize(argument, A_FEW)


def mixed(model):
    """Widths without a name, none of them full."""
    return Submodel(tuple(hidden // (2 + layer) - 1 for layer, hidden in enumerate(model.space.hidden)))


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


# --- what timm had it keeps, bit for bit ---


@torch.no_grad()
def test_the_full_encoder_is_timms_bit_for_bit(twins):
    plain, model, images = twins
    assert isinstance(model, type(plain))
    for full in ((), (None,), (model.space.full,), (Submodel(model.space.hidden),)):
        assert torch.equal(model(images, *full), plain(images))
        assert torch.equal(model.forward_features(images, *full), plain.forward_features(images))
    small = model.space.smallest
    assert not torch.allclose(model(images, small), plain(images), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(
        model.forward_features(images, small), plain.forward_features(images), rtol=1e-3
    )


def test_weights_are_shared_under_timms_own_keys(twins):
    plain, model, _ = twins
    ours, theirs = model.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs)
    assert all(ours[key].data_ptr() == theirs[key].data_ptr() for key in theirs)
    for mine, its_own in zip(model.parameters(), plain.parameters(), strict=True):
        assert mine is its_own
    for mine, its_own in zip(model.buffers(), plain.buffers(), strict=True):
        assert mine is its_own
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    assert model.pretrained_cfg == plain.pretrained_cfg


def test_features_of_a_submodel_are_those_of_its_extract(twins):
    plain, model, images = twins
    submodel = mixed(model)
    small = model.extract(submodel)
    assert type(small) is type(plain)
    assert not small.training
    with torch.no_grad():
        close(model.forward_features(images, submodel), small.forward_features(images))
        last, found = model.forward_intermediates(images, submodel=submodel)
        wanted_last, wanted = small.forward_intermediates(images)
        close(last, wanted_last)
        assert len(found) == len(model.blocks)
        for ours, theirs in zip(found, wanted, strict=True):
            close(ours, theirs)
        assert torch.equal(model.forward_intermediates(images)[0], plain.forward_intermediates(images)[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"indices": [0, 2]},
        {"indices": 2, "stop_early": True},
        {"norm": True, "output_fmt": "NLC"},
        {"return_prefix_tokens": True, "intermediates_only": True},
        {"output_dict": True, "return_prefix_tokens": True},
        {"output_dict": True, "intermediates_only": True, "output_fmt": "NLC"},
        {"is_causal": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("submodel", [None, MIXED], ids=["XL", "mixed"])
def test_intermediates_come_in_every_form_timm_gives_them(tiny, images, submodel, options):
    found = tiny.forward_intermediates(images, submodel=submodel, **options)
    plain = tiny.extract(submodel or tiny.space.full, copy=False)
    wanted = plain.forward_intermediates(images, **options)
    assert nested_equal(found, wanted)
    if submodel:
        assert not nested_equal(found, tiny.forward_intermediates(images, **options))


def nested_equal(found, wanted):
    if isinstance(wanted, torch.Tensor):
        return torch.equal(found, wanted)
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        found, wanted = found.values(), wanted.values()
    return all(nested_equal(*pair) for pair in zip(found, wanted, strict=True))


def test_indices_of_intermediates_are_positional_as_timms(tiny, images):
    ours = tiny.forward_intermediates(images, [1], submodel=MIXED)
    theirs = tiny.extract(MIXED, copy=False).forward_intermediates(images, [1])
    assert nested_equal(ours, theirs)


@pytest.mark.parametrize(
    "wrong", [torch.ones(17, 17), "M", (8, 8, 8, 8), 0.5], ids=lambda w: type(w).__name__
)
def test_anything_else_in_the_submodels_place_is_a_type_error(tiny, images, wrong):
    for forward in (
        tiny,
        tiny.forward_features,
        lambda x, submodel: tiny.forward_intermediates(x, submodel=submodel),
    ):
        with pytest.raises(TypeError, match=f"must be a matvit.Submodel or None, not {type(wrong).__name__}"):
            forward(images, wrong)


@pytest.mark.parametrize(
    "kind", ["augreg", "dinov2 giant", "eva02 base", "parallel scaling", "parallel 18x2"]
)
@pytest.mark.parametrize("mask", ["attn_mask", "is_causal"])
def test_attention_masks_reach_every_submodel(make_architecture, kind, mask):
    plain = make_architecture(kind)
    model, images = matvit.elastic(plain), torch.randn(2, 3, 32, 32)
    tokens = plain.num_prefix_tokens + plain.patch_embed.num_patches
    allowed = torch.ones(tokens, tokens, dtype=torch.bool)
    allowed[:, 9:] = False
    arguments = {"attn_mask": allowed} if mask == "attn_mask" else {"is_causal": True}
    assert torch.equal(model(images, **arguments), plain(images, **arguments))
    submodel = mixed(model)
    small = model(images, submodel, **arguments)
    close(small, model.extract(submodel)(images, **arguments))
    assert not torch.allclose(small, model(images, submodel), rtol=1e-3, atol=1e-3)


def test_a_mask_is_never_taken_for_a_submodel(tiny, images):
    with pytest.raises(TypeError):
        tiny(images, None, torch.ones(17, 17))


# --- elastic() ---


@pytest.mark.parametrize(
    "kind, elastic_class, timm_class",
    [
        ("augreg", MatViT, VisionTransformer),
        ("deit distilled", MatViTDistilled, VisionTransformerDistilled),
        ("dinov3", MatEva, Eva),
    ],
)
def test_making_elastic_leaves_its_input_alone(make_architecture, kind, elastic_class, timm_class):
    plain = make_architecture(kind).train()
    calls = []
    plain.register_forward_hook(lambda *_: calls.append("plain"))
    before = {name: (value.data_ptr(), value.requires_grad) for name, value in plain.named_parameters()}
    attributes = set(vars(plain))

    model = matvit.elastic(plain)
    assert type(model) is elastic_class
    assert isinstance(model, Elastic)
    assert model.training
    model.eval()
    model.reset_classifier(3)
    model.set_grad_checkpointing()
    model.set_input_size(img_size=(64, 64))
    model.blocks[0].register_forward_hook(lambda *_: calls.append("elastic"))
    del model.blocks[2]

    assert type(plain) is timm_class
    assert plain.training
    assert all(module.training for module in plain.modules())
    assert set(vars(plain)) == attributes
    assert {n: (v.data_ptr(), v.requires_grad) for n, v in plain.named_parameters()} == before
    assert not plain.grad_checkpointing
    assert len(plain.blocks) == 3
    calls.clear()
    assert plain.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert calls == ["plain"]


def test_an_elastic_model_trains_the_weights_it_shares(make_architecture):
    plain = make_architecture("dinov3 plus")
    model, images = matvit.elastic(plain), torch.randn(2, 3, 32, 32)
    before = plain(images)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images, mixed(model)).square().sum().backward()
    optimizer.step()
    assert torch.equal(plain(images), model(images))
    assert not torch.allclose(plain(images), before)


def test_a_name_makes_the_model_timm_would_make(make_architecture):
    torch.manual_seed(3)
    wanted = timm.create_model("test_vit", num_classes=7, img_size=64)
    torch.manual_seed(3)
    model = matvit.elastic("test_vit", num_classes=7, img_size=64)
    assert type(model) is MatViT
    assert all(map(torch.equal, model.state_dict().values(), wanted.state_dict().values()))
    assert plain_architecture(model) == "test_vit"


def test_pretrained_weights_load_through_timm(make_architecture, tmp_path):
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 2, "depth": 3}
    weights = make_architecture("eva02 base")
    save_file(weights.state_dict(), tmp_path / "model.safetensors")
    model = matvit.elastic(
        "eva02_base_patch14_224",
        pretrained=True,
        num_classes=5,
        pretrained_cfg_overlay={"file": str(tmp_path / "model.safetensors"), "num_classes": 5},
        **arguments,
    ).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), weights(images))


def test_a_model_in_hand_takes_no_arguments_of_timms(tiny):
    with pytest.raises(TypeError, match="model in hand"):
        matvit.elastic(tiny, pretrained=True)
    with pytest.raises(TypeError, match="model in hand"):
        matvit.elastic(tiny, num_classes=3)


def test_an_elastic_model_made_elastic_again_keeps_its_granularities(make_tiny, images):
    model = make_tiny(granularities=HALVES)
    again = matvit.elastic(model)
    assert again is not model
    assert again.granularities == HALVES
    assert torch.equal(again(images, MIXED), model(images, MIXED))
    assert matvit.elastic(model, granularities=GRANULARITIES).granularities == GRANULARITIES
    assert model.granularities == HALVES


@pytest.mark.parametrize(
    "name, kind",
    [
        ("resnet18", "ResNet"),
        ("swin_tiny_patch4_window7_224", "SwinTransformer"),
        ("convnext_atto", "ConvNeXt"),
        ("beit_base_patch16_224", "Beit"),
        ("vit_relpos_base_patch16_224", "VisionTransformerRelPos"),
        ("samvit_base_patch16_224", "VisionTransformerSAM"),
        ("naflexvit_base_patch16_gap", "NaFlexVit"),
        ("mixer_s32_224", "MlpMixer"),
        ("cait_xxs24_224", "Cait"),
        ("volo_d1_224", "VOLO"),
        ("efficientnet_b0", "EfficientNet"),
    ],
)
def test_models_that_do_not_nest_are_refused_with_the_reason(name, kind):
    with torch.device("meta"):
        plain = timm.create_model(name)
    with pytest.raises(UnknownModelError, match=f"a {kind} does not nest: only timm's VisionTransformer"):
        matvit.elastic(plain)


def test_a_subclass_of_ones_own_is_refused_as_it_may_compute_something_else(tiny):
    class Mine(VisionTransformer):
        pass

    with pytest.raises(UnknownModelError, match="a Mine does not nest"):
        matvit.elastic(Mine(img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2))
    with pytest.raises(UnknownModelError, match="a Linear does not nest"):
        matvit.elastic(nn.Linear(3, 3))


# --- granularities ---


@settings(max_examples=15)
@given(st.lists(st.floats(0.01, 0.99), max_size=5, unique=True))
def test_any_increasing_granularities_will_do(tiny, images, shares):
    names = [f"g{rank}" for rank in range(len(shares) + 1)]
    model = matvit.elastic(tiny, granularities=dict(zip(names, [*sorted(shares), 1], strict=True)))
    assert [str(submodel) for submodel in model.space.uniforms()] == names
    assert len(model.space.mixnmatch) == 4 * len(shares) + 1
    assert model.submodel(names[-1]) == model.space.full == model.submodel("100%")
    submodel = model.submodel(names[0])
    assert submodel.widths == (max(1, round(min(shares, default=1) * 128)),) * 4
    assert torch.equal(model(images, submodel), tiny(images, submodel))


@pytest.mark.parametrize(
    "granularities",
    [
        {},
        {"S": 0.5},
        {"S": 0.5, "M": 0.25, "XL": 1},
        {"S": 0.5, "M": 0.5, "XL": 1},
        {"4": 0.5, "XL": 1},
        {"A*2": 0.5, "XL": 1},
        {"60%": 0.5, "XL": 1},
        {"S": "0.5", "XL": 1},
        ["S", "XL"],
        7,
    ],
    ids=str,
)
def test_bad_granularities_are_refused_where_they_are_given(tiny, make_tiny, granularities):
    with pytest.raises(SubmodelError, match="granularit"):
        matvit.elastic(tiny, granularities=granularities)
    with pytest.raises(SubmodelError, match="granularit"):
        make_tiny(granularities=granularities)


def test_no_budget_is_the_full_encoder_whatever_its_granularity_is_called(tiny, images):
    model = matvit.elastic(tiny, granularities={"quarter": 0.25, "full": 1})
    assert model.submodel(None) == model.space.full == model.submodel("full")
    assert torch.equal(model(images, model.submodel(None)), tiny(images))
    with pytest.raises(BudgetError, match="is not a budget: write quarter full, 60%"):
        model.submodel("XL")


def test_granularities_given_are_copied(tiny):
    mine = dict(HALVES)
    model = matvit.elastic(tiny, granularities=mine)
    mine["whole"] = 7
    assert model.granularities == HALVES


def test_budgets_name_submodels(tiny):
    assert str(tiny.submodel("M")) == "M"
    assert tiny.submodel("100%") == tiny.space.full
    assert tiny.submodel(MIXED) == MIXED
    assert tiny.space.full.widths == (128,) * 4


# --- extract ---


@a_few()
def test_an_extract_is_free_of_our_code(make_architecture, kind):
    plain = make_architecture(kind)
    model = matvit.elastic(plain)
    for submodel in (model.space.full, model.submodel("M"), mixed(model)):
        small = model.extract(submodel)
        assert type(small) is type(plain)
        assert [type(module) for module in small.modules()] == [type(module) for module in plain.modules()]
        assert set(vars(small)) == set(vars(plain))
        content = pickle.dumps(small)
        assert b"matvit" not in content.lower()
        images = torch.randn(2, 3, 32, 32)
        assert torch.equal(pickle.loads(content)(images), small(images))
        assert torch.equal(copy.deepcopy(small)(images), small(images))


@pytest.mark.parametrize("submodel", [MIXED, None], ids=["mixed", "XL"])
def test_an_extract_of_a_matvit_names_timms_architecture(tiny, submodel):
    for copied in (True, False):
        extracted = tiny.extract(submodel or tiny.space.full, copy=copied)
        assert type(extracted) is VisionTransformer
        assert extracted.pretrained_cfg["architecture"] == "vit_tiny_patch16_224"
        assert extracted.default_cfg["architecture"] == "vit_tiny_patch16_224"
        assert tiny.pretrained_cfg["architecture"] == "matvit_tiny_patch16_224"
    assert b"matvit" not in pickle.dumps(tiny.extract(submodel or tiny.space.full))


def test_an_extract_owns_compact_tensors(twins):
    plain, model, images = twins
    submodel = mixed(model)
    small = model.extract(submodel)
    ours = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    for name, tensor in small.state_dict().items():
        assert tensor.untyped_storage().data_ptr() not in ours, name
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name
    for parameter in small.parameters():
        assert type(parameter) is nn.Parameter
        assert parameter.is_leaf
    assert list(small.state_dict()) == list(plain.state_dict())
    before = model(images, submodel)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert torch.equal(model(images, submodel), before)


@a_few()
def test_an_extract_says_how_wide_it_is(make_architecture, kind):
    model = matvit.elastic(make_architecture(kind))
    submodel = mixed(model)
    for copied in (True, False):
        small = model.extract(submodel, copy=copied)
        for layer in small.modules():
            if type(layer) is nn.Linear:
                assert layer.weight.shape == (layer.out_features, layer.in_features)
                assert layer.bias is None or layer.bias.shape == (layer.out_features,)
    assert matvit.elastic(model.extract(submodel)).space.full == submodel


@a_few()
def test_frozen_parameters_stay_frozen(make_architecture, kind):
    plain = make_architecture(kind)
    for index, parameter in enumerate(plain.parameters()):
        parameter.requires_grad_(index % 3 == 0)
    wanted = {name: parameter.requires_grad for name, parameter in plain.named_parameters()}
    model = matvit.elastic(plain)
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        for copied in (True, False):
            with context():
                small = model.extract(mixed(model), copy=copied)
            assert {name: p.requires_grad for name, p in small.named_parameters()} == wanted


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", ["augreg", "dinov2 giant"])
def test_an_extract_made_without_gradients_can_be_trained(make_architecture, kind, context):
    model, images = matvit.elastic(make_architecture(kind)), torch.randn(2, 3, 32, 32)
    for copied in (True, False):
        with context():
            small = model.extract(mixed(model), copy=copied)
        small(images).sum().backward()
        assert all(parameter.grad is not None for parameter in (small if copied else model).parameters())


def test_the_full_extract_is_the_full_encoder_bit_for_bit(tiny, images):
    for copied in (True, False):
        assert torch.equal(tiny.extract(tiny.space.full, copy=copied)(images), tiny(images))


def test_extracting_leaves_the_model_as_it_was(make_tiny, images):
    model = make_tiny().train()
    before, keys, attributes = model(images), list(model.state_dict()), set(vars(model))
    for copied in (True, False):
        small = model.extract(MIXED, copy=copied)
        assert small.training
        small.eval()
        small.reset_classifier(0)
        small.blocks[0].mlp = nn.Identity()
        assert small(images).shape == (3, 32)
    assert type(model) is MatViT
    assert set(vars(model)) == attributes
    assert list(model.state_dict()) == keys
    assert torch.equal(model(images), before)


# --- wherever a model runs ---


DROPS = {
    "drop_rate": 0.1,
    "pos_drop_rate": 0.1,
    "patch_drop_rate": 0.25,
    "proj_drop_rate": 0.1,
    "attn_drop_rate": 0.1,
    "drop_path_rate": 0.3,
}


def seeded(model, *args):
    torch.manual_seed(7)
    return model(*args)


@pytest.mark.parametrize(
    "kind", ["augreg", "eva02 base", "dinov2 giant", "parallel scaling", "parallel 18x2"]
)
def test_a_model_trains_as_timms_own_with_every_drop(make_architecture, kind):
    plain = make_architecture(kind, **DROPS).train()
    model, images = matvit.elastic(plain), torch.randn(2, 3, 32, 32)
    logits = seeded(model, images)
    assert torch.equal(logits, seeded(plain, images))
    assert not torch.equal(logits, model(images))  # The drops really ran.
    submodel = mixed(model)
    small = seeded(model, images, submodel)
    close(small, seeded(model.extract(submodel), images))
    assert not torch.allclose(small, model(images, submodel))
    grads = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    wanted = torch.autograd.grad(seeded(plain, images).square().sum(), list(plain.parameters()))
    assert all(map(torch.equal, grads, wanted))


def test_a_distilled_encoder_trains_both_heads(make_architecture):
    model = matvit.elastic(make_architecture("deit distilled")).train()
    model.set_distilled_training()
    images, submodel = torch.randn(2, 3, 32, 32), mixed(model)
    logits, distilled = model(images, submodel)
    wanted, wanted_distilled = model.extract(submodel)(images)
    close(logits, wanted)
    close(distilled, wanted_distilled)
    (logits.sum() + distilled.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("submodel", ["XL", "mixed"])
@pytest.mark.parametrize("kind", A_FEW)
def test_gradient_checkpointing_changes_nothing(make_architecture, kind, submodel):
    model = matvit.elastic(make_architecture(kind, **({} if kind == "siglip" else DROPS))).train()
    submodel = None if submodel == "XL" else mixed(model)
    images, grads = torch.randn(2, 3, 32, 32), []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        seeded(model, images, submodel).square().sum().backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    for stored, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(recomputed, stored, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["augreg", "eva02 base"])
def test_gradient_checkpointing_recomputes_every_block(make_architecture, kind):
    model, calls = matvit.elastic(make_architecture(kind)).train(), []
    model.set_grad_checkpointing()
    for block in model.blocks:
        block.norm1.register_forward_hook(lambda *_: calls.append(1))
    images, submodel = torch.randn(2, 3, 32, 32), mixed(model)
    for run in (
        lambda: model(images, submodel),
        lambda: model.forward_intermediates(images, submodel=submodel)[0],
    ):
        calls.clear()
        run().sum().backward()
        assert len(calls) == 2 * len(model.blocks)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # timm's RmsNorm
@a_few()
@torch.no_grad()
def test_autocast(make_architecture, kind):
    plain = make_architecture(kind)
    model, images = matvit.elastic(plain), torch.randn(2, 3, 32, 32)
    submodel = mixed(model)
    full, small = model(images), model(images, submodel)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(images), plain(images))
        assert model(images).dtype == torch.bfloat16
        found = model(images, submodel)
        torch.testing.assert_close(found, model.extract(submodel)(images), rtol=2e-2, atol=2e-2)
        assert torch.equal(found, model.extract(submodel, copy=False)(images))
        torch.testing.assert_close(found.float(), small, rtol=0.1, atol=0.1)
        assert (found - small).abs().max() < (found - full).abs().max()


def test_gradients_under_autocast(make_architecture):
    model, images = matvit.elastic(make_architecture("eva02 tiny")), torch.randn(2, 3, 32, 32)
    submodel = mixed(model)
    small = model.extract(submodel)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(images, submodel).float().square().sum().backward()
        small(images).float().square().sum().backward()
    for (name, found), wanted in zip(model.named_parameters(), small.parameters(), strict=True):
        assert found.grad.dtype == torch.float32
        assert found.grad.norm().item() == pytest.approx(wanted.grad.norm().item(), rel=0.02), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_a_model_of_another_dtype(make_architecture, dtype):
    model = matvit.elastic(make_architecture("eva02 base")).to(dtype)
    images, submodel = torch.randn(2, 3, 32, 32, dtype=dtype), mixed(model)
    found = model(images, submodel)
    assert found.dtype == dtype
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-12
    torch.testing.assert_close(found, model.extract(submodel)(images), rtol=tolerance, atol=tolerance)


@a_few()
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients(make_architecture, kind, context):
    model, images = matvit.elastic(make_architecture(kind)), torch.randn(2, 3, 32, 32)
    submodel = mixed(model)
    wanted = model(images, submodel)
    with context():
        found = model(images, submodel)
        assert torch.equal(found, wanted)
        assert torch.equal(model.extract(submodel, copy=False)(images), wanted)
    assert not found.requires_grad
    assert torch.equal(model(images, submodel), wanted)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
@a_few()
def test_a_copied_model_still_runs_submodels(make_architecture, kind, duplicate):
    model, images = matvit.elastic(make_architecture(kind), granularities=HALVES), torch.randn(2, 3, 32, 32)
    twin = duplicate(model)
    assert type(twin) is type(model)
    assert twin.granularities == HALVES
    for submodel in (None, mixed(model)):
        assert torch.equal(twin(images, submodel), model(images, submodel))
    with torch.no_grad():
        twin.patch_embed.proj.weight.zero_()
    assert model.patch_embed.proj.weight.any()


@pytest.mark.parametrize("kind", ["augreg", "dinov2 giant", "parallel scaling"])
def test_many_threads_run_different_submodels_at_once(make_architecture, kind):
    model, images = matvit.elastic(make_architecture(kind)), torch.randn(2, 3, 32, 32)
    chosen = [model.space.mixnmatch[point] for point in (0, 4, 7)] + [model.space.full]
    alone = [model(images, submodel) for submodel in chosen]
    together: list[list[torch.Tensor]] = [[] for _ in chosen]
    start = threading.Barrier(len(chosen))

    def work(i):
        start.wait()
        for _ in range(10):
            together[i].append(model(images, chosen[i]).detach())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(chosen))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for logits, runs in zip(alone, together, strict=True):
        assert len(runs) == 10
        for run in runs:
            torch.testing.assert_close(run, logits, rtol=1e-6, atol=1e-6)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["augreg", "eva02 tiny"])
def test_distributed_data_parallel(make_architecture, process_group, kind):
    model, images = matvit.elastic(make_architecture(kind)), torch.randn(2, 3, 32, 32)
    parallel = DistributedDataParallel(model)
    for submodel in (mixed(model), None, model.space.smallest):
        wanted = torch.autograd.grad(model(images, submodel).square().sum(), list(model.parameters()))
        model.zero_grad()
        logits = parallel(images, submodel)
        assert torch.equal(logits, model(images, submodel))
        logits.square().sum().backward()
        for parameter, grad in zip(model.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-6, atol=1e-6)


RANK = """
import sys, torch, timm, matvit
from torch.nn.parallel import DistributedDataParallel
root, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{root}/group", rank=rank, world_size=2)
model, images, submodels = torch.load(f"{root}/start.pt", weights_only=False)
parallel = DistributedDataParallel(model)
parallel(images[rank], submodels[rank]).square().sum().backward()
torch.save([parameter.grad for parameter in model.parameters()], f"{root}/rank{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_average_their_gradients_though_their_submodels_differ(make_tiny, tmp_path):
    model, images = make_tiny(), torch.randn(2, 3, 1, 16, 16)
    submodels = [MIXED, model.submodel("L")]
    torch.save((model, images, submodels), tmp_path / "start.pt")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, tmp_path, str(rank)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    each = [
        torch.autograd.grad(model(x, s).square().sum(), list(model.parameters()))
        for x, s in zip(images, submodels, strict=True)
    ]
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt")
        for grad, first, second in zip(found, *each, strict=True):
            torch.testing.assert_close(grad, (first + second) / 2, rtol=1e-5, atol=1e-5)
