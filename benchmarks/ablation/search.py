"""A search for widths within a budget, that is paid for in measurements; Mix'n'Match needs none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from matvit.errors import BudgetError
from matvit.progress import Count, Progress, silent
from matvit.submodels.submodel import Submodel
from retrieval.encoding.batches import batches
from retrieval.errors import EvaluationError
from retrieval.measuring.estimate import Estimate, Share, mean_of
from retrieval.measuring.neighbours import LabelledRows
from retrieval.searcher import Searcher
from retrieval.sources.open_images import ImageSource
from retrieval.sources.sample import Sample

_BATCH = 256
_PROPOSALS = 30  # for each that fits the budget, at most


class Queries:
    """Labelled images, preprocessed once and kept in memory, to try many submodels on.

    Args:
        searcher: The index and its encoder.
        samples: What is known of the images.
        images: Preprocessed, (Q, C, H, W).
    """

    def __init__(self, searcher: Searcher, samples: Sequence[Sample], images: torch.Tensor) -> None:
        self._searcher, self._samples, self._images = searcher, samples, images
        self._index = index = searcher.index
        self._corpus = LabelledRows.of_store(index)

    @classmethod
    def read(
        cls,
        searcher: Searcher,
        source: ImageSource,
        *,
        most: int,
        progress: Progress = silent,
    ) -> "Queries":
        """Read labelled images, of which so many at most are kept, evenly spaced.

        Those of whose class the corpus has no other image are left out: whatever they find is wrong.

        Raises:
            EvaluationError: None has a label, or none has one of another image of the corpus.
        """
        count = Count(progress, "images read", source.size)
        samples: list[Sample] = []
        images: list[torch.Tensor] = []
        for batch in batches(source.parts, searcher.encoder, batch_size=_BATCH):
            rows = [row for row, sample in enumerate(batch.samples) if sample.label is not None]
            samples += [batch.samples[row] for row in rows]
            if rows:
                images.append(batch.images[rows])
            count(len(batch.samples) + len(batch.failures))
        if not samples:
            raise EvaluationError(f"no query in {source.text} has a label: use one subfolder a class")
        everything = cls(searcher, samples, torch.cat(images))
        there = np.flatnonzero(everything._corpus.relevant(samples) > 0)
        if not len(there):
            raise EvaluationError("none of the queries' labels is that of another image of the corpus")
        kept = there[np.unique(np.linspace(0, len(there) - 1, min(most, len(there))).astype(int))]
        return cls(searcher, [samples[i] for i in kept], everything._images[kept])

    def halves(self) -> tuple["Queries", "Queries"]:
        """Every other query, and the rest."""
        one, other = (
            Queries(self._searcher, self._samples[start::2], self._images[start::2]) for start in (0, 1)
        )
        return one, other

    def __len__(self) -> int:
        return len(self._samples)

    def right(self, submodel: Submodel) -> NDArray[np.bool_]:
        """Whether the nearest row has the query's label, Q."""
        encoder = self._searcher.encoder
        blocks = torch.split(self._images, _BATCH)
        vectors_QD = np.concatenate([encoder.embed(some, submodel) for some in blocks])
        found = self._corpus.neighbours(self._samples, *self._index.exact(vectors_QD, 2))
        return found.relevant[:, 0]


@dataclass(frozen=True)
class Searched:
    """What a search found within a budget, beside what Mix'n'Match says at once.

    Attributes:
        budget_macs: The budget.
        found: The best submodel of the search.
        mixnmatch: The largest of the curve within the budget.
        evaluations: Submodels that the search measured; Mix'n'Match needs none.
        found_seen: Accuracy of `found` on the queries that the search saw.
        found_others: The same on other queries.
        mixnmatch_others: Accuracy of `mixnmatch` on those.
        gain: Of the search on those, with its 95 % interval.
    """

    budget_macs: int
    found: Submodel
    mixnmatch: Submodel
    evaluations: int
    found_seen: Share
    found_others: Share
    mixnmatch_others: Share
    gain: Estimate


def search_widths(
    searcher: Searcher,
    seen: Queries,
    others: Queries,
    budget_macs: int,
    *,
    evaluations: int,
    seed: int = 0,
    progress: Progress = silent,
) -> Searched:
    """Search a granularity for every layer within a budget, by tree-structured Parzen estimators.

    Args:
        searcher: The index and its encoder.
        seen: Queries that the search maximises accuracy on.
        others: Queries that check what it found.
        budget_macs: Multiply-accumulates allowed.
        evaluations: Submodels to measure.
        seed: Of the search.
        progress: Told of the submodels that are measured.

    Raises:
        BudgetError: Even the smallest submodel costs more.
        ModuleNotFoundError: optuna is not installed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, cost = searcher.encoder.space, searcher.encoder.cost
    within = [submodel for submodel in space.mixnmatch if cost(submodel).macs <= budget_macs]
    if not within:
        raise BudgetError(f"{budget_macs} MACs are below the smallest submodel")
    mixnmatch = within[-1]
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    tried: dict[Submodel, Share] = {}
    for _ in range(_PROPOSALS * evaluations):
        trial = study.ask()
        layers = [trial.suggest_categorical(f"{i}", list(space.granularities)) for i in range(space.depth)]
        submodel = space.labelled(tuple(layers))
        over = cost(submodel).macs / budget_macs - 1
        if over > 0:  # Most cost too much: they are worse than any that does not, and not measured.
            study.tell(trial, -over)
            continue
        if submodel not in tried:
            tried[submodel] = Share.of(seen.right(submodel))
            progress(f"submodels measured within {budget_macs} MACs", len(tried), evaluations)
        study.tell(trial, tried[submodel].value)
        if len(tried) == evaluations:
            break
    found = max(tried, key=lambda s: tried[s].value, default=mixnmatch)
    ours_Q, theirs_Q = others.right(found), others.right(mixnmatch)
    return Searched(
        budget_macs,
        found,
        mixnmatch,
        len(tried),
        tried.get(found) or Share.of(seen.right(found)),
        Share.of(ours_Q),
        Share.of(theirs_Q),
        mean_of(ours_Q.astype(np.float64) - theirs_Q),
    )
