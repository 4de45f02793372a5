"""Costs as values."""

import pytest

from matvit import Cost, Submodel, SubmodelError
from matvit.submodels.cost import CostModel

MODEL = CostModel(Cost(1000, 10), (Cost(7, 1), Cost(3, 2)))


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


def test_another_image_size_has_no_cost_yet():
    with pytest.raises(SubmodelError, match=r"^4\*1\+8\*1@168px: .* another image size yet$"):
        MODEL(Submodel((4, 8), image_size=168))
