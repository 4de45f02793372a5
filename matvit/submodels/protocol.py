"""The encoder as costs, profiles, engines and refits see it: what it is asked for, whatever its class."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

from matvit.submodels.cost import CostModel
from matvit.submodels.submodel import Submodel, SubmodelSpace

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Patches(Protocol):
    """How an encoder cuts an image into tokens, under timm's names."""

    @property
    def img_size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch, in pixels."""


class ElasticEncoder(Protocol):
    """An encoder that runs every submodel nested in it, as `matvit.Elastic` is one.

    What is not about submodels has the names that timm and torch give it.
    """

    @property
    def space(self) -> SubmodelSpace:
        """Every submodel of this encoder."""

    @property
    def cost(self) -> CostModel:
        """What a submodel costs."""

    def extract(self, submodel: Submodel, *, copy: bool = True) -> "nn.Module":
        """A submodel as a plain timm encoder; with `copy` False it shares all tensors with this one."""

    def cut(self, submodel: Submodel, *, copy: bool = False) -> "nn.Module":
        """A submodel as a module to be run, whether timm has a class for it or not."""

    def __call__(self, x: "Tensor", submodel: Submodel | None = None) -> Any:
        """Images x (B, C, H, W) to logits or embeddings; without a submodel, by the full encoder."""

    @property
    def in_chans(self) -> int:
        """Channels of an image."""

    @property
    def patch_embed(self) -> Patches:
        """The stem."""

    @property
    def blocks(self) -> "nn.Module":
        """The layers, as children in their order."""

    @property
    def embed_dim(self) -> int:
        """Width of a token."""

    @property
    def global_pool(self) -> str:
        """How tokens become one embedding."""

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier; 0 where there is none."""

    @property
    def pretrained_cfg(self) -> Mapping[str, Any]:
        """timm's record of the architecture and its preprocessing."""

    def parameters(self) -> "Iterator[nn.Parameter]":
        """Tensors that can be trained."""

    def buffers(self) -> "Iterator[Tensor]":
        """All other tensors."""

    def modules(self) -> "Iterator[nn.Module]":
        """The encoder and everything in it."""

    def to(self, *, device: "torch.device", dtype: "torch.dtype") -> Self:
        """Place and cast the encoder."""

    def to_empty(self, *, device: "str | torch.device") -> Self:
        """Place the encoder without its values."""

    def bfloat16(self) -> Self:
        """Cast the encoder."""
