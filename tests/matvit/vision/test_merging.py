"""Token merging: a slow reference, and encoders in which merging equal tokens must change nothing."""

import copy

import pytest
import torch
from counting import counted
from hypothesis import given
from hypothesis import strategies as st

from matvit import Layer, Submodel, SubmodelError
from matvit.vision.embedding import embed_only
from matvit.vision.merging import merge

MERGES = [
    "augreg",
    "deit distilled",
    "deit3",
    "clip quickgelu",
    "siglip",
    "dinov2",
    "dinov2 registers",
    "gap",
]
TOKENS = "merging tokens is not known for "


def schedule(model, merges, widths="L", **how):
    widths = model.space.uniform(widths).widths
    return Submodel([Layer(*each) for each in zip(widths, merges, strict=True)], **how)


def reference(x, keys, sizes, count, prefix):
    """Tokens of one image merged one by one, as the paper says."""
    first, second = list(range(prefix, len(x), 2)), list(range(prefix + 1, len(x), 2))
    unit = keys / keys.norm(dim=-1, keepdim=True)
    best = {a: max(second, key=lambda b: float(unit[a] @ unit[b])) for a in first}
    going = sorted(first, key=lambda a: -float(unit[a] @ unit[best[a]]))[:count]
    made = {b: [b, *(a for a in going if best[a] == b)] for b in second}
    kept = [[i] for i in [*range(prefix), *(a for a in first if a not in going)]] + list(made.values())
    tokens = [sum(sizes[i] * x[i] for i in each) / sum(sizes[i] for i in each) for each in kept]
    return torch.stack(tokens), torch.stack([sum(sizes[i] for i in each) for each in kept])


@given(st.integers(2, 20), st.integers(0, 3), st.integers(0, 2**32 - 1), st.data())
def test_merging_is_that_of_the_reference(patches, prefix, seed, data):
    count = data.draw(st.integers(0, patches))
    generator = torch.Generator().manual_seed(seed)
    shape = 2, prefix + patches
    x, keys = (torch.randn(*shape, size, generator=generator, dtype=torch.float64) for size in (5, 3))
    sizes = torch.randint(1, 9, shape, generator=generator).float()
    merged, left = merge(x, keys, sizes, count, prefix)
    for image in range(2):
        wanted, wanted_left = x[image], sizes[image].double()
        if most := min(count, patches // 2):
            wanted, wanted_left = reference(x[image], keys[image], wanted_left, most, prefix)
        torch.testing.assert_close(merged[image], wanted)
        torch.testing.assert_close(left[image].double(), wanted_left)
    assert torch.equal(left.sum(1), sizes.sum(1))


@torch.no_grad()
def test_every_encoder_merges_or_says_why_not(twins, request):
    _, model, images = twins
    submodel = schedule(model, (0,) * (model.space.depth - 2) + (3, 2))
    if reason := model.space.tokens.no_merging:
        for ask in (
            model.space.check,
            model.cost,
            model.extract,
            model.cut,
            lambda each: model(images, each),
        ):
            with pytest.raises(SubmodelError) as caught:
                ask(submodel)
            assert str(caught.value).endswith(reason)
        assert request.node.callspec.params["twins"] not in MERGES
        return
    unmerged = model(images, Submodel(submodel.widths))
    merged = model(images, submodel)
    assert all(torch.isfinite(each).all() for each in (merged if isinstance(merged, tuple) else [merged]))
    assert not torch.equal(*(each[0] if isinstance(each, tuple) else each for each in (merged, unmerged)))
    assert model.cost(submodel).macs == counted(lambda x: model(x, submodel), images)
    assert model.forward_features(images, submodel).shape[1] == model.space.tokens.entering(submodel)[-1]
    with pytest.raises(SubmodelError, match="merges tokens, which none of timm's classes does"):
        model.extract(submodel)
    with pytest.raises(SubmodelError, match="no grids"):
        model.forward_intermediates(images, submodel=submodel)


def test_reasons_name_what_is_in_the_way(make_architecture):
    import matvit

    reasons = {
        "eva02 tiny": "rotary position embeddings",
        "parallel scaling": f"{TOKENS}blocks of the kind ParallelScalingBlock",
        "differential": f"{TOKENS}blocks of the kind Block with DiffAttention",
        "post-norm": f"{TOKENS}blocks of the kind ResPostBlock",
        "perception encoder": "rotary position embeddings",
    }
    for kind, reason in reasons.items():
        model = matvit.elastic(make_architecture(kind))
        with pytest.raises(SubmodelError, match=reason):
            model.submodel("L~1")


@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"global_pool": "avg"},
        {"global_pool": "avg", "pool_include_prefix": True, "reg_tokens": 2},
        {"global_pool": "avg", "class_token": False},
        {"global_pool": "avg", "fc_norm": True},
        {"global_pool": "map"},
        {"global_pool": "map", "pool_include_prefix": True},
        {"qk_norm": True, "init_values": 0.5, "reg_tokens": 1},
    ],
    ids=str,
)
@torch.no_grad()
def test_merging_equal_tokens_changes_nothing(make_tiny, configuration):
    model = make_tiny(pos_embed="none", **configuration)
    # Patches come in equal pairs, side by side.
    patches = torch.randn(3, 4, 2, 4, 4).repeat_interleave(2, dim=2)
    images = patches.transpose(2, 3).reshape(3, 1, 16, 16)
    for merges in ((8, 0, 0, 0), (0, 3, 0, 0), (0, 0, 0, 5)):
        submodel = schedule(model, merges)
        wanted = model(images, Submodel(submodel.widths))
        torch.testing.assert_close(model(images, submodel), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_image_of_one_colour_keeps_its_embedding_however_much_merges(make_tiny):
    model = make_tiny(pos_embed="none")
    images = torch.ones(1, 1, 16, 16)
    merging = model(images, schedule(model, (8, 4, 2, 1)))
    torch.testing.assert_close(merging, model(images, model.submodel("L")), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_merging_nothing_is_the_submodel_without(tiny, images):
    assert torch.equal(tiny(images, schedule(tiny, (0,) * 4, "XL")), tiny(images))
    assert torch.equal(tiny(images, schedule(tiny, (0,) * 4, "M")), tiny(images, tiny.submodel("M")))


@torch.no_grad()
def test_a_pooled_token_alone_is_read_of_merged_tokens_too(make_tiny, images):
    model = make_tiny(num_classes=0)
    own = copy.deepcopy(model)
    embed_only(own)
    for merges in ((4, 2, 2, 0), (4, 2, 2, 4), (0, 0, 0, 8), (9, 9, 9, 9)):
        submodel = schedule(model, merges)
        torch.testing.assert_close(own(images, submodel), model(images, submodel), rtol=1e-5, atol=1e-6)
        assert own.cost(submodel).macs == counted(lambda x, each=submodel: own(x, each), images)


@torch.no_grad()
def test_merges_may_outlast_the_patches(make_tiny, images):
    model = make_tiny(class_token=False, global_pool="avg")
    for budget in ("XL~8", "XL~99", "S~1@4px", "XL~3@8px"):
        submodel = model.submodel(budget)
        side = submodel.image_size or 16
        x = images[..., :side, :side].contiguous()
        assert model(x, submodel).isfinite().all()
        assert model.cost(submodel).macs == counted(lambda x, each=submodel: model(x, each), x)


@torch.no_grad()
def test_autocast_chooses_the_same_tokens():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 200, 8, generator=generator)
    keys = 1 + 1e-3 * torch.randn(1, 200, 16, generator=generator)  # Alike, as neighbours are.
    wanted = merge(x, keys, torch.ones(1, 200), 40, 0)
    with torch.autocast("cpu", torch.bfloat16):
        found = merge(x, keys, torch.ones(1, 200), 40, 0)
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_images_do_not_touch_each_other(tiny, images):
    submodel = schedule(tiny, (4, 3, 2, 1))
    together = tiny(images, submodel)
    for image, wanted in zip(images, together, strict=True):
        torch.testing.assert_close(tiny(image[None], submodel)[0], wanted)


def test_sizes_and_merges_go_together(tiny, images):
    submodel = schedule(tiny, (2, 1, 0, 0), image_size=12)
    x = images[..., :12, :12]
    assert tiny(x, submodel).shape == (3, 5)
    assert tiny.cost(submodel).macs == counted(lambda x: tiny(x, submodel), x)


def test_gradients_reach_every_parameter(make_tiny, images):
    model = make_tiny()
    model(images, schedule(model, (4, 2, 2, 1), "XL")).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_gradient_checkpointing_changes_nothing(make_tiny, images):
    gradients = []
    for checkpointing in (False, True):
        model = make_tiny().train()
        model.set_grad_checkpointing(checkpointing)
        model(images, schedule(model, (4, 2, 2, 1))).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


@torch.no_grad()
def test_bfloat16_stays_close(make_tiny, images):
    model = make_tiny(num_classes=0)
    submodel = schedule(model, (4, 2, 2, 1))
    wanted = model(images, submodel)
    found = model.bfloat16()(images.bfloat16(), submodel)
    assert found.dtype == torch.bfloat16
    assert torch.cosine_similarity(found.float(), wanted).min() > 0.98


@pytest.mark.parametrize("mask", [{"is_causal": True}, {"attn_mask": torch.zeros(17, 17)}])
def test_masks_are_refused(tiny, images, mask):
    with pytest.raises(SubmodelError, match="takes no attention mask"):
        tiny(images, schedule(tiny, (1, 1, 1, 1)), **mask)
