"""A last block that answers for the pooled token alone: the same embedding, for less."""

import copy

import pytest
import timm
import torch
from counting import counted
from timm.layers.attention import Attention
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block

import matvit
from matvit import Submodel
from matvit.vision.embedding import embed_only
from matvit.vision.pooled_token import PooledTokenBlock, PooledTokenEvaBlock

CONFIGURATIONS = {
    "plain": {},
    "no bias": {"qkv_bias": False, "proj_bias": False},
    "qk norm": {"qk_norm": True},
    "norms within": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "layer scale, pre-norm": {"init_values": 0.5, "pre_norm": True},
    "registers": {"reg_tokens": 3, "no_embed_class": True},
    "gated FFN": {"mlp_layer": timm.layers.SwiGLU},
}


def embedder(model):
    """A copy that does nothing but embed."""
    model = copy.deepcopy(model)
    embed_only(model)
    return model


@torch.no_grad()
def test_every_encoder_embeds_as_before_at_what_torch_counts(twins):
    plain, model, images = twins
    plain = copy.deepcopy(plain)
    own = embedder(model)
    if plain.num_classes:
        own_head = own.num_classes
        if not own_head:
            plain.reset_classifier(0)
    whole = plain(images)
    embedding = own(images)
    embedding, whole = (each[0] if isinstance(each, tuple) else each for each in (embedding, whole))
    torch.testing.assert_close(embedding, whole, rtol=1e-5, atol=1e-6)
    last, submodel = own.blocks[-1], own.space.smallest
    for each in (own.space.full, submodel):
        assert own.cost(each).macs == counted(lambda x, each=each: own(x, each), images)
    reads_one = isinstance(last, PooledTokenBlock | PooledTokenEvaBlock)
    before = model.blocks[-1]
    assert reads_one == (
        type(model).__name__ in ("MatViT", "MatEva")
        and model.global_pool == "token"
        and model.attn_pool is None
        and (type(before), type(getattr(before, "attn", None)))
        in ((Block, Attention), (EvaBlock, EvaAttention))
    )
    alike = own.cost(submodel) == matvit.elastic(plain).cost(submodel)
    assert alike != reads_one


@pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@torch.no_grad()
def test_every_submodel_embeds_as_before(make_tiny, images, configuration):
    model = make_tiny(**configuration, num_classes=0)
    own = embedder(model)
    assert type(own.blocks[-1]) is PooledTokenBlock
    for submodel in (*model.space.mixnmatch, Submodel((3, 5, 7, 9)), model.submodel("M@8px")):
        x = images if submodel.image_size is None else images[..., :8, :8]
        torch.testing.assert_close(own(x, submodel), model(x, submodel), rtol=1e-5, atol=1e-6)
        assert own.cost(submodel).macs == counted(lambda x, each=submodel: own(x, each), x)
        assert own.cost(submodel).macs < model.cost(submodel).macs
        assert own.cost(submodel).params == model.cost(submodel).params


EVA_CONFIGURATIONS = {
    "plain": {},
    "queries, keys and values apart": {"qkv_fused": False, "swiglu_mlp": True},
    "rotary positions": {"use_rot_pos_emb": True, "use_abs_pos_emb": False},
    "rotary, mixed": {"use_rot_pos_emb": True, "rope_type": "mixed", "num_reg_tokens": 2},
    "rotary, half": {"use_rot_pos_emb": True, "rope_rotate_half": True, "no_embed_class": True},
    "norms and scales": {"qk_norm": True, "scale_attn_inner": True, "scale_mlp": True, "init_values": 0.5},
    "no bias": {"qkv_bias": False, "qkv_fused": False},
}


@pytest.mark.parametrize("configuration", EVA_CONFIGURATIONS.values(), ids=EVA_CONFIGURATIONS)
@torch.no_grad()
def test_every_submodel_of_an_eva_embeds_as_before(configuration):
    torch.manual_seed(0)
    shape = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2}
    plain = Eva(**shape, **configuration, num_classes=0, global_pool="token").eval()
    for parameter in plain.parameters():  # Biases begin with zero, which hides them.
        parameter.add_(0.02 * torch.randn_like(parameter))
    model = matvit.elastic(plain)
    own = embedder(model)
    assert type(own.blocks[-1]) is PooledTokenEvaBlock
    for submodel in (model.space.full, *model.space.mixnmatch[:3], model.submodel("M@8px")):
        side = submodel.image_size or 16
        x = torch.randn(2, 3, side, side)
        torch.testing.assert_close(own(x, submodel), model(x, submodel), rtol=1e-5, atol=1e-6)
        assert own.cost(submodel).macs == counted(lambda x, each=submodel: own(x, each), x)
        assert own.cost(submodel).macs < model.cost(submodel).macs
    assert type(own.extract(own.space.full).blocks[-1]) is EvaBlock
    with pytest.raises(ValueError, match="takes no attention mask"):
        own(torch.randn(1, 3, 16, 16), is_causal=True)


def test_a_twelfth_of_a_small_encoder_is_saved():
    with torch.device("meta"):
        model = matvit.elastic("vit_small_patch14_dinov2", img_size=224)
    whole = model.cost(model.space.full).macs
    embed_only(model)
    assert model.cost(model.space.full).macs / whole == pytest.approx(0.93, abs=0.001)


def test_the_model_and_what_is_extracted_stay_timms(make_tiny, images):
    model = make_tiny(num_classes=0)
    own = embedder(model)
    assert type(model.blocks[-1]) is Block
    for copied in (True, False):
        extracted = own.extract(own.space.full, copy=copied)
        assert type(extracted.blocks[-1]) is Block
        assert torch.equal(extracted(images), model(images))
    assert type(own.blocks[-1]) is PooledTokenBlock
    assert own.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("mask", [{"is_causal": True}, {"attn_mask": torch.zeros(17, 17)}])
def test_masks_are_refused(make_tiny, images, mask):
    own = embedder(make_tiny())
    with pytest.raises(ValueError, match="takes no attention mask"):
        own(images, **mask)


def test_gradients_are_those_of_the_whole(make_tiny, images):
    model = make_tiny(num_classes=0)
    own = embedder(model)
    for each in (model, own):
        each(images, each.space.uniform("M")).square().sum().backward()
    wanted = dict(model.named_parameters())
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-4, atol=1e-5)
