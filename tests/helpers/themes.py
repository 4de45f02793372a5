"""Preprocessed images that a fit can learn from."""

import torch
from torch import Tensor


def pictures(count: int = 24, seed: int = 0) -> Tensor:
    """Images with more in common than noise has, so that few of them tell of others."""
    generator = torch.Generator().manual_seed(seed)
    themes = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    shares = torch.randn(count, 6, generator=generator)
    noise = torch.randn(count, 3, 32, 32, generator=generator)
    return torch.einsum("bt,tchw->bchw", shares, themes) / 2 + 0.3 * noise
