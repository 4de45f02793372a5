import copy
import pickle

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from matvit import MatViT, Submodel, SubmodelError
from matvit.vit import plain_architecture

MIXED = Submodel((5, 17, 32, 100))
NAMES = ["base", "large", "small", "tiny"]


def seeded(model, *args):
    torch.manual_seed(7)
    return model(*args)


def test_importing_registers_four_models_with_timm():
    assert timm.list_models("matvit*") == [f"matvit_{size}_patch16_224" for size in NAMES]


@pytest.mark.parametrize("size", NAMES)
def test_state_dict_and_preprocessing_are_those_of_timms_own_model(size):
    with torch.device("meta"):
        ours = timm.create_model(f"matvit_{size}_patch16_224")
        theirs = timm.create_model(f"vit_{size}_patch16_224")
    assert isinstance(ours, MatViT)
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


DROPS = {
    "drop_rate": 0.1,
    "pos_drop_rate": 0.1,
    "patch_drop_rate": 0.25,
    "proj_drop_rate": 0.1,
    "attn_drop_rate": 0.1,
    "drop_path_rate": 0.3,
}


def test_the_full_encoder_trains_as_plain_timm_bit_for_bit(make_tiny, make_plain, images):
    model = make_tiny(**DROPS).train()
    plain = make_plain(model, **DROPS).train()
    logits, wanted = seeded(model, images), seeded(plain, images)
    assert torch.equal(logits, wanted)
    assert not torch.equal(logits, model(images))  # The drops really ran.
    logits.square().sum().backward()
    wanted.square().sum().backward()
    for (name, found), parameter in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(found.grad, parameter.grad), name


def test_a_submodel_trains_as_its_extract(make_tiny, images):
    model = make_tiny(**DROPS).train()
    logits = seeded(model, images, MIXED)
    torch.testing.assert_close(logits, seeded(model.extract(MIXED), images), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits, model(images, MIXED))


@pytest.mark.parametrize("submodel", [None, MIXED], ids=["XL", "mixed"])
@pytest.mark.parametrize("drops", [{}, DROPS], ids=["no drops", "drops"])
def test_gradient_checkpointing_changes_nothing(make_tiny, images, submodel, drops):
    grads = []
    for enable in (False, True):
        model = make_tiny(**drops).train()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(7)
        model(images, submodel).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for stored, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(recomputed, stored, rtol=1e-6, atol=1e-6)


def test_gradient_checkpointing_recomputes_every_block(make_tiny, images):
    model = make_tiny().train()
    model.set_grad_checkpointing()
    calls = []
    for block in model.blocks:
        block.mlp.fc1.register_forward_hook(lambda *_: calls.append(1))
        block.norm1.register_forward_hook(lambda *_: calls.append(1))
    model(images, MIXED).sum().backward()
    # The FFN's first layer is sliced and never called as a module: only the norm is, twice a block.
    assert len(calls) == 2 * len(model.blocks)


def mask(kind):
    allowed = torch.ones(17, 17, dtype=torch.bool)
    allowed[:, 9:] = False
    return {"attn_mask": allowed} if kind == "attn_mask" else {"is_causal": True}


@pytest.mark.parametrize("kind", ["attn_mask", "is_causal"])
def test_attention_masks_reach_every_submodel(tiny, make_plain, images, kind):
    arguments = mask(kind)
    assert torch.equal(tiny(images, **arguments), make_plain(tiny)(images, **arguments))
    small = tiny(images, MIXED, **arguments)
    torch.testing.assert_close(small, tiny.extract(MIXED)(images, **arguments), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(small, tiny(images, MIXED))


def test_features_of_a_submodel_are_those_of_its_extract(tiny, images):
    torch.testing.assert_close(
        tiny.forward_features(images, MIXED),
        tiny.extract(MIXED).forward_features(images),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "wrong", [torch.ones(17, 17), "M", (8, 8, 8, 8), 0.5], ids=lambda w: type(w).__name__
)
def test_anything_else_in_the_submodels_place_is_a_type_error(tiny, images, wrong):
    with pytest.raises(TypeError, match=f"must be a matvit.Submodel or None, not {type(wrong).__name__}"):
        tiny(images, wrong)


def test_a_mask_is_never_taken_for_a_submodel(tiny, images):
    with pytest.raises(TypeError):
        tiny(images, None, torch.ones(17, 17))


@pytest.mark.parametrize("fixed", ["block_fn", "mlp_layer", "scale_mlp_norm"])
def test_arguments_that_would_replace_the_ffn_are_refused(make_tiny, fixed):
    with pytest.raises(SubmodelError, match=fixed):
        make_tiny(**{fixed: nn.Identity})


@pytest.mark.parametrize("submodel", [MIXED, None], ids=["mixed", "XL"])
def test_an_extract_is_free_of_our_code(tiny, submodel):
    extracted = tiny.extract(submodel or tiny.space.full)
    assert type(extracted) is VisionTransformer
    assert not [m for m in extracted.modules() if type(m).__module__.startswith("matvit")]
    assert b"matvit" not in pickle.dumps(extracted).replace(b"matvit_tiny_patch16_224", b"")
    assert extracted.pretrained_cfg["architecture"] == "vit_tiny_patch16_224"
    assert tiny.pretrained_cfg["architecture"] == "matvit_tiny_patch16_224"
    assert not extracted.training


@pytest.mark.parametrize("name, ratio", [("S", 0.5), ("M", 1), ("L", 2), ("XL", 4)])
def test_a_uniform_extract_loads_into_timms_own_model(tiny, images, name, ratio):
    extracted = tiny.extract(tiny.space.uniform(name))
    plain = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=4,
        in_chans=1,
        embed_dim=32,
        depth=4,
        num_heads=2,
        num_classes=5,
        mlp_ratio=ratio,
    ).eval()
    plain.load_state_dict(extracted.state_dict())
    assert torch.equal(plain(images), extracted(images))


def test_the_full_extract_is_the_full_encoder_bit_for_bit(tiny, images):
    assert torch.equal(tiny.extract(tiny.space.full)(images), tiny(images))


def test_an_extract_shares_no_storage_with_its_model(make_tiny, images):
    model = make_tiny()
    before = model(images)
    extracted = model.extract(MIXED)
    ours = {p.untyped_storage().data_ptr() for p in model.state_dict().values()}
    theirs = {p.untyped_storage().data_ptr() for p in extracted.state_dict().values()}
    assert not ours & theirs
    assert sum(p.untyped_storage().nbytes() for p in extracted.parameters()) == 4 * model.cost(MIXED).params
    with torch.no_grad():
        for parameter in extracted.parameters():
            parameter.zero_()
    assert torch.equal(model(images), before)


def test_extracting_leaves_the_model_as_it_was(make_tiny, images):
    model = make_tiny()
    before, keys = model(images), list(model.state_dict())
    model.extract(MIXED)
    assert type(model) is MatViT
    assert list(model.state_dict()) == keys
    assert torch.equal(model(images), before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copied_model_still_runs_submodels(tiny, images, duplicate):
    assert torch.equal(duplicate(tiny)(images, MIXED), tiny(images, MIXED))


def test_a_new_classifier_changes_the_cost_and_nothing_else(make_tiny, images):
    model = make_tiny()
    before = model.cost(MIXED)
    model.reset_classifier(0)
    assert model(images, MIXED).shape == (3, 32)
    after = model.cost(MIXED)
    assert (before.macs - after.macs, before.params - after.params) == (5 * 32, 5 * 33)


def test_cutting_the_depth_cuts_the_space(make_tiny, images):
    model = make_tiny()
    assert model.space.depth == 4
    model.prune_intermediate_layers([1], prune_norm=False, prune_head=False)
    assert model.space.depth == 2
    assert model(images, model.submodel("M")).shape == (3, 5)


def test_budgets_name_submodels(tiny):
    assert str(tiny.submodel("M")) == "M"
    assert tiny.submodel("100%") == tiny.space.full
    assert tiny.space.full.widths == (128,) * 4
