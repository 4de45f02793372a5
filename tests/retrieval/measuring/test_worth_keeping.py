"""What stays of a measured curve: nothing that a cheaper one beats, and what is plain unless it is beaten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matvit.submodels.cost import Cost
from matvit.submodels.submodel import Layer, Submodel
from retrieval.measuring.curve import Curve, Point
from retrieval.measuring.estimate import Estimate
from retrieval.measuring.worth_keeping import agreement, worth_keeping

FULL = Submodel([64, 64])
KINDS = {
    "size": lambda number: Submodel(FULL.layers, image_size=number),
    "merge": lambda number: Submodel([Layer(64, 1), Layer(64, 0)], image_size=number),
    "width": lambda number: Submodel([32, 64], image_size=number),
}


def point(kind: str, macs: int, found: float, *, chance: float = 0.0, number: int = 1) -> Point:
    share = Estimate(found, (found - chance, found + chance))
    measures = {"overlap_10": share, "cosine": Estimate(found, (found, found))}
    return Point(KINDS[kind](number), Cost(macs, 0), macs / 100, measures)


def kept(*points: Point) -> list[Point]:
    return worth_keeping(Curve(points, Cost(100, 0), 1), FULL)


@pytest.mark.parametrize("kind", KINDS)
def test_of_one_kind_each_is_better_than_all_that_cost_no_more(kind: str) -> None:
    points = [(10, 0.2), (20, 0.4), (20, 0.5), (30, 0.5), (40, 0.3), (50, 0.9), (100, 1.0)]
    made = [point(kind, *each, chance=0.5, number=number) for number, each in enumerate(points, start=1)]
    assert kept(*made) == [made[0], made[2], made[5]]


def test_where_chance_may_have_told_them_apart_the_plain_one_stays() -> None:
    small = point("size", 30, 0.50)
    for kind in ("merge", "width"):
        assert kept(small, point(kind, 30, 0.52, chance=0.03)) == [small]
        assert kept(small, point(kind, 35, 0.52, chance=0.03)) == [small]
        better = point(kind, 30, 0.54, chance=0.03)
        assert kept(small, better) == [better]
        cheap = point(kind, 29, 0.52, chance=0.03)
        assert kept(small, cheap) == [cheap, small]


def test_without_shares_of_the_ten_nearest_cosines_tell() -> None:
    made = []
    for number, (macs, cosine) in enumerate([(10, 0.9), (20, 0.8), (30, 0.95)], start=1):
        measures = {"cosine": Estimate(cosine, (cosine, cosine))}
        made.append(Point(KINDS["merge"](number), Cost(macs, 0), macs / 100, measures))
    assert kept(*made) == [made[0], made[2]]


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(KINDS)), st.integers(1, 99), st.integers(0, 20), st.integers(0, 5)),
        max_size=12,
    )
)
def test_within_every_cost_nothing_is_better_beyond_chance_than_the_dearest_one(
    drawn: list[tuple[str, int, int, int]],
) -> None:
    points = [
        point(kind, macs, found / 20, chance=chance / 20, number=number)
        for number, (kind, macs, found, chance) in enumerate(drawn, start=1)
    ]
    kinds = {each.submodel: kind for each, (kind, *_) in zip(points, drawn, strict=True)}
    curve = kept(*points)
    assert [each.cost.macs for each in curve] == sorted({each.cost.macs for each in curve})
    for each in points:
        dearest = [other for other in curve if other.cost.macs <= each.cost.macs][-1]
        assert each["overlap_10"].interval[0] <= agreement(dearest)[0]
        if kinds[dearest.submodel] == kinds[each.submodel]:
            assert agreement(each) <= agreement(dearest)
