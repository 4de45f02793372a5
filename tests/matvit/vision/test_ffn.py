"""Submodels against the masked reference: plain timm with the dropped hidden units set to zero."""

import random
from contextlib import contextmanager
from functools import partial

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import ConvMlp, GatedMlp, GroupNorm1, Mlp
from timm.models.vision_transformer import Block
from torch import nn

import matvit
from matvit import Submodel, SubmodelError, UnknownModelError

HIDDEN, DEPTH = 128, 4
submodels = st.tuples(*[st.integers(1, HIDDEN)] * DEPTH).map(Submodel)


@contextmanager
def masked(plain, submodel):
    """Make a plain timm model compute a submodel: zero the units it drops where the FFN reads them."""
    hooks = []
    for block, width in zip(plain.blocks, submodel.widths, strict=True):
        ffns = (
            [branch.mlp for branch in block.ffns]
            if hasattr(block, "ffns")
            else [getattr(block, "mlp", block)]
        )
        for ffn in ffns:
            hooks += mask_ffn(ffn, width)
    yield plain
    for hook in hooks:
        hook.remove()


def mask_ffn(ffn, width):
    if hasattr(ffn, "in_split"):  # FFN and attention in one: the hidden units come last.
        hidden, output = ffn.in_split[0], ffn.out_proj or ffn.mlp_out_proj
    else:
        hidden, output = ffn.fc2.in_features, ffn.fc2
    keep = torch.ones(output.in_features)
    keep[output.in_features - hidden + width :] = 0
    yield output.register_forward_pre_hook(lambda _, inputs: (inputs[0] * keep,))
    norm = getattr(ffn, "norm", nn.Identity())
    if not isinstance(norm, nn.Identity):
        yield norm.register_forward_hook(lambda _, inputs, __: norm_of_kept(norm, inputs[0], keep, width))


def norm_of_kept(norm, x, keep, width):
    """What a norm over the hidden units gives where only the kept ones count."""
    mean = (x * keep).sum(-1, keepdim=True) / width if isinstance(norm, nn.LayerNorm) else 0
    variance = ((x - mean) ** 2 * keep).sum(-1, keepdim=True) / width
    x = (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight
    return x + norm.bias if isinstance(norm, nn.LayerNorm) else x


def some_submodels(space):
    """Widths of no pattern at all, the narrowest beside the full ones, and a point of the curve."""
    chance = random.Random(str(space.hidden))
    return [
        Submodel(tuple(chance.randint(1, hidden) for hidden in space.hidden)),
        Submodel((1, *space.hidden[1:-1], space.hidden[-1] // 2)),
        space.mixnmatch[2],
    ]


def gradients(model, logits):
    """Of a scalar in which every logit counts differently."""
    weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad((logits * weights).sum(), parameters), strict=True))


# --- every kind of encoder ---


def test_every_encoder_runs_its_submodels_as_the_masked_reference(twins):
    plain, model, images = twins
    with torch.no_grad():
        full = plain(images)
        for submodel in some_submodels(model.space):
            with masked(plain, submodel):
                reference = plain(images)
            assert (reference - full).abs().max() > 1e-2  # The units that are dropped matter.
            assert_close = partial(torch.testing.assert_close, expected=reference, rtol=1e-5, atol=1e-5)
            assert_close(model(images, submodel))
            assert_close(model.extract(submodel)(images))
            assert_close(model.extract(submodel, copy=False)(images))
        assert torch.equal(plain(images), full)  # The reference took its masks off.


def test_gradients_of_every_encoder_equal_the_masked_reference(twins):
    plain, model, images = twins
    submodel = some_submodels(model.space)[0]
    with masked(plain, submodel):
        wanted = gradients(plain, plain(images))
    found = gradients(model, model(images, submodel))
    for name, grad in wanted.items():
        torch.testing.assert_close(
            found[name], grad, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


# --- one of them, and widths of every kind ---


@settings(max_examples=25)
@given(submodels)
def test_any_submodel_equals_the_masked_reference_and_its_extract(tiny, make_plain, images, submodel):
    with masked(make_plain(tiny), submodel) as plain:
        reference = plain(images)
    torch.testing.assert_close(tiny(images, submodel), reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tiny.extract(submodel)(images), reference, rtol=1e-5, atol=1e-5)


@settings(max_examples=10)
@given(submodels)
def test_gradients_equal_the_masked_reference(tiny, make_plain, images, submodel):
    with masked(make_plain(tiny), submodel) as plain:
        wanted = gradients(plain, plain(images))
    found = gradients(tiny, tiny(images, submodel))
    for name, grad in wanted.items():
        torch.testing.assert_close(
            found[name], grad, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_dropped_units_get_no_gradient_and_kept_ones_do(tiny, images):
    submodel = Submodel((1, 40, 64, 128))
    grads = gradients(tiny, tiny(images, submodel))
    for layer, width in enumerate(submodel.widths):
        mlp = f"blocks.{layer}.mlp"
        assert not grads[f"{mlp}.fc1.weight"][width:].any()
        assert not grads[f"{mlp}.fc1.bias"][width:].any()
        assert not grads[f"{mlp}.fc2.weight"][:, width:].any()
        assert grads[f"{mlp}.fc1.weight"][:width].all()
        assert grads[f"{mlp}.fc2.weight"][:, :width].all()


@pytest.mark.parametrize(
    "configuration",
    [
        {"global_pool": "avg", "class_token": False},
        {"global_pool": "map"},
        {"global_pool": "prr"},
        {"reg_tokens": 2, "no_embed_class": True, "init_values": 0.1},
        {"pre_norm": True, "qkv_bias": False, "act_layer": "gelu_tanh"},
        {"dynamic_img_size": True, "qk_norm": True},
        {"proj_bias": False},
    ],
    ids=str,
)
def test_every_configuration_nests(make_tiny, make_plain, images, configuration):
    model = make_tiny(**configuration)
    submodel = Submodel((5, 17, 32, 100))
    with masked(make_plain(model, **configuration), submodel) as plain:
        reference = plain(images)
    torch.testing.assert_close(model(images, submodel), reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.extract(submodel)(images), reference, rtol=1e-5, atol=1e-5)


def test_widths_of_another_depth_are_refused(tiny, images):
    with pytest.raises(SubmodelError, match="3 layers; this encoder has 4"):
        tiny(images, Submodel((8, 8, 8)))
    with pytest.raises(SubmodelError, match="129 units in layer 2"):
        tiny(images, Submodel((8, 8, 129, 8)))
    with pytest.raises(SubmodelError, match="129 units in layer 2"):
        tiny.extract(Submodel((8, 8, 129, 8)))


# --- a submodel does the work of its own size, on the tensors of the full encoder ---


def test_hooks_of_the_full_encoder_see_what_a_submodel_computes(make_tiny, images):
    model, submodel, seen = make_tiny(), Submodel((5, 17, 32, 100)), []
    for block in model.blocks:
        block.mlp.fc2.register_forward_pre_hook(
            lambda layer, inputs: seen.append((layer, inputs[0].shape[-1]))
        )
    model(images, submodel)
    assert tuple(width for _, width in seen) == submodel.widths
    assert [layer.weight.shape for layer, _ in seen] == [(32, width) for width in submodel.widths]


STORAGE_KINDS = ["augreg", "dinov2 giant", "parallel 18x2", "parallel scaling, fused", "eva02 base"]


@pytest.mark.parametrize("kind", STORAGE_KINDS)
def test_a_whole_curve_of_submodels_lives_in_the_memory_of_one(make_architecture, kind):
    model = matvit.elastic(make_architecture(kind, depth=12))
    assert len(model.space.mixnmatch) == 37
    held = [model.extract(submodel, copy=False) for submodel in model.space.mixnmatch]
    assert held[0].blocks[0] is not held[-1].blocks[0]
    assert storages(*held) == storages(model)


def storages(*models):
    return {
        tensor.untyped_storage().data_ptr()
        for model in models
        for tensor in [*model.parameters(), *model.buffers()]
    }


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize("kind", STORAGE_KINDS)
def test_a_shared_extract_trains_the_full_encoder(make_architecture, kind, context):
    model = matvit.elastic(make_architecture(kind))
    submodel = some_submodels(model.space)[0]
    images = torch.randn(2, 3, 32, 32)
    wanted = gradients(model, model(images, submodel))
    with context():
        shared = model.extract(submodel, copy=False)
    for _ in range(2):  # It lasts for more than one step.
        model.zero_grad()
        logits = shared(images)
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-6, atol=1e-6)


def test_a_shared_extract_follows_the_full_encoder(make_tiny, images):
    model, submodel = make_tiny(), Submodel((5, 17, 32, 100))
    shared, own = model.extract(submodel, copy=False), model.extract(submodel)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    assert torch.equal(shared(images), model(images, submodel))
    assert not torch.allclose(own(images), model(images, submodel))


# --- what does not nest says so ---


class MyBlock(Block):
    pass


class MyMlp(Mlp):
    pass


class LoRALinear(nn.Linear):
    pass


@pytest.mark.parametrize(
    "arguments, kind",
    [
        ({"block_fn": MyBlock}, "blocks of the kind MyBlock"),
        ({"mlp_layer": MyMlp}, "FFNs of the kind MyMlp"),
        ({"mlp_layer": GatedMlp}, "FFNs of the kind GatedMlp"),
        ({"mlp_layer": ConvMlp}, "FFNs of the kind ConvMlp"),
        ({"mlp_layer": partial(Mlp, use_conv=True)}, "Conv2d"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_blocks_and_ffns_of_another_kind_are_refused_by_name(make_tiny, arguments, kind):
    with pytest.raises(UnknownModelError, match=f"{kind}.*not nest"):
        matvit.elastic(timm.create_model("test_vit", **arguments))
    with pytest.raises(UnknownModelError, match=f"{kind}.*not nest"):
        make_tiny(**arguments)


def test_one_block_of_another_kind_is_enough(make_plain, tiny):
    plain = make_plain(tiny)
    plain.blocks[2] = nn.TransformerEncoderLayer(32, 2, batch_first=True)
    with pytest.raises(UnknownModelError, match="TransformerEncoderLayer do not nest"):
        matvit.elastic(plain)


@pytest.mark.parametrize(
    "norm", [GroupNorm1(128), nn.BatchNorm1d(128), nn.Softmax(-1)], ids=lambda n: type(n).__name__
)
def test_a_norm_over_hidden_units_of_another_kind_is_refused_by_name(make_plain, tiny, norm):
    plain = make_plain(tiny)
    plain.blocks[2].mlp.norm = norm
    with pytest.raises(UnknownModelError, match=f"{type(norm).__name__}.*not nest"):
        matvit.elastic(plain)


@pytest.mark.parametrize("layer", ["fc1", "fc2"])
def test_a_layer_that_was_replaced_since_is_refused_by_name(make_tiny, images, layer):
    model = make_tiny()
    small = model.submodel("M")
    old = getattr(model.blocks[1].mlp, layer)
    setattr(model.blocks[1].mlp, layer, LoRALinear(old.in_features, old.out_features))
    for use in (
        lambda: model(images, small),
        lambda: model.extract(small),
        lambda: model.space,
        lambda: model.cost,
    ):
        with pytest.raises(UnknownModelError, match="LoRALinear layers does not nest"):
            use()
    assert model(images).shape == (3, 5)  # The full encoder is timm's, whatever it is made of.
