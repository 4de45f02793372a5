"""Submodels proposed out of what each axis loses: against a search of all of them, and against noise."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matvit import Layer, Submodel, SubmodelSpace
from matvit.submodels.cost import Cost, CostModel, LayerCost
from matvit.submodels.frontier import Sensitivities, candidates
from matvit.submodels.tokens import UNKNOWN, Tokens

GRID = Tokens((64, 64), (4, 4), prefix=1)  # 256 patches.
SPACE = SubmodelSpace((64, 64), {"L": 0.5, "XL": 1.0}, tokens=GRID)
COST = CostModel(Cost(1000, 0), (LayerCost(Cost(8, 8), token=100, pair=2),) * 2, GRID, Cost(50, 4))
FULL = COST(SPACE.full).macs
NO_MERGES: tuple[dict[float, float], ...] = ({}, {})
WIDE = ({64: 0.0}, {64: 0.0})


def share(submodel: Submodel) -> float:
    return COST(submodel).macs / FULL


def test_widths_are_left_out_where_that_loses_least() -> None:
    sensed = Sensitivities({None: 0.0}, NO_MERGES, ({64: 0.0, 32: 0.4}, {64: 0.0, 32: 0.1}))
    least = share(SPACE.smallest)
    found = candidates(SPACE, COST, sensed, [least, (1 + least) / 2, 1.0])
    assert found == (SPACE.smallest, Submodel((64, 32)), SPACE.full)


def test_merges_go_to_the_layers_that_bear_them() -> None:
    sensed = Sensitivities({None: 0.0}, ({0.25: 0.5}, {0.25: 0.001}), WIDE)
    (found,) = candidates(SPACE, COST, sensed, [0.98])
    assert found.merges[0] == 0
    assert found.merges[1] > 0
    assert share(found) <= 0.98


def test_no_layer_merges_that_saves_less_time_than_merging_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    sensed = Sensitivities({None: 0.0}, ({0.25: 0.001}, {0.25: 0.001}), WIDE)
    # Merging a quarter of the tokens saves 5.5 % of all in the second layer, and 22 % in the first.
    for price, layers in ((0.0, (True, True)), (0.06, (True, False)), (0.5, (False, False))):
        monkeypatch.setattr("matvit.submodels.frontier._MERGE", price)
        found = candidates(SPACE, COST, sensed, [part / 20 for part in range(10, 20)])
        merges = [any(submodel.merges[layer] for submodel in found) for layer in (0, 1)]
        assert tuple(merges) == layers


def test_a_smaller_image_is_taken_where_it_loses_less_than_merging() -> None:
    merges = ({0.25: 0.02}, {0.25: 0.02})
    for loss, sizes in ((1e-6, {32}), (10.0, {None})):
        sensed = Sensitivities({None: 0.0, 32: loss}, merges, WIDE)
        found = candidates(SPACE, COST, sensed, [0.85], sizes_each=1)
        assert {submodel.image_size for submodel in found} == sizes
    both = candidates(SPACE, COST, Sensitivities({None: 0.0, 32: 0.01}, merges, WIDE), [0.85])
    assert {submodel.image_size for submodel in both} == {None, 32}


@given(st.lists(st.floats(1e-3, 1), min_size=6, max_size=6), st.floats(0.2, 1))
def test_what_is_proposed_is_within_and_about_the_best_there_is(losses: list[float], within: float) -> None:
    """Greedy steps are exact where they end; between, the best may be one step better."""
    space = SubmodelSpace((60, 60, 60), {"M": 1 / 3, "L": 2 / 3, "XL": 1.0})
    cost = CostModel(Cost(0, 0), (LayerCost(Cost(1, 1)),) * 3, UNKNOWN)
    widths = [
        {60: 0.0, 40: min(pair), 20: 2 * max(pair)} for pair in zip(losses[::2], losses[1::2], strict=True)
    ]
    sensed = Sensitivities({None: 0.0}, ({}, {}, {}), widths)

    def loss(submodel: Submodel) -> float:
        return sum(each[width] for each, width in zip(widths, submodel.widths, strict=True))

    everything = [Submodel(each) for each in product((20, 40, 60), repeat=3)]
    full = cost(space.full).macs
    affordable = [each for each in everything if cost(each).macs <= within * full]
    found = candidates(space, cost, sensed, [within])
    assert bool(found) == bool(affordable)
    for each in found:
        assert each in affordable
        tighter = [s for s in everything if cost(s).macs <= within * full - 20]
        assert loss(each) <= min(map(loss, tighter), default=float("inf")) + 1e-9


@given(st.floats(1e-12, 1), st.floats(1e-12, 1), st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_merging_more_never_looks_better(low: float, high: float, one: float, other: float) -> None:
    sensed = Sensitivities({None: 0.0}, ({1 / 16: low, 1 / 4: high}, {1 / 8: low}), WIDE)
    for layer in range(2):
        first, second = sorted((one, other))
        assert 0 < sensed.merging(layer, first) <= sensed.merging(layer, second) * (1 + 1e-9)


def test_what_was_measured_is_said_again() -> None:
    sensed = Sensitivities({None: 0.0}, ({1 / 16: 0.001, 1 / 8: 0.004, 1 / 4: 0.03}, {1 / 8: 0.002}), WIDE)
    found = [sensed.merging(0, share) for share in (1 / 16, 1 / 8, 1 / 4)]
    assert found == pytest.approx([0.001, 0.004, 0.03])
    assert sensed.merging(1, 1 / 8) == pytest.approx(0.002)
    assert sensed.merging(1, 1 / 4) == pytest.approx(0.008)


def test_few_patches_merge_too() -> None:
    grid = Tokens((16, 16), (4, 4), prefix=1)  # 16 patches: one part of 32 is no token.
    space = SubmodelSpace((64, 64), {"L": 0.5, "XL": 1.0}, tokens=grid)
    cost = CostModel(Cost(0, 0), (LayerCost(Cost(8, 8), token=100, pair=2, match=1),) * 2, grid)
    sensed = Sensitivities({None: 0.0}, ({0.25: 1e-6},) * 2, WIDE)
    (found,) = candidates(space, cost, sensed, [0.8])
    assert any(found.merges)


def test_an_encoder_without_axes_has_the_full_one_alone() -> None:
    sensed = Sensitivities({None: 0.0}, NO_MERGES, WIDE)
    assert candidates(SPACE, COST, sensed, [0.5]) == ()
    assert candidates(SPACE, COST, sensed, [1.0]) == (SPACE.full,)


def test_proposals_read_back_from_their_spelling() -> None:
    sensed = Sensitivities({None: 0.0, 32: 0.01}, ({0.25: 0.01},) * 2, ({64: 0.0, 32: 0.01},) * 2)
    for submodel in candidates(SPACE, COST, sensed, [0.1 * tenth for tenth in range(1, 11)]):
        assert SPACE.parse(str(submodel)) == submodel
        assert all(isinstance(layer, Layer) for layer in submodel.layers)
