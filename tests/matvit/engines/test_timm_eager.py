"""The baseline: timm's full encoder, whatever is asked for."""

from collections.abc import Callable

import torch
from torch import Tensor

from matvit.engines.timm_eager import TimmEager


def test_it_is_timms_own_class_and_always_the_full_encoder(make_tiny: Callable, images: Tensor) -> None:
    encoder = make_tiny(depth=2)
    run = TimmEager().build(encoder, encoder.space.smallest, images)
    assert type(run).__module__.startswith("timm.")
    with torch.no_grad():
        assert torch.equal(run(images), encoder(images))
