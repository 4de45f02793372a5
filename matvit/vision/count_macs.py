"""Counting what an encoder's submodels cost, from the architecture alone.

The count is what `torch.utils.flop_counter` sees: matrix products, convolutions and attention; it prints
FLOPs, which are two a multiply-accumulate.
"""

import copy
from typing import Any

import torch
from timm.layers import AttentionPoolLatent, AttentionPoolPrr, DiffAttention, PatchEmbed
from timm.models.vision_transformer import DiffParallelScalingBlock
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from matvit.errors import UnknownModelError
from matvit.submodels.cost import Cost, CostModel, LayerCost, PoolCost
from matvit.submodels.tokens import Tokens
from matvit.vision.attention import is_plain
from matvit.vision.ffn import TimmEncoder, hidden_units, unit_size
from matvit.vision.pooled_token import PooledTokenBlock, PooledTokenEvaBlock


def cost_model(model: TimmEncoder, tokens: Tokens) -> CostModel:
    """The cost of every submodel of a timm Vision Transformer, head included if any.

    Args:
        model: Plain or elastic.
        tokens: See `matvit.vision.tokens.tokens_of`.

    Raises:
        UnknownModelError: The model pools with a layer whose cost is not known here.
    """
    layers = tuple(map(_layer_cost, model.blocks))
    hidden = map(hidden_units, model.blocks)
    params = sum(p.numel() for p in model.parameters())
    params -= sum(layer.unit.params * units for layer, units in zip(layers, hidden, strict=True))
    heads = sum(_linear_weights(head) for name, head in model.named_children() if name.startswith("head"))
    patches, patch, stem = model.patch_embed.num_patches, Cost(0, 0), 0
    if type(model.patch_embed) is PatchEmbed:
        position = 0 if model.pos_embed is None else model.pos_embed.shape[-1]
        patch = Cost(model.patch_embed.proj.weight.numel(), position)
    else:
        stem = _stem_macs(model)
    pool = PoolCost()
    latent_macs = 0
    if model.attn_pool is not None:
        # timm's Eva has no such switch: its pool reads every token.
        skipped = 0 if getattr(model, "pool_include_prefix", True) else model.num_prefix_tokens
        latent_macs, pool = _pool_cost(model.attn_pool, skipped)
    fixed = Cost(stem + heads + latent_macs, params - patch.params * patches)
    return CostModel(fixed, layers, tokens, patch, pool)


def _layer_cost(block: Any) -> LayerCost:
    weights, params = unit_size(block)
    unit = Cost(macs=weights, params=params)
    every_token = _linear_weights(block) - hidden_units(block) * weights
    pair = _attention_macs(block)
    match = block.attn.head_dim if is_plain(block) else 0
    if not isinstance(block, PooledTokenBlock | PooledTokenEvaBlock):
        return LayerCost(unit, token=every_token, pair=pair, match=match)
    keys = 2 * block.attn.proj.weight.numel()  # Of keys and values, which are as wide as what they become.
    return LayerCost(unit, token=every_token - keys, key=keys, pair=pair, answers=1)


def _linear_weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def _attention_macs(block: Any) -> int:
    """Of a query with a key, and of its weight with a value, in every attention of a block."""
    macs = 0
    for module in block.modules():
        if isinstance(module, DiffAttention | DiffParallelScalingBlock):
            # Two attentions with half the channels in queries and keys, each over all of the values.
            macs += 3 * 2 * module.head_dim * module.num_heads
        elif hasattr(module, "num_heads"):
            macs += 2 * module.head_dim * module.num_heads
    return macs


def _pool_cost(pool: Any, skipped: int) -> tuple[int, PoolCost]:
    """MACs that depend on no token, and those that do."""
    if isinstance(pool, AttentionPoolPrr):
        return 0, PoolCost(pair=2 * pool.num_heads * pool.head_dim, skipped=skipped)
    if not isinstance(pool, AttentionPoolLatent):
        raise UnknownModelError(f"the cost of pooling with {type(pool).__name__} is not known")
    latents = pool.latent_len
    once_a_latent = sum(_linear_weights(m) for m in (pool.q, pool.proj, pool.mlp) if m is not None)
    attention = 2 * latents * pool.num_heads * pool.head_dim
    return latents * once_a_latent, PoolCost(token=_linear_weights(pool.kv) + attention, skipped=skipped)


def _stem_macs(model: TimmEncoder) -> int:
    """Of a stem that is a network of its own, as in hybrid models: torch counts it."""
    stem = model.patch_embed  # Copied without data.
    shapes = {id(p): nn.Parameter(p.detach().to("meta")) for p in stem.parameters()}
    stem = copy.deepcopy(stem, shapes).to("meta").float().eval()
    with FlopCounterMode(display=False) as counter:
        stem(torch.empty(1, model.in_chans, *stem.img_size, device="meta"))
    return counter.get_total_flops() // 2
