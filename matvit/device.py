"""Which device and number format to compute in, from what a user asked for."""

from contextlib import AbstractContextManager

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


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The format of matrix products for ``auto``, ``fp32`` or ``bf16``; auto is bf16 on GPUs that have it.

    Raises:
        DeviceError: The name is none of these.
    """
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if name not in formats:
        raise DeviceError(f"{name!r} is no number format: write auto, fp32 or bf16")
    return formats[name]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Compute matrix products in `dtype`, sums and norms in float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
