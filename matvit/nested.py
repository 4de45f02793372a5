"""Transformer layers whose FFN can use just its first hidden units.

The width is an argument of the call, never a state of the layer: any number of threads, compiled
graphs and recomputed activations may use different widths of the same weights at the same time.
"""

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class NestedMlp(Mlp):
    """timm's FFN, cut to its first `width` hidden units where a width is given."""

    fc1: nn.Linear
    fc2: nn.Linear

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        """Map tokens x (B, N, D) to (B, N, D); with `width` None through timm's own code."""
        if width is None:
            return super().forward(x)
        bias = self.fc1.bias
        # Slices are views: nothing is copied, and the products shrink with the width.
        x = F.linear(x, self.fc1.weight[:width], None if bias is None else bias[:width])
        x = self.drop1(self.act(x))
        x = F.linear(x, self.fc2.weight[:, :width], self.fc2.bias)
        return self.drop2(x)


class NestedBlock(Block):
    """timm's pre-norm block, handing a width to its FFN."""

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        width: int | None = None,
    ) -> Tensor:
        """Map tokens x (B, N, D) to (B, N, D) with the FFN's first `width` hidden units, or all of them."""
        if width is None:
            return super().forward(x, attn_mask=attn_mask, is_causal=is_causal)
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x), width)))


def narrowed(mlp: Mlp, width: int) -> None:
    """Cut an FFN down to its first `width` hidden units for good, in tensors of its own."""
    fc1, fc2 = mlp.fc1, mlp.fc2
    with torch.no_grad():
        fc1.weight = nn.Parameter(fc1.weight[:width].clone(), fc1.weight.requires_grad)
        if fc1.bias is not None:
            fc1.bias = nn.Parameter(fc1.bias[:width].clone(), fc1.bias.requires_grad)
        fc2.weight = nn.Parameter(fc2.weight[:, :width].clone(), fc2.weight.requires_grad)
    fc1.out_features = fc2.in_features = width
