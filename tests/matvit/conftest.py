"""A tiny MatViT with no zero anywhere in it, its plain timm twin, and every other kind that nests."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import timm
import torch
from hypothesis import settings
from timm.layers import GluMlp, RmsNorm, SwiGLU, SwiGLUPacked
from timm.models.vision_transformer import DiffParallelScalingBlock, ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn

import matvit
from matvit import Elastic, MatViT

settings.register_profile("models", deadline=None)  # A busy machine makes a model slow, not wrong.
settings.load_profile("models")

TINY = {
    "img_size": 16,
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
    "num_classes": 5,
}

REDUCED = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 2, "depth": 3, "num_classes": 5}
"""What makes a large architecture quick to run, where it does not say otherwise below."""

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "augreg": ("vit_base_patch16_224.augreg_in21k", {}),
    "mae": ("vit_large_patch16_224.mae", {}),
    "deit distilled": ("deit_base_distilled_patch16_224", {}),
    "deit3": ("deit3_base_patch16_224", {}),
    "clip quickgelu": ("vit_base_patch32_clip_quickgelu_224", {}),
    "siglip": ("vit_base_patch16_siglip_224", {}),
    "siglip gap": ("vit_base_patch16_siglip_gap_224", {}),
    "dinov2": ("vit_base_patch14_dinov2", {}),
    "dinov2 registers": ("vit_base_patch14_reg4_dinov2", {}),
    "dinov2 giant": ("vit_giant_patch14_dinov2", {}),
    "gap": ("vit_base_patch16_gap_224", {}),
    "gap registers": ("vit_little_patch16_reg4_gap_256", {}),
    "map over registers": ("test_vit3", {}),
    "flexivit": ("flexivit_base", {}),
    "radio": ("vit_base_patch16_radio_v3", {}),
    "parallel 18x2": ("vit_small_patch16_18x2_224", {}),
    "parallel scaling": ("vit_large_patch14_xp_224", {}),
    "parallel scaling, qkv bias": ("vit_pwee_patch16_reg1_gap_256", {"qkv_bias": True}),
    "parallel scaling, fused": (
        "vit_pwee_patch16_reg1_gap_256",
        {"block_fn": partial(ParallelScalingBlock, fuse_out_proj=True)},
    ),
    "differential": ("vit_dwee_patch16_reg1_gap_256", {}),
    "differential parallel": ("vit_dpwee_patch16_reg1_gap_256", {}),
    "differential parallel, dual lambda": (
        "vit_dpwee_patch16_reg1_gap_256",
        {"qkv_bias": True, "block_fn": partial(DiffParallelScalingBlock, dual_lambda=True)},
    ),
    "post-norm": ("vit_base_patch16_rpn_224", {}),
    "aimv2": ("aimv2_large_patch14_224", {}),
    "beit3": ("beit3_base_patch16_224", {}),
    "hybrid": ("vit_base_r50_s16_224", {"img_size": 64, "patch_size": 1, "depth": 2}),
    "gate last": ("vit_base_patch16_224", {"mlp_layer": GluMlp}),
    "packed SwiGLU, norm": ("vit_base_patch16_224", {"mlp_layer": SwiGLUPacked, "scale_mlp_norm": True}),
    "SwiGLU, RMS norm": (
        "vit_base_patch16_224",
        {"mlp_layer": SwiGLU, "scale_mlp_norm": True, "norm_layer": partial(RmsNorm, eps=1e-5)},
    ),
    "eva giant": ("eva_giant_patch14_224", {}),
    "eva02 tiny": ("eva02_tiny_patch14_224", {}),
    "eva02 base": ("eva02_base_patch14_224", {}),
    "eva02 large clip": ("eva02_large_patch14_clip_224", {}),
    "eva02 enormous clip": ("eva02_enormous_patch14_clip_224", {}),
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "dinov3 plus": ("vit_small_plus_patch16_dinov3", {}),
    "perception encoder": ("vit_pe_core_tiny_patch16_384", {"attn_pool_num_heads": 4}),
    "rope": ("vit_medium_patch16_rope_reg1_gap_256", {}),
    "rope mixed": ("vit_small_patch16_rope_mixed_224", {}),
    "sapiens2": ("vit_base_patch16_sapiens2", {"num_kv_heads": 1}),
}


class Twins(NamedTuple):
    """A plain timm model, the same made elastic, and images for both: read only."""

    plain: Any
    model: Elastic
    images: Tensor


def _shake(model: nn.Module) -> None:
    """Fresh biases are zeros and fresh norms ones: a mistake in either would not show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # A convolutional stem sums thousands of weights: as much noise there would drown the images.
            parameter.add_((0.02 if "backbone" in name else 0.1) * torch.randn_like(parameter))


def _make_architecture(kind: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    name, its_own = ARCHITECTURES[kind]
    plain = timm.create_model(name, **{**REDUCED, **its_own, **arguments}).eval()
    _shake(plain)
    return plain


def _tiny(**kwargs: Any) -> MatViT:
    torch.manual_seed(0)
    model = timm.create_model("matvit_tiny_patch16_224", **{**TINY, **kwargs}).eval()
    _shake(model)
    return model


def _plain(model: MatViT, **kwargs: Any) -> VisionTransformer:
    plain = timm.create_model("vit_tiny_patch16_224", **{**TINY, **kwargs}).eval()
    plain.load_state_dict(model.state_dict())
    return plain


@pytest.fixture(scope="session", params=ARCHITECTURES)
def twins(request: pytest.FixtureRequest) -> Twins:
    """One architecture of each kind that timm has and this library nests, small, with random weights."""
    plain = _make_architecture(request.param)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, *plain.patch_embed.img_size, generator=generator)
    return Twins(plain, matvit.elastic(plain), images)


@pytest.fixture(scope="session")
def make_architecture() -> Callable[..., Any]:
    """Makes a plain timm model of one of the kinds above; the same weights for the same arguments."""
    return _make_architecture


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., MatViT]:
    """Makes a MatViT in evaluation mode; the same weights for the same arguments."""
    return _tiny


@pytest.fixture(scope="session")
def make_plain() -> Callable[..., VisionTransformer]:
    """Makes timm's own model with the weights of a MatViT that was made with the same arguments."""
    return _plain


@pytest.fixture(scope="session")
def tiny() -> MatViT:
    """Shared by many tests: read only."""
    return _tiny()


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
