"""Greys of more than 8 bits, scaled to 0..255 by what their file says of them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.errors import UnreadableImageError

_BITS, _WHITE_IS_ZERO = 258, 262  # Tags of TIFF.
_RANGES = ((340, 341), (280, 281))  # Its lowest and highest value, of any type and of whole numbers.
_ALREADY_SCALED = ("JPEG2000", "PPM")
"""Formats that Pillow scales to 16 bits, whatever their file holds."""
_STRIP_PIXELS = 2**18
_WHITES = (2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1)


def is_wide(image: Image.Image) -> bool:
    """Whether an image holds greys of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def eight_bit(image: Image.Image, mode: str, finish: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """An image of wide greys in 8 bits.

    Black and white are what a TIFF says they are. Where a file says nothing, black is 0, and white the
    highest value of the fewest bits (8, 10, 12, 14 or 16) that hold all of its values, since what cameras and
    microscopes write as 16 bits is often fewer; floating-point numbers may go up to 1, too.

    Args:
        image: One that `is_wide`.
        mode: Of the result.
        finish: Brings some rows in 8 bits into that mode. They have alpha where one of the greys stands for
            transparency.

    Raises:
        UnreadableImageError: Which values are black and white cannot be told: there are negative ones, larger
            ones than 16 bits hold, or some that are not finite.
    """
    floats = image.mode == "F"
    tags: Any = getattr(image, "tag_v2", {})
    black, white = _range(*_extremes(image), tags, floats=floats, scaled=image.format in _ALREADY_SCALED)
    through = image.info.get("transparency")
    finished = Image.new(mode, image.size)
    for top, values_HW in _strips(image):
        greys_HW = (values_HW.astype(np.float64) - black) * (255 / (white - black)) + 0.5
        if tags.get(_WHITE_IS_ZERO) == 0:
            greys_HW = 256 - greys_HW
        grey = Image.fromarray(greys_HW.clip(0, 255).astype(np.uint8))
        if isinstance(through, int):
            grey.putalpha(Image.fromarray(np.where(values_HW == through, 0, 255).astype(np.uint8)))
        finished.paste(finish(grey), (0, top))
    return finished


def _strips(image: Image.Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """The values from each of some rows on: numbers of a whole giant would be many times the giant."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        # Pillow has no numbers for every order of bytes.
        yield top, np.asarray(strip if image.mode == "F" else strip.convert("I"))


def _extremes(image: Image.Image) -> tuple[float, float]:
    """The lowest and highest value; one that is not a number is both."""
    lows, highs = zip(*((values_HW.min(), values_HW.max()) for _, values_HW in _strips(image)), strict=True)
    return float(np.min(lows)), float(np.max(highs))


def _range(low: float, high: float, tags: Any, *, floats: bool, scaled: bool) -> tuple[float, float]:
    """The values that are black and white (or, where white is zero, the other way round)."""
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
