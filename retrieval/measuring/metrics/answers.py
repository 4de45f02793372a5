"""What submodels answer to queries, and what a metric makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

NO_LABEL = -1


@dataclass(frozen=True)
class Neighbours:
    """The rows nearest to some queries, without the queries themselves.

    Attributes:
        scores: Cosines, Q x K, best first.
        rows: Positions in the corpus, Q x K.
        labels: Labels as numbers, `NO_LABEL` where a row has none, Q x K.
        relevant: Whether each has its query's label, Q x K.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    relevant: NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """What is right: of labelled queries, each with at least one row of its label beside itself.

    Attributes:
        labels: Of the queries, as numbers, Q.
        relevant: How many rows have each query's label, Q.
        classes: How many labels the corpus has.
    """

    labels: NDArray[np.int64]
    relevant: NDArray[np.int64]
    classes: int


@dataclass(frozen=True)
class Answers:
    """Of S submodels, the full encoder first, to the same Q queries.

    Attributes:
        vectors: Unit embeddings, S x Q x D.
        neighbours: Of every submodel's queries, one submodel after the other, (S * Q) x K.
        truth: None where labels are not known.
        approximate: As `neighbours`, but as the index itself searches, where that is not exact.
        log_probabilities: What the model's classifier says, S x Q x C, where it has one.
    """

    vectors: NDArray[np.float32]
    neighbours: Neighbours
    truth: Truth | None = None
    approximate: Neighbours | None = None
    log_probabilities: NDArray[np.float32] | None = None

    @property
    def submodels(self) -> int:
        """S, how many there are."""
        return len(self.vectors)

    @property
    def depth(self) -> int:
        """K, how many neighbours each query has."""
        return self.neighbours.rows.shape[1]

    def by_submodel(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of all queries of all submodels, (S * Q) x ..., as S x Q x ..."""
        return values.reshape(self.submodels, -1, *values.shape[1:])


class Metric(Protocol):
    """A measure, or several that are found together, one value a query and submodel.

    To add one, write such a function in a file of its own and list it in `METRICS` of registry.py.
    """

    def __call__(self, answers: Answers) -> Mapping[str, NDArray[Any]]:
        """Name -> S x Q: booleans are reported as a share of the queries, numbers by their mean.

        Nothing for what the answers do not tell, such as the right ones where labels are not known.
        """
