"""Encoded bytes from anywhere to pixels, with Pillow, as published weights were trained."""

import io
import threading
import warnings
from contextlib import ExitStack

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from retrieval.errors import UnreadableImageError
from retrieval.samples import printable

# Where Pillow itself refuses an image as a decompression bomb: 2 x Image.MAX_IMAGE_PIXELS.
MAX_PIXELS = 2 * (2**30 // 4 // 3)

# Only these plugins ever see the bytes: a hostile EPS or PDF named .jpg reaches no decoder. They are called
# directly because Image.open has a process-wide pixel limit, from half of which on it warns.
_PLUGINS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"GIF8", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II", TiffImageFile),
    (b"MM", TiffImageFile),
)


def decode(data: bytes, *, mode: str = "RGB", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the first frame of an image.

    Transparency is dropped, not composited; 16-bit greys are scaled to 8 bits, not clipped.

    Args:
        data: An encoded JPEG, PNG, WebP, GIF, BMP or TIFF image.
        mode: `RGB` or `L`.
        max_pixels: Refuse more than these, judged by the header before any pixel is decoded.

    Raises:
        UnreadableImageError: If the bytes are not such an image, are damaged, or hold too many pixels.
    """
    plugin = next((plugin for magic, plugin in _PLUGINS if data.startswith(magic)), None)
    if plugin is None:
        raise UnreadableImageError("not an image")
    try:
        with _QUIET, plugin(io.BytesIO(data), "") as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UnreadableImageError(f"{width} x {height} pixels is over the limit of {max_pixels}")
            return in_mode(image, mode)
    except UnreadableImageError:
        raise
    except Exception as error:  # on hostile bytes Pillow raises nearly everything
        raise UnreadableImageError(_reason(error)) from error


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """An image that is already open, converted as `decode` converts.

    Raises:
        UnreadableImageError: Its pixels cannot be read.
    """
    try:
        return _eight_bit(image).convert(mode)
    except Exception as error:  # opening read the header alone: the pixels may be damaged
        raise UnreadableImageError(_reason(error)) from error


class _Quiet:
    """Silences Pillow's warnings while any thread decodes.

    `warnings.catch_warnings` swaps one process-wide list, so threads that overlap would restore each other's
    filters. Here the first thread in swaps the list and the last one out restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._filters = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._threads == 0:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._threads += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                self._filters.close()


_QUIET = _Quiet()


def _eight_bit(image: Image.Image) -> Image.Image:
    """Integer greys scaled to 0..255; other modes as they are, since Pillow's own conversion fits them."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    image = image.convert("I")
    low, high = image.getextrema()
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if low >= 0 and high <= 65535:  # 16 bits, whether or not a dark image uses them all
        low, high = 0, 65535
    scale = 255 / (high - low or 1)
    return image.point(lambda value: value * scale + (0.5 - low * scale))


def _reason(error: Exception) -> str:
    message = " ".join(printable(str(error)).split()) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return message.partition(",")[0]
    if "truncated" in message.lower():
        return "truncated image"
    return f"corrupt image: {message[:200]}"
