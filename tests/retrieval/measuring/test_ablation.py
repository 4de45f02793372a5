"""Other orders of the same widths, and the search, against counting and brute force."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matvit.errors import BudgetError
from matvit.submodels.submodel import SubmodelSpace
from retrieval import Searcher, open_source
from retrieval.errors import EvaluationError
from retrieval.measuring.ablation import ORDERS, Queries, compare_orders, ordered, orders, search
from retrieval.measuring.evaluate import evaluate


@given(st.integers(1, 30), st.data())
def test_every_order_has_the_same_widths_in_its_own_shape(depth: int, data: st.DataObject) -> None:
    larger = data.draw(st.integers(0, depth))
    made = {order: ordered("M", "L", larger, depth, order) for order in ORDERS}
    for labels in made.values():
        assert Counter(labels) == Counter({"L": larger, "M": depth - larger})
    assert "LM" not in "".join(made["increasing"])
    assert "ML" not in "".join(made["decreasing"])
    middle = "".join(made["larger in the middle"]).strip("M")
    assert "M" not in middle
    assert "L" not in "".join(made["smaller in the middle"]).strip("L")
    assert made["random"] == ordered("M", "L", larger, depth, "random")


def test_an_order_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="must be one of increasing"):
        ordered("S", "M", 1, 4, "sideways")


def test_orders_stand_beside_every_mixed_point_of_the_curve() -> None:
    space = SubmodelSpace((64,) * 6)
    found = list(orders(space))
    mixed = [s for s in space.curve if s not in space.uniforms()]
    assert [point for order, _, point in found if order == "increasing"] == mixed
    assert len(found) == len(ORDERS) * len(mixed)
    for order, submodel, point in found:
        assert sorted(submodel.widths) == sorted(point.widths)
        assert (submodel == point) or order != "increasing"


def test_orders_are_compared_on_the_same_queries(searcher: Searcher, queries: Path) -> None:
    space = searcher.encoder.space
    submodels = list(dict.fromkeys(s for _, s, _ in orders(space)))
    result = evaluate(searcher, open_source(queries), submodels)
    measured, means = compare_orders(space, result)
    accuracy = {point.submodel: point["adaptive_1nn"] for point in result.points}
    for each in measured:
        assert each.accuracy == accuracy[each.submodel]
        assert each.difference.value == pytest.approx(each.accuracy.value - accuracy[each.point].value)
    for order, mean in means.items():
        differences = [each.difference.value for each in measured if each.order == order]
        assert mean.value == pytest.approx(np.mean(differences))
        low, high = mean.interval
        assert low <= mean.value <= high
    assert means["increasing"].interval == (0, 0)
    assert any(mean.value != 0 for mean in means.values())


def test_queries_are_answered_as_by_evaluate(searcher: Searcher, queries: Path) -> None:
    kept = Queries.read(searcher, open_source(queries), most=1000)
    result = evaluate(searcher, open_source(queries), searcher.encoder.space.curve)
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
    budget = cost(space.parse("S*3+M*1")).macs
    told: list[int] = []
    found = search(searcher, seen, others, budget, evaluations=20, progress=lambda *step: told.append(step))
    affordable = [
        space.labelled(tuple("M" if i == layer else "S" for i in range(space.depth))) for layer in range(4)
    ] + [space.smallest]
    assert found.evaluations == len(told) == len(affordable)
    assert found.found in affordable
    assert found.found_seen.value == max(seen.right(s).mean() for s in affordable)
    assert found.mixnmatch == space.parse("S*3+M*1")
    assert found.mixnmatch_others.count == others.right(found.mixnmatch).sum()
    assert found.gain.value == pytest.approx(found.found_others.value - found.mixnmatch_others.value)
    again = search(searcher, seen, others, budget, evaluations=20)
    assert again == found


def test_a_search_within_less_than_the_smallest(searcher: Searcher, queries: Path) -> None:
    kept = Queries.read(searcher, open_source(queries), most=10)
    with pytest.raises(BudgetError):
        search(searcher, kept, kept, 10, evaluations=1)
