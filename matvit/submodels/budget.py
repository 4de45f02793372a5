"""Budgets: what a caller may write, and the largest submodel that fits it."""

import re
from collections.abc import Callable
from fractions import Fraction

from matvit.errors import BudgetError
from matvit.submodels.cost import Cost, CostModel
from matvit.submodels.profile import Profile
from matvit.submodels.submodel import Submodel, SubmodelSpace

_AMOUNT = re.compile(
    r"(?P<number>\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})\s*(?P<unit>%|ms|[kmg]?(?:macs|flops|params))"
)
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_QUANTITY: dict[str, Callable[[Cost], int]] = {
    "macs": lambda cost: cost.macs,
    "flops": lambda cost: cost.flops,
    "params": lambda cost: cost.params,
}


def is_time(budget: str | Submodel) -> bool:
    """Whether a budget is a time, such as ``25ms``, which `resolve` needs a latency profile for."""
    return isinstance(budget, str) and (amount := _amount(budget)) is not None and amount["unit"] == "ms"


def resolve(
    budget: str | Submodel | None,
    space: SubmodelSpace,
    cost: CostModel,
    profile: Callable[[], Profile] | None = None,
) -> Submodel:
    """The largest submodel of the curve within a budget, or the very submodel that the budget spells out.

    Args:
        budget: ``M``, ``60%`` (of the full encoder's MACs), ``9gmacs``, ``18gflops``, ``50mparams`` (with
            ``k``, ``m`` or ``g``), ``25ms`` (a call, in the profile's setting), or a submodel (``S*5+M*7``,
            ``384,384,768``); case does not matter in units. None is the full encoder.
        space: The submodels to choose from.
        cost: What each of them costs.
        profile: Called for a budget in ms, and only then: measured times of the curve. Times are noisy, so
            one that costs more may take less: the answer is the one with the most MACs among all that fit.

    Raises:
        BudgetError: The text is no budget, even the smallest submodel costs more, or it is a time and there
            is no `profile`.
        SubmodelError: What is spelled out does not fit this encoder, or the profile is of another one.
    """
    if budget is None:
        return space.full
    if isinstance(budget, Submodel):
        return space.check(budget)
    if not isinstance(budget, str):
        raise BudgetError(f"a budget is a text such as '60%' or 'M', or a Submodel; got {budget!r}")
    if (submodel := space.parse(budget)) is not None:
        return submodel
    amount = _amount(budget)
    if amount is None:
        names = " ".join(space.granularities)
        raise BudgetError(
            f"{budget!r} is not a budget: write {names}, 60%, 9gmacs, 18gflops, 50mparams, 25ms or widths "
            f"such as {space.mixnmatch[1]}"
        )
    # Exact arithmetic: 100% must always reach the full encoder.
    limit = Fraction(amount["number"])
    if amount["unit"] == "ms":
        if profile is None:
            raise BudgetError(
                f"{budget} is a time, which must be measured first: give the profile that "
                "matvit.runtime.latency.measure(model, ...) returns"
            )
        if not limit:
            raise BudgetError(f"{budget} is no time to embed anything in")
        found = _within(budget, limit, profile())
        space.check(found)
        return found
    if amount["unit"] == "%":
        quantity = _QUANTITY["macs"]
        limit *= Fraction(quantity(cost(space.full)), 100)
    else:
        scale, kind = re.fullmatch(r"([kmg]?)(macs|flops|params)", amount["unit"]).groups()  # type: ignore[union-attr]
        quantity = _QUANTITY[kind]
        limit *= _SCALE[scale]
    fitting = [submodel for submodel in space.curve if quantity(cost(submodel)) <= limit]
    if not fitting:
        smallest = min(space.curve, key=lambda submodel: quantity(cost(submodel)))
        least = cost(smallest)
        share = 100 * least.macs / cost(space.full).macs
        raise BudgetError(
            f"{budget} is below the smallest submodel, {smallest}: {least.gmacs:.4g} GMACs "
            f"({share:.1f}% of {space.full}), {least.mparams:.4g} M parameters"
        )
    return max(fitting, key=lambda submodel: cost(submodel).macs)


def _amount(budget: str) -> re.Match[str] | None:
    return _AMOUNT.fullmatch(budget.strip().lower())


def _within(budget: str, limit_ms: Fraction, profile: Profile) -> Submodel:
    """The point of a profile with the most MACs among those that take at most so long."""
    fitting = [point.submodel for point in profile.points if point.ms <= limit_ms]
    if not fitting:
        least = profile.points[0]
        images = "one image" if profile.setting.batch_size == 1 else f"{profile.setting.batch_size} images"
        raise BudgetError(
            f"{budget} is below the smallest submodel, {least.submodel}: {least.ms:.4g} ms for {images} on "
            f"{profile.setting}"
        )
    return fitting[-1]
