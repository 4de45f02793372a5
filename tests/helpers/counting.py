"""torch's own count of floating-point operations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count, attention as two matrix products: torch before 2.15 does not count its fused kernel for CPUs."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        yield counter


@torch.enable_grad()  # Without, torch fails to count modules that are given a parameter.
def counted(run: Callable[[Tensor], object], images: Tensor) -> int:
    """Multiply-accumulates of the first image."""
    with counting() as counter:
        run(images[:1])
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2
