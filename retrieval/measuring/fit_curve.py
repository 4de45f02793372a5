"""The curve of an encoder on a user's images: which submodels keep most of its answers, at every cost.

No labels are needed: what counts is what a submodel finds of what the full encoder finds. Each axis is
measured by itself, layer by layer and size by size, in how far it moves embeddings;
`matvit.submodels.frontier` adds that up and proposes submodels; these are measured in turn, beside smaller
images alone. Those that are worth their cost stay on the curve: see `retrieval.measuring.worth_keeping`.

With L layers, G granularities below the full one and S smaller sizes, `SENSED` images go through L (G + 2) +
S submodels, 68 for a ViT of 12 layers, and all images through about 50 that are checked, of half of the full
encoder's cost on average.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from indexes.directory.change import note_curve
from matvit.errors import SubmodelError
from matvit.progress import Count, Progress, silent
from matvit.submodels.frontier import Axis, Sensitivities, candidates
from matvit.submodels.submodel import Layer, Submodel, SubmodelSpace
from retrieval.encoding.drawn_images import DrawnImages
from retrieval.encoding.encoder import Encoder
from retrieval.measuring.against_full import compare, why_poor
from retrieval.measuring.curve import Curve
from retrieval.measuring.worth_keeping import worth_keeping
from retrieval.searcher import Searcher
from retrieval.sources.sample import Failure

SENSED = 16
"""Images that tell what each axis loses by itself."""
SHARES = tuple(share / 100 for share in range(15, 100, 5))
"""Of the full encoder's MACs, for which submodels are proposed."""
_SIZES_EACH = 2
"""Image sizes of the submodels that are proposed for each share, with narrower layers and without."""
_MERGING = (1 / 16, 1 / 4)
"""Shares of a layer's patches whose merging is measured."""


@dataclass(frozen=True)
class FittedCurve:
    """What was measured, and what is kept of it.

    Attributes:
        curve: Every submodel that was checked.
        cosines: Of the submodels on the curve, cheapest first: the mean cosine to the full encoder, which
            closes it with 1.
        refits: Of the encoder: see `retrieval.encoding.encoder.Encoder`.
        failures: Images that could not be read.
    """

    curve: Curve
    cosines: Mapping[Submodel, float]
    refits: str | None
    failures: tuple[Failure, ...]

    def save(self, index: str | Path) -> None:
        """Let budgets choose from this curve for everyone who opens the index from now on.

        Raises:
            IndexBusyError: Another process is writing it.
            IndexDamagedError: There is no whole index.
        """
        cosines = {str(submodel): cosine for submodel, cosine in self.cosines.items()}
        note_curve(Path(index), {"refits": self.refits, "cosines": cosines, "images": self.curve.queries})

    def to_dict(self) -> dict[str, Any]:
        """The curve, and all that was checked, in plain values."""
        return {
            "curve": {str(submodel): cosine for submodel, cosine in self.cosines.items()},
            "points": self.curve.table(),
            "images": self.curve.queries,
            "failures": len(self.failures),
        }


def fit_to_images(
    searcher: Searcher,
    images: str | Path,
    *,
    check: int = 200,
    axes: Collection[Axis] = tuple(Axis),
    seed: int = 0,
    workers: int | None = None,
    progress: Progress = silent,
) -> FittedCurve:
    """Measure the curve of an index's encoder on images like those to be asked for.

    Args:
        searcher: The index and its encoder.
        images: See `retrieval.sources.open_images.open_source`; labels are not needed.
        check: How many, at most, drawn at random.
        axes: What submodels on the curve may differ in.
        seed: Of the draw.
        workers: Processes that decode: see `retrieval.encoding.batches`.
        progress: Told of the images that are read and embedded.

    Raises:
        SubmodelError: The encoder has none of these axes.
        ImageSourceError: There is no such source, or it has fewer than four images that can be read.
    """
    encoder = searcher.encoder
    check_axes(encoder.space, axes)
    drawn = DrawnImages.read(
        str(images),
        encoder,
        fit=0,
        check=check,
        submodels=encoder.space.smaller_images,
        seed=seed,
        workers=workers,
        progress=progress,
    )
    return fit_curve(encoder, drawn, axes=axes, progress=progress)


def check_axes(space: SubmodelSpace, axes: Collection[Axis]) -> None:
    """Make sure that submodels of an encoder can differ in one of these axes.

    Raises:
        SubmodelError: They cannot.
    """
    why_not = {Axis.SIZES: space.tokens.one_size, Axis.MERGES: space.tokens.no_merging}
    reasons = [why_not.get(axis, "") for axis in axes]
    if all(reasons):
        raise SubmodelError("; ".join(reasons))


def fit_curve(
    encoder: Encoder,
    images: DrawnImages,
    *,
    axes: Collection[Axis] = tuple(Axis),
    progress: Progress = silent,
) -> FittedCurve:
    """Measure the curve of an encoder.

    Args:
        encoder: Whose submodels are measured.
        images: Those to check on are used; they come at the sizes of `SubmodelSpace.smaller_images`.
        axes: What submodels may differ in.
        progress: Told of the images that are embedded.
    """
    submodels = proposed(encoder, images, axes=axes, progress=progress)
    return checked(encoder, images, submodels, progress=progress)


def proposed(
    encoder: Encoder,
    images: DrawnImages,
    *,
    axes: Collection[Axis] = tuple(Axis),
    progress: Progress = silent,
) -> list[Submodel]:
    """Submodels that may be on the curve of an encoder, by what each axis loses.

    Arguments are those of `fit_curve`.
    """
    space = encoder.space
    sensitivities = sense(encoder, images, axes=axes, progress=progress)
    kinds = [sensitivities.at_full_width(space.full)]
    if Axis.WIDTHS in axes:
        kinds.append(sensitivities)
    best = [
        submodel
        for each in kinds
        for submodel in candidates(space, encoder.cost, each, SHARES, sizes_each=_SIZES_EACH)
    ]
    sizes = space.smaller_images if Axis.SIZES in axes else ()
    widths = space.mixnmatch[:: max(1, space.depth // 2)] if Axis.WIDTHS in axes else ()
    return [*best, *sizes, *widths]


def checked(
    encoder: Encoder,
    images: DrawnImages,
    submodels: Sequence[Submodel],
    *,
    sliced: Encoder | None = None,
    even_poor: bool = False,
    progress: Progress = silent,
) -> FittedCurve:
    """Measure submodels; those of them that are worth their cost, and worth using at all, are the curve.

    Args:
        encoder: Whose submodels are measured.
        images: Those to check on are used.
        submodels: Which.
        sliced: See `compare`.
        even_poor: Also keep what is not worth using yet, for lessons.
        progress: Told of the images that are embedded.
    """
    full = encoder.space.full
    curve = compare(encoder, sliced, images, [*submodels, full], progress=progress)
    among = curve
    if not even_poor:
        good = tuple(point for point in curve.points if why_poor(point) is None)
        among = replace(curve, points=good)
    cosines = {point.submodel: point["cosine"].value for point in worth_keeping(among, full)}
    return FittedCurve(curve, cosines | {full: 1.0}, encoder.refits, images.failures)


def sense(
    encoder: Encoder,
    images: DrawnImages,
    *,
    axes: Collection[Axis] = tuple(Axis),
    progress: Progress = silent,
) -> Sensitivities:
    """Measure what each axis loses by itself, on the first `SENSED` images to check on."""
    space, full = encoder.space, encoder.space.full
    uniforms = space.uniforms() if Axis.WIDTHS in axes else ()
    narrower = [
        {each.layers[layer] for each in uniforms if each.layers[layer] != full.layers[layer]}
        for layer in range(space.depth)
    ]
    shares = () if space.tokens.no_merging or Axis.MERGES not in axes else _MERGING
    patches = space.tokens.patches(None)
    smaller = space.smaller_images if Axis.SIZES in axes else ()
    runs = sum(map(len, narrower)) + space.depth * len(shares) + len(smaller)
    count = Count(progress, "axes measured", runs)
    seen = {each.image_size: torch.cat(images.check_for(each))[:SENSED] for each in (full, *smaller)}
    wanted_QD = encoder.embed(seen[None])

    def loss(submodel: Submodel) -> float:
        found_QD = encoder.embed(seen[submodel.image_size], space.check(submodel))
        count()
        return float(np.square(found_QD - wanted_QD).sum(1).mean())

    def changed(number: int, layer: Layer) -> Submodel:
        return Submodel([*full.layers[:number], layer, *full.layers[number + 1 :]])

    sizes: dict[int | None, float] = {None: 0.0}
    sizes |= {submodel.image_size: loss(submodel) for submodel in smaller}
    merges, widths = [], []
    for number, (own, layers) in enumerate(zip(full.layers, narrower, strict=True)):
        counts = dict.fromkeys(max(1, round(share * patches)) for share in shares)
        merges.append({merged / patches: loss(changed(number, Layer(own.ffn, merged))) for merged in counts})
        widths.append({own.ffn: 0.0} | {layer.ffn: loss(changed(number, layer)) for layer in layers})
    return Sensitivities(sizes, merges, widths)
