"""What an encoder makes of an image: tokens, and what can be done with them."""

from typing import Any

from timm.layers import PatchEmbed

from matvit.submodels.tokens import Tokens
from matvit.vision import image_size, merging


def tokens_of(encoder: Any) -> Tokens:
    """The tokens of a timm encoder, plain or elastic, as it reads images now."""
    stem = encoder.patch_embed
    patch_size = stem.patch_size
    if type(stem) is not PatchEmbed:  # A network's patches have whatever size it leaves of an image.
        patch_size = (side // cells for side, cells in zip(stem.img_size, stem.grid_size, strict=True))
    return Tokens(
        image_size=tuple(stem.img_size),
        patch_size=tuple(patch_size),
        prefix=encoder.num_prefix_tokens,
        one_size=image_size.why_not(encoder),
        no_merging=merging.why_not(encoder),
    )
