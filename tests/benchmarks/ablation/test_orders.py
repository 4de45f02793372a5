"""Other orders of the same widths, against counting."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.orders import ORDERS, compare_orders, ordered, orders
from matvit.submodels.submodel import SubmodelSpace
from retrieval import Searcher, open_source
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
    mixed = [s for s in space.mixnmatch if s not in space.uniforms()]
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
