"""Profiles as values: what lies between measured times, and how a setting reads."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matvit import Submodel, SubmodelError, SubmodelSpace
from matvit.runtime.latency import measured_submodels
from matvit.submodels.cost import Cost, CostModel, LayerCost
from matvit.submodels.profile import Point, Profile, Setting, Timing, doubt
from matvit.submodels.tokens import UNKNOWN

CHIP = Setting("Chip 7", "cpu", "float32", 1, 2, "2.15")


def steady(ms: float) -> Timing:
    return Timing(ms, 0, 0, 0)


def between_neighbours(times: Profile, submodel: Submodel) -> Fraction:
    """The exact oracle: the straight line in MACs through the measured points on both sides."""
    known = [(times.cost(p.submodel).macs, Fraction(p.ms)) for p in times.points if p.measured]
    macs = times.cost(submodel).macs
    left, left_ms = max((each for each in known if each[0] <= macs), default=known[0])
    right, right_ms = min((each for each in known if each[0] >= macs), default=known[-1])
    return left_ms if left == right else left_ms + (right_ms - left_ms) * Fraction(macs - left, right - left)


hand_made = st.builds(
    lambda times, between: Profile.through(
        dict(zip(measured_submodels(SPACE, between), map(steady, times), strict=False)), SPACE, COST, CHIP
    ),
    st.lists(st.floats(1e-3, 1e3), min_size=13, max_size=13),
    st.integers(0, 3),
)
SPACE = SubmodelSpace((128, 64, 128, 96))
COST = CostModel(Cost(1000, 10), tuple(LayerCost(Cost(macs, 1)) for macs in (7, 3, 7, 5)), UNKNOWN)


@given(hand_made)
def test_the_rest_of_the_curve_lies_on_straight_lines_in_macs(times: Profile) -> None:
    for point in times.points:
        assert point.ms == pytest.approx(float(between_neighbours(times, point.submodel)), rel=1e-9)
        assert times(point.submodel) == point.ms
    assert times.points[0].measured
    assert times.points[-1].measured


@given(hand_made, st.tuples(*(st.integers(1, hidden) for hidden in SPACE.hidden)))
def test_submodels_off_the_curve_lie_there_too(times: Profile, widths: tuple[int, ...]) -> None:
    point = times.point(Submodel(widths))
    if Submodel(widths) not in SPACE.curve:
        assert not point.measured
    if COST(Submodel(widths)).macs < COST(SPACE.smallest).macs:
        assert point.ms == times(SPACE.smallest)
    else:
        assert point.ms == pytest.approx(float(between_neighbours(times, Submodel(widths))), rel=1e-9)


def test_layers_too_small_for_four_widths_still_have_a_curve() -> None:
    space = SubmodelSpace((2, 2))  # S, M and L all keep one unit.
    cost = CostModel(Cost(5, 5), (LayerCost(Cost(1, 1)),) * 2, UNKNOWN)
    times = Profile.through(dict.fromkeys(measured_submodels(space, 0), steady(3.0)), space, cost, CHIP)
    assert [point.ms for point in times.points] == [3.0] * 7


def test_a_submodel_at_another_image_size_has_no_time() -> None:
    times = Profile.through(dict.fromkeys(SPACE.curve, steady(3.0)), SPACE, COST, CHIP)
    with pytest.raises(SubmodelError, match="no other image size is known"):
        times(Submodel(SPACE.hidden, image_size=8))


def test_a_setting_reads_as_a_line() -> None:
    assert str(CHIP) == "Chip 7 (cpu, 2 threads), float32, torch 2.15"
    assert str(Setting("GPU", "cuda", "bfloat16", 8, None, "2.15")) == "GPU (cuda), bfloat16, torch 2.15"


@pytest.mark.parametrize(
    "ms, iqr_ms, text", [(12.34, 0.5, "12 ms ±4%"), (1234, 0, "1200 ms ±0%"), (0.5, 1, "0.50 ms ±200%")]
)
def test_a_time_reads_with_its_spread_or_as_interpolated(ms: float, iqr_ms: float, text: str) -> None:
    assert str(Point(SPACE.full, ms, Timing(ms, iqr_ms, 0, 0))) == text
    assert str(Point(SPACE.full, ms)) == f"~{text.partition(' ±')[0]}"


@pytest.mark.parametrize(
    "timings, why",
    [
        ([], ""),
        ([Timing(10, 1.5, 0.1, 0)] * 2, ""),
        ([Timing(10, 1.6, 0, 0), steady(10)], "1 of 2 spread by more than 15% of the median"),
        ([Timing(10, 0, 0.3, 0), steady(10)], "other work took up to 30% of the processor meanwhile"),
        (
            [Timing(10, 0, 0.11, 0), Timing(10, 5, 0, 0)],
            "other work took up to 11% of the processor meanwhile; "
            "1 of 2 spread by more than 15% of the median",
        ),
    ],
)
def test_what_speaks_against_times(timings: list[Timing], why: str) -> None:
    assert doubt(timings) == why
