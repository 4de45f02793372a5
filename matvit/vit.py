"""MatViT: timm's Vision Transformer with every FFN nested, registered with timm under `matvit_*` names.

Source: MatFormer (arXiv 2310.07707). The weights, the state-dict keys and the full encoder's arithmetic
are timm's; what is added is one argument, the submodel to run.
"""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from timm.layers import Mlp
from timm.models import build_model_with_cfg, checkpoint, generate_default_cfgs, register_model
from timm.models.vision_transformer import Block, VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from matvit.budget import resolve
from matvit.cost import CostModel, cost_model
from matvit.errors import SubmodelError
from matvit.nested import NestedBlock, NestedMlp, narrowed
from matvit.submodel import Submodel, SubmodelSpace


class MatViT(VisionTransformer):
    """A Vision Transformer that runs any of its nested submodels.

    Takes every argument of timm's `VisionTransformer` but `block_fn`, `mlp_layer` and `scale_mlp_norm`.

    Example:
        >>> model = timm.create_model("matvit_base_patch16_224", num_classes=1000)
        >>> logits = model(images, model.submodel("60%"))  # (B, 3, 224, 224) -> (B, 1000)
    """

    def __init__(self, **kwargs: Any) -> None:
        if fixed := {"block_fn", "mlp_layer", "scale_mlp_norm"} & kwargs.keys():
            raise SubmodelError(f"a MatViT has FFN layers of its own: drop {', '.join(sorted(fixed))}")
        super().__init__(block_fn=NestedBlock, mlp_layer=NestedMlp, **kwargs)

    @property
    def space(self) -> SubmodelSpace:
        """Every submodel of this encoder."""
        return SubmodelSpace(tuple(block.mlp.fc1.out_features for block in self.blocks))

    @property
    def cost(self) -> CostModel:
        """What a submodel costs: ``model.cost(submodel).gmacs``."""
        return cost_model(self)

    def submodel(self, budget: str | Submodel) -> Submodel:
        """The submodel for a budget: see `matvit.budget.resolve`."""
        return resolve(budget, self.space, self.cost)

    def forward(
        self,
        x: Tensor,
        submodel: Submodel | None = None,
        *,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Images x (B, C, H, W) to logits (B, classes), or to embeddings (B, D) without a classifier.

        Args:
            x: Normalised images.
            submodel: Which nested encoder runs; None is the full one, XL.
            attn_mask: As in timm.
            is_causal: As in timm.

        Raises:
            TypeError: `submodel` is not a `Submodel`.
            SubmodelError: It does not fit this encoder.
        """
        x = self.forward_features(x, submodel, attn_mask=attn_mask, is_causal=is_causal)
        return self.forward_head(x)

    def forward_features(
        self,
        x: Tensor,
        submodel: Submodel | None = None,
        *,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Images x (B, C, H, W) to tokens (B, N, D) after the final norm; arguments as in `forward`."""
        widths = self._widths(submodel)
        if widths is None:
            return super().forward_features(x, attn_mask=attn_mask, is_causal=is_causal)
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        # timm's `self.blocks(x)` and `checkpoint_seq` cannot pass a width.
        for block, width in zip(self.blocks, widths, strict=True):
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, attn_mask, is_causal, width)
            else:
                x = block(x, attn_mask, is_causal, width)
        return self.norm(x)

    def extract(self, submodel: Submodel) -> VisionTransformer:
        """A plain timm `VisionTransformer` with a copy of just the submodel's weights, free of this library.

        A uniform submodel can be built again with ``timm.create_model(..., mlp_ratio=r)``.
        """
        submodel = self.space.check(submodel)
        plain = copy.deepcopy(self)
        # The nested classes add methods but no state, so timm's own classes can take the objects over.
        plain.__class__ = VisionTransformer
        for block, width in zip(plain.blocks, submodel.widths, strict=True):
            block.__class__, block.mlp.__class__ = Block, Mlp
            narrowed(block.mlp, width)
        if "architecture" in getattr(plain, "pretrained_cfg", {}):
            plain.pretrained_cfg["architecture"] = plain_architecture(self)
        return plain

    def _widths(self, submodel: Submodel | None) -> tuple[int, ...] | None:
        """Widths to run, or None for the full encoder, which is timm's own code bit for bit."""
        if submodel is None:
            return None
        if not isinstance(submodel, Submodel):
            raise TypeError(f"submodel must be a matvit.Submodel or None, not {type(submodel).__name__}")
        self.space.check(submodel)
        return None if submodel.widths == self.space.hidden else submodel.widths


_ARGUMENTS = inspect.signature(VisionTransformer).parameters.keys() - {"block_fn", "mlp_layer"}


def check_arguments(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments if all of them shape the model, as arguments read from a file must.

    `timm.create_model` takes others, which load weights from anywhere.

    Raises:
        TypeError: One of them does not.
    """
    if others := arguments.keys() - _ARGUMENTS:
        raise TypeError(f"{min(others)!r} is no argument of a Vision Transformer")
    return arguments


def plain_architecture(model: VisionTransformer) -> str:
    """The timm name of the plain encoder that a MatViT is built on: ``vit_*`` for ``matvit_*``."""
    name: str = model.pretrained_cfg["architecture"]
    return name.removeprefix("mat")


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


def _create(variant: str, pretrained: bool, **kwargs: Any) -> MatViT:
    return build_model_with_cfg(
        MatViT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"},
        **kwargs,
    )


@register_model
def matvit_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> MatViT:
    """MatViT-Ti/16: 192 wide, 12 layers, 3 heads."""
    return _create(
        "matvit_tiny_patch16_224", pretrained, **{"embed_dim": 192, "depth": 12, "num_heads": 3, **kwargs}
    )


@register_model
def matvit_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> MatViT:
    """MatViT-S/16: 384 wide, 12 layers, 6 heads."""
    return _create(
        "matvit_small_patch16_224", pretrained, **{"embed_dim": 384, "depth": 12, "num_heads": 6, **kwargs}
    )


@register_model
def matvit_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> MatViT:
    """MatViT-B/16: 768 wide, 12 layers, 12 heads."""
    return _create(
        "matvit_base_patch16_224", pretrained, **{"embed_dim": 768, "depth": 12, "num_heads": 12, **kwargs}
    )


@register_model
def matvit_large_patch16_224(pretrained: bool = False, **kwargs: Any) -> MatViT:
    """MatViT-L/16: 1024 wide, 24 layers, 16 heads."""
    return _create(
        "matvit_large_patch16_224", pretrained, **{"embed_dim": 1024, "depth": 24, "num_heads": 16, **kwargs}
    )
