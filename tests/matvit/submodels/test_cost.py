"""Costs as values."""

import pytest

from matvit import Cost, Layer, Submodel, SubmodelError
from matvit.submodels.cost import CostModel, LayerCost, PoolCost
from matvit.submodels.tokens import UNKNOWN, Tokens

MODEL = CostModel(Cost(1000, 10), (LayerCost(Cost(7, 1)), LayerCost(Cost(3, 2))), UNKNOWN)
GRID = Tokens((8, 8), (2, 2), prefix=1)  # 17 tokens.
TWO = (LayerCost(Cost(7, 1), token=5, pair=2, match=3),) * 2


def test_units():
    cost = Cost(macs=17_564_161_536, params=86_567_656)
    assert cost.flops == 2 * cost.macs
    assert cost.gmacs == pytest.approx(17.564161536)
    assert cost.gflops == pytest.approx(35.128323072)
    assert cost.mparams == pytest.approx(86.567656)


def test_a_submodel_costs_the_fixed_part_and_so_much_a_unit():
    assert MODEL(Submodel((4, 8))) == Cost(1000 + 4 * 7 + 8 * 3, 10 + 4 * 1 + 8 * 2)


@pytest.mark.parametrize("widths, word", [((4,), "shorter"), ((4, 8, 8), "longer")])
def test_widths_of_another_depth_have_no_cost(widths, word):
    with pytest.raises(ValueError, match=word):
        MODEL(Submodel(widths))


def test_another_image_size_has_no_cost_where_none_is_read():
    with pytest.raises(SubmodelError, match=r"^4\*1\+8\*1@168px: .* no other image size is known$"):
        MODEL(Submodel((4, 8), image_size=168))


def test_every_axis_costs_what_it_says():
    model = CostModel(Cost(100, 10), TWO, GRID, patch=Cost(11, 4), pool=PoolCost(token=2, pair=1, skipped=1))
    assert model(Submodel((3, 3))) == Cost(
        100 + 16 * 11 + 2 * (17 * 5 + 17 * 17 * 2 + 17 * 3 * 7) + 16 * 2 + 16 * 16, 10 + 16 * 4 + 6
    )
    smaller = model(Submodel((3, 3), image_size=4))
    assert smaller == Cost(100 + 4 * 11 + 2 * (5 * 5 + 5 * 5 * 2 + 5 * 3 * 7) + 4 * 2 + 4 * 4, 10 + 4 * 4 + 6)
    merging = model(Submodel([Layer(3, 5), Layer(3)]))
    first = 17 * 5 + 17 * 17 * 2 + 8 * 8 * 3 + 12 * 3 * 7
    assert merging.macs == 100 + 16 * 11 + first + (12 * 5 + 12 * 12 * 2 + 12 * 3 * 7) + 11 * 2 + 11 * 11


def test_a_layer_that_answers_for_one_token_merges_none():
    last = LayerCost(Cost(7, 1), token=5, key=4, pair=2, match=3, answers=1)
    model = CostModel(Cost(0, 0), (last,), GRID)
    assert model(Submodel([3])).macs == 17 * 4 + 5 + 17 * 2 + 3 * 7
    assert model(Submodel([Layer(3, 5)])) == model(Submodel([3]))
