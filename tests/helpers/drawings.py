"""What there is to see in a picture that was drawn."""

from pathlib import Path

import numpy as np
from PIL import Image


def pixels(path: Path) -> np.ndarray:
    """Of a PNG file, (N, 3)."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).reshape(-1, 3)


def share_of_colour(path: Path) -> float:
    """The share of pixels that are no grey."""
    spread = np.ptp(pixels(path).astype(int), axis=1)
    return float((spread > 20).mean())
