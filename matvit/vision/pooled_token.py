"""A last block that answers for the pooled token alone, where nothing else of it is read.

A Vision Transformer that pools by its class token drops all other tokens after its last block. They are
needed there as keys and values; their queries, projections and FFN are not.
"""

from collections.abc import Mapping
from typing import Any

from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from matvit.vision.attention import answer_for_first, attend, is_plain
from matvit.vision.views import replaced


class PooledTokenBlock(Block):
    """timm's `Block` for the first token: tokens (B, N, D) to (B, 1, D)."""

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        sizes: Tensor | None = None,
    ) -> Tensor:
        """As in timm, but for masks; of how many tokens each is the mean may be given, (B, N).

        Raises:
            ValueError: There is a mask.
        """
        _refuse(attn_mask, is_causal)
        answer, _ = attend(self.attn, self.norm1(x), answers=1, sizes_BN=sizes)
        x = x[:, :1] + self.drop_path1(self.ls1(answer))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class PooledTokenEvaBlock(EvaBlock):
    """timm's `EvaBlock` for the first token: tokens (B, N, D) to (B, 1, D)."""

    def forward(
        self,
        x: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """As in timm, but for masks.

        Raises:
            ValueError: There is a mask.
        """
        _refuse(attn_mask, is_causal)
        answer = answer_for_first(self.attn, self.norm1(x), rope)
        x = x[:, :1] + self.drop_path1(answer if self.gamma_1 is None else self.gamma_1 * answer)
        hidden = self.mlp(self.norm2(x))
        return x + self.drop_path2(hidden if self.gamma_2 is None else self.gamma_2 * hidden)


_POOLED: Mapping[type, type] = {Block: PooledTokenBlock, EvaBlock: PooledTokenEvaBlock}


def _refuse(attn_mask: Tensor | None, is_causal: bool) -> None:
    if attn_mask is not None or is_causal:
        raise ValueError("an encoder that reads its pooled token alone takes no attention mask")


def read_pooled_token_alone(model: nn.Module) -> None:
    """Let the last block of a model answer for its pooled token alone, in place, where that changes nothing.

    It changes the numbers no more than the order of a sum does. Models that pool otherwise stay as they are.
    """
    if (
        isinstance(model, VisionTransformer | Eva)
        and not isinstance(model, VisionTransformerDistilled)
        and model.global_pool == "token"
        and model.attn_pool is None
        and _is_known(model.blocks[-1])
    ):
        model.blocks[-1].__class__ = _POOLED[type(model.blocks[-1])]


def _is_known(block: Any) -> bool:
    if type(block) is EvaBlock:
        return type(block.attn) is EvaAttention
    return type(block) is Block and is_plain(block)


def answering_for_all(encoder: Any) -> Any:
    """An encoder whose last block is timm's own; it shares all else with the one given."""
    name, last = list(encoder.blocks.named_children())[-1]
    kind = next((own for own, pooled in _POOLED.items() if isinstance(last, pooled)), None)
    if kind is None:
        return encoder
    return replaced(encoder, blocks=replaced(encoder.blocks, **{name: replaced(last, kind)}))
