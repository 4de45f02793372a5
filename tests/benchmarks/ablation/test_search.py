"""The search for widths, against brute force."""

from itertools import product
from pathlib import Path

import pytest

from ablation.search import Queries, search_widths
from matvit.errors import BudgetError
from retrieval import Searcher, open_source
from retrieval.errors import EvaluationError
from retrieval.measuring.evaluate import evaluate


def test_queries_are_answered_as_by_evaluate(searcher: Searcher, queries: Path) -> None:
    kept = Queries.read(searcher, open_source(queries), most=1000)
    result = evaluate(searcher, open_source(queries), searcher.encoder.space.mixnmatch)
    for point, right in zip(result.points, result.right, strict=True):
        assert kept.right(point.submodel).tolist() == right.tolist()
    one, other = kept.halves()
    smallest = searcher.encoder.space.smallest
    assert one.right(smallest).tolist() == result.right[0][::2].tolist()
    assert other.right(smallest).tolist() == result.right[0][1::2].tolist()
    assert len(Queries.read(searcher, open_source(queries), most=7)) == 7


def test_queries_without_labels(searcher: Searcher, queries: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no query in .* has a label"):
        Queries.read(searcher, open_source(queries / "red"), most=10)


def test_a_search_of_everything_finds_the_best_there_is(searcher: Searcher, queries: Path) -> None:
    space, cost = searcher.encoder.space, searcher.encoder.cost
    seen, others = Queries.read(searcher, open_source(queries), most=1000).halves()
    budget = cost(space.parse("M*1+S*3")).macs  # More than M in the last layer, which answers for one token.
    told: list[int] = []
    found = search_widths(
        searcher, seen, others, budget, evaluations=20, progress=lambda *step: told.append(step)
    )
    everything = map(space.labelled, product(space.granularities, repeat=space.depth))
    affordable = [submodel for submodel in everything if cost(submodel).macs <= budget]
    assert found.evaluations == len(told) == len(affordable)
    assert found.found in affordable
    assert found.found_seen.value == max(seen.right(s).mean() for s in affordable)
    assert found.mixnmatch == space.parse("S*3+M*1")
    assert found.mixnmatch_others.count == others.right(found.mixnmatch).sum()
    assert found.gain.value == pytest.approx(found.found_others.value - found.mixnmatch_others.value)
    again = search_widths(searcher, seen, others, budget, evaluations=20)
    assert again == found


def test_a_search_within_less_than_the_smallest(searcher: Searcher, queries: Path) -> None:
    kept = Queries.read(searcher, open_source(queries), most=10)
    with pytest.raises(BudgetError):
        search_widths(searcher, kept, kept, 10, evaluations=1)
