"""Submodels against the masked reference: plain timm with the dropped hidden units set to zero."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Mlp
from torch.utils.flop_counter import FlopCounterMode

from matvit import Submodel, SubmodelError
from matvit.nested import NestedMlp, narrowed

HIDDEN, DEPTH = 128, 4
submodels = st.tuples(*[st.integers(1, HIDDEN)] * DEPTH).map(Submodel)


def masked(plain, submodel):
    """Make a plain timm model compute a submodel: zero the units it drops, after the activation."""
    for block, width in zip(plain.blocks, submodel.widths, strict=True):
        keep = (torch.arange(block.mlp.fc1.out_features) < width).float()
        block.mlp.fc2.register_forward_pre_hook(lambda _, inputs, keep=keep: (inputs[0] * keep,))
    return plain


def gradients(model, logits):
    """Of a scalar in which every logit counts differently."""
    weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
    grads = torch.autograd.grad((logits * weights).sum(), list(model.parameters()))
    return dict(zip(dict(model.named_parameters()), grads, strict=True))


@settings(max_examples=25)
@given(submodels)
def test_any_submodel_equals_the_masked_reference_and_its_extract(tiny, make_plain, images, submodel):
    reference = masked(make_plain(tiny), submodel)(images)
    torch.testing.assert_close(tiny(images, submodel), reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tiny.extract(submodel)(images), reference, rtol=1e-5, atol=1e-5)


@settings(max_examples=15)
@given(submodels)
def test_gradients_equal_the_masked_reference(tiny, make_plain, images, submodel):
    reference = masked(make_plain(tiny), submodel)
    wanted = gradients(reference, reference(images))
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
        {"reg_tokens": 2, "no_embed_class": True, "init_values": 0.1},
        {"pre_norm": True, "qkv_bias": False, "act_layer": "gelu_tanh"},
        {"dynamic_img_size": True, "qk_norm": True},
    ],
    ids=str,
)
def test_every_kind_of_model_nests(make_tiny, make_plain, images, configuration):
    model = make_tiny(**configuration)
    submodel = Submodel((5, 17, 32, 100))
    reference = masked(make_plain(model, **configuration), submodel)(images)
    torch.testing.assert_close(model(images, submodel), reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.extract(submodel)(images), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("point", range(13))
def test_every_point_of_the_curve_saves_the_work_it_promises(tiny, point):
    submodel, full = tiny.space.curve[point], tiny.space.full
    saved = counted_flops(tiny, full) - counted_flops(tiny, submodel)
    assert saved == tiny.cost(full).flops - tiny.cost(submodel).flops
    assert (saved > 0) == (submodel != full)


def counted_flops(model, submodel):
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 16, 16), submodel)
    return counter.get_total_flops()


def test_many_threads_run_different_submodels_at_once(tiny, images):
    chosen = [tiny.space.curve[point] for point in (0, 5, 9, 12)]
    alone = [tiny(images, submodel) for submodel in chosen]
    together: list[list[torch.Tensor]] = [[] for _ in chosen]
    start = threading.Barrier(len(chosen))

    def work(i):
        start.wait()
        for _ in range(20):
            together[i].append(tiny(images, chosen[i]).detach())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(chosen))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for logits, runs in zip(alone, together, strict=True):
        assert len(runs) == 20
        for run in runs:
            torch.testing.assert_close(run, logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_an_ffn_without_width_is_timms_own(bias):
    nested, plain = NestedMlp(8, 32, bias=bias), Mlp(8, 32, bias=bias)
    plain.load_state_dict(nested.state_dict())
    x = torch.randn(2, 3, 8)
    assert torch.equal(nested(x), plain(x))
    narrowed(plain, 12)
    torch.testing.assert_close(nested(x, 12), plain(x), rtol=1e-5, atol=1e-6)
    assert (plain.fc1.out_features, plain.fc2.in_features) == (12, 12)


def test_narrowing_keeps_frozen_weights_frozen(make_tiny):
    model = make_tiny().requires_grad_(False)
    assert not any(p.requires_grad for p in model.extract(model.space.smallest).parameters())


def test_widths_of_another_depth_are_refused(tiny, images):
    with pytest.raises(SubmodelError, match="3 layers; this encoder has 4"):
        tiny(images, Submodel((8, 8, 8)))
    with pytest.raises(SubmodelError, match="129 units in layer 2"):
        tiny.extract(Submodel((8, 8, 129, 8)))
