"""Losses that train every granularity of one MatViT at once, as timm training tasks."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from timm.task import ClassificationTask
from torch import Tensor

from matvit.elastic import MatViT
from matvit.errors import SubmodelError


class JointTask(ClassificationTask):
    """The sum of the losses of several granularities on the same batch (MatFormer, section 3.2).

    Args:
        model: The MatViT to train.
        criterion: Loss of logits (B, classes) against targets.
        granularities: Names of the granularities in the sum; the largest also gives the task's output.
        align: Weight of an added term for each smaller granularity: one minus the cosine between its
            embedding and the largest granularity's, which takes no gradient from it. It pulls queries
            towards the corpus that the full encoder embedded.
        device: Where the loss is computed.

    Raises:
        SubmodelError: The model has no granularity of that name.
    """

    trainable_module: MatViT

    def __init__(
        self,
        model: MatViT,
        criterion: Callable[[Tensor, Tensor], Tensor],
        *,
        granularities: Sequence[str],
        align: float = 0.0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(model, criterion, device=device, verbose=False)
        self.align = align
        if unknown := set(granularities) - model.space.granularities.keys():
            raise SubmodelError(f"{min(unknown)!r} is none of {', '.join(model.space.granularities)}")
        self.submodels = {
            name: model.space.uniform(name)
            for name in reversed(list(model.space.granularities))
            if name in granularities
        }

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Images (B, C, H, W) and targets to ``loss``, ``output`` (B, classes) and one ``loss/NAME`` each."""
        model = self.trainable_module
        result: dict[str, Tensor] = {}
        teacher: Tensor | None = None
        total = torch.zeros((), device=input.device)
        for name, submodel in self.submodels.items():
            embedding = model.forward_head(model.forward_features(input, submodel), pre_logits=True)
            logits = model.head(embedding)
            result[f"loss/{name}"] = self.criterion(logits, target)
            total = total + result[f"loss/{name}"]
            if teacher is None:
                teacher, result["output"] = embedding.detach(), logits
            elif self.align:
                total = total + self.align * (1 - F.cosine_similarity(embedding, teacher, dim=-1)).mean()
        result["loss"] = total
        return result
