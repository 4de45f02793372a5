"""Refitted submodels taught by the full encoder, without labels.

A refit makes each layer answer as the full layer does on the full encoder's inputs; what goes wrong in one
layer, the next ones never learn of. Here whole submodels learn the full encoder's embedding y of an image x,

    loss = sum over submodels s of  1 - cos(z_s(x), y),

by gradients, as in knowledge distillation (Hinton, Vinyals and Dean, arXiv 1503.02531), with the cosine of
embeddings in place of class probabilities. Each step takes every granularity below the full one and one
random submodel of the Mix'n'Match curve, so that the submodels between stay as good as their neighbours. Only
what was refitted learns; the encoder's own tensors, and with them the full encoder, stay as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from math import cos, pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from matvit.elastic import Elastic, refitted
from matvit.errors import RefitError
from matvit.submodel import Submodel

BATCH_SIZE = 64
LEARNING_RATE = 1e-3
_WARM_UP = 20  # Steps


def distil(
    model: Elastic,
    batches: Sequence[Tensor],
    *,
    epochs: int,
    held_out: Sequence[Tensor] = (),
    learning_rate: float = LEARNING_RATE,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    on_step: Callable[[str, int, int], None] = lambda what, done, total: None,
    on_epoch: Callable[[int, Mapping[str, float]], None] = lambda epoch, cosines: None,
) -> Elastic:
    """A refitted encoder whose submodels come closer to the full one; it shares all else with the one given.

    Args:
        model: A refitted encoder; it is left alone.
        batches: Preprocessed images (B, C, H, W), thousands of them: on a few hundred, submodels learn those.
        epochs: How often each image is seen.
        held_out: Other images, to measure on; nothing is chosen by them.
        learning_rate: The highest, of AdamW; it follows a cosine to zero.
        batch_size: Images a step.
        seed: Of the images' order and the random submodels.
        on_step: Called with what is done, how far it is and how far it goes.
        on_epoch: Called after each epoch with its number and, by granularity, the mean cosine to the full
            encoder on images held out.

    Raises:
        RefitError: The model is not refitted, or the loss is no longer finite.
    """
    if model.refits is None:
        raise RefitError("only a refitted encoder has something to teach without changing its full encoder")
    tensors = {name: tensor.detach().clone() for name, tensor in model.refits.tensors.items()}
    student: Any = refitted(model, tensors)
    student.reset_classifier(0)
    student.eval()
    like = next(student.parameters())
    images = [image for batch in batches for image in batch]
    wanted = _embeddings(student, None, batches)
    shown = _embeddings(student, None, held_out)
    granularities = student.space.uniforms()[:-1]

    learning = [tensor.requires_grad_() for tensor in tensors.values()]
    optimizer = torch.optim.AdamW(learning, lr=learning_rate, weight_decay=0)
    draws = torch.Generator().manual_seed(seed)
    per_epoch, done = -(-len(images) // batch_size), 0
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(images), generator=draws).tensor_split(per_epoch):
            share = done / (epochs * per_epoch)
            optimizer.param_groups[0]["lr"] = (
                learning_rate * min(1, (done + 1) / _WARM_UP) * (1 + cos(pi * share)) / 2
            )
            x = torch.stack([images[row] for row in rows]).to(like)
            y_BD = wanted[rows.to(wanted.device)]
            between = student.space.curve[
                int(torch.randint(len(student.space.curve) - 1, (), generator=draws))
            ]
            optimizer.zero_grad()
            for submodel in (*granularities, between):
                loss: Any = 1 - F.cosine_similarity(student(x, submodel), y_BD).mean()
                if not loss.isfinite():
                    raise RefitError(f"the loss of {submodel} is not finite: try a lower learning rate")
                # The encoder's own parameters may want gradients for somebody else.
                loss.backward(inputs=learning)
            optimizer.step()
            done += 1
            on_step("steps of distillation", done, epochs * per_epoch)
        on_epoch(epoch, {str(s): _cosine(_embeddings(student, s, held_out), shown) for s in granularities})
    return refitted(model, {name: tensor.detach() for name, tensor in tensors.items()})


@torch.no_grad()
def _embeddings(encoder: Any, submodel: Submodel | None, batches: Sequence[Tensor]) -> Tensor:
    like = next(encoder.parameters())
    found = [encoder(batch.to(like), submodel) for batch in batches]
    return torch.cat(found) if found else like.new_empty(0, encoder.num_features)


def _cosine(one_BD: Tensor, other_BD: Tensor) -> float:
    return float(F.cosine_similarity(one_BD, other_BD).mean())
