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
from matvit.submodels.cost import Cost, CostModel
from matvit.vision.ffn import TimmEncoder, hidden_units, unit_size


def cost_model(model: TimmEncoder) -> CostModel:
    """The cost of every submodel of a timm Vision Transformer, at its own image size, head included if any.

    Raises:
        UnknownModelError: The model pools with a layer whose cost is not known here.
    """
    patches = model.patch_embed.num_patches
    tokens = patches + model.num_prefix_tokens

    per_unit, hidden = [], []
    macs = _stem_macs(model)
    for block in model.blocks:
        weights, params = unit_size(block)
        per_unit.append(Cost(macs=tokens * weights, params=params))
        hidden.append(hidden_units(block))
        macs += _attention_macs(block, tokens) + tokens * (_linear_weights(block) - hidden[-1] * weights)
    if model.attn_pool is not None:
        # timm's Eva has no such switch: its pool reads every token.
        macs += _pool_macs(
            model.attn_pool, tokens if getattr(model, "pool_include_prefix", True) else patches
        )
    macs += sum(_linear_weights(head) for name, head in model.named_children() if name.startswith("head"))

    params = sum(p.numel() for p in model.parameters())
    params -= sum(unit.params * units for unit, units in zip(per_unit, hidden, strict=True))
    return CostModel(Cost(macs, params), tuple(per_unit))


def _linear_weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def _attention_macs(block: Any, tokens: int) -> int:
    """Queries against keys and weights against values, of every attention in a block."""
    macs = 0
    for module in block.modules():
        if isinstance(module, DiffAttention | DiffParallelScalingBlock):
            # Two attentions with half the channels in queries and keys, each over all of the values.
            macs += 3 * tokens**2 * 2 * module.head_dim * module.num_heads
        elif hasattr(module, "num_heads"):
            macs += 2 * tokens**2 * module.head_dim * module.num_heads
    return macs


def _pool_macs(pool: Any, tokens: int) -> int:
    if isinstance(pool, AttentionPoolPrr):
        return 2 * tokens**2 * pool.num_heads * pool.head_dim
    if not isinstance(pool, AttentionPoolLatent):
        raise UnknownModelError(f"the cost of pooling with {type(pool).__name__} is not known")
    latents = pool.latent_len
    once_a_latent = sum(_linear_weights(m) for m in (pool.q, pool.proj, pool.mlp) if m is not None)
    attention = 2 * latents * tokens * pool.num_heads * pool.head_dim
    return latents * once_a_latent + tokens * _linear_weights(pool.kv) + attention


def _stem_macs(model: TimmEncoder) -> int:
    stem = model.patch_embed
    if type(stem) is PatchEmbed:
        return stem.num_patches * stem.proj.weight.numel()
    # A stem that is a network of its own, as in hybrid models: torch counts it, on tensors without data.
    shapes = {id(p): nn.Parameter(p.detach().to("meta")) for p in stem.parameters()}
    stem = copy.deepcopy(stem, shapes).to("meta").float().eval()
    with FlopCounterMode(display=False) as counter:
        stem(torch.empty(1, model.in_chans, *stem.img_size, device="meta"))
    return counter.get_total_flops() // 2
