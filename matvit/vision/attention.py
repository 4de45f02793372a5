"""timm's attention, computed for some of its tokens, or with tokens that stand for several."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from timm.layers.attention import Attention
from timm.models.eva import EvaAttention
from timm.models.vision_transformer import Block
from torch import Tensor


def is_plain(block: Any) -> bool:
    """Whether a block is timm's `Block` around timm's `Attention`, which this module knows."""
    return isinstance(block, Block) and type(block.attn) is Attention


def attend(
    attn: Attention, x_BND: Tensor, *, answers: int | None = None, sizes_BN: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What timm's `Attention` answers, and the keys.

    Args:
        attn: One of these modules.
        x_BND: Tokens.
        answers: How many tokens to answer for, from the first; None is all.
        sizes_BN: Of how many tokens each is the mean; it gets as much attention as they would. None is one.

    Returns:
        Answers (B, A, D), and keys (B, heads, N, D / heads).
    """
    B, N, _ = x_BND.shape
    answers = N if answers is None else answers
    weight, bias, width = attn.qkv.weight, attn.qkv.bias, attn.attn_dim
    asking = x_BND[:, :answers]
    if answers == N:
        q, k, v = attn.qkv(x_BND).reshape(B, N, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    else:
        q = F.linear(asking, weight[:width], None if bias is None else bias[:width])
        q = q.reshape(B, answers, attn.num_heads, -1).transpose(1, 2)
        kv = F.linear(x_BND, weight[width:], None if bias is None else bias[width:])
        k, v = kv.reshape(B, N, 2, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    k = attn.k_norm(k)
    answer = F.scaled_dot_product_attention(
        attn.q_norm(q),
        k,
        v,
        attn_mask=None if sizes_BN is None else size_bias(sizes_BN, q.dtype),
        dropout_p=attn.attn_drop.p if attn.training else 0.0,
    )
    answer = attn.norm(answer.transpose(1, 2).flatten(2))
    if attn.gate is not None:
        answer = answer * attn.gate(asking).sigmoid()
    return attn.proj_drop(attn.proj(answer)), k


def answer_for_first(attn: EvaAttention, x_BND: Tensor, rope: Tensor | None) -> Tensor:
    """What timm's `EvaAttention` answers for the first token, one without a position: (B, 1, D).

    Args:
        attn: One of these modules.
        x_BND: Tokens.
        rope: As in timm: what keys of patches are rotated by.
    """
    asking = x_BND[:, :1]
    if attn.qkv is None:
        q, k, v = attn.q_proj(asking), attn.k_proj(x_BND), attn.v_proj(x_BND)
    else:
        asked, *read = attn.qkv.weight.chunk(3)
        q = F.linear(asking, asked, attn.q_bias)
        k, v = (F.linear(x_BND, w, b) for w, b in zip(read, (attn.k_bias, attn.v_bias), strict=True))
    q, k, v = (each.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for each in (q, k, v))
    q, k = attn.q_norm(q), attn.k_norm(k)
    if rope is not None:
        prefix = attn.num_prefix_tokens
        patches = apply_rot_embed_cat(k[:, :, prefix:], rope, half=attn.rotate_half)
        k = torch.cat([k[:, :, :prefix], patches], 2)
    answer = F.scaled_dot_product_attention(
        q.type_as(v), k.type_as(v), v, dropout_p=attn.attn_drop.p if attn.training else 0.0
    )
    answer = attn.norm(answer.transpose(1, 2).flatten(2))
    if attn.gate is not None:
        answer = answer * attn.gate(asking).sigmoid()
    return attn.proj_drop(attn.proj(answer))


def size_bias(sizes_BN: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to scores of attention, (B, 1, 1, N), so that a token counts as often as it stands for."""
    return sizes_BN.log().to(dtype)[:, None, None]
