"""What a submodel costs, as values: multiply-accumulates and parameters.

An encoder's cost is a fixed part plus so much for every hidden unit that its FFNs keep, so that the
whole Mix'n'Match curve costs a few additions. `matvit.vision.count_macs` finds both from the architecture.
"""

from dataclasses import dataclass

from matvit.submodels.submodel import Submodel, at_own_size


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
class CostModel:
    """Cost as a function of the submodel: a fixed part, and a part for each hidden unit of each layer.

    Args:
        fixed: Everything but the hidden units.
        per_unit: Cost of one hidden unit, one entry a layer.
    """

    fixed: Cost
    per_unit: tuple[Cost, ...]

    def __call__(self, submodel: Submodel) -> Cost:
        """Cost of one image through the submodel.

        Raises:
            SubmodelError: It reads images at another size than the encoder's own.
        """
        layers = list(zip(self.per_unit, at_own_size(submodel).layers, strict=True))
        return Cost(
            macs=self.fixed.macs + sum(unit.macs * layer.ffn for unit, layer in layers),
            params=self.fixed.params + sum(unit.params * layer.ffn for unit, layer in layers),
        )
