"""The budget `auto` of an index: the cheapest submodel whose loss of accuracy is promised to be small.

One half of the labelled queries chooses (see `retrieval.measuring.paired_test`), the other half checks the
choice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.directory.change import note_calibration
from matvit.progress import Progress, silent
from matvit.submodels.submodel import Submodel
from retrieval.measuring.enough_queries import EnoughQueries, before_reading, checks
from retrieval.measuring.estimate import Estimate, mean_of
from retrieval.measuring.outcomes import Outcomes
from retrieval.measuring.paired_test import Comparison, choose
from retrieval.searcher import Searcher
from retrieval.sources.open_images import ImageSource, open_source
from retrieval.sources.sample import Failure


@dataclass(frozen=True)
class Calibration:
    """A promise, and what is known of it.

    Attributes:
        refits: Of the encoder whose submodels were tested: see `retrieval.encoding.encoder.Encoder`.
        submodel: The cheapest whose 1-NN accuracy is promised to be less than `max_drop` below XL's.
        share_of_full: Its multiply-accumulates as a share of the full encoder's, 0 to 1.
        max_drop: The allowed drop, 0 to 1.
        confidence: How sure the promise is, 0 to 1: so many of such choices keep it.
        enough: The queries that chose it, those that checked it, and how many others would do.
        comparisons: The submodels tested, dearest first, with their outcomes.
        checked: The drop that the other queries saw, with its 95 % interval; None where there were none.
        alone: Queries left out: see `retrieval.measuring.evaluate.Evaluation`.
        failures: Queries that could not be read.
    """

    refits: str | None
    submodel: Submodel
    share_of_full: float
    max_drop: float
    confidence: float
    enough: EnoughQueries
    comparisons: tuple[tuple[Submodel, Comparison], ...]
    checked: Estimate | None
    alone: int
    failures: tuple[Failure, ...]

    @property
    def queries(self) -> int:
        """How many chose."""
        return self.enough.choosing

    @property
    def check_queries(self) -> int:
        """How many checked the choice."""
        return self.enough.checking

    def record(self) -> dict[str, Any]:
        """The promise in plain values, for the index to keep."""
        chosen = next((c for s, c in self.comparisons if s == self.submodel), None)
        low, high = self.checked.interval if self.checked else (None, None)
        return {
            "refits": self.refits,
            "submodel": str(self.submodel),
            "share_of_xl": self.share_of_full,
            "max_drop": self.max_drop,
            "confidence": self.confidence,
            "queries": self.queries,
            "losses": chosen.losses if chosen else 0,
            "gains": chosen.gains if chosen else 0,
            "check_queries": self.check_queries,
            "check_drop": self.checked.value if self.checked else None,
            "check_low": low,
            "check_high": high,
        }

    def to_dict(self) -> dict[str, Any]:
        """The promise, what was tested and what more queries would bring, in plain values."""
        tested = [
            {"submodel": str(s), "losses": c.losses, "gains": c.gains, "p_value": c.p_value}
            for s, c in self.comparisons
        ]
        return self.record() | {"alone": self.alone, "tested": tested} | self.enough.to_dict()

    def save(self, index: str | Path) -> None:
        """Let `auto` mean this for everyone who opens the index from now on.

        Raises:
            IndexBusyError: Another process is writing it.
            IndexDamagedError: There is no whole index.
        """
        note_calibration(Path(index), self.record())


def calibrate(
    searcher: Searcher,
    queries: ImageSource | str | Path,
    *,
    max_drop: float,
    confidence: float = 0.95,
    held_out: float = 0.5,
    batch_size: int = 64,
    workers: int | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Find the cheapest submodel of the curve that can be promised.

    Submodels are run one after the other, the dearest first, up to the first that cannot be promised. Too few
    queries to promise anything are refused before any is read, where their source knows its labels.

    Args:
        searcher: The index and its encoder.
        queries: Labelled images, like those that will be asked for, or what
            `retrieval.sources.open_images.open_source` takes.
        max_drop: What 1-NN accuracy may lose against the full encoder; half a point is 0.005.
        confidence: Of the promise, above 0.5 and below 1.
        held_out: Share of the queries that check the choice and have no part in it, 0 to below 1. An image
            is on the same side every time: its key decides.
        batch_size: Images a batch.
        workers: Processes that decode: see `retrieval.encoding.batches`.
        progress: Told of the images that are embedded.

    Raises:
        EvaluationError: As `retrieval.measuring.evaluate.evaluate`, or the queries are too few.
        ValueError: A number is out of range.
    """
    source = queries if isinstance(queries, ImageSource) else open_source(queries, labels=True)
    classes = searcher.index.manifest.classes
    before_reading(source, classes, max_drop=max_drop, confidence=confidence, held_out=held_out)
    outcomes = Outcomes(searcher, source, batch_size=batch_size, workers=workers, progress=progress)
    checks_Q = checks([sample.key for sample in outcomes.samples], held_out)
    numbers = held_out, max_drop, confidence
    EnoughQueries.of(checks_Q, *numbers).require(left_out=_left_out(outcomes))
    encoder = searcher.encoder
    submodels = encoder.space.curve[::-1]
    right_of = {encoder.space.full: outcomes.right}

    def in_turn() -> Iterator[NDArray[np.bool_]]:
        for submodel in submodels[1:]:
            right_of[submodel] = outcomes.of(submodel)
            yield right_of[submodel][~checks_Q]

    choice = choose(outcomes.right[~checks_Q], in_turn(), max_drop, alpha=1 - confidence)
    chosen, comparisons = submodels[choice.column], choice.comparisons
    failed = next((each for each in comparisons if each.column > choice.column), None)
    return Calibration(
        refits=encoder.refits,
        submodel=chosen,
        share_of_full=encoder.cost(chosen).macs / encoder.cost(encoder.space.full).macs,
        max_drop=max_drop,
        confidence=confidence,
        enough=EnoughQueries.of(checks_Q, *numbers, failed),
        comparisons=tuple((submodels[each.column], each) for each in comparisons),
        checked=_drop(outcomes.right[checks_Q], right_of[chosen][checks_Q]) if checks_Q.any() else None,
        alone=outcomes.alone,
        failures=outcomes.failures,
    )


def _left_out(outcomes: Outcomes) -> str:
    counts = {"not readable": len(outcomes.failures), "of classes without another image": outcomes.alone}
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f" ({told})" if told else ""


def _drop(full_Q: NDArray[np.bool_], chosen_Q: NDArray[np.bool_]) -> Estimate:
    return mean_of(full_Q.astype(np.float64) - chosen_Q)
