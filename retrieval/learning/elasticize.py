"""A pretrained encoder made elastic from a user's images, and what its submodels are worth on others of them.

Some of the images fit the submodels (see `matvit.refitting.first_pass`); the others, which the fit has not
seen, are a small corpus embedded by the full encoder, in which each of them, embedded by a submodel, looks
for the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import matvit
from matvit.files.atomic import discard, write_text
from matvit.progress import Count, Progress, silent
from matvit.refitting.along_paths import refit_along_paths
from matvit.refitting.distillation import Lessons, distil
from matvit.refitting.first_pass import elasticize as refit
from matvit.refitting.first_pass import ready
from matvit.runtime.device import pick_device
from matvit.runtime.latency import measure as measure_times
from matvit.submodels.profile import Profile
from matvit.submodels.submodel import Submodel
from matvit.vision.elastic_vit import Elastic
from matvit.weights.checkpoint import REPORT, check_place, notes_of, saved
from retrieval.encoding.encoder import Encoder
from retrieval.errors import LessonsError
from retrieval.learning.drawn_images import DrawnImages
from retrieval.measuring.curve import Curve, Point
from retrieval.measuring.estimate import Estimate, Share, mean_of
from retrieval.measuring.metrics.accuracy import accuracy
from retrieval.measuring.metrics.agreement import OVERLAP, agreement
from retrieval.measuring.metrics.answers import NO_LABEL, Answers, Neighbours, Truth
from retrieval.measuring.summary import summarise, values_of
from retrieval.showing.csv_table import write_csv
from retrieval.sources.sample import Failure

POOR_COSINE = 0.9
"""Below that mean cosine a submodel is not worth using, where no labels tell."""
POOR_DIFFERENCE = -0.05
"""Nor where its 1-NN accuracy falls by more than that."""
TAUGHT = 5000
"""Images to learn from, unless one says how many."""


@dataclass(frozen=True)
class Elasticized:
    """An encoder made elastic, and how it came about.

    Attributes:
        model: Elastic; its full encoder is the one given.
        curve: What its submodels are worth on images that they were not fitted to: see `compare`.
        images: That it was fitted to.
        tokens: Of these images, in each layer.
        widest: Hidden units of the widest FFN that was refitted: with fewer tokens, the ridge did the rest.
        failures: Images that could not be read.
        notes: Of the original's checkpoint, to be kept.
        state: Where learning keeps what it needs to go on; removed once the model is saved.
    """

    model: Elastic
    curve: Curve
    images: int
    tokens: int
    widest: int
    failures: tuple[Failure, ...]
    notes: dict[str, Any]
    state: Path | None

    @property
    def extra_bytes(self) -> int:
        """What the submodels need in memory and on disk, beside the original."""
        return self.model.refits.memory_bytes if self.model.refits else 0

    @property
    def warnings(self) -> list[str]:
        """Which granularities are not worth using, and why."""
        points = [point for point in self.curve.points if point.submodel in self.model.space.uniforms()]
        return [warning for point in points if (warning := why_poor(point))]

    def to_dict(self) -> dict[str, Any]:
        """The curve and what it rests on, in plain values."""
        return {
            "points": self.curve.table(),
            "warnings": self.warnings,
            "images": self.images,
            "checked": self.curve.queries,
            "tokens": self.tokens,
            "extra_bytes": self.extra_bytes,
            "failures": len(self.failures),
        }

    def save(self, directory: str | Path, *, command: str = "") -> list[str]:
        """Write the checkpoint, and beside it a report: table, figure, command.

        Args:
            directory: Of the checkpoint; an earlier one there is replaced.
            command: What was run.

        Returns:
            The names of the report's files.

        Raises:
            CheckpointError: `directory` holds something else, or cannot be written.
            BusyError: Another process is writing it.
        """
        with saved(self.model, directory, **self.notes) as folder:
            report = folder / REPORT
            report.mkdir()
            write_csv(report / "report.csv", self.curve.table())
            self.curve.plot_consistency(report / "report.png")
            write_text(report / "command.txt", command + "\n")
        if self.state:  # Not before: what was learnt is the dearest of all this.
            discard(self.state)
        return ["report.csv", "report.png", "command.txt"]


def elasticize(
    model: str | Path,
    images: str | Path,
    *,
    limit: int = 300,
    check: int = 200,
    sequential: bool = False,
    epochs: int | None = None,
    minutes: float | None = None,
    teach: int | None = None,
    whole_curve: bool = False,
    measure: bool = False,
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    output: str | Path | None = None,
    progress: Progress = silent,
) -> Elasticized:
    """Make a pretrained Vision Transformer elastic, without labels.

    Args:
        model: What `matvit.load` takes.
        images: See `retrieval.sources.open_images.open_source`.
        limit: Images to fit to, at most.
        check: Other images to check on, at most.
        sequential: Refit each granularity once more, layer by layer: see `matvit.refitting.along_paths`.
        epochs: Then let the submodels learn the full encoder's embeddings, seeing each image so often.
        minutes: The same, for so long.
        teach: Images to learn from with them, at most; all stay in memory. None is `TAUGHT`.
        whole_curve: Check the whole Mix'n'Match curve, not only some of it.
        measure: Also measure milliseconds an image, once.
        seed: Of the draw of images.
        workers: Processes that decode: see `retrieval.encoding.batches`.
        device: Where to compute.
        output: Where the model will be saved, if that is known: what cannot be written to is then refused
            before the work, and learning that was stopped goes on when the same is asked for again.
        progress: Told of every step.

    Raises:
        LessonsError: Both `epochs` and `minutes` are given, neither with `teach`, or minutes without end.
        UnknownModelError: There is no such model, or it does not nest.
        RefitError: It is refitted already, has nothing to refit, or the images tell too little.
        ImageSourceError: There is no such source, or it has too few images.
        CheckpointError: The model is damaged, or `output` holds something else.
    """
    lessons = _lessons(epochs, minutes, teach, seed)
    state = None
    if output is not None:
        check_place(output)  # If it cannot be written to, better now than after the work.
        output = Path(output)
        state = output.with_name(f"{output.name}.partial") if lessons else None
    where = pick_device(device)
    original = ready(matvit.load(model, progress=progress)).to(where)
    sliced = _encoder(original, str(model))
    taught = (teach or TAUGHT) if lessons else 0
    drawn = DrawnImages.read(
        str(images),
        sliced,
        fit=max(limit, taught),
        check=check,
        seed=seed,
        workers=workers,
        progress=progress,
    )
    refitted = refit(original, drawn.first(limit), progress=progress)
    elastic = refitted.model
    if sequential:
        elastic = refit_along_paths(elastic, drawn.first(limit), progress=progress)
    if lessons:
        elastic = distil(
            elastic, drawn.first(taught), lessons, held_out=drawn.check, kept=state, progress=progress
        )
    encoder = _encoder(elastic, str(output or model))
    space = encoder.space
    some = space.curve if whole_curve else space.curve[:: max(1, space.depth // 2)]
    times = None
    if measure:
        times = measure_times(encoder.model, device=where, dtype=encoder.dtype, progress=progress)
    return Elasticized(
        model=elastic,
        curve=compare(encoder, sliced, drawn, [*some, *space.uniforms()], profile=times, progress=progress),
        images=refitted.images,
        tokens=refitted.tokens,
        widest=refitted.widest,
        failures=drawn.failures,
        notes=notes_of(model),
        state=state,
    )


def compare(
    encoder: Encoder,
    sliced: Encoder,
    images: DrawnImages,
    submodels: Sequence[Submodel],
    *,
    profile: Profile | None = None,
    progress: Progress = silent,
) -> Curve:
    """Compare submodels with the full encoder, on the images held out.

    Args:
        encoder: The elastic one.
        sliced: The same encoder without what was refitted, for comparison at the granularities.
        images: Those to check on are used.
        submodels: Which; the full encoder need not be among them.
        profile: Times to tell of the submodels.
        progress: Told of the images that are embedded.

    Returns:
        How much of the full encoder's answers remains (`retrieval.measuring.metrics.agreement`); with labels,
        1-NN accuracy of the images that are not alone in their class; and for a granularity `slice_cosine`,
        of the plain slice.
    """
    full, uniforms = encoder.space.full, encoder.space.uniforms()
    wanted = list(dict.fromkeys([full, *submodels]))
    total = (len(wanted) + len(uniforms) - 1) * sum(map(len, images.check))
    count = Count(progress, "images checked", total)

    def embedded(by: Encoder, submodel: Submodel) -> NDArray[np.float32]:
        blocks = []
        for batch in images.check:
            blocks.append(by.embed(batch, submodel))
            count(len(batch))
        return np.concatenate(blocks)

    vectors_SQD = np.stack([embedded(encoder, submodel) for submodel in wanted])
    measured = _measures(vectors_SQD, images.labels)
    for submodel, measures in zip(wanted, measured, strict=True):
        if submodel in uniforms and submodel != full:
            cosines_Q = (embedded(sliced, submodel) * vectors_SQD[0]).sum(1).clip(-1, 1)
            measures["slice_cosine"] = mean_of(cosines_Q)
    asked = set(submodels)
    kept = [(s, measures) for s, measures in zip(wanted, measured, strict=True) if s in asked]
    return Curve.of(
        [submodel for submodel, _ in kept],
        [measures for _, measures in kept],
        cost=encoder.cost,
        full=full,
        queries=vectors_SQD.shape[1],
        profile=profile,
    )


def why_poor(point: Point) -> str | None:
    """Why a submodel is not worth using, if so."""
    value = {name: measure.value for name, measure in point.measures.items()}
    cosine, difference = value["cosine"], value.get("difference")
    if cosine <= value.get("slice_cosine", -1):
        return f"{point.submodel} is no closer to the full encoder than a plain slice: use the original"
    if difference is None and cosine < POOR_COSINE:
        return f"{point.submodel} is not worth using: its cosine to the full encoder is {cosine:.2f}"
    if difference is not None and difference < POOR_DIFFERENCE:
        return f"{point.submodel} is not worth using: it loses {-100 * difference:.1f} points of 1-NN"
    return None


def _measures(
    vectors_SQD: NDArray[np.float32], labels_Q: NDArray[np.str_] | None
) -> list[dict[str, Share | Estimate]]:
    """Of images that look for each other: the full encoder's embeddings, which come first, are the corpus."""
    images = vectors_SQD.shape[1]
    numbers_Q, counts = np.full(images, NO_LABEL), np.zeros(images, np.int64)
    if labels_Q is not None:
        _, numbers_Q, counts = np.unique(labels_Q, return_inverse=True, return_counts=True)
    neighbours = _neighbours(vectors_SQD, numbers_Q)
    measures = summarise(values_of(Answers(vectors_SQD, neighbours), [agreement]))
    others_Q = counts[numbers_Q] - 1  # Whatever one that is alone in its class finds is wrong.
    if (judged_Q := others_Q > 0).any():
        everyone = np.tile(judged_Q, len(vectors_SQD))
        found = Neighbours(
            neighbours.scores[everyone],
            neighbours.rows[everyone],
            neighbours.labels[everyone],
            neighbours.relevant[everyone],
        )
        truth = Truth(numbers_Q[judged_Q], others_Q[judged_Q], len(counts))
        right = summarise(values_of(Answers(vectors_SQD[:, judged_Q], found, truth), [accuracy]))
        measures = [{**one, **other} for one, other in zip(measures, right, strict=True)]
    return measures


def _neighbours(vectors_SQD: NDArray[np.float32], numbers_Q: NDArray[np.int64]) -> Neighbours:
    """The nearest images of each, itself left out, best first."""
    scores, rows = [], []
    for vectors_QD in vectors_SQD:
        scores_QQ = vectors_QD @ vectors_SQD[0].T
        np.fill_diagonal(scores_QQ, -np.inf)
        rows_QK = np.argsort(-scores_QQ, axis=1, kind="stable")[:, : min(OVERLAP, len(scores_QQ) - 1)]
        scores.append(np.take_along_axis(scores_QQ, rows_QK, 1))
        rows.append(rows_QK)
    labels = numbers_Q[np.concatenate(rows)]
    relevant = labels == np.tile(numbers_Q, len(vectors_SQD))[:, None]
    return Neighbours(np.concatenate(scores), np.concatenate(rows), labels, relevant)


def _lessons(epochs: int | None, minutes: float | None, teach: int | None, seed: int) -> Lessons | None:
    if epochs and minutes:
        raise LessonsError("give epochs or minutes, not both")
    if minutes and not isfinite(minutes):
        raise LessonsError(f"{minutes} minutes have no end")
    if teach and not (epochs or minutes):
        raise LessonsError("teach needs epochs or minutes")
    return Lessons(epochs=epochs, minutes=minutes, seed=seed) if epochs or minutes else None


def _encoder(model: Elastic, location: str) -> Encoder:
    device = next(model.parameters()).device
    return Encoder(model, device=device, dtype=torch.float32, location=location)
