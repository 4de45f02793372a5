"""Submodels run by torch, operation by operation: ready at once, at no memory of their own."""

import torch
from torch import Tensor, nn

from matvit.engines.engine import QueryEngine
from matvit.submodels.protocol import ElasticEncoder
from matvit.submodels.submodel import Submodel


class EagerSubmodels:
    """Every submodel of one encoder, cut when it is first asked for; cuts share its memory ever after.

    Args:
        encoder: In evaluation mode.
    """

    def __init__(self, encoder: ElasticEncoder) -> None:
        self._encoder = encoder
        self._cuts: dict[Submodel, nn.Module] = {}

    def __call__(self, images: Tensor, submodel: Submodel | None = None) -> Tensor:
        """See `matvit.engines.engine.SubmodelRunner`.

        Raises:
            SubmodelError: The submodel does not fit this encoder.
        """
        if submodel is None:
            return self._encoder(images)
        if submodel not in self._cuts:
            self._cuts[submodel] = self._encoder.cut(submodel)
        return self._cuts[submodel](images)


class Eager(QueryEngine):
    """This library without a compiler."""

    name = "eager"
    title = "matvit eager"

    def formats(self, device: torch.device) -> tuple[torch.dtype, ...]:
        """See `Engine.formats`."""
        return torch.float32, torch.bfloat16

    def runner(self, encoder: ElasticEncoder) -> EagerSubmodels:
        """See `QueryEngine.runner`."""
        return EagerSubmodels(encoder)
