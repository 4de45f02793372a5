"""Submodels worth checking, out of what each axis costs by itself.

What a submodel loses is measured as the mean squared distance of its unit embeddings to the full encoder's,
which is twice one minus their cosine. Changes that know nothing of each other move an embedding in directions
that are about orthogonal, so that such distances add up. Where much is left out, changes are no longer small
and the sum is too small: what is proposed has to be checked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import log

from matvit.submodels.cost import CostModel
from matvit.submodels.submodel import Layer, Submodel, SubmodelSpace


class Axis(StrEnum):
    """What submodels differ in."""

    SIZES = "sizes"
    MERGES = "merges"
    WIDTHS = "widths"


_STEPS = 32
"""Merging gets stronger by one of so many parts of a layer's patches."""
_MOST = 8
"""No layer merges more than so many of these parts."""
_DOUBT = 3.0
"""A loss is up to so many times what was expected."""
_ROUNDING = 1e-9
"""Losses below that are none."""
_MERGE = 0.004
"""The time that choosing tokens takes in a layer, as a share of the full encoder's, for one image on a CPU.

Hardly any of it are multiply-accumulates. Measured were 0.4 to 1 % (`benchmarks/results/knob/bench*.csv`).
"""
_POWER = 2.0
"""Of the share that merges, with which its loss grows where only one share was measured."""


@dataclass(frozen=True)
class Sensitivities:
    """What each axis loses by itself.

    Args:
        sizes: Of the image sizes to choose from, None being the encoder's own, whose loss is 0.
        merges: For each layer, of shares of its patches that merge, 0 to 1; empty where none can.
        widths: For each layer, of hidden units that it keeps, those of the full encoder included.
    """

    sizes: Mapping[int | None, float]
    merges: Sequence[Mapping[float, float]]
    widths: Sequence[Mapping[int, float]]

    def at_full_width(self, full: Submodel) -> "Sensitivities":
        """The same, but that no layer gets narrower."""
        return replace(self, widths=[{layer.ffn: 0.0} for layer in full.layers])

    def merging(self, layer: int, share: float) -> float:
        """What merging a share of a layer's patches loses: a power of the share between those measured."""
        (low, low_loss), *larger = sorted(self.merges[layer].items())
        low_loss, power = max(low_loss, _ROUNDING), _POWER
        for high, measured in larger:
            # A loss that grows less than the share is noise: merging more is never to look free.
            high_loss = max(measured, low_loss * high / low)
            power = log(high_loss / low_loss) / log(high / low)
            if share <= high:
                break
            low, low_loss = high, high_loss
        return low_loss * float((share / low) ** power)


@dataclass(frozen=True)
class Candidate:
    """A submodel, what it costs, and what it is expected to lose.

    `effort` is its cost in time, in multiply-accumulates that take as long.
    """

    submodel: Submodel
    macs: int
    effort: float
    loss: float


def candidates(
    space: SubmodelSpace,
    cost: CostModel,
    sensitivities: Sensitivities,
    shares: Sequence[float],
    *,
    sizes_each: int = 4,
) -> tuple[Submodel, ...]:
    """Submodels that are expected to lose least, within shares of the full encoder's MACs.

    At every image size, the step that loses least for the time it saves is taken again and again: a layer
    that keeps the next smaller width, or merges some more 32nds of its patches. That takes arithmetic alone.

    Args:
        space: Of the encoder.
        cost: What its submodels cost.
        sensitivities: What each axis loses.
        shares: 0 to 1.
        sizes_each: Of how many image sizes the best submodel is given for each share, the best first, if they
            are not certain to lose more.

    Returns:
        Cheapest first, none twice.
    """
    paths = [list(_path(space, cost, sensitivities, size)) for size in sensitivities.sizes]
    full, chosen = cost(space.full).macs, {}
    for share in shares:
        best = [
            min(within, key=lambda each: each.loss)
            for path in paths
            if (within := [each for each in path if each.macs <= share * full])
        ]
        best.sort(key=lambda each: each.loss)
        for each in best[:sizes_each]:
            if each.loss <= _DOUBT * best[0].loss:
                chosen[space.check(each.submodel)] = each.macs
    return tuple(sorted(chosen, key=chosen.__getitem__))


def _path(
    space: SubmodelSpace, cost: CostModel, sensitivities: Sensitivities, size: int | None
) -> Iterator[Candidate]:
    """Ever cheaper submodels at one image size, by the step that loses least for what it saves."""
    widths = [sorted(each, reverse=True) for each in sensitivities.widths]
    price = _MERGE * cost(space.full).macs
    state = [(0, 0)] * space.depth  # Of each layer: which width, and how many parts merge.

    def candidate(state: Sequence[tuple[int, int]]) -> Candidate:
        loss, layers = sensitivities.sizes[size], []
        patches = space.tokens.patches(size)
        for layer, (width, parts) in enumerate(state):
            kept, merged = widths[layer][width], min(round(patches * parts / _STEPS), patches // 2)
            layers.append(Layer(kept, merged))
            patches -= merged
            loss += sensitivities.widths[layer][kept]
            if parts:
                loss += sensitivities.merging(layer, parts / _STEPS)
        submodel = Submodel(layers, image_size=size)
        macs, merging = cost(submodel).macs, sum(merged > 0 for merged in submodel.merges)
        return Candidate(submodel, macs, macs + merging * price, loss)

    now = candidate(state)
    while True:
        yield now
        cheaper = []
        for layer, (width, parts) in enumerate(state):
            most = _MOST if sensitivities.merges[layer] else 0
            narrower = [(width + 1, parts)] if width + 1 < len(widths[layer]) else []
            for steps in (narrower, [(width, more) for more in range(parts + 1, most + 1)]):
                for step in steps:
                    changed = [*state[:layer], step, *state[layer + 1 :]]
                    # To begin with, merging a little may save less time than it takes; of few patches, one
                    # part more may be no token more.
                    if (found := candidate(changed)).effort < now.effort:
                        cheaper.append((found, changed))
                        if parts:
                            break
        if not cheaper:
            return
        before = now
        now, state = min(
            cheaper, key=lambda each: (each[0].loss - before.loss) / (before.effort - each[0].effort)
        )
