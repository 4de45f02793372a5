"""What a submodel costs, as values: multiply-accumulates and parameters.

An encoder's cost is a sum over its layers, each a polynomial in the tokens that it sees and the hidden units
that its FFN keeps, so that a whole curve costs a few additions. `matvit.vision.count_macs` finds the
coefficients from the architecture.
"""

from dataclasses import dataclass
from itertools import pairwise

from matvit.submodels.submodel import Layer, Submodel
from matvit.submodels.tokens import Tokens


@dataclass(frozen=True)
class Cost:
    """Cost of one image through one submodel.

    Args:
        macs: Multiply-accumulates. Vision papers print these and call them FLOPs.
        params: Parameters of the extracted submodel.
    """

    macs: int
    params: int

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiply and an add for each multiply-accumulate."""
        return 2 * self.macs

    @property
    def gmacs(self) -> float:
        """Multiply-accumulates, in 1e9."""
        return self.macs / 1e9

    @property
    def gflops(self) -> float:
        """Floating-point operations, in 1e9."""
        return self.flops / 1e9

    @property
    def mparams(self) -> float:
        """Parameters, in 1e6."""
        return self.params / 1e6


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer, as multiply-accumulates for each of what it handles.

    Args:
        unit: Of one hidden unit: for each token that leaves the layer, and its parameters.
        token: For each token that the layer answers for, beside hidden units and attention.
        key: For each token that enters, beside that.
        pair: For each token that the layer answers for with each token that enters: attention.
        match: For each pair of patches that are compared before tokens merge.
        answers: Tokens that it answers for, where the others' answers are read by nobody; None is all.
    """

    unit: Cost
    token: int = 0
    key: int = 0
    pair: int = 0
    match: int = 0
    answers: int | None = None

    def macs(self, kept: Layer, entering: int, leaving: int, prefix: int) -> int:
        """Of a layer as a submodel keeps it, with so many tokens, of which `prefix` are no patches."""
        if self.answers is not None:
            answered = leaving = self.answers
        else:
            answered = entering
        macs = self.key * entering + answered * (self.token + self.pair * entering)
        if kept.merge and self.answers is None:
            patches = entering - prefix
            macs += self.match * ((patches + 1) // 2) * (patches // 2)
        return macs + leaving * self.unit.macs * kept.ffn


@dataclass(frozen=True)
class PoolCost:
    """Cost of a pool that attends to tokens, as multiply-accumulates for each token and pair of tokens.

    Args:
        token: For each token that it reads.
        pair: For each token that it reads with each other one.
        skipped: Tokens that it does not read.
    """

    token: int = 0
    pair: int = 0
    skipped: int = 0

    def macs(self, tokens: int) -> int:
        """Of so many tokens, those included that it does not read."""
        read = tokens - self.skipped
        return self.token * read + self.pair * read**2


@dataclass(frozen=True)
class CostModel:
    """Cost as a function of the submodel.

    Args:
        fixed: What no axis changes.
        layers: One a layer.
        tokens: How many there are.
        patch: Of making a token of one patch, and the parameters of its position.
        pool: Cost of a pool that is more than a mean.
    """

    fixed: Cost
    layers: tuple[LayerCost, ...]
    tokens: Tokens
    patch: Cost = Cost(0, 0)
    pool: PoolCost = PoolCost()

    def __call__(self, submodel: Submodel) -> Cost:
        """Cost of one image through a submodel.

        Raises:
            SubmodelError: The encoder cannot read images of its size, or merge tokens.
        """
        self.tokens.check(submodel)
        tokens, prefix = self.tokens.entering(submodel), self.tokens.prefix
        layers = list(zip(self.layers, submodel.layers, strict=True))
        patches = tokens[0] - prefix
        macs = self.fixed.macs + self.patch.macs * patches + self.pool.macs(tokens[-1])
        for (layer, kept), (entering, leaving) in zip(layers, pairwise(tokens), strict=True):
            macs += layer.macs(kept, entering, leaving, prefix)
        params = self.fixed.params + self.patch.params * patches
        params += sum(layer.unit.params * kept.ffn for layer, kept in layers)
        return Cost(macs, params)
