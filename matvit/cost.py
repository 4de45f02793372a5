"""What a submodel costs: multiply-accumulates and parameters, from the architecture alone.

An encoder's cost is a fixed part plus so much for every hidden unit that its FFNs keep, so that the
whole Mix'n'Match curve costs a few additions. The count is what `torch.utils.flop_counter` sees:
matrix products, convolutions and attention; it prints FLOPs, which are two a multiply-accumulate.
"""

from dataclasses import dataclass

from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from matvit.errors import UnknownModelError
from matvit.submodel import Submodel


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
    """Cost as a function of the widths: a fixed part, and a part for each hidden unit of each layer.

    Args:
        fixed: Everything but the hidden units.
        per_unit: Cost of one hidden unit, one entry a layer.
    """

    fixed: Cost
    per_unit: tuple[Cost, ...]

    def __call__(self, submodel: Submodel) -> Cost:
        """Cost of one image through the submodel."""
        layers = list(zip(self.per_unit, submodel.widths, strict=True))
        return Cost(
            macs=self.fixed.macs + sum(unit.macs * width for unit, width in layers),
            params=self.fixed.params + sum(unit.params * width for unit, width in layers),
        )


def cost_model(model: VisionTransformer) -> CostModel:
    """The cost of every submodel of a Vision Transformer at its own image size, head included if it has one.

    Raises:
        UnknownModelError: The model pools with a layer whose cost is not known here.
    """
    patches = model.patch_embed.num_patches
    tokens = patches + model.num_prefix_tokens

    per_unit, macs = [], patches * model.patch_embed.proj.weight.numel()
    for block in model.blocks:
        fc1, fc2 = block.mlp.fc1, block.mlp.fc2
        weights = fc1.in_features + fc2.out_features
        per_unit.append(Cost(macs=tokens * weights, params=weights + (fc1.bias is not None)))
        # Queries against keys, then weights against values.
        macs += 2 * tokens**2 * block.attn.attn_dim + tokens * _linear_weights(block.attn)
    macs += _pool_macs(model.attn_pool, tokens if model.pool_include_prefix else patches)
    macs += _linear_weights(model.head)

    hidden_params = sum(
        unit.params * block.mlp.fc1.out_features for unit, block in zip(per_unit, model.blocks, strict=True)
    )
    params = sum(p.numel() for p in model.parameters()) - hidden_params
    return CostModel(Cost(macs, params), tuple(per_unit))


def _linear_weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def _pool_macs(pool: nn.Module | None, tokens: int) -> int:
    if pool is None:
        return 0
    if not isinstance(pool, AttentionPoolLatent):
        raise UnknownModelError(f"the cost of pooling with {type(pool).__name__} is not known")
    latents = pool.latent_len
    once_a_latent = sum(_linear_weights(m) for m in (pool.q, pool.proj, pool.mlp))
    attention = 2 * latents * tokens * pool.num_heads * pool.head_dim
    return latents * once_a_latent + tokens * _linear_weights(pool.kv) + attention
