"""Budgets: what a caller may write, and the largest submodel that fits it."""

import re
from collections.abc import Callable
from fractions import Fraction

from matvit.cost import Cost, CostModel
from matvit.errors import BudgetError
from matvit.submodel import Submodel, SubmodelSpace

_AMOUNT = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>%|[kmg]?(?:macs|flops|params))")
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_QUANTITY: dict[str, Callable[[Cost], int]] = {
    "macs": lambda cost: cost.macs,
    "flops": lambda cost: cost.flops,
    "params": lambda cost: cost.params,
}


def resolve(budget: str | Submodel, space: SubmodelSpace, cost: CostModel) -> Submodel:
    """The largest Mix'n'Match submodel within a budget, or the very submodel that the budget spells out.

    Args:
        budget: ``M``, ``60%`` (of the full encoder's MACs), ``9gmacs``, ``18gflops``, ``50mparams`` (with
            ``k``, ``m`` or ``g``), or widths (``S*5+M*7``, ``384,384,768``); case does not matter in units.
        space: The submodels to choose from.
        cost: What each of them costs.

    Raises:
        BudgetError: The text is no budget, or even the smallest submodel costs more.
        SubmodelError: The widths spelled out do not fit this encoder.
    """
    if isinstance(budget, Submodel):
        return space.check(budget)
    if (submodel := space.parse(budget)) is not None:
        return submodel
    amount = _AMOUNT.fullmatch(budget.strip().lower())
    if amount is None:
        names = " ".join(space.granularities)
        raise BudgetError(
            f"{budget!r} is not a budget: write {names}, 60%, 9gmacs, 18gflops, 50mparams or widths such as "
            f"{space.curve[1]}"
        )
    # Exact arithmetic: 100% must always reach the full encoder.
    limit = Fraction(amount["number"])
    if amount["unit"] == "%":
        quantity = _QUANTITY["macs"]
        limit *= Fraction(quantity(cost(space.full)), 100)
    else:
        scale, kind = re.fullmatch(r"([kmg]?)(macs|flops|params)", amount["unit"]).groups()  # type: ignore[union-attr]
        quantity = _QUANTITY[kind]
        limit *= _SCALE[scale]
    fitting = [submodel for submodel in space.curve if quantity(cost(submodel)) <= limit]
    if not fitting:
        least = cost(space.smallest)
        share = 100 * least.macs / cost(space.full).macs
        raise BudgetError(
            f"{budget} is below the smallest submodel, {space.smallest}: {least.gmacs:.4g} GMACs "
            f"({share:.1f}% of {space.full}), {least.mparams:.4g} M parameters"
        )
    return fitting[-1]
