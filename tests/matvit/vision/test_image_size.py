"""Encoders that read images of another size: timm's `set_input_size` is the oracle."""

import copy

import pytest
import torch
from counting import counted

import matvit
from matvit import Submodel, SubmodelError
from matvit.weights import checkpoint

ONE_SIZE = {
    "hybrid": "a HybridEmbed reads images of one size",
    "sapiens2": "",
}
REFUSED = {kind: reason for kind, reason in ONE_SIZE.items() if reason}


def smaller(model):
    """Half of an image's side, at widths of M."""
    return Submodel(model.space.uniform("M").widths, image_size=model.patch_embed.img_size[0] // 2)


def half(images):
    return images[..., : images.shape[-2] // 2, : images.shape[-1] // 2].contiguous()


@torch.no_grad()
def test_every_encoder_reads_another_size_as_timms_own_does_or_says_why_not(twins, request):
    _, model, images = twins
    kind, submodel = request.node.callspec.params["twins"], smaller(model)
    if kind in REFUSED:
        for ask in (model.space.check, model.extract, model.cost, lambda each: model(images, each)):
            with pytest.raises(SubmodelError, match=REFUSED[kind]):
                ask(submodel)
        return
    before = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    timms = copy.deepcopy(model.extract(Submodel(submodel.widths)))
    timms.set_input_size(img_size=(submodel.image_size, submodel.image_size))
    images = half(images)
    assert torch.equal(model(images, submodel), timms(images))
    assert torch.equal(model.forward_features(images, submodel), timms.forward_features(images))
    extracted = model.extract(submodel)
    assert torch.equal(extracted(images), timms(images))
    assert extracted.state_dict().keys() == timms.state_dict().keys()
    assert model.cost(submodel).macs == counted(timms, images)
    assert model.cost(submodel).params == sum(p.numel() for p in timms.parameters())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert torch.equal(tensor, before[name]), name
    assert model.patch_embed.img_size != extracted.patch_embed.img_size


@pytest.mark.parametrize("side", [8, 12, 20, 32])
def test_any_whole_number_of_patches(tiny, side):
    submodel = tiny.submodel(f"L@{side}px")
    images = torch.randn(2, 1, side, side)
    assert tiny(images, submodel).shape == (2, 5)
    assert tiny.cost(submodel).macs == counted(lambda x: tiny(x, submodel), images)


def test_the_own_size_is_the_full_encoder_bit_for_bit(tiny, images):
    assert torch.equal(tiny(images, Submodel(tiny.space.hidden, image_size=16)), tiny(images))


def test_images_of_another_size_than_the_submodels_are_refused(tiny, images):
    with pytest.raises(AssertionError, match="doesn't match model"):
        tiny(images, tiny.submodel("L@8px"))


def test_encoders_whose_images_are_not_square_are_refused(make_tiny):
    model = make_tiny(img_size=(16, 24))
    with pytest.raises(SubmodelError, match="L@8px: images that are not square"):
        model.submodel("L@8px")


def test_gradients_reach_the_positions_through_the_resampling(make_tiny, make_plain):
    model, images = make_tiny(), torch.randn(2, 1, 8, 8)
    dynamic = make_plain(model, dynamic_img_size=True)
    model(images, Submodel(model.space.hidden, image_size=8)).square().sum().backward()
    dynamic(images).square().sum().backward()
    wanted = dict(dynamic.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-4, atol=1e-5)
    assert model.pos_embed.grad.abs().min() > 0


def test_an_extract_is_saved_and_loaded_at_its_size(make_architecture, tmp_path):
    model = matvit.elastic(make_architecture("dinov2"))
    submodel, images = smaller(model), torch.randn(1, 3, 16, 16)
    checkpoint.save(model.extract(submodel), tmp_path / "half")
    loaded = matvit.load(tmp_path / "half")
    assert loaded.patch_embed.img_size == (16, 16)
    torch.testing.assert_close(loaded(images), model(images, submodel))


def test_a_refitted_encoder_reads_other_sizes_too(make_tiny):
    from matvit.refitting.first_pass import elasticize

    refitted = elasticize(make_tiny(), [torch.randn(8, 1, 16, 16)]).model
    images = torch.randn(2, 1, 8, 8)
    timms = refitted.extract(refitted.submodel("M"))
    timms.set_input_size(img_size=(8, 8))
    assert torch.equal(refitted(images, refitted.submodel("M@8px")), timms(images))


def test_many_sizes_share_one_encoder(tiny):
    cuts = [tiny.cut(tiny.submodel(f"S@{side}px")) for side in (8, 12, 16, 20)]
    assert {each.blocks[0].attn.qkv.weight.data_ptr() for each in cuts} == {
        tiny.blocks[0].attn.qkv.weight.data_ptr()
    }
