"""Encoders that read images of another size: positions resampled as timm does, or computed anew."""

from typing import Any

import torch.nn.functional as F
from timm.layers import PatchEmbed, resample_abs_pos_embed
from torch import Tensor

from matvit.submodels.submodel import Submodel
from matvit.vision.views import replaced


def why_not(encoder: Any) -> str:
    """Why a timm encoder reads images of one size alone; empty where it reads others."""
    stem, pool = encoder.patch_embed, getattr(encoder, "attn_pool", None)
    rope = getattr(encoder, "rope", None)
    if type(stem) is not PatchEmbed:
        return f"a {type(stem).__name__} reads images of one size"
    if stem.img_size[0] != stem.img_size[1]:
        return "images that are not square have no other size by one number"
    if getattr(pool, "pos_embed", None) is not None:
        return f"a {type(pool).__name__} with positions of its own reads images of one size"
    if rope is not None and not hasattr(rope, "update_feat_shape"):
        return f"a {type(rope).__name__} reads images of one size"
    return ""


def resized(encoder: Any, size: int) -> Any:
    """An encoder that reads square images of so many pixels a side; it shares all else with the one given.

    What timm's `set_input_size` makes of a copy, but that gradients reach the positions that are resampled.
    """
    before = encoder.patch_embed.grid_size
    own = {
        name: replaced(module) for name in ("patch_embed", "rope") if (module := getattr(encoder, name, None))
    }
    new = replaced(encoder, pos_embed=None, **own)
    new.set_input_size(img_size=(size, size))
    if encoder.pos_embed is None:
        return new
    position = resample_abs_pos_embed(
        encoder.pos_embed,
        new_size=new.patch_embed.grid_size,
        old_size=before,
        num_prefix_tokens=0 if encoder.no_embed_class else encoder.num_prefix_tokens,
    )
    return replaced(new, pos_embed=position)


def as_read_by(submodel: Submodel, x_BCHW: Tensor) -> Tensor:
    """Preprocessed images as a submodel reads them: resized, unless they have its size."""
    size = submodel.image_size
    if size in (None, x_BCHW.shape[-1]):
        return x_BCHW
    return F.interpolate(x_BCHW, size, mode="bicubic", antialias=True)
