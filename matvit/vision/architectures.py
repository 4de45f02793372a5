"""The architectures that register with timm as `matvit_*`, and the arguments that they take."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from matvit.errors import NonsenseError

if TYPE_CHECKING:
    from matvit.vision.elastic_vit import MatViT

# Of those that a file can give; where a model is built and of what code is not a file's to say.
_ARGUMENTS = {name for kind in (VisionTransformer, Eva) for name in inspect.signature(kind).parameters} - {
    "block_fn",
    "mlp_layer",
    "device",
    "dtype",
}


_MAX_DEPTH = 1000
"""Layers beyond that would keep a reader of a hostile config busy for hours."""
_MAX_NUMBER = 2**20
"""No width, size or rate is larger, and products of larger ones overflow far from here."""


def check_arguments(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments if all of them shape the model, as arguments read from a file must.

    `timm.create_model` takes others, which load weights from anywhere.

    Raises:
        NonsenseError: One of them does not, or a number is out of all range.
    """
    if others := arguments.keys() - _ARGUMENTS:
        raise NonsenseError(f"{min(others)!r} is no argument of a Vision Transformer")
    depth = arguments.get("depth", 0)
    if isinstance(depth, int | float) and depth > _MAX_DEPTH:
        raise NonsenseError(f"{depth} layers are more than {_MAX_DEPTH}")
    for name, value in arguments.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float) and not abs(number) <= _MAX_NUMBER:  # a NaN is not
                raise NonsenseError(f"{name} is out of all range")
    return arguments


_DEFAULT_CFG = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": None,
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "fixed_input_size": True,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "first_conv": "patch_embed.proj",
    "classifier": "head",
    "license": "apache-2.0",
}

default_cfgs = generate_default_cfgs(
    {
        f"matvit_{size}_patch16_224": _DEFAULT_CFG  # No weights are published under these names.
        for size in ("tiny", "small", "base", "large")
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> "MatViT":
    # Here: this module is imported while others of the package wait for timm.
    from matvit.vision.elastic_vit import MatViT

    return build_model_with_cfg(
        MatViT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"},
        **kwargs,
    )


@register_model
def matvit_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> "MatViT":
    """MatViT-Ti/16: 192 wide, 12 layers, 3 heads."""
    return _create(
        "matvit_tiny_patch16_224", pretrained, **{"embed_dim": 192, "depth": 12, "num_heads": 3, **kwargs}
    )


@register_model
def matvit_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> "MatViT":
    """MatViT-S/16: 384 wide, 12 layers, 6 heads."""
    return _create(
        "matvit_small_patch16_224", pretrained, **{"embed_dim": 384, "depth": 12, "num_heads": 6, **kwargs}
    )


@register_model
def matvit_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> "MatViT":
    """MatViT-B/16: 768 wide, 12 layers, 12 heads."""
    return _create(
        "matvit_base_patch16_224", pretrained, **{"embed_dim": 768, "depth": 12, "num_heads": 12, **kwargs}
    )


@register_model
def matvit_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> "MatViT":
    """MatViT-L/16: 1024 wide, 24 layers, 16 heads."""
    return _create(
        "matvit_large_patch16_224", pretrained, **{"embed_dim": 1024, "depth": 24, "num_heads": 16, **kwargs}
    )
