"""Token merging: between attention and FFN, the most alike tokens become their mean.

Source: ToMe (arXiv 2210.09461). Patches are split by turns into two sets; each of the first is compared with
all of the second by its key, the mean over the heads, and as many as are to go merge into the one that they
are most alike. A token that stands for several counts as often in the means that follow and in attention. The
class token and its like never merge. Which tokens merge hangs on the last bits of their keys where two are
alike: an image may be embedded a little differently in another batch.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from matvit.errors import SubmodelError
from matvit.vision.attention import attend, is_plain, size_bias
from matvit.vision.pooled_token import PooledTokenBlock
from matvit.vision.views import replaced


def why_not(encoder: Any) -> str:
    """Why the tokens of a timm encoder cannot merge; empty where they can."""
    if getattr(encoder, "rope", None) is not None:
        return "tokens cannot merge where rotary position embeddings tell the place of each"
    pool, pooling = getattr(encoder, "attn_pool", None), encoder.global_pool
    unknown = [_kind(block) for block in encoder.blocks if not is_plain(block)]
    if not isinstance(encoder, VisionTransformer):
        unknown.append(f"a {type(encoder).__name__}")
    elif pool is not None and not (isinstance(pool, AttentionPoolLatent) and pool.pos_embed is None):
        unknown.append(f"pooling with {type(pool).__name__}")
    elif pool is None and pooling not in ("token", "avg"):
        unknown.append(f"pooling of the kind {pooling!r}")
    return f"merging tokens is not known for {unknown[0]}" if unknown else ""


def _kind(block: Any) -> str:
    attention = f" with {type(block.attn).__name__}" if hasattr(block, "attn") else ""
    return f"blocks of the kind {type(block).__name__}{attention}"


def merge(
    x_BND: Tensor, keys_BNK: Tensor, sizes_BN: Tensor, count: int, prefix: int
) -> tuple[Tensor, Tensor]:
    """Merge some tokens into others.

    Args:
        x_BND: Tokens.
        keys_BNK: What they are compared by.
        sizes_BN: Of how many tokens each is the mean, in float32.
        count: How many go, where half of the patches are as many.
        prefix: Tokens before the patches, which stay.

    Returns:
        Tokens (B, N - count, D) and their sizes: the prefix, what stays of the first set, the second set.
    """
    B, N, _ = x_BND.shape
    count = min(count, (N - prefix) // 2)
    if not count:
        return x_BND, sizes_BN
    likeness, partner = _likeness(keys_BNK[:, prefix:]).max(-1)
    ranked = likeness.argsort(dim=-1, descending=True, stable=True)
    going, staying = ranked[:, :count], ranked[:, count:].sort(-1).values
    places = torch.arange(N, device=x_BND.device).expand(B, -1)
    kept = torch.cat([places[:, :prefix], prefix + 2 * staying, places[:, prefix + 1 :: 2]], 1)
    going, into = prefix + 2 * going, prefix + staying.shape[1] + partner.gather(1, going)
    parts, before = sizes_BN.gather(1, going), sizes_BN.gather(1, kept)
    sizes = before.scatter_add(1, into, parts)
    # So that a token which nothing merges into stays as it is, to the bit.
    means = _rows(x_BND, kept) * (before / sizes)[..., None]
    added = _rows(x_BND, going) * (parts / sizes.gather(1, into))[..., None]
    means = means.flatten(0, 1).index_add(0, _of_all(into, N - count), added.flatten(0, 1))
    return means.view(B, N - count, -1).to(x_BND), sizes


def _likeness(keys_BNK: Tensor) -> Tensor:
    """Cosines of every first one's key with every second one's, in float32.

    Neighbours in bfloat16 are so alike that their order would be lost.
    """
    keys = F.normalize(keys_BNK.float(), dim=-1)
    device = keys.device.type
    exact = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
    with exact:
        return keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)


def _rows(x_BND: Tensor, index_BK: Tensor) -> Tensor:
    """Some tokens of each image, whole rows at a time."""
    B, N, _ = x_BND.shape
    return x_BND.flatten(0, 1).index_select(0, _of_all(index_BK, N)).view(B, index_BK.shape[1], -1)


def _of_all(index_BK: Tensor, count: int) -> Tensor:
    """Where tokens are among those of all images, of which each has so many."""
    if len(index_BK) == 1:
        return index_BK[0]
    starts = torch.arange(0, len(index_BK) * count, count, device=index_BK.device)
    return (index_BK + starts[:, None]).flatten()


class _Merging(nn.Module):
    """What makes a timm encoder merge tokens, mixed into the classes below.

    Attributes:
        merges: Tokens that merge, one number a layer.
    """

    merges: tuple[int, ...]

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Any:
        """Images (B, C, H, W) to what timm's class makes of them; masks are refused."""
        return self._pooled(*self._merged(x, attn_mask, is_causal), pre_logits=False)

    def forward_embedding(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to embeddings (B, D), before the classifier."""
        embedding: Tensor = self._pooled(*self._merged(x, None, False), pre_logits=True)
        return embedding

    def _pooled(self, tokens: Tensor, sizes: Tensor | None, *, pre_logits: bool) -> Any:
        timm: Any = self
        if timm.attn_pool is not None:
            skipped = 0 if timm.pool_include_prefix else timm.num_prefix_tokens
            bias = None if sizes is None else size_bias(sizes[:, skipped:], tokens.dtype)
            pooled = timm.head_drop(timm.fc_norm(timm.attn_pool(tokens[:, skipped:], attn_mask=bias)))
            return pooled if pre_logits else timm.head(pooled)
        if timm.global_pool == "avg" and sizes is not None:
            # The mean of all patches there were is that of those that are left, each as often as it counts.
            averaged = sizes if timm.pool_include_prefix else sizes[:, timm.num_prefix_tokens :]
            tokens = tokens * (sizes / averaged.mean(1, keepdim=True))[..., None].to(tokens)
        return timm.forward_head(tokens, pre_logits=pre_logits)

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Images (B, C, H, W) to the tokens that are left (B, N, D), after the final norm."""
        return self._merged(x, attn_mask, is_causal)[0]

    def forward_intermediates(self, x: Tensor, *arguments: Any, **options: Any) -> Any:
        """Refused: tokens that merged lie on no grid.

        Raises:
            SubmodelError: Always.
        """
        raise SubmodelError("a submodel that merges tokens has no grids of intermediate ones")

    def _merged(self, x: Tensor, attn_mask: Tensor | None, is_causal: bool) -> tuple[Tensor, Tensor | None]:
        """Tokens after the final norm, and of how many each is the mean; None where nothing merged."""
        if attn_mask is not None or is_causal:
            raise SubmodelError("a submodel that merges tokens takes no attention mask")
        timm: Any = self
        x = timm.norm_pre(timm.patch_drop(timm._pos_embed(timm.patch_embed(x))))
        sizes = None
        for block, count in zip(timm.blocks, self.merges, strict=True):
            if timm.grad_checkpointing:
                x, sizes = checkpoint(
                    _through, block, x, sizes, count, timm.num_prefix_tokens, use_reentrant=False
                )
            else:
                x, sizes = _through(block, x, sizes, count, timm.num_prefix_tokens)
        return timm.norm(x), sizes


def _through(
    block: Any, x_BND: Tensor, sizes_BN: Tensor | None, count: int, prefix: int
) -> tuple[Tensor, Tensor | None]:
    """One block, in which so many tokens merge."""
    if isinstance(block, PooledTokenBlock):  # What merges after its attention is read by nobody.
        return block(x_BND, sizes=sizes_BN), sizes_BN
    if not count and sizes_BN is None:
        return block(x_BND), None
    answer, keys = attend(block.attn, block.norm1(x_BND), sizes_BN=sizes_BN)
    x_BND = x_BND + block.drop_path1(block.ls1(answer))
    if count:
        if sizes_BN is None:
            sizes_BN = x_BND.new_ones(x_BND.shape[:2], dtype=torch.float32)
        x_BND, sizes_BN = merge(x_BND, keys.mean(1), sizes_BN, count, prefix)
    return x_BND + block.drop_path2(block.ls2(block.mlp(block.norm2(x_BND)))), sizes_BN


class MergingViT(_Merging, VisionTransformer):
    """timm's `VisionTransformer` with merging tokens."""


class MergingViTDistilled(_Merging, VisionTransformerDistilled):
    """timm's `VisionTransformerDistilled` with merging tokens."""


_MERGING: Mapping[type, type] = {
    VisionTransformer: MergingViT,
    VisionTransformerDistilled: MergingViTDistilled,
}


def merging(encoder: Any, merges: tuple[int, ...]) -> Any:
    """An encoder of timm's own classes, its tokens merging; it shares all with the one given."""
    return replaced(encoder, _MERGING[type(encoder)], merges=merges)
