"""A pretrained encoder made elastic from a user's images, and what its submodels are worth on others of them.

Some of the images fit the submodels (see `matvit.refitting.first_pass`) and align them (see
`matvit.refitting.align`); the others, which the fit has not seen, are a small corpus embedded by the full
encoder, in which each of them, embedded by a submodel, looks for the rest.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import matvit
from matvit.files.atomic import discard, write_text
from matvit.files.lock import exclusive
from matvit.progress import Progress, silent
from matvit.refitting import first_pass
from matvit.refitting.align import align, only
from matvit.refitting.along_paths import refit_along_paths
from matvit.refitting.distillation import Lessons, began, distil, others_lessons
from matvit.refitting.first_pass import ready
from matvit.runtime.device import pick_device
from matvit.submodels.frontier import Axis
from matvit.submodels.submodel import Submodel
from matvit.vision.elastic_vit import Elastic
from matvit.weights.checkpoint import REPORT, check_place, load, notes_of, save, saved, weights_sha256
from retrieval.encoding.drawn_images import DrawnImages
from retrieval.encoding.encoder import Encoder
from retrieval.errors import LessonsError
from retrieval.measuring.against_full import why_poor
from retrieval.measuring.curve import Curve
from retrieval.measuring.fit_curve import check_axes, checked, proposed
from retrieval.showing.csv_table import write_csv
from retrieval.sources.sample import Failure

_log = logging.getLogger(__name__)

TAUGHT = 5000
"""Images to learn from, unless one says how many."""
_ALIGNING = 200
"""Images to align by: half as many again told nothing more of DINOv2 ViT-S/14."""


@dataclass(frozen=True)
class Elasticized:
    """An encoder made elastic, and how it came about.

    Attributes:
        model: Elastic; its full encoder is the one given.
        curve: What its submodels are worth on images that they were not fitted to: see `compare`. The model
            has those in `measured` that are worth most at their costs: see `retrieval.measuring.fit_curve`.
        images: That it was fitted to.
        tokens: Of these images, in each layer; none where no FFN was refitted.
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
        return sum(tensor.nbytes for tensor in self.model.extras.values())

    def to_dict(self) -> dict[str, Any]:
        """The curve and what it rests on, in plain values."""
        return {
            "curve": {str(submodel): cosine for submodel, cosine in self.model.measured.items()},
            "points": self.curve.table(),
            "warnings": list(self.model.poor.values()),
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
            self.curve.only(self.model.measured).plot_consistency(report / "report.png")
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
    axes: Collection[Axis] = tuple(Axis),
    refit: bool = True,
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
        axes: What submodels on the curve may differ in; without widths, nothing is refitted.
        refit: Whether narrower FFNs are refitted. An encoder that was trained nested has better ones; it is
            given a measured curve, aligned submodels, and lessons.
        sequential: Refit each granularity once more, layer by layer: see `matvit.refitting.along_paths`.
        epochs: Then let the submodels learn the full encoder's embeddings, seeing each image so often.
        minutes: The same, for so long.
        teach: Images to learn from with them, at most. None is `TAUGHT`.
        whole_curve: Check the whole Mix'n'Match curve, not only some of it.
        measure: Also measure milliseconds an image, once.
        seed: Of the draw of images.
        workers: Processes that decode: see `retrieval.encoding.batches`.
        device: Where to compute.
        output: Where the model will be saved, if that is known: what cannot be written to is then refused
            before the work, and learning that was stopped goes on when the same is asked for again.
        progress: Told of every step.

    Raises:
        LessonsError: Both `epochs` and `minutes` are given, neither with `teach`, or minutes without end; or
            `sequential` without what it refits, or `whole_curve` without widths.
        UnknownModelError: There is no such model, or it does not nest.
        SubmodelError: It has none of these axes.
        RefitError: It is refitted already, has nothing to refit, or the images tell too little.
        ImageSourceError: There is no such source, or it has too few images.
        CheckpointError: The model is damaged, or `output` holds something else.
        TrainingError: Lessons that were stopped there were others.
        BusyError: Another process works for the same `output`.
    """
    refit = refit and Axis.WIDTHS in axes
    if sequential and not refit:
        raise LessonsError("sequential refits once more, and nothing is refitted")
    if whole_curve and Axis.WIDTHS not in axes:
        raise LessonsError("the Mix'n'Match curve is one of widths")
    lessons = _lessons(epochs, minutes, teach, seed)
    state = None
    with ExitStack() as held:
        if output is not None:
            check_place(output)  # If it cannot be written to, better now than after the work.
            output = Path(output)
            held.enter_context(exclusive(output))  # Two that work for the same place would both lose.
            if lessons:
                state = output.with_name(f"{output.name}.partial")
                state.mkdir(exist_ok=True)
                held.callback(_remove_if_empty, state)  # Of what failed before there was anything to keep.
        where = pick_device(device)
        loaded = matvit.load(model, progress=progress)
        original = (ready(loaded) if refit else loaded.eval()).to(where)
        encoder = _encoder(original, str(model))
        check_axes(encoder.space, axes)
        taught = (teach or TAUGHT) if lessons else 0
        drawn = DrawnImages.read(
            str(images),
            encoder,
            fit=max(limit, taught),
            check=check,
            submodels=encoder.space.smaller_images,
            seed=seed,
            workers=workers,
            directory=state,
            progress=progress,
        )
        making = _Making(
            original=original,
            location=str(output or model),
            drawn=drawn,
            limit=limit,
            axes=frozenset(axes),
            refit=refit,
            sequential=sequential,
            whole_curve=whole_curve,
            progress=progress,
        )
        if lessons:
            elastic, fit = making.kept_fit(state)
            elastic = distil(
                elastic.to(where),
                drawn.fit.first(taught),
                lessons,
                held_out=drawn.check,
                kept=state / "lessons" if state else None,
                progress=progress,
            )
            elastic, curve = making.on_curve(elastic, elastic.measured)
        else:
            elastic, curve, fit = making.fitted()
        if measure:
            timed = _encoder(elastic, making.location)
            curve = curve.timed(timed.profile([point.submodel for point in curve.points]))
    return Elasticized(
        model=elastic,
        curve=curve,
        images=fit.images,
        tokens=fit.tokens,
        widest=fit.widest,
        failures=drawn.failures,
        notes=notes_of(model),
        state=state,
    )


def _remove_if_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()


@dataclass(frozen=True)
class _Fit:
    """What the closed form rests on: see `Elasticized`."""

    images: int
    tokens: int = 0
    widest: int = 0


@dataclass(frozen=True, kw_only=True)
class _Making:
    """How an encoder is made elastic, but for its lessons: see `elasticize`.

    Attributes:
        original: The encoder, ready to be refitted.
        location: Of what becomes of it, to be told.
        drawn: Images to fit to and to check on.
    """

    original: Elastic
    location: str
    drawn: DrawnImages
    limit: int
    axes: frozenset[Axis]
    refit: bool
    sequential: bool
    whole_curve: bool
    progress: Progress

    def fitted(self, *, for_lessons: bool = False) -> tuple[Elastic, Curve, _Fit]:
        """The encoder refitted, with its curve; all that was checked; and what it rests on.

        Args:
            for_lessons: Its curve also has what is not worth using yet.
        """
        elastic, fit = self.original, _Fit(min(self.limit, _ALIGNING, len(self.drawn.fit)))
        if self.refit:
            found = first_pass.elasticize(elastic, self._to_fit(self.limit), progress=self.progress)
            elastic, fit = found.model, _Fit(found.images, found.tokens, found.widest)
        if self.sequential:
            elastic = refit_along_paths(elastic, self._to_fit(self.limit), progress=self.progress)
        encoder = _encoder(elastic, self.location)
        submodels = proposed(encoder, self.drawn, axes=self.axes, progress=self.progress)
        return *self.on_curve(elastic, submodels, even_poor=for_lessons), fit

    def kept_fit(self, state: Path | None) -> tuple[Elastic, _Fit]:
        """The fit that lessons which were stopped began with, if it is what is asked for, or else a new one.

        Args:
            state: Where it is kept for them.
        """
        if state is None:
            elastic, _, fit = self.fitted(for_lessons=True)
            return elastic, fit
        place, asked = state / "fitted", self._asked()
        if notes := notes_of(place):
            if notes.get("asked") == asked:
                _log.info("%s: fitted before", place)
                return load(place), _Fit(**notes["fit"])
            if began(state / "lessons"):  # Dearer than a fit: they are not to lose the one they began with.
                raise others_lessons(state)
        elastic, _, fit = self.fitted(for_lessons=True)
        save(elastic, place, asked=asked, fit=asdict(fit))
        return elastic, fit

    def on_curve(
        self, elastic: Elastic, submodels: Iterable[Submodel], *, even_poor: bool = False
    ) -> tuple[Elastic, Curve]:
        """The encoder with aligned submodels, those that are worth it on its curve; and all checked."""
        submodels = [*submodels, *self._by_name()]
        some = self._to_fit(min(self.limit, _ALIGNING))
        elastic = align(elastic, submodels, some, progress=self.progress)
        encoder = _encoder(elastic, self.location)
        sliced = _encoder(self.original, self.location) if self.refit else None
        found = checked(
            encoder, self.drawn, submodels, sliced=sliced, even_poor=even_poor, progress=self.progress
        )
        elastic = only(elastic, [*found.cosines, *self._by_name()])
        elastic.measured = dict(found.cosines)
        if by_name := self._by_name():  # Else what was found of them before is still true.
            named = found.curve.only(by_name)
            elastic.poor = {point.submodel: why for point in named.points if (why := why_poor(point))}
        return elastic, found.curve

    def _by_name(self) -> tuple[Submodel, ...]:
        """Submodels that are asked for by their names, whether or not they are on the curve."""
        if Axis.WIDTHS not in self.axes:
            return ()
        space = self.original.space
        return space.mixnmatch if self.whole_curve else space.uniforms()

    def _to_fit(self, count: int) -> Sequence[Tensor]:
        return self.drawn.fit.first(count).batches()

    def _asked(self) -> str:
        """What a fit hangs on, in short."""
        options = f"{self.limit} {sorted(self.axes)} {self.refit} {self.sequential} {self.whole_curve}"
        return f"{weights_sha256(self.original)} {options} {self.drawn.digest(self.limit)}"


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
