"""Greys of more than 8 bits, scaled to 0..255 by what their file says of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.errors import UnreadableImageError

_BITS, _WHITE_IS_ZERO = 258, 262  # Tags of TIFF.
_RANGES = ((340, 341), (280, 281))  # Its lowest and highest value, of any type and of whole numbers.
_ALREADY_SCALED = ("JPEG2000", "PPM")
"""Formats that Pillow scales to 16 bits, whatever their file holds."""
_WHITES = (2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1)


def is_wide(image: Image.Image) -> bool:
    """Whether an image holds greys of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def eight_bit(image: Image.Image) -> Image.Image:
    """An image of wide greys in 8 bits, with alpha where one of its greys stands for transparency.

    Black and white are what a TIFF says they are. Where a file says nothing, black is 0, and white the
    highest value of the fewest bits (8, 10, 12, 14 or 16) that hold all of its values, since what cameras and
    microscopes write as 16 bits is often fewer; floating-point numbers may go up to 1, too.

    Raises:
        UnreadableImageError: Which values are black and white cannot be told: there are negative ones, larger
            ones than 16 bits hold, or some that are not finite.
    """
    floats = image.mode == "F"
    # Pillow has no numbers for every order of bytes.
    values_HW = np.asarray(image if floats else image.convert("I"))
    tags: Any = getattr(image, "tag_v2", {})
    black, white = _range(values_HW, tags, floats=floats, scaled=image.format in _ALREADY_SCALED)
    greys_HW = (values_HW.astype(np.float64) - black) * (255 / (white - black)) + 0.5
    if tags.get(_WHITE_IS_ZERO) == 0:
        greys_HW = 256 - greys_HW
    grey = Image.fromarray(greys_HW.clip(0, 255).astype(np.uint8))
    if isinstance(through := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(values_HW == through, 0, 255).astype(np.uint8)))
    return grey


def _range(values_HW: NDArray[Any], tags: Any, *, floats: bool, scaled: bool) -> tuple[float, float]:
    """The values that are black and white (or, where white is zero, the other way round)."""
    low, high = float(values_HW.min()), float(values_HW.max())
    for lowest, highest in _RANGES:
        said = [_number(tags.get(tag)) for tag in (lowest, highest)]
        if said[0] is not None and said[1] is not None and said[0] <= low and high <= said[1] > said[0]:
            return said[0], said[1]
    whites: tuple[int, ...] = (1, *_WHITES) if floats else _WHITES
    bits = tags.get(_BITS, (16,))[0]
    if scaled and not floats:
        whites = _WHITES[-1:]
    elif bits < 16:
        whites = (2**bits - 1,)
    if low >= 0 and (white := next((each for each in whites if high <= each), None)):
        return 0, white
    raise UnreadableImageError(
        f"greys from {low:g} to {high:g}, and the file does not say which are black and white: "
        "save it in 8 or 16 bits"
    )


def _number(value: Any) -> float | None:
    """The value of a tag that holds one number; None if there is no such tag, or it holds something else."""
    first = value[0] if isinstance(value, tuple) and value else value
    try:
        return None if first is None else float(first)
    except (TypeError, ValueError, ArithmeticError):
        return None
