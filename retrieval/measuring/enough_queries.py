"""How many labelled queries a promise takes, and how many there are: in the same words wherever it matters.

Where a source knows its labels without reading images, too few are told before the work, not after it.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import EvaluationError
from retrieval.measuring.paired_test import Comparison, queries_needed
from retrieval.sources.sample import Failure
from retrieval.sources.source import ImageSource


@dataclass(frozen=True)
class EnoughQueries:
    """How many queries there are for a promise, and how many would do.

    A submodel and XL disagree on a query where only one of them is right.

    Attributes:
        choosing: Queries that choose.
        checking: Those that check the choice.
        held_out: The share of all that are to check, 0 to below 1.
        max_drop: What the promise allows 1-NN accuracy to lose, 0 to 1.
        fewest: Queries that have to choose if the two never disagree: with fewer, nothing can be promised.
        failed: What the next cheaper submodel came to that was not promised; None where none was tested.
        next: Queries that would have to choose for that one, if it went on like this; None where its drop is
            too large for any number.
    """

    choosing: int
    checking: int
    held_out: float
    max_drop: float
    fewest: int
    failed: Comparison | None = None
    next: int | None = None

    @classmethod
    def of(
        cls,
        checks_Q: NDArray[np.bool_],
        held_out: float,
        max_drop: float,
        confidence: float,
        failed: Comparison | None = None,
    ) -> "EnoughQueries":
        """Count queries, and what the promise takes.

        Args:
            checks_Q: Which of the queries check the choice: see `checks`.
            held_out: See `EnoughQueries`.
            max_drop: See `EnoughQueries`.
            confidence: Of the promise, above 0.5 and below 1.
            failed: See `EnoughQueries`.

        Raises:
            ValueError: A number is out of range.
        """
        if not 0.5 < confidence < 1 or not 0 <= held_out < 1:
            raise ValueError("confidence must be above 0.5 and below 1, held_out at least 0 and below 1")
        alpha, following = 1 - confidence, None
        fewest = queries_needed(max_drop, alpha=alpha)
        assert fewest is not None  # Nothing is lost where the two never disagree.
        if failed is not None:
            rates = {"loss_rate": failed.losses / failed.queries, "gain_rate": failed.gains / failed.queries}
            following = queries_needed(max_drop, alpha=alpha, **rates)
        checking = int(checks_Q.sum())
        choosing = len(checks_Q) - checking
        return cls(choosing, checking, held_out, max_drop, fewest, failed, following)

    def __str__(self) -> str:
        """The one sentence about it."""
        return f"{self._there}; {self._takes}"

    def require(self, *, left_out: str = "") -> None:
        """Refuse to promise anything from queries of which even all are too few.

        Args:
            left_out: What is to be said of queries that do not count.

        Raises:
            EvaluationError: They are too few; the message says how many would do.
        """
        if self.choosing < self.fewest:
            in_all = ceil(self.fewest / (1 - self.held_out))
            ways = [f"label about {in_all} in all", "allow a larger --max-drop"]
            if self.held_out:
                ways.insert(1, "hold out fewer (--held-out)")
            remedy = f"{', '.join(ways[:-1])} or {ways[-1]}"
            raise EvaluationError(f"{self._there}{left_out}, which is too few: {self._takes}; {remedy}")

    def to_dict(self) -> dict[str, Any]:
        """How many would do, in plain values."""
        return {"queries_needed_at_least": self.fewest, "queries_needed_for_the_next": self.next}

    @property
    def _there(self) -> str:
        return f"{self.choosing} labelled queries choose and {self.checking} check"

    @property
    def _takes(self) -> str:
        takes = (
            f"to promise a drop below {100 * self.max_drop:g} points takes {self.fewest} that choose if a "
            "submodel and XL never disagree"
        )
        if self.failed is None:
            return f"{takes}, and more if they do"
        share = (self.failed.losses + self.failed.gains) / self.failed.queries
        seen = f"disagree on {100 * share:.1f}% of them and lose {100 * self.failed.drop:.2f} points, as here"
        number = f"about {self.next}" if self.next else "and no number is enough"
        return f"{takes}, {number} if they {seen}"


def checks(keys: Iterable[str], held_out: float) -> NDArray[np.bool_]:
    """Which queries check the choice, and have no part in it: always the same, for their keys decide."""
    digests = (blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.array([int.from_bytes(each, "big") < held_out * 2**64 for each in digests], dtype=bool)


def before_reading(
    queries: ImageSource, classes: Collection[str], *, max_drop: float, confidence: float, held_out: float
) -> EnoughQueries | None:
    """What is known of queries before one is read: at most so many can be used.

    Args:
        queries: Where they come from.
        classes: Labels of the corpus.
        max_drop: See `EnoughQueries`.
        confidence: See `EnoughQueries.of`.
        held_out: See `EnoughQueries`.

    Returns:
        None where only reading tells, or the corpus has no labels.

    Raises:
        EvaluationError: No query can be used, or even all are too few to promise anything.
        ValueError: A number is out of range.
    """
    labelled, there = queries.labels() if classes else None, set(classes)
    usable = [key for key, label in labelled or () if label in there]
    # Which checks the numbers, whatever is known of the queries.
    enough = EnoughQueries.of(checks(usable, held_out), held_out, max_drop, confidence)
    if labelled is None:
        return None
    if not usable:
        alone = [label for _, label in labelled if label is not None]
        raise EvaluationError(why_none(queries.text, alone))
    enough.require()
    return enough


def why_none(queries: str, alone: Collection[str | None], failures: Sequence[Failure] = ()) -> str:
    """Why no query can be used.

    Args:
        queries: What the user calls them.
        alone: Labels of queries that no other image of the corpus has.
        failures: Queries that could not be embedded.
    """
    if alone:
        examples = ", ".join(sorted({str(label) for label in alone})[:3])
        return f"none of the queries' labels ({examples}, ...) is that of another image of the corpus"
    if failures:
        first = failures[0]
        return f"no query in {queries} could be embedded (the first, {first.key}: {first.reason})"
    return f"no query in {queries} has a label: use one subfolder a class, or shards with .cls files"
