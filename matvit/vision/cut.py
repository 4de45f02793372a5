"""A timm encoder cut to one of its submodels, as views of the full encoder's tensors.

A cut encoder is an object of timm's own classes that shares every tensor with the full one, so whatever timm
can do with an encoder works on a submodel too, and nothing is copied; where tokens merge, which timm knows
nothing of, its class is one of `matvit.vision.merging`. Cutting takes microseconds a layer and is done anew
for every call: there is no state that threads, compiled graphs or recomputed activations could find changed.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from matvit.submodels.submodel import Submodel
from matvit.vision.alignment import Alignment, aligned
from matvit.vision.ffn import CutFFN, Runs, TimmEncoder, cut_block, cut_ffn, hidden_units
from matvit.vision.image_size import resized
from matvit.vision.merging import merging
from matvit.vision.views import replaced, with_tensors


def cut(
    encoder: TimmEncoder,
    kind: type,
    submodel: Submodel,
    cut_ffn: CutFFN = cut_ffn,
    small: Mapping[str, Tensor] = MappingProxyType({}),
    alignment: Mapping[str, Tensor] = MappingProxyType({}),
) -> Any:
    """A submodel as an encoder, which shares all tensors with the full one.

    Args:
        encoder: It is left as it is.
        kind: timm's own class of the encoder.
        submodel: One that fits the encoder.
        cut_ffn: What makes its FFNs.
        small: Tensors that it has in place of the encoder's: see `matvit.vision.tuned`.
        alignment: Of its embeddings, if any: see `matvit.vision.alignment`.
    """
    own, blocks = with_tensors(replaced(encoder, kind), small), {}
    for (name, block), kept in zip(own.blocks.named_children(), submodel.layers, strict=True):
        if kept.ffn < hidden_units(block):
            blocks[name] = cut_block(f"blocks.{name}", block, kept, cut_ffn)
    own = replaced(own, blocks=replaced(own.blocks, **blocks))
    if submodel.image_size is not None:
        own = resized(own, submodel.image_size)
    if alignment:
        own = aligned(own, Alignment(**alignment))
    return merging(own, submodel.merges) if any(submodel.merges) else own


def own_tensors(encoder: nn.Module) -> dict[int, nn.Parameter]:
    """What `copy.deepcopy` takes as its memo to give a cut encoder compact parameters in place of its views.

    Layers in several runs, and alignments, become plain linear layers, in place.
    """
    for parent in list(encoder.modules()):
        parent._modules.update(
            {
                name: child.joined()
                for name, child in parent.named_children()
                if isinstance(child, Runs | Alignment)
            }
        )
    return {
        id(view): nn.Parameter(view.detach().clone(memory_format=torch.contiguous_format), view.requires_grad)
        for view in encoder.parameters()
        if not isinstance(view, nn.Parameter)
    }
