"""What a photograph says of itself, beside its pixels: its size, and from EXIF when, where and with what.

EXIF 2.32, sections 4.6.4 to 4.6.6.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

from retrieval.errors import UnreadableImageError
from retrieval.sources.decode import opened
from retrieval.sources.sample import printable

COLUMNS = ("width", "height", "date", "camera", "latitude", "longitude")
"""What an index keeps of every image file; null where it is not known."""

_TURNED = (5, 6, 7, 8)  # Orientations that exchange width and height.


def photo_columns(data: bytes) -> dict[str, str | None]:
    """What the header of an encoded image says for each of `COLUMNS`: no pixel is decoded.

    Width and height are in pixels, upright; the date, of the camera's clock, is as 2019-07-14T12:33:00;
    latitude and longitude are in degrees, north and east positive. What is missing or is nonsense is None,
    and so is all of what is no image.
    """
    try:
        with opened(data) as image:  # And all of EXIF is read in here: damage is told when it is looked at.
            return dict(zip(COLUMNS, _values(image), strict=True))
    except UnreadableImageError:
        return dict.fromkeys(COLUMNS)


def _values(image: Image.Image) -> tuple[str | None, ...]:
    exif = image.getexif()
    shot, place = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
    width, height = image.size
    if exif.get(ExifTags.Base.Orientation) in _TURNED:
        width, height = height, width
    return (
        str(width),
        str(height),
        _date(shot.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)),
        _camera(exif.get(ExifTags.Base.Make), exif.get(ExifTags.Base.Model)),
        _degrees(place, ExifTags.GPS.GPSLatitude, 90),
        _degrees(place, ExifTags.GPS.GPSLongitude, 180),
    )


def _date(value: Any) -> str | None:
    try:
        # Some programs write dashes. Cameras whose clock was never set write zeros, or blanks.
        return datetime.strptime(_text(value)[:19].replace("-", ":", 2), "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return None


def _camera(make: Any, model: Any) -> str | None:
    """``Canon EOS 5D``: many models begin with their maker's name, and many strings are padded."""
    make, model = (printable(_text(each).replace("\0", " ").strip()) for each in (make, model))
    brand = make.split(" ")[0]
    name = model if model.lower().startswith(brand.lower()) else f"{make} {model}".strip()
    return name or None


def _text(value: Any) -> str:
    """A tag's text; of another type, which anyone may have written, there is none."""
    return value if isinstance(value, str) else ""


def _degrees(place: Mapping[int, Any], tag: int, most: int) -> str | None:
    """Degrees, minutes and seconds as a fraction; the tag before it says on which half of the globe."""
    try:
        degrees, minutes, seconds = map(float, place[tag])
        value = degrees + minutes / 60 + seconds / 3600
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if not (math.isfinite(value) and 0 <= value <= most):
        return None
    is_negative = str(place.get(tag - 1, "")).upper() in ("S", "W")
    return f"{-value if is_negative else value:.6f}"
