"""Which submodels a training step trains: functions of the step's number alone, the same on every rank.

Source: MatFormer (arXiv 2310.07707, section 3.2).
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, product

import numpy as np

from matvit.errors import SubmodelError
from matvit.submodels.submodel import Layer, Submodel, SubmodelSpace

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
    curve = space.mixnmatch
    full = [space.full] if with_full else []

    def choose(step: int) -> tuple[Submodel, ...]:
        drawn = curve[int(len(curve) * _uniform(seed, step))]
        return tuple(dict.fromkeys((*full, drawn)))

    return choose


def seeing_less(
    choose: Choose, space: SubmodelSpace, sizes: Sequence[int], merges: Sequence[int], *, seed: int
) -> Choose:
    """The submodels of another choice, each but the full encoder with a random image size and merge a step.

    Args:
        choose: Of submodels that see all tokens.
        space: Of the model.
        sizes: Pixels of a side; none is the encoder's own alone.
        merges: Tokens that merge in each layer; none is 0.
        seed: With the step's number, all that a draw depends on.

    Raises:
        SubmodelError: The encoder does not read images of that size, or its tokens cannot merge.
    """
    own: Sequence[None] = [None]
    seen: list[tuple[int | None, int]] = list(product(sizes or own, merges or [0]))
    for size, merged in seen:
        space.check(_seeing(space.full, size, merged))

    def one(step: int, number: int, submodel: Submodel) -> Submodel:
        size, merged = seen[int(len(seen) * _uniform(seed, step, number))]
        return space.check(_seeing(submodel, size, merged))

    return lambda step: tuple(
        submodel if submodel == space.full else one(step, number, submodel)
        for number, submodel in enumerate(choose(step), 1)
    )


def _seeing(submodel: Submodel, size: int | None, merged: int) -> Submodel:
    return Submodel([Layer(width, merged) for width in submodel.widths], image_size=size)


def _check(space: SubmodelSpace, granularities: Sequence[str]) -> None:
    if unknown := set(granularities) - space.granularities.keys():
        raise SubmodelError(f"{min(unknown)!r} is none of {', '.join(space.granularities)}")
    if not granularities or len(set(granularities)) < len(granularities):
        raise SubmodelError(
            f"name at least one granularity, and none twice; got {', '.join(granularities) or 'none'}"
        )


def _uniform(*numbers: int) -> float:
    """A random number from 0 to below 1 for a seed and a step, the same on every rank and after a restart."""
    return float(np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers))).random())
