"""Embeddings of submodels, moved to where the full encoder has them.

What a submodel leaves out moves embeddings, and in part all of them alike: of fewer patches, or by narrower
layers, whole kinds of images come to lie elsewhere. An affine map of the embedding z undoes that part. Beside
the identity it needs a low rank R only:

    z + bias + up down z,    up (D, R),  down (R, D).

`matvit.refitting.align` fits it. It comes before the head, after the norm of what was pooled, and costs 2 D R
multiply-accumulates, some millionths of an encoder's, which `matvit.vision.count_macs` leaves out.

Tensors are named behind the number of their submodel: ``0.bias``, ``0.down``, ``0.up``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from matvit.errors import SubmodelError
from matvit.submodels.protocol import ElasticEncoder
from matvit.vision.ffn import TimmEncoder
from matvit.vision.named_tensors import NumberedTensors
from matvit.vision.views import replaced

RANK = 32
"""Of all maps: more tell hardly anything (`benchmarks/results/knob/alignment_ranks.txt`)."""


class Alignments(NumberedTensors):
    """Affine maps of submodels' embeddings, none of them in the encoder's `state_dict`."""

    def shapes(self, encoder: ElasticEncoder) -> dict[str, tuple[int, ...]]:
        """Of the tensors of one map.

        Raises:
            SubmodelError: The encoder has no place for it.
        """
        whole: Any = encoder
        if not aligns(whole):
            raise SubmodelError("embeddings of an encoder with a distillation token cannot be aligned")
        width = whole.num_features
        return {"bias": (width,), "down": (min(RANK, width), width), "up": (width, min(RANK, width))}


class Alignment(nn.Module):
    """Embeddings (..., D) to aligned ones.

    Args:
        bias: (D).
        down: (R, D).
        up: (D, R).
    """

    bias: Tensor
    down: Tensor
    up: Tensor

    def __init__(self, bias: Tensor, down: Tensor, up: Tensor) -> None:
        super().__init__()
        for name, tensor in (("bias", bias), ("down", down), ("up", up)):
            self.register_buffer(name, tensor)

    def forward(self, z: Tensor) -> Tensor:
        """Embeddings (..., D) to aligned ones."""
        return z + F.linear(F.linear(z, self.down), self.up, self.bias)

    def joined(self) -> nn.Linear:
        """The same as one plain layer with tensors of its own."""
        width = len(self.bias)
        plain = nn.Linear(width, width, device=self.bias.device, dtype=self.bias.dtype)
        with torch.no_grad():
            plain.weight.copy_(torch.eye(width) + self.up.cpu().double() @ self.down.cpu().double())
            plain.bias.copy_(self.bias)
        return plain


def aligns(encoder: TimmEncoder) -> bool:
    """Whether an encoder has a place for it; DeiT's with a distillation token have two heads, and none."""
    return not isinstance(encoder, VisionTransformerDistilled)


def aligned(encoder: TimmEncoder, alignment: Alignment) -> TimmEncoder:
    """An encoder with aligned embeddings; it shares all else with the one given."""
    norm: Any = encoder.fc_norm
    last = alignment if isinstance(norm, nn.Identity) else nn.Sequential(norm, alignment)
    own: TimmEncoder = replaced(encoder, fc_norm=last)
    return own
