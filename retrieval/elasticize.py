"""A pretrained encoder made elastic from a user's images, and what its submodels are worth on others of them.

Some of the images fit the submodels (see `matvit.elasticize`); the others, which the fit has not seen, are a
small corpus embedded by the full encoder, in which each of them, embedded by a submodel, looks for the rest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matvit.cost import Cost
from matvit.latency import Profile
from matvit.submodel import Submodel
from retrieval import metrics
from retrieval.batches import batches
from retrieval.encoder import Encoder
from retrieval.errors import ImageSourceError
from retrieval.images import open_source
from retrieval.intervals import Estimate, Share, bootstrap_means, percentile
from retrieval.samples import Failure, Part, Sample
from retrieval.tables import Row, submodel_row

BATCH = 32
POOR_COSINE = 0.9
"""Below that mean cosine a submodel is not worth using, where no labels tell."""
POOR_DIFFERENCE = -0.05
"""Nor where its 1-NN accuracy falls by more than that."""
_OVERLAP = 10


@dataclass(frozen=True)
class Images:
    """Preprocessed images to fit to and to check on.

    Attributes:
        fit: In batches (B, C, H, W).
        check: The others, likewise.
        labels: Of `check`, where the source has them; None where one is missing.
        failures: What could not be read.
    """

    fit: tuple[Tensor, ...]
    check: tuple[Tensor, ...]
    labels: NDArray[np.str_] | None
    failures: tuple[Failure, ...]

    def first(self, count: int) -> tuple[Tensor, ...]:
        """The first images to fit to, so many at most, in batches."""
        taken = [batch[: max(0, count - start * BATCH)] for start, batch in enumerate(self.fit)]
        return tuple(batch for batch in taken if len(batch))

    @classmethod
    def read(
        cls,
        text: str,
        encoder: Encoder,
        *,
        fit: int,
        check: int,
        seed: int = 0,
        workers: int | None = None,
        on_images: Callable[[int], None] = lambda _: None,
    ) -> "Images":
        """Draw images from a source, of which only those drawn are read, or the first of each shard.

        Args:
            text: See `retrieval.images.open_source`.
            encoder: Whose preprocessing they get.
            fit: Images to fit to, at most; a fifth of those there are is always left to check on.
            check: Images to check on, at most.
            seed: Of the draw.
            workers: Processes that decode: see `retrieval.batches`.
            on_images: Called with the number of images read since the last call.

        Raises:
            ImageSourceError: There is no such source, or it has fewer than four images that can be read.
        """
        draws, wanted = np.random.default_rng(seed), fit + check
        parts = open_source(text, known=partial(_not_drawn, draws, wanted)).parts
        parts = tuple(_first(part, -(-wanted // len(parts))) for part in parts)
        samples: list[Sample] = []
        images: list[Tensor] = []
        failures: list[Failure] = []
        for batch in batches(parts, encoder, batch_size=BATCH, workers=workers):
            samples += batch.samples
            images += batch.images
            failures += batch.failures
            on_images(len(batch.samples) + len(batch.failures))
        if len(images) < 4:
            raise ImageSourceError(
                f"{text}: {len(images)} images that can be read are too few to fit and to check; "
                "give a few hundred"
            )
        mixed = draws.permutation(len(images))
        held_out = min(check, max(2, len(images) // 5, len(images) - fit))
        checked, fitted = mixed[:held_out], mixed[held_out:][:fit]
        labels = [samples[i].label for i in checked]
        return cls(
            _stacked([images[i] for i in fitted]),
            _stacked([images[i] for i in checked]),
            None if None in labels else np.array(labels),
            tuple(failures),
        )


@dataclass(frozen=True)
class Checked:
    """One submodel beside the full encoder, on images that it was not fitted to.

    Attributes:
        submodel: Which.
        cost: Of one image.
        share_of_full: Its multiply-accumulates as a share of the full encoder's, 0 to 1.
        measures: `cosine` to the full encoder's embedding and its 5th percentile `cosine_p5`; `equal_top1`
            and `overlap_10`, neighbours that are those of the full encoder; with labels `one_nn`, accuracy,
            and its `difference` to the full encoder's; for a granularity `slice_cosine`, of the plain slice.
        ms: Milliseconds an image, where they were measured.
    """

    submodel: Submodel
    cost: Cost
    share_of_full: float
    measures: Mapping[str, Share | Estimate]
    ms: float | None = None

    @property
    def warning(self) -> str | None:
        """Why this submodel is not worth using, if so."""
        value = {name: measure.value for name, measure in self.measures.items()}
        cosine, difference = value["cosine"], value.get("difference")
        if cosine <= value.get("slice_cosine", -1):
            return f"{self.submodel} is no closer to the full encoder than a plain slice: use the original"
        if difference is None and cosine < POOR_COSINE:
            return f"{self.submodel} is not worth using: its cosine to the full encoder is {cosine:.2f}"
        if difference is not None and difference < POOR_DIFFERENCE:
            return f"{self.submodel} is not worth using: it loses {-100 * difference:.1f} points of 1-NN"
        return None

    def row(self) -> Row:
        """In plain values; accuracies and shares are 0 to 1."""
        return submodel_row(self.submodel, self.cost, self.share_of_full, self.ms, self.measures)


@dataclass(frozen=True)
class Report:
    """What the submodels of an encoder are worth; points are in order of cost."""

    points: tuple[Checked, ...]
    images: int

    @property
    def warnings(self) -> list[str]:
        """Which granularities are not worth using, and why."""
        return [w for point in self.points if (w := point.warning) and "*" not in str(point.submodel)]

    def table(self) -> list[Row]:
        """One row a point, all with the same keys."""
        rows = [point.row() for point in self.points]
        keys = dict.fromkeys(key for row in rows for key in row)
        return [{key: row.get(key, "") for key in keys} | {"images": self.images} for row in rows]


def check(
    encoder: Encoder,
    sliced: Encoder,
    images: Images,
    submodels: Sequence[Submodel],
    *,
    profile: Profile | None = None,
    on_images: Callable[[int], None] = lambda _: None,
) -> Report:
    """Compare submodels with the full encoder, on the images held out.

    Args:
        encoder: The elastic one.
        sliced: The same encoder without what was refitted, for comparison at the granularities.
        images: Those to check on are used.
        submodels: Which; the full encoder need not be among them.
        profile: Times to tell of the submodels.
        on_images: Called with the number of images embedded since the last call.
    """

    def embedded(by: Encoder, submodel: Submodel) -> NDArray[np.float32]:
        blocks = []
        for batch in images.check:
            blocks.append(by.embed(batch, submodel))
            on_images(len(batch))
        return np.concatenate(blocks)

    full = encoder.space.full
    corpus_QD = embedded(encoder, full)
    wanted = _neighbours(corpus_QD, corpus_QD)
    points = []
    for submodel in sorted(set(submodels), key=lambda each: encoder.cost(each).macs):
        vectors_QD = corpus_QD if submodel == full else embedded(encoder, submodel)
        measures = _measures(vectors_QD, corpus_QD, wanted, images.labels)
        if submodel in encoder.space.uniforms():
            slice_QD = corpus_QD if submodel == full else embedded(sliced, submodel)
            if submodel != full:
                measures["slice_cosine"] = _mean(_cosines(slice_QD, corpus_QD))
        cost = encoder.cost(submodel)
        ms = profile(submodel) if profile else None
        points.append(Checked(submodel, cost, cost.macs / encoder.cost(full).macs, measures, ms))
    return Report(tuple(points), len(corpus_QD))


def _measures(
    vectors_QD: NDArray[np.float32],
    corpus_QD: NDArray[np.float32],
    wanted_QK: NDArray[np.int64],
    labels_Q: NDArray[np.str_] | None,
) -> dict[str, Share | Estimate]:
    cosines_Q, found_QK = _cosines(vectors_QD, corpus_QD), _neighbours(vectors_QD, corpus_QD)
    same_Q = found_QK[:, 0] == wanted_QK[:, 0]
    measures: dict[str, Share | Estimate] = {
        "cosine": _mean(cosines_Q),
        "cosine_p5": percentile(cosines_Q, 5),
        "equal_top1": Share(int(same_Q.sum()), len(same_Q)),
    }
    if found_QK.shape[1] == _OVERLAP:
        measures[f"overlap_{_OVERLAP}"] = _mean(metrics.overlap(found_QK, wanted_QK))
    if labels_Q is not None:
        _, classes_Q, counts = np.unique(labels_Q, return_inverse=True, return_counts=True)
        there_Q = counts[classes_Q] > 1  # Whatever one that is alone in its class finds is wrong.
        right_Q, best_Q = ((labels_Q[near[:, 0]] == labels_Q)[there_Q] for near in (found_QK, wanted_QK))
        if there_Q.any():
            measures["one_nn"] = Share(int(right_Q.sum()), len(right_Q))
            measures["difference"] = _mean(right_Q.astype(np.float64) - best_Q)
    return measures


def _cosines(one_QD: NDArray[np.float32], other_QD: NDArray[np.float32]) -> NDArray[np.float32]:
    return (one_QD * other_QD).sum(1).clip(-1, 1)


def _neighbours(vectors_QD: NDArray[np.float32], corpus_QD: NDArray[np.float32]) -> NDArray[np.int64]:
    """The nearest of the corpus, the image itself left out, best first (Q, K)."""
    scores_QQ = vectors_QD @ corpus_QD.T
    np.fill_diagonal(scores_QQ, -np.inf)
    return np.argsort(-scores_QQ, axis=1, kind="stable")[:, : min(_OVERLAP, len(corpus_QD) - 1)]


def _mean(values_Q: NDArray[np.floating]) -> Estimate:
    [[low, high]] = bootstrap_means(values_Q[:, None])
    return Estimate(float(values_Q.mean(dtype=np.float64)), (float(low), float(high)))


def _stacked(images: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(images[start : start + BATCH]) for start in range(0, len(images), BATCH))


def _not_drawn(draws: np.random.Generator, count: int, paths: Sequence[str]) -> NDArray[np.bool_]:
    """For a source that leaves out what is known: all but so many files."""
    left_out = np.ones(len(paths), dtype=bool)
    left_out[draws.permutation(len(paths))[:count]] = False
    return left_out


def _first(part: Part, count: int) -> Part:
    return replace(part, read=partial(_read_first, part, count), size=min(part.size or count, count))


def _read_first(part: Part, count: int) -> Iterator[Sample | Failure]:
    yield from islice(part.read(), count)
