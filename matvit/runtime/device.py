"""Which device and number format to compute in, from what a user asked for."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from matvit.errors import DeviceError


def pick_device(name: str = "auto") -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        DeviceError: It was asked for by name and is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"{name!r} is no device: write auto, cpu, cuda, cuda:0 or mps") from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise DeviceError(
            f"device {name} was asked for, but this machine has none; --device cpu works everywhere"
        )
    return device


def pick_dtype(name: str, device: torch.device, *, training: bool = False) -> torch.dtype:
    """The number format for ``auto``, ``fp32`` or ``bf16``; auto is bf16 where the device has it natively.

    Args:
        name: What was asked for.
        device: Where it is to run.
        training: Train in it. Auto then stays with fp32 on a CPU, where autocast costs more than it saves.

    Raises:
        DeviceError: The name is none of these.
    """
    if name == "auto":
        native = _has_bf16(device) and not (training and device.type == "cpu")
        return torch.bfloat16 if native else torch.float32
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if name not in formats:
        raise DeviceError(f"{name!r} is no number format: write auto, fp32 or bf16")
    return formats[name]


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Older torch cannot tell, and float32 is right everywhere.
        capabilities: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
        features = capabilities()
        return any(features.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    return False


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Compute matrix products in `dtype`, sums and norms in float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
