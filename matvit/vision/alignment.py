"""Embeddings of submodels, moved to where the full encoder has them.

What a submodel leaves out moves embeddings, and in part all of them alike: of fewer patches, or by narrower
layers, whole kinds of images come to lie elsewhere. An affine map of the embedding z undoes that part. Beside
the identity it needs a low rank R only:

    z + bias + up down z,    up (D, R),  down (R, D).

`matvit.refitting.align` fits it. It stands before the head's dropout, which comes last of what makes an
embedding in all of timm's classes and has no weights whose names would change. Of two tokens that are
averaged (DeiT's distilled encoders) it aligns each, and so their mean. It costs 2 D R multiply-accumulates,
some millionths of an encoder's, which `matvit.vision.count_macs` leaves out.

Tensors are named behind the number of their submodel: ``0.bias``, ``0.down``, ``0.up``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matvit.submodels.protocol import ElasticEncoder
from matvit.vision.ffn import TimmEncoder
from matvit.vision.named_tensors import NumberedTensors
from matvit.vision.views import replaced

RANK = 32
"""Of all maps: more tell hardly anything (`benchmarks/results/knob/alignment_ranks.txt`)."""


class Alignments(NumberedTensors):
    """Affine maps of submodels' embeddings, none of them in the encoder's `state_dict`."""

    def shapes(self, encoder: ElasticEncoder) -> dict[str, tuple[int, ...]]:
        """Of the tensors of one map."""
        whole: Any = encoder
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
        # Not initialised, which would draw random numbers that are somebody else's.
        plain = nn.Linear(width, width, device="meta", dtype=self.bias.dtype).to_empty(
            device=self.bias.device
        )
        with torch.no_grad():
            plain.weight.copy_(torch.eye(width) + self.up.cpu().double() @ self.down.cpu().double())
            plain.bias.copy_(self.bias)
        return plain


def aligned(encoder: TimmEncoder, alignment: Alignment) -> TimmEncoder:
    """An encoder with aligned embeddings; it shares all else with the one given."""
    own: TimmEncoder = replaced(encoder, head_drop=nn.Sequential(alignment, encoder.head_drop))
    return own
