"""Nested losses as a timm training task: what submodels learn, from targets and from each other.

Sources: MatFormer (arXiv 2310.07707, section 3.2) for the sum over submodels; universally slimmable networks
(arXiv 1903.05134) for in-place distillation.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.task import ClassificationTask
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from matvit.errors import UnknownModelError
from matvit.submodels.submodel import Submodel
from matvit.training.submodel_sampling import Choose
from matvit.vision.elastic_vit import Elastic, MatEva, MatViT
from matvit.vision.image_size import as_read_by

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, classes) and targets to a loss: the mean over the batch."""


def criterion_for(loss: str, *, label_smoothing: float, soft_targets: bool) -> Criterion:
    """A classification loss of timm, a mean over the batch.

    Args:
        loss: ``softmax``, or ``sigmoid``: a binary cross-entropy a class, summed over classes as in Scenic.
        label_smoothing: Of targets that are class numbers (B,). Soft targets (B, classes) are taken as they
            are: what made them has smoothed them.
        soft_targets: Whether the softmax loss is given those; the sigmoid loss takes either.

    Raises:
        ValueError: There is no such loss.
    """
    criterion: Criterion
    if loss == "sigmoid":
        criterion = BinaryCrossEntropy(smoothing=label_smoothing, sum_classes=True)
    elif loss == "softmax":
        criterion = SoftTargetCrossEntropy() if soft_targets else LabelSmoothingCrossEntropy(label_smoothing)
    else:
        raise ValueError(f"loss must be 'softmax' or 'sigmoid', got {loss!r}")
    return criterion


class Encoded(NamedTuple):
    """What a submodel makes of a batch, in float32: embedding (B, D) and logits (B, classes)."""

    embedding: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Distillation:
    """What submodels learn from the full encoder beside their targets.

    Args:
        kind: ``logits``, or ``embedding``: one minus the cosine, which pulls queries of a small submodel
            towards the corpus that the full encoder embedded.
        weight: What the weight of this loss grows to, linearly from 0 over the whole training: an untrained
            teacher has nothing to say, and early alignment to it stalls learning.
        temperature: Of logits; the loss is scaled by its square, which keeps gradients at their size.
        sigmoid: Logits are those of a sigmoid a class, not of one softmax: binary cross-entropy against the
            teacher's probabilities, summed over classes, in place of the Kullback-Leibler divergence.

    Raises:
        ValueError: One of them is out of range.
    """

    kind: str
    weight: float
    temperature: float = 1.0
    sigmoid: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("logits", "embedding"):
            raise ValueError(f"kind must be 'logits' or 'embedding', got {self.kind!r}")
        if not 0 <= self.weight < math.inf or not 0 < self.temperature < math.inf:
            raise ValueError(
                f"weight must be at least 0 and temperature above 0, both finite; got {self.weight} and "
                f"{self.temperature}"
            )

    def loss(self, student: Encoded, teacher: Encoded) -> Tensor:
        """Mean over the batch; the teacher takes no gradient."""
        if self.kind == "embedding":
            return (1 - F.cosine_similarity(student.embedding, teacher.embedding.detach(), dim=-1)).mean()
        ours, theirs = student.logits / self.temperature, teacher.logits.detach() / self.temperature
        if self.sigmoid:
            loss = F.binary_cross_entropy_with_logits(ours, theirs.sigmoid(), reduction="none").sum(-1).mean()
        else:
            loss = F.kl_div(
                ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean"
            )
        return self.temperature**2 * loss


class NestedTask(ClassificationTask):
    """Trains submodels of one encoder together: the sum or the mean of their losses on the same batch.

    The model in `trainable_module`, averages of it and checkpoints stay what they are for a single encoder,
    compiled, distributed or not.

    Args:
        model: The encoder to train, with a classifier.
        criterion: Loss of logits against targets: see `criterion_for`.
        choose: The submodels of each step: `joint`, `sampled`, `mixnmatch` or your own.
        distill: What each submodel that is not the full encoder learns from it; None is nothing.
        reduction: ``sum`` or ``mean`` over the submodels of a step.
        ways_of_seeing: How many sizes and merges `choose` gives the same widths.
        device: Where the loss is computed.

    Raises:
        UnknownModelError: The model is not one encoder with one classifier on top.
        ValueError: The reduction is neither.

    Example:
        >>> task = NestedTask(model, criterion, joint(model.space, ["S", "M", "L", "XL"]))
        >>> task(images, target)["loss"].backward()
    """

    trainable_module: Elastic
    _encoders: "_Encoders"
    _replica: nn.Module

    def __init__(
        self,
        model: Elastic,
        criterion: Criterion,
        choose: Choose,
        *,
        distill: Distillation | None = None,
        reduction: str = "sum",
        ways_of_seeing: int = 1,
        device: torch.device | None = None,
    ) -> None:
        # DeiT's distilled models have a second classifier, which the embedding of the two tokens' mean skips.
        if not isinstance(model, MatViT | MatEva) or not model.num_classes:
            raise UnknownModelError(
                "nested training takes a MatViT or a MatEva with one classifier, not a "
                f"{type(model).__name__} with num_classes={getattr(model, 'num_classes', None)}"
            )
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
        super().__init__(model, criterion, device=device, verbose=False)
        self.choose, self.distill, self.reduction = choose, distill, reduction
        self.ways_of_seeing = ways_of_seeing
        self._full = model.space.full
        self._names = {model.space.uniform(name): name for name in model.space.granularities}
        # Past nn.Module's own setter: as submodules, these would list every weight of the model again.
        self.__dict__["_encoders"] = self.__dict__["_replica"] = _Encoders(model)

    def forward(
        self, input: Tensor, target: Tensor, *, step: int = 0, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """The loss of one batch, or of a part of it.

        Args:
            input: Images (B, C, H, W).
            target: What the criterion takes.
            step: Number of the optimizer step, which says what is trained.
            progress: Share of the training that is done, which distillation is weighted by.

        Returns:
            ``loss``, to be differentiated, and ``output``, the logits of the largest submodel; for the record
            ``loss/NAME`` of each granularity, whatever it sees, ``loss/mixed`` of other submodels and, where
            there was any, ``distill``, the mean over students before it is weighted.

        Raises:
            SubmodelError: A chosen submodel does not fit this model.
        """
        submodels = self.choose(step)
        encoded: list[Encoded] = self._replica(input, submodels)
        terms = [self.criterion(logits, target) for _, logits in encoded]
        record: dict[str, list[Tensor]] = {}
        for submodel, term in zip(submodels, terms, strict=True):
            name = self._names.get(Submodel(submodel.widths), "mixed")
            record.setdefault(f"loss/{name}", []).append(term.detach())
        students = [position for position, submodel in enumerate(submodels) if submodel != self._full]
        if self.distill and self.distill.weight * progress > 0 and students:
            teacher = encoded[0] if submodels[0] == self._full else self._teach(input)
            for position in students:
                term = self.distill.loss(encoded[position], teacher)
                terms[position] = terms[position] + self.distill.weight * progress * term
                record.setdefault("distill", []).append(term.detach())
        total = torch.stack(terms).sum()
        return {
            "loss": total / len(terms) if self.reduction == "mean" else total,
            "output": encoded[0].logits,
            **{name: torch.stack(values).mean() for name, values in record.items()},
        }

    def _teach(self, images: Tensor) -> Encoded:
        """What the full encoder makes of a batch where it is not trained."""
        with torch.no_grad():
            encoded = self._encoders.encode(images, self._full)
        # Older torch gives the weights that autocast cast here to later passes too, without their gradients.
        torch.clear_autocast_cache()
        return encoded

    def prepare_distributed(self, device_ids: list[int] | None = None, **ddp_kwargs: Any) -> "NestedTask":
        """Average gradients over all processes, in one go for all submodels of a step.

        Args:
            device_ids: As in torch's `DistributedDataParallel`, where the other arguments go too.
            **ddp_kwargs: See there.
        """
        self.__dict__["_replica"] = DistributedDataParallel(
            self._encoders, device_ids=device_ids, **ddp_kwargs
        )
        return self

    def no_sync(self) -> AbstractContextManager[None]:
        """Where gradients add up in this process alone, until a backward pass outside averages them."""
        if isinstance(self._replica, DistributedDataParallel):
            return self._replica.no_sync()
        return nullcontext()

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any) -> nn.Module:
        """Compile each submodel when it is first trained; to be called before `prepare_distributed`.

        Args:
            backend: As in `torch.compile`, where the other arguments go too.
            mode: See there.
            **compile_kwargs: See there.

        Returns:
            The model for evaluation, which is not compiled.
        """
        # Dynamo compiles a piece of code 8 times, then runs it eager with only a line in the log. Here is
        # room for the whole curve, with gradients and without; whole graphs raise where that is too little.
        config: Any = torch._dynamo.config
        graphs = 2 * len(self.trainable_module.space.mixnmatch) * self.ways_of_seeing
        config.recompile_limit = max(config.recompile_limit, graphs)
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 4 * graphs)
        # Without dynamic=False, its second graph would be of any width, which the compiler knows less about.
        options = {"fullgraph": True, "dynamic": False, **compile_kwargs}
        self._encoders.run = torch.compile(self._encoders.run, backend=backend, mode=mode, **options)
        return self.trainable_module


class _Encoders(nn.Module):
    """All submodels of a step in one forward pass, so that `DistributedDataParallel` sees one."""

    def __init__(self, model: Elastic) -> None:
        super().__init__()
        self.model, self.run = model, _encode

    def encode(self, images: Tensor, submodel: Submodel) -> Encoded:
        return self.run(self.model, images, submodel)

    def forward(self, images: Tensor, submodels: Sequence[Submodel]) -> list[Encoded]:
        return [self.encode(images, submodel) for submodel in submodels]


def _encode(model: Elastic, images: Tensor, submodel: Submodel) -> Encoded:
    embedding = model.forward_embedding(as_read_by(submodel, images), submodel)
    # Losses need more digits than the number format that autocast may have chosen.
    return Encoded(embedding.float(), model.head(embedding).float())
