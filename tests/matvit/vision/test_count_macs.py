"""What a submodel is said to cost is what torch counts when it runs."""

from itertools import pairwise

import pytest
import timm
import torch
from counting import counting
from timm.models.vision_transformer import VisionTransformer

import matvit
from matvit import Cost, Submodel, UnknownModelError

CONFIGURATIONS = {
    "token": {},
    "avg": {"global_pool": "avg", "class_token": False},
    "avg with class token": {"global_pool": "avg"},
    "registers": {"reg_tokens": 3, "no_embed_class": True},
    "map": {"global_pool": "map"},
    "map without class token": {"global_pool": "map", "class_token": False},
    "map over all tokens": {"global_pool": "map", "reg_tokens": 2, "pool_include_prefix": True},
    "parameter-free recurrent pool": {"global_pool": "prr"},
    "prr without class token": {"global_pool": "prr", "class_token": False, "reg_tokens": 1},
    "map without head": {"global_pool": "map", "num_classes": 0},
    "no head": {"num_classes": 0},
    "no pooling": {"global_pool": "", "num_classes": 0},
    "pre-norm": {"pre_norm": True, "final_norm": False},
    "no qkv bias": {"qkv_bias": False},
    "no proj bias": {"proj_bias": False},
    "layer scale, qk norm": {"init_values": 1e-3, "qk_norm": True},
    "not square": {"img_size": (16, 24)},
    "not square patches, colour": {"patch_size": (4, 8), "in_chans": 3},
    "FFN ratio 3": {"mlp_ratio": 3.0},
    "dynamic size": {"dynamic_img_size": True},
}


def counted(model, *submodel, size=None):
    """Multiply-accumulates of one image, as torch counts them."""
    x = torch.zeros(1, *(size or input_size(model)), device=next(model.parameters()).device)
    with counting() as counter:
        model(x, *submodel)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def input_size(model):
    return model.in_chans, *model.patch_embed.img_size


def parameters(model: VisionTransformer) -> int:
    return sum(p.numel() for p in model.parameters())


def on_meta(name, **kwargs):
    with torch.device("meta"):
        return timm.create_model(name, **kwargs).eval()


@pytest.fixture(scope="module")
def base():
    return on_meta("matvit_base_patch16_224")


def test_every_encoder_costs_what_torch_counts(twins):
    plain, model, _ = twins
    space, cost = model.space, model.cost
    assert cost(space.full) == Cost(macs=counted(plain), params=parameters(plain))
    odd = Submodel(tuple(max(1, hidden // (3 + layer)) for layer, hidden in enumerate(space.hidden)))
    for submodel in (space.full, space.smallest, space.mixnmatch[space.depth + 1], odd):
        assert counted(model, submodel) == cost(submodel).macs
        extracted = model.extract(submodel)
        assert cost(submodel) == Cost(macs=counted(extracted), params=parameters(extracted))
        assert matvit.elastic(extracted).cost(submodel) == cost(submodel)


@pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_every_point_of_the_curve_costs_what_torch_counts(make_tiny, configuration):
    model = make_tiny(**configuration)
    cost = model.cost
    for submodel in model.space.mixnmatch:
        extracted = model.extract(submodel)
        assert cost(submodel) == Cost(macs=counted(extracted), params=parameters(extracted)), submodel


def test_attention_is_counted_whether_fused_or_not(make_tiny):
    fused, plain = make_tiny(), make_tiny()
    for block in plain.blocks:
        block.attn.fused_attn = False
    submodel = fused.submodel("M")
    assert counted(fused, submodel) == counted(plain, submodel) == fused.cost(submodel).macs


@torch.no_grad()
def test_every_budget_of_base_costs_what_torch_counts(base):
    assert len(base.space.mixnmatch) == 37
    for submodel in base.space.mixnmatch:
        assert base.cost(submodel).macs == counted(base, submodel), submodel


# Torch needs 11 s to count them all.
@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])
@torch.no_grad()
def test_every_budget_of_large_costs_what_torch_counts(step):
    large = on_meta("matvit_large_patch16_224")
    assert len(large.space.mixnmatch) == 73
    for submodel in large.space.mixnmatch[::step]:
        assert large.cost(submodel).macs == counted(large, submodel), submodel


@pytest.mark.parametrize("point", range(0, 37, 6))
def test_base_costs_what_torch_counts(base, point):
    submodel = base.space.mixnmatch[point]
    cost = base.cost(submodel)
    assert cost.macs == counted(base, submodel)
    assert cost == Cost(macs=counted(base.extract(submodel)), params=parameters(base.extract(submodel)))


def test_base_costs_what_was_published(base):
    gmacs = [base.cost(submodel).gmacs for submodel in base.space.uniforms()]
    assert [f"{g:.2f}" for g in gmacs] == ["7.80", "9.20", "11.99", "17.56"]


def test_large_costs_what_torch_counts_and_what_was_published():
    large = on_meta("matvit_large_patch16_224")
    cost = large.cost(large.space.full)
    assert cost == Cost(macs=counted(large), params=parameters(large))
    assert f"{cost.gmacs:.2f}" == "61.55"


def test_cost_strictly_increases_along_the_curve(base):
    costs = [base.cost(submodel) for submodel in base.space.mixnmatch]
    for cheaper, dearer in pairwise(costs):
        assert cheaper.macs < dearer.macs
        assert cheaper.params < dearer.params


def test_a_pool_of_unknown_cost_is_refused(make_tiny, images):
    model = make_tiny(global_pool="map")
    model.attn_pool = torch.nn.Flatten()
    with pytest.raises(UnknownModelError, match="pooling with Flatten is not known"):
        model.cost  # noqa: B018
    assert model.forward_features(images, model.space.smallest).shape == (3, 17, 32)


def test_counting_a_stem_leaves_it_as_it_is(make_architecture):
    model = matvit.elastic(make_architecture("hybrid"))
    model.train()
    before = {name: (tensor.data_ptr(), tensor.device) for name, tensor in model.state_dict().items()}
    assert model.cost(model.space.full).macs > 0
    assert {name: (tensor.data_ptr(), tensor.device) for name, tensor in model.state_dict().items()} == before
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_cost_depends_on_no_dtype(make_architecture, dtype):
    for kind in ("hybrid", "siglip"):
        model = matvit.elastic(make_architecture(kind))
        before = model.cost(model.space.full)
        assert model.to(dtype).cost(model.space.full) == before
