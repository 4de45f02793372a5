"""The budget `auto` of an index: the cheapest submodel whose loss of accuracy is promised to be small.

One half of the labelled queries chooses (see `retrieval.measuring.paired_test`), the other half checks the
choice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.directory.change import note_calibration
from matvit.progress import Progress, silent
from matvit.submodels.submodel import Submodel
from retrieval.measuring.estimate import Estimate, mean_of
from retrieval.measuring.outcomes import Outcomes
from retrieval.measuring.paired_test import Comparison, choose, queries_needed
from retrieval.searcher import Searcher
from retrieval.sources.open_images import ImageSource, open_source
from retrieval.sources.sample import Failure, Sample


@dataclass(frozen=True)
class Calibration:
    """A promise, and what is known of it.

    Attributes:
        refits: Of the encoder whose submodels were tested: see `retrieval.encoding.encoder.Encoder`.
        submodel: The cheapest whose 1-NN accuracy is promised to be less than `max_drop` below XL's.
        share_of_full: Its multiply-accumulates as a share of the full encoder's, 0 to 1.
        max_drop: The allowed drop, 0 to 1.
        confidence: How sure the promise is, 0 to 1: so many of such choices keep it.
        queries: Those that chose it.
        comparisons: The submodels tested, dearest first, with their outcomes.
        needed: Queries that the next cheaper one would need, if the outcomes went on like this; None where
            its drop is too large for any number, or none was tested that failed.
        checked: The drop that the other queries saw, with its 95 % interval; None where there were none.
        check_queries: How many those were.
        alone: Queries left out: see `retrieval.measuring.evaluate.Evaluation`.
        failures: Queries that could not be read.
        fewest: Queries without which such a drop cannot be promised at all.
    """

    refits: str | None
    submodel: Submodel
    share_of_full: float
    max_drop: float
    confidence: float
    queries: int
    comparisons: tuple[tuple[Submodel, Comparison], ...]
    needed: int | None
    checked: Estimate | None
    check_queries: int
    alone: int
    failures: tuple[Failure, ...]
    fewest: int | None

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
        return self.record() | {
            "alone": self.alone,
            "tested": tested,
            "queries_needed_for_the_next": self.needed,
        }

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

    Submodels are run one after the other, the dearest first, up to the first that cannot be promised; none
    where there are too few queries to promise anything.

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
        EvaluationError: As `retrieval.measuring.evaluate.evaluate`.
        ValueError: A number is out of range.
    """
    if not 0.5 < confidence < 1 or not 0 <= held_out < 1:
        raise ValueError("confidence must be above 0.5 and below 1, held_out at least 0 and below 1")
    alpha = 1 - confidence
    fewest = queries_needed(max_drop, alpha=alpha)  # which checks the numbers before the work
    source = queries if isinstance(queries, ImageSource) else open_source(queries, labels=True)
    outcomes = Outcomes(searcher, source, batch_size=batch_size, workers=workers, progress=progress)
    checks_Q = _checks(outcomes.samples, held_out)
    choosing = int((~checks_Q).sum())
    encoder = searcher.encoder
    submodels = encoder.space.curve[::-1]
    right_of = {encoder.space.full: outcomes.right}

    def in_turn() -> Iterator[NDArray[np.bool_]]:
        for submodel in submodels[1:]:
            right_of[submodel] = outcomes.of(submodel)
            yield right_of[submodel][~checks_Q]

    # So few can promise nothing, whatever they find.
    others = in_turn() if fewest is not None and choosing >= fewest else ()
    choice = choose(outcomes.right[~checks_Q], others, max_drop, alpha=alpha)
    column, comparisons = choice.column, choice.comparisons
    chosen, needed = submodels[column], None
    if comparisons and (last := comparisons[-1]).column != column:
        rates = {"loss_rate": last.losses / last.queries, "gain_rate": last.gains / last.queries}
        needed = queries_needed(max_drop, alpha=alpha, **rates)
    return Calibration(
        refits=encoder.refits,
        submodel=chosen,
        share_of_full=encoder.cost(chosen).macs / encoder.cost(encoder.space.full).macs,
        max_drop=max_drop,
        confidence=confidence,
        queries=choosing,
        comparisons=tuple((submodels[each.column], each) for each in comparisons),
        needed=needed,
        checked=_drop(outcomes.right[checks_Q], right_of[chosen][checks_Q]) if checks_Q.any() else None,
        check_queries=int(checks_Q.sum()),
        alone=outcomes.alone,
        failures=outcomes.failures,
        fewest=fewest,
    )


def _checks(samples: tuple[Sample, ...], held_out: float) -> NDArray[np.bool_]:
    digests = (blake2b(sample.key.encode(), digest_size=8).digest() for sample in samples)
    return np.array([int.from_bytes(each, "big") < held_out * 2**64 for each in digests], dtype=bool)


def _drop(full_Q: NDArray[np.bool_], chosen_Q: NDArray[np.bool_]) -> Estimate:
    return mean_of(full_Q.astype(np.float64) - chosen_Q)
