"""Small tensors that stretches of a measured curve have of their own.

The submodels of a stretch cost about the same: they see fewer tokens than the full encoder, or have narrower
layers. What puts that right is small: norms, biases, layer scales, the class token and its like, and
positions, which each image size resamples. A stretch has its own of these, 1 to 3 % of an encoder's numbers,
most of them positions; all else it shares with the full encoder, which goes without them and so stays itself.

Tensors are named as in the encoder, behind the number of their stretch: ``0.blocks.3.norm1.weight``.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from matvit.submodels.cost import CostModel
from matvit.submodels.protocol import ElasticEncoder
from matvit.submodels.submodel import Submodel
from matvit.vision.named_tensors import NumberedTensors

_POSITIONS = ("cls_token", "dist_token", "reg_token", "pos_embed")
_SPAN = 2.0
"""From the cheapest to the dearest submodel of a stretch, multiply-accumulates grow by no more than that."""


class Tuned(NumberedTensors):
    """Tensors of stretches, none of them in the encoder's `state_dict`; a number is that of a stretch."""

    def shapes(self, encoder: ElasticEncoder) -> dict[str, tuple[int, ...]]:
        """Of the small tensors of an encoder."""
        return {name: tuple(tensor.shape) for name, tensor in small_tensors(encoder)}


def stretches(curve: Sequence[Submodel], cost: CostModel) -> dict[Submodel, int]:
    """The number of each submodel's stretch.

    Args:
        curve: Submodels in order of cost.
        cost: What they cost.
    """
    numbers: dict[Submodel, int] = {}
    number, start = -1, 0.0
    for submodel in curve:
        macs = cost(submodel).macs
        if macs > _SPAN * start:
            number, start = number + 1, macs
        numbers[submodel] = number
    return numbers


def small_tensors(encoder: ElasticEncoder) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a stretch has of its own, by name: all but an encoder's matrices and filters.

    Those of a layer's hidden units are of no use to submodels whose narrower layers were refitted.
    """
    whole: Any = encoder
    for name, tensor in whole.named_parameters():
        is_small = tensor.dim() == 1 or name in _POSITIONS
        if is_small and not name.startswith("head"):  # An embedding needs no classifier.
            yield name, tensor
