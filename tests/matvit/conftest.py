"""A tiny MatViT with no zero anywhere in it, its plain timm twin, and images for both."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from hypothesis import settings
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from matvit import MatViT

settings.register_profile("models", deadline=None)  # A busy machine makes a model slow, not wrong.
settings.load_profile("models")

TINY = {
    "img_size": 16,
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
    "num_classes": 5,
}


def _tiny(**kwargs: Any) -> MatViT:
    torch.manual_seed(0)
    model = timm.create_model("matvit_tiny_patch16_224", **{**TINY, **kwargs}).eval()
    with torch.no_grad():  # Fresh biases are zeros and fresh norms ones: a mistake in either would not show.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _plain(model: MatViT, **kwargs: Any) -> VisionTransformer:
    plain = timm.create_model("vit_tiny_patch16_224", **{**TINY, **kwargs}).eval()
    plain.load_state_dict(model.state_dict())
    return plain


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., MatViT]:
    """Makes a MatViT in evaluation mode; the same weights for the same arguments."""
    return _tiny


@pytest.fixture(scope="session")
def make_plain() -> Callable[..., VisionTransformer]:
    """Makes timm's own model with the weights of a MatViT that was made with the same arguments."""
    return _plain


@pytest.fixture(scope="session")
def tiny() -> MatViT:
    """Shared by many tests: read only."""
    return _tiny()


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
