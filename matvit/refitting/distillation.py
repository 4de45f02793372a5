"""Refitted submodels taught by the full encoder, without labels.

A refit makes each layer answer as the full layer does on the full encoder's inputs; what goes wrong in one
layer, the next ones never learn of. Here whole submodels learn the full encoder's embedding y of an image x,

    loss = sum over submodels s of  log(mean over images x of  1 - cos(z_s(x), y)),

by gradients, as in knowledge distillation (Hinton, Vinyals and Dean, arXiv 1503.02531), with the cosine of
embeddings in place of class probabilities. The logarithm lets submodels that share tensors come closer by
like shares of what they lack, so that none that is close already is given up for one that is far.

Where the curve of the encoder was measured, each step takes one of its submodels from each of two stretches
in turn (`matvit.vision.tuned`), none of those that were found all but the full encoder's equal, the images
resized to what they read; what learns are the small tensors of these stretches and what was refitted. That
serves the granularities, too: those that are on no stretch take turns with the stretches. Where
it was not, each step takes every granularity below the full one and one random submodel of the Mix'n'Match
curve (none where the full encoder is drawn), so that the submodels between stay as good as their neighbours,
and what was refitted learns. The encoder's own tensors, and with them the full encoder, stay as they are.

Every draw depends on the seed and the step alone, so that what was stopped goes on as if it had not been.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import ceil, cos, inf, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matvit.errors import RefitError, TrainingError
from matvit.files.atomic import tidy
from matvit.progress import Progress, silent
from matvit.refitting.teacher_embeddings import Images, teacher_embeddings
from matvit.submodels.submodel import Submodel
from matvit.training import saved_state as state
from matvit.training import submodel_sampling
from matvit.training.image_order import Order
from matvit.vision.elastic_vit import Elastic, elastic, refitted, tuned
from matvit.vision.embedding import embed_only
from matvit.vision.image_size import as_read_by
from matvit.vision.projection import embedding_width
from matvit.vision.tuned import small_tensors, stretches
from matvit.weights.checkpoint import weights_sha256

BATCH_SIZE = 32
LEARNING_RATE = 1e-3
_log = logging.getLogger(__name__)

SAVE_SECONDS = 120.0
_WARM_UP = 20  # Steps
_EQUAL = 1e-3
"""Of one minus the cosine: where less is lacking, coming closer counts for little."""
_CLOSE = 5e-3
"""Of one minus the cosine: submodels of a curve that are closer have less to learn than lessons disturb."""
_POSITION = "position"


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """How long submodels learn, and how.

    Args:
        epochs: Passes over the images; each leaves out the few that fill no last step, others each time.
        minutes: In place of epochs: how long it may take here.
        learning_rate: The highest, of AdamW; it follows a cosine to zero.
        batch_size: Images a step, at most.
        seed: Of the images' order and the random submodels.

    Raises:
        ValueError: Not one of epochs and minutes is given, or a number is out of range.
    """

    epochs: int | None = None
    minutes: float | None = None
    learning_rate: float = LEARNING_RATE
    batch_size: int = BATCH_SIZE
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.minutes is None):
            raise ValueError("say how many epochs, or how many minutes")
        if (self.epochs or 1) < 1 or not 0 < (self.minutes or 1) < inf or self.batch_size < 1:
            raise ValueError(f"{self}: epochs and batch_size must be at least 1, minutes above 0 and finite")


def distil(
    model: Elastic,
    images: Images,
    lessons: Lessons,
    *,
    held_out: Sequence[Tensor] = (),
    kept: Path | None = None,
    progress: Progress = silent,
) -> Elastic:
    """An encoder whose submodels come closer to the full one; it shares all else with the one given.

    Args:
        model: A refitted encoder, or one whose curve was measured; it is left alone.
        images: Preprocessed, thousands of them: on a few hundred, submodels learn those.
        lessons: How long, and how.
        held_out: Other images (B, C, H, W), to measure on; nothing is chosen by them.
        kept: A directory to keep the full encoder's embeddings in, and the state, every two minutes and at
            the end. If these very lessons were stopped there, they go on. It is the caller's to keep others
            from (`matvit.files.lock`), and to remove once the result is safe (`matvit.files.atomic.discard`).
        progress: Told of the images that the full encoder embeds, and of the steps, or seconds, of
            distillation. The log tells, after each epoch and at the end, the mean cosine to the full encoder
            on images held out: of each granularity, or of the first submodel of each stretch.

    Raises:
        RefitError: The model has nothing to teach, there are no images, or the loss is no longer finite.
        TrainingError: What was kept is damaged or of other lessons, or cannot be written.
    """
    if model.refits is None and not _far(model):
        raise RefitError(
            "only a refitted encoder, or one with a measured curve, has something to teach without changing "
            "its full encoder"
        )
    if not len(images):
        raise RefitError("there are no images to learn from")
    student = _Student(model, images, lessons)
    if kept and student.resume(kept):
        _log.info("%s: going on after %s steps", kept, student.position.step)
    student.see_teacher(kept, progress)
    shown = student.embed(None, held_out)

    def tell(epoch: int) -> None:
        embedded = {str(s): student.embed(s, held_out) for s in student.shown}
        told = ", ".join(f"{name} {_cosine(found, shown):.4f}" for name, found in embedded.items())
        _log.info("epoch %s: mean cosine to XL on images held out: %s", epoch, told)

    saved = time.monotonic()
    for _ in student.learn(progress):
        if not student.within_epoch:
            tell(student.epochs)
        if kept and time.monotonic() - saved >= SAVE_SECONDS:
            student.save(kept)
            saved = time.monotonic()
    if student.within_epoch:
        tell(student.epochs + 1)
    if kept:
        student.save(kept)
    return student.taught()


@dataclass
class _Position:
    """Where lessons are, and whose: `of` identifies encoder, images and lessons."""

    of: str
    step: int = 0
    seconds: float = 0.0


class _Student:
    """An encoder whose submodels learn.

    Attributes:
        shown: Submodels to tell of.
    """

    def __init__(self, model: Elastic, images: Images, lessons: Lessons) -> None:
        self._model, self._taught_by = model, ""
        own = model.refits.tensors if model.refits else {}
        self._refits, self._small, self._stretches = _to_learn(own), {}, {}
        if far := _far(model):
            self._stretches = stretches(far, model.cost)
            self._small = _to_learn(_small_tensors(model, self._stretches))
        self._turns = _turns(self._stretches, model.space.uniforms()[:-1] if own else ())
        self._encoder = self._with(self._refits, self._small)
        embed_only(self._encoder)
        self._encoder.eval()
        self._images, self._lessons = images, lessons
        self._wanted = torch.empty(0)
        space = self._encoder.space
        count = len(images)
        self._order = Order((count,), min(count, lessons.batch_size), lessons.seed)
        self.shown = _first_of_each(self._stretches) or space.uniforms()[:-1]
        self._between = submodel_sampling.mixnmatch(space, seed=lessons.seed)
        self._learning = nn.ParameterDict(
            {n.replace(".", "/"): t for n, t in (self._refits | self._small).items()}
        )
        rate = lessons.learning_rate
        self._optimizer = torch.optim.AdamW(self._learning.parameters(), lr=rate, weight_decay=0)
        self.position = _Position("")

    def see_teacher(self, kept: Path | None, progress: Progress) -> None:
        """Have the full encoder embed all images, but those that it has embedded for `kept` before."""
        self._wanted = teacher_embeddings(
            self._images,
            lambda batch: self.embed(None, [batch]),
            embedding_width(self._encoder),
            file=kept / f"embeddings-{self._taught_by[:16]}" if kept else None,
            progress=progress,
        )

    @torch.no_grad()
    def embed(self, submodel: Submodel | None, batches: Sequence[Tensor]) -> Tensor:
        """Embeddings of preprocessed images, by a submodel or the full encoder."""
        like = next(self._encoder.parameters())
        found = [self._embedded(batch.to(like), submodel) for batch in batches]
        return torch.cat(found) if found else like.new_empty(0, embedding_width(self._encoder))

    @property
    def epochs(self) -> int:
        """Those that are over."""
        return self.position.step // self._order.steps_per_epoch

    @property
    def within_epoch(self) -> bool:
        """Whether another one has begun."""
        return self.position.step % self._order.steps_per_epoch > 0

    def learn(self, tell: Progress) -> Iterator[None]:
        """Take all steps that are left, yielding after each."""
        position = self.position
        started = time.monotonic() - position.seconds
        while (share := self._share()) < 1:
            self._step(share)
            position.step += 1
            position.seconds = time.monotonic() - started
            if self._lessons.minutes is None:
                tell("steps of distillation", position.step, self._steps)
            else:
                total = ceil(60 * self._lessons.minutes)
                tell("seconds of distillation", min(int(position.seconds), total), total)
            yield

    @property
    def _steps(self) -> int:
        return (self._lessons.epochs or 0) * self._order.steps_per_epoch

    def _share(self) -> float:
        """How much of the lessons is over, 0 to 1."""
        if self._lessons.minutes is None:
            return self.position.step / self._steps if self._steps else 1
        return self.position.seconds / (60 * self._lessons.minutes)

    def _step(self, share: float) -> None:
        step = self.position.step
        for group in self._optimizer.param_groups:
            group["lr"] = (
                self._lessons.learning_rate * min(1, (step + 1) / _WARM_UP) * (1 + cos(pi * share)) / 2
            )
        _, rows = self._order.step(step)
        x = torch.stack([self._images[row] for row in rows]).to(next(self._encoder.parameters()))
        y_BD = self._wanted[torch.from_numpy(rows)].to(x)
        self._optimizer.zero_grad()
        for submodel in self._drawn(step):
            loss: Any = 1 - F.cosine_similarity(self._embedded(x, submodel), y_BD).mean()
            if not loss.isfinite():
                raise RefitError(f"the loss of {submodel} is not finite: try a lower learning rate")
            # The encoder's own parameters may want gradients for somebody else.
            (loss + _EQUAL).log().backward(inputs=self._used_by(submodel))
        self._optimizer.step()

    def _drawn(self, step: int) -> list[Submodel]:
        """The submodels of a step."""
        full = self._encoder.space.full
        if not self._stretches:
            return [s for s in (*self._encoder.space.uniforms(), *self._between(step)) if s != full]
        draws = np.random.default_rng((self._lessons.seed, step))
        chosen = {(2 * step + i) % len(self._turns) for i in range(2)}
        return [self._turns[each][draws.integers(len(self._turns[each]))] for each in sorted(chosen)]

    def _used_by(self, submodel: Submodel) -> list[Tensor]:
        """The tensors that a submodel can teach."""
        start = f"{self._stretches.get(submodel)}."
        small = [tensor for name, tensor in self._small.items() if name.startswith(start)]
        return [*self._refits.values(), *small]

    def _embedded(self, x_BCHW: Tensor, submodel: Submodel | None) -> Tensor:
        """Embeddings of images, resized to what a submodel reads."""
        if submodel is not None:
            x_BCHW = as_read_by(submodel, x_BCHW)
        found: Tensor = self._encoder(x_BCHW, submodel)
        return found

    def taught(self) -> Elastic:
        """The encoder as it has learnt, with the head that it had."""
        refits, small = (
            {n: t.detach() for n, t in tensors.items()} for tensors in (self._refits, self._small)
        )
        return self._with(refits, small)

    def _with(self, refits: Mapping[str, Tensor], small: Mapping[str, Tensor]) -> Elastic:
        model = refitted(self._model, refits) if refits else elastic(self._model)
        return tuned(model, small, self._stretches) if small else model

    def save(self, directory: Path) -> None:
        """Keep all that is needed to go on."""
        modules = {"learning": self._learning}
        state.write(directory / _POSITION, asdict(self.position), modules, self._optimizer)

    def resume(self, directory: Path) -> bool:
        """Go on from what a directory keeps, if it keeps anything; only then it is one to save to.

        Raises:
            TrainingError: It is of other lessons, or damaged.
        """
        position = directory / _POSITION
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise TrainingError(f"cannot resume from {directory}: Not a directory") from error
        tidy(position)
        self._taught_by = _identity(self._model, self._images)
        told = f"{self._taught_by} {self._lessons}"
        told += "".join(f" {submodel} {number}" for submodel, number in self._stretches.items())
        self.position.of = sha256(told.encode()).hexdigest()
        if not state.is_kept(position):
            return False
        if state.progress_in(position).get("of") != self.position.of:
            raise others_lessons(directory)
        modules = {"learning": self._learning}
        self.position = state.read(position, lambda kept: _Position(**kept), modules, self._optimizer)
        return True


def _identity(model: Elastic, images: Images) -> str:
    """Of encoder and images; not of a refit, whose last bits depend on the machine."""
    first = images[0]
    told = f"{weights_sha256(model)} {len(images)} {tuple(first.shape)} {first.dtype}"
    digest = sha256(told.encode())
    for row in range(len(images)):
        digest.update(images[row].cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def began(directory: Path) -> bool:
    """Whether lessons were stopped that kept their state in a directory."""
    return state.is_kept(directory / _POSITION)


def others_lessons(directory: Path) -> TrainingError:
    """What to say of a directory that keeps what was not asked for."""
    return TrainingError(
        f"{directory} keeps lessons of another encoder, of other images or options: give the command that "
        "began them to go on, or remove it to begin anew"
    )


def _far(model: Elastic) -> list[Submodel]:
    """The submodels of a measured curve that have something to learn."""
    return [s for s in model.space.curve if 1 - model.measured.get(s, 1) >= _CLOSE]


def _to_learn(tensors: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(tensor.detach().clone()) for name, tensor in tensors.items()}


def _small_tensors(model: Elastic, numbers: Mapping[Submodel, int]) -> dict[str, Tensor]:
    """What stretches begin with: what they learnt before, or the encoder's own."""
    tensors: dict[str, Tensor] = {}
    for number, submodel in enumerate(_first_of_each(numbers)):
        learnt = model.tuned.of(submodel) if model.tuned else {}
        for name, tensor in (learnt or dict(small_tensors(model))).items():
            tensors[f"{number}.{name}"] = tensor
    return tensors


def _first_of_each(numbers: Mapping[Submodel, int]) -> tuple[Submodel, ...]:
    """The first submodel of each stretch."""
    first: dict[int, Submodel] = {}
    for submodel, number in numbers.items():
        first.setdefault(number, submodel)
    return tuple(first.values())


def _turns(stretches: Mapping[Submodel, int], others: Sequence[Submodel]) -> list[list[Submodel]]:
    """Submodels of each stretch, and others that are on none."""
    turns = [[s for s, number in stretches.items() if number == n] for n in sorted({*stretches.values()})]
    alone = [submodel for submodel in others if submodel not in stretches]
    return [*turns, alone] if alone else turns


def _cosine(one_BD: Tensor, other_BD: Tensor) -> float:
    return float(F.cosine_similarity(one_BD, other_BD).mean())
