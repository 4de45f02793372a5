"""Embeddings of submodels aligned with the full encoder's, in closed form and without labels.

Of N images, with centred embeddings Z of a submodel and Y of the full encoder, the map beside the identity
(see `matvit.vision.alignment`) is that of a ridge regression,

    W = argmin  |Z + Z W - Y|^2 + ridge |W|^2,

and its best approximation of a low rank on these images (reduced-rank regression: Izenman, Journal of
Multivariate Analysis 5, 1975). The ridge is the one that errs least on images left out, each in turn, which
takes no further fit: the error of one that is left out is its residual over one minus its leverage. Where no
map errs less than none at all, there is none.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from matvit.errors import RefitError
from matvit.progress import Count, Progress, silent
from matvit.submodels.submodel import Submodel
from matvit.vision.alignment import RANK
from matvit.vision.elastic_vit import Elastic, elastic, with_alignments
from matvit.vision.embedding import embed_only
from matvit.vision.image_size import as_read_by

_RIDGES = tuple(10 ** (power / 2) for power in range(-2, 7))
"""In mean squared singular values of a submodel's embeddings: 0.1 to 1000."""
_TINY = 1e-150
"""Where embeddings are all alike, nothing is divided by nothing."""


def align(
    model: Elastic,
    submodels: Iterable[Submodel],
    batches: Sequence[Tensor],
    *,
    progress: Progress = silent,
) -> Elastic:
    """An encoder whose submodels' embeddings are aligned; it shares all else with the one given.

    Args:
        model: It is left alone; what alignments it had, the new one has not.
        submodels: Which; the full encoder needs none.
        batches: Preprocessed images (B, C, H, W), as the full encoder reads them. A few hundred are enough;
            fewer than `matvit.vision.alignment.RANK` align nothing.
        progress: Told of the images that are embedded.

    Raises:
        RefitError: Embeddings are not finite.
    """
    model, full = with_alignments(model, {}, {}), model.space.full
    wanted = [s for s in dict.fromkeys(map(model.space.check, submodels)) if s != full]
    images = sum(map(len, batches))
    if images < RANK:
        return model
    count = Count(progress, "images aligned", (1 + len(wanted)) * images)
    embedder = elastic(model).eval()
    embed_only(embedder)
    wanted_ND = embedded(embedder, full, batches, count)
    tensors: dict[str, Tensor] = {}
    numbers: dict[Submodel, int] = {}
    for submodel in wanted:
        found = fit(embedded(embedder, submodel, batches, count), wanted_ND)
        if found is not None:
            number = numbers[submodel] = len(numbers)
            tensors |= {f"{number}.{name}": tensor.to(wanted_ND) for name, tensor in found.items()}
    return with_alignments(model, tensors, numbers)


def only(model: Elastic, submodels: Iterable[Submodel]) -> Elastic:
    """An encoder with the alignments of these submodels alone; it shares all else with the one given."""
    if model.alignments is None:
        return model
    tensors: dict[str, Tensor] = {}
    numbers: dict[Submodel, int] = {}
    for submodel in dict.fromkeys(submodels):
        if own := model.alignments.of(submodel):
            number = numbers[submodel] = len(numbers)
            tensors |= {f"{number}.{name}": tensor for name, tensor in own.items()}
    return with_alignments(model, tensors, numbers)


def fit(found_ND: Tensor, wanted_ND: Tensor, *, rank: int = RANK) -> dict[str, Tensor] | None:
    """The map from embeddings to those that are wanted, or None where none errs less.

    Args:
        found_ND: Of a submodel.
        wanted_ND: Of the full encoder, of the same images.
        rank: Of the map beside the identity, at most.

    Returns:
        ``bias`` (D), ``down`` (R, D) and ``up`` (D, R), in float64: see `matvit.vision.alignment`.
    """
    found_ND, wanted_ND = found_ND.cpu().double(), wanted_ND.cpu().double()
    images, width = found_ND.shape
    mean_D, target_D = found_ND.mean(0), wanted_ND.mean(0)
    centred_ND = found_ND - mean_D
    lacking_ND = wanted_ND - target_D - centred_ND
    left_NK, singular_K, right_KD = torch.linalg.svd(centred_ND, full_matrices=False)
    square_K, parts_KD = singular_K.square(), left_NK.T @ lacking_ND

    least, shrunk_K = float((wanted_ND - found_ND).square().sum()), None
    for ridge in _RIDGES:
        kept_K = square_K / (square_K + ridge * square_K.sum() / width).clamp_min(_TINY)
        leverage_N = (left_NK.square() * kept_K).sum(1) + 1 / images
        left_out_ND = (lacking_ND - (left_NK * kept_K) @ parts_KD) / (1 - leverage_N)[:, None]
        if (error := float(left_out_ND.square().sum())) < least:
            least, shrunk_K = error, kept_K
    if shrunk_K is None:
        return None
    answers_ND = (left_NK * shrunk_K) @ parts_KD
    up_DR = torch.linalg.svd(answers_ND, full_matrices=False).Vh[:rank].T
    down_RD = up_DR.T @ (right_KD.T * (shrunk_K / singular_K.clamp_min(_TINY)) @ parts_KD).T
    return {"bias": target_D - mean_D - up_DR @ (down_RD @ mean_D), "down": down_RD, "up": up_DR}


@torch.no_grad()
def embedded(
    model: Elastic,
    submodel: Submodel,
    batches: Sequence[Tensor],
    count: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Embeddings (N, D) before the head, of images that are resized to what a submodel reads.

    Args:
        model: Elastic.
        submodel: Which one.
        batches: Preprocessed images (B, C, H, W).
        count: Told of the images of each batch.

    Raises:
        RefitError: Some are not finite.
    """
    like, found = next(model.parameters()), []
    for batch in batches:
        found.append(model.forward_embedding(as_read_by(submodel, batch.to(like)), submodel))
        count(len(batch))
    found_ND = torch.cat(found)
    if not found_ND.isfinite().all():
        raise RefitError(f"embeddings of {submodel} are not finite")
    return found_ND
