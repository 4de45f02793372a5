"""Which submodels a training step trains: functions of the step's number alone, the same on every rank.

Source: MatFormer (arXiv 2310.07707, section 3.2).
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from matvit.errors import SubmodelError
from matvit.submodels.submodel import Submodel, SubmodelSpace

Choose = Callable[[int], tuple[Submodel, ...]]
"""The submodels that an optimizer step trains, largest first: a function of the step's number alone."""

PAPER_PROBABILITIES = (0.17, 0.20, 0.22, 0.41)
"""How often S, M, L and XL are sampled in MatFormer."""


def joint(space: SubmodelSpace, granularities: Sequence[str]) -> Choose:
    """The same granularities in every step, largest first in whatever order they are given.

    Raises:
        SubmodelError: A granularity is unknown or named twice, or there is none.
    """
    _check(space, granularities)
    submodels = tuple(space.uniform(n) for n in reversed(list(space.granularities)) if n in granularities)
    return lambda step: submodels


def sampled(
    space: SubmodelSpace,
    granularities: Sequence[str],
    probabilities: Sequence[float] | None = None,
    *,
    seed: int,
    with_full: bool = False,
) -> Choose:
    """One random granularity a step.

    Args:
        space: Of the model.
        granularities: Those to draw from.
        probabilities: One a granularity, in the same order; None is uniform.
        seed: With the step's number, all that a draw depends on.
        with_full: Train the full encoder beside it.

    Raises:
        SubmodelError: A granularity is unknown or named twice, there is none, or the probabilities are no
            distribution over them.
    """
    _check(space, granularities)
    submodels = [space.uniform(name) for name in granularities]
    if probabilities is None:
        probabilities = [1 / len(submodels)] * len(submodels)
    if (
        len(probabilities) != len(submodels)
        or not all(p >= 0 for p in probabilities)
        or not math.isclose(sum(probabilities), 1, abs_tol=1e-6)
    ):
        raise SubmodelError(
            f"probabilities must sum to 1, one for each of {', '.join(granularities)}; got {probabilities}"
        )
    bounds = list(accumulate(probabilities))[:-1]
    full = [space.full] if with_full else []

    def choose(step: int) -> tuple[Submodel, ...]:
        drawn = submodels[bisect_right(bounds, _uniform(seed, step))]
        return tuple(dict.fromkeys((*full, drawn)))

    return choose


def mixnmatch(space: SubmodelSpace, *, seed: int, with_full: bool = False) -> Choose:
    """One random submodel of the Mix'n'Match curve a step, each as likely as any other.

    Args:
        space: Of the model.
        seed: With the step's number, all that a draw depends on.
        with_full: Train the full encoder beside it.
    """
    curve = space.curve
    full = [space.full] if with_full else []

    def choose(step: int) -> tuple[Submodel, ...]:
        drawn = curve[int(len(curve) * _uniform(seed, step))]
        return tuple(dict.fromkeys((*full, drawn)))

    return choose


def _check(space: SubmodelSpace, granularities: Sequence[str]) -> None:
    if unknown := set(granularities) - space.granularities.keys():
        raise SubmodelError(f"{min(unknown)!r} is none of {', '.join(space.granularities)}")
    if not granularities or len(set(granularities)) < len(granularities):
        raise SubmodelError(
            f"name at least one granularity, and none twice; got {', '.join(granularities) or 'none'}"
        )


def _uniform(seed: int, step: int) -> float:
    """A random number from 0 to below 1, the same on every rank and after every restart."""
    return float(np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, step)))).random())
