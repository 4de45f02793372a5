"""Encoded bytes from anywhere to pixels, with Pillow, as published weights were trained."""

import io
import platform
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from PIL import Image, ImageFile

from matvit.files.cache import cache_dir
from matvit.files.lock import exclusive
from retrieval.errors import UnreadableImageError
from retrieval.sources.formats import format_of
from retrieval.sources.greys import eight_bit, is_wide
from retrieval.sources.sample import printable

# Where Pillow itself refuses an image as a decompression bomb: 2 x Image.MAX_IMAGE_PIXELS.
MAX_PIXELS = 2 * (2**30 // 4 // 3)
GIANT_PIXELS = 2**25
"""Images of more are decoded one at a time by all processes of a user: each takes about 8 bytes a pixel, and
up to 13 where EXIF turns one that is transparent."""

_ORIENTATION = 0x0112  # Of EXIF, and what makes each upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706  # Tags of TIFF.
_REDUCED = 1
_STRIP_PIXELS = 2**20
_DARK = 2**4 - 1  # What is left of 12 bits where the lower 8 of 16 are dropped.


@dataclass(frozen=True)
class Reading:
    """What becomes of more than pixels: an index remembers it, for it is part of how an image is embedded.

    Attributes:
        exif_transpose: Turn an image the way that its EXIF orientation says.
        alpha: What shows through an image: ``white``, or ``""`` to drop transparency, whatever it hides.
    """

    exif_transpose: bool = True
    alpha: str = "white"

    @classmethod
    def of(cls, preprocess: Mapping[str, Any]) -> "Reading":
        """As an index was read, by its preprocessing; those made before this was recorded did neither."""
        return cls(
            exif_transpose=preprocess.get("exif_transpose") is True,
            alpha="white" if preprocess.get("alpha") == "white" else "",
        )

    def record(self) -> dict[str, Any]:
        """What `of` reads; nothing where nothing is done."""
        return {name: value for name, value in asdict(self).items() if value}


AS_SEEN = Reading()
"""Upright and on white, as people see an image."""


def decode(
    data: bytes, *, mode: str = "RGB", max_pixels: int = MAX_PIXELS, reading: Reading = AS_SEEN
) -> Image.Image:
    """Decode the first frame of an image; greys of more than 8 bits are scaled, not clipped.

    Of JPEGs that are giants, a half, a quarter or an eighth of the resolution is decoded.

    Args:
        data: An encoded image, of any of `retrieval.sources.formats`.
        mode: `RGB` or `L`.
        max_pixels: Refuse more than these, judged by the header before any pixel is decoded.
        reading: What becomes of orientation and transparency.

    Raises:
        UnreadableImageError: The bytes are no such image, are damaged, or hold too many pixels.
    """
    with opened(data) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise UnreadableImageError(f"{width} x {height} pixels is over the limit of {max_pixels}")
        _refuse_camera_raw(image)
        with _one_at_a_time() if width * height > GIANT_PIXELS else nullcontext():
            _shrink(image)
            return in_mode(image, mode, reading)


@contextmanager
def opened(data: bytes) -> Iterator[ImageFile.ImageFile]:
    """An encoded image of which only the header was read.

    Raises:
        UnreadableImageError: The bytes are no image that is read here, or what is done with it fails.
    """
    form = format_of(data)
    if form is None:
        raise UnreadableImageError("not an image")
    opener = form.opener()
    if opener is None:
        raise UnreadableImageError(f"{form.name} is not read here: {form.remedy}")
    try:
        with _QUIET, opener(io.BytesIO(data), "") as image:
            yield image
    except UnreadableImageError:
        raise
    except Exception as error:  # on hostile bytes Pillow raises nearly everything
        raise UnreadableImageError(_reason(error)) from error


def in_mode(image: Image.Image, mode: str, reading: Reading = AS_SEEN) -> Image.Image:
    """An image that is already open, converted as `decode` converts.

    Raises:
        UnreadableImageError: Its pixels cannot be read.
    """
    deep = isinstance(image, ImageFile.ImageFile) and any(";16" in str(tile.args) for tile in image.tile)
    try:
        image.load()
        if image.mode == "LAB":
            raise UnreadableImageError("LAB colours are not read here: save it as RGB")
        if deep and not is_wide(image):
            _refuse_dark(image, reading)
        if reading.exif_transpose:
            image = _upright(image)
        if is_wide(image):
            return eight_bit(image, mode, partial(_finished, mode=mode, reading=reading))
        return _finished(image, mode, reading)
    except UnreadableImageError:
        raise
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


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait for the other giants of this user here; the operating system lets go when a process dies."""
    with ExitStack() as held:
        with suppress(OSError):  # Nowhere to meet the others.
            # A folder of the user's own: in one that all share, a stranger could make us wait for ever.
            held.enter_context(exclusive(cache_dir() / f"giant-{platform.node()}", patience_s=-1))
        yield


def _shrink(image: ImageFile.ImageFile) -> None:
    """Let the decoder of a giant skip what resizing would drop; only JPEG's can."""
    (width, height), scale = image.size, 1
    while width * height > GIANT_PIXELS * scale**2 and scale < 8:
        scale *= 2
    if scale > 1 and image.format in ("JPEG", "MPO"):
        image.draft(None, (width // scale, height // scale))


def _refuse_camera_raw(image: Image.Image) -> None:
    """DNG, NEF and their like are TIFFs whose first image is a thumbnail, not the picture."""
    tags: Any = getattr(image, "tag_v2", {})
    is_reduced = tags.get(_SUBFILE_TYPE, 0) & _REDUCED
    if _DNG_VERSION in tags or (is_reduced and _SUB_IFDS in tags):
        raise UnreadableImageError("camera raw is not read here: develop it to JPEG or PNG")


def _refuse_dark(image: Image.Image, reading: Reading) -> None:
    """Of colours in 16 bits Pillow keeps the upper 8, in which values of 12 bits leave no picture."""
    if not _is_dark(image):
        return
    is_faint = "A" in image.getbands() and 0 < _highest(image, "A") <= _DARK  # Of fewer bits, as the colours.
    if reading.alpha and not is_faint and not _is_dark(_on(reading.alpha, image)):
        return  # Such as black letters on nothing.
    raise UnreadableImageError(
        "16-bit colours that stay below 4096: a black picture, or one of fewer bits; save it in 8 bits"
    )


def _is_dark(image: Image.Image) -> bool:
    return all(_highest(image, name) <= _DARK for name in image.getbands() if name != "A")


def _highest(image: Image.Image, band: str) -> int:
    return max(value for value, count in enumerate(image.getchannel(band).histogram()) if count)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Damaged EXIF says nothing of the pixels.
        return image
    return image if turn is None else image.transpose(turn)


def _finished(image: Image.Image, mode: str, reading: Reading) -> Image.Image:
    if reading.alpha:
        image = _on(reading.alpha, image)
    return image if image.mode == mode else image.convert(mode)  # A copy of a giant is 0.7 GB.


def _on(colour: str, image: Image.Image) -> Image.Image:
    """An image as it looks on a plain ground."""
    if not image.has_transparency_data:
        return image
    if image.mode == "La":  # Which Pillow converts to no colours.
        image = image.convert("LA")
    seen = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)  # Strip by strip: each copy of a giant is half a gigabyte.
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        ground = Image.new("RGBA", strip.size, colour)
        seen.paste(Image.alpha_composite(ground, strip).convert("RGB"), (0, top))
    return seen


def _reason(error: Exception) -> str:
    message = " ".join(printable(str(error)).split()) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return message.partition(",")[0]
    if "truncated" in message.lower():
        return "truncated image"
    return f"corrupt image: {message[:200]}"
