"""What is kept of photographs: from EXIF that cameras write, and from EXIF that nobody should believe."""

import io
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, TiffImagePlugin

from retrieval.sources import photo
from retrieval.sources.photo import COLUMNS

ROME = {1: "N", 2: (41.0, 53.0, 24.0), 3: "E", 4: (12.0, 29.0, 32.0)}


def jpeg(
    *,
    base: dict[int, Any] | None = None,
    shot: dict[int, Any] | None = None,
    place: dict[int, Any] | None = None,
    form: str = "JPEG",
) -> bytes:
    """A picture of 40 x 30 pixels with these tags."""
    image, file = Image.new("RGB", (40, 30)), io.BytesIO()
    exif = image.getexif()
    exif.update(base or {})
    for ifd, tags in ((ExifTags.IFD.Exif, shot), (ExifTags.IFD.GPSInfo, place)):
        if tags:
            exif.get_ifd(ifd).update(tags)
    image.save(file, form, exif=exif)
    return file.getvalue()


def photo_columns(data: bytes) -> dict[str, str]:
    """Those that are known."""
    found = photo.photo_columns(data)
    assert tuple(found) == COLUMNS
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_photograph(form: str) -> None:
    base = {ExifTags.Base.Make: "NIKON CORPORATION", ExifTags.Base.Model: "NIKON D90"}
    shot = {ExifTags.Base.DateTimeOriginal: "2019:07:14 12:33:05"}
    assert photo_columns(jpeg(base=base, shot=shot, place=ROME, form=form)) == {
        "width": "40",
        "height": "30",
        "date": "2019-07-14T12:33:05",
        "camera": "NIKON D90",
        "latitude": "41.890000",
        "longitude": "12.492222",
    }


def test_without_exif_the_size_is_known() -> None:
    assert photo_columns(jpeg()) == {"width": "40", "height": "30"}


def test_width_and_height_are_upright() -> None:
    for orientation in range(1, 9):
        found = photo_columns(jpeg(base={ExifTags.Base.Orientation: orientation}))
        assert (found["width"], found["height"]) == (("40", "30") if orientation < 5 else ("30", "40"))


@pytest.mark.parametrize(
    "make, model, camera",
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("Apple", "iPhone 12", "Apple iPhone 12"),
        ("SONY  ", "DSC-RX100\0\0", "SONY DSC-RX100"),
        ("", "Pixel 7", "Pixel 7"),
    ],
)
def test_cameras_are_called_as_people_call_them(make: str, model: str, camera: str) -> None:
    base = {ExifTags.Base.Make: make, ExifTags.Base.Model: model}
    assert photo_columns(jpeg(base=base))["camera"] == camera


def test_the_other_half_of_the_globe() -> None:
    rio = {1: "S", 2: (22.0, 57.0, 6.84), 3: "W", 4: (43.0, 12.0, 37.8)}
    found = photo_columns(jpeg(place=rio))
    assert (found["latitude"], found["longitude"]) == ("-22.951900", "-43.210500")


@pytest.mark.parametrize(
    "date", ["0000:00:00 00:00:00", "    :  :     :  :  ", "2019:02:30 12:00:00", "July", ""]
)
def test_dates_that_are_none(date: str) -> None:
    assert "date" not in photo_columns(jpeg(shot={ExifTags.Base.DateTimeOriginal: date}))


def test_the_date_of_the_file_where_that_of_the_picture_is_missing() -> None:
    assert photo_columns(jpeg(base={ExifTags.Base.DateTime: "2020:01:02 03:04:05"}))["date"] == (
        "2020-01-02T03:04:05"
    )


@pytest.mark.parametrize(
    "place",
    [
        {1: "N", 2: (95.0, 0.0, 0.0)},
        {1: "N", 2: (41.0, 53.0)},
        {2: (TiffImagePlugin.IFDRational(1, 0),) * 3},
    ],
)
def test_places_that_are_none(place: dict[int, Any]) -> None:
    assert "latitude" not in photo_columns(jpeg(place=place))


@given(st.binary(max_size=80), st.integers(0, 700))
def test_damage_costs_columns_and_nothing_else(junk: bytes, start: int) -> None:
    whole = jpeg(base={ExifTags.Base.Make: "Canon"}, place=ROME)
    found = photo_columns(whole[:start] + junk + whole[start + len(junk) :])
    assert all(isinstance(value, str) for value in found.values())


def ifd(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A directory of TIFF: tag, type, count, and a value of four bytes each."""
    packed = (struct.pack(">HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return struct.pack(">H", len(entries)) + b"".join(packed) + bytes(4)


@pytest.mark.parametrize(
    "kind, count", [(3, 2), (4, 1), (1, 4), (7, 4), (11, 1)]
)  # shorts, a long, bytes, a float
def test_tags_of_another_type_than_theirs(kind: int, count: int) -> None:
    texts = [(tag, kind, count, b"\x07\xe3\0\x07") for tag in (0x010F, 0x0110, 0x0132, 0x9003)]
    places = [(tag, kind, count, b"\x07\xe3\0\x07") for tag in (1, 2, 3, 4)]
    size = len(ifd(*texts[:3], *texts[:2]))
    shot = ifd(texts[3])
    pointers = [
        (0x8769, 4, 1, struct.pack(">I", 8 + size)),
        (0x8825, 4, 1, struct.pack(">I", 8 + size + len(shot))),
    ]
    file = io.BytesIO()
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + ifd(*texts[:3], *pointers) + shot + ifd(*places)
    Image.new("RGB", (40, 30)).save(file, "JPEG", exif=exif)
    assert photo_columns(file.getvalue()) == {"width": "40", "height": "30"}


def test_what_is_no_image_has_no_columns() -> None:
    assert photo_columns(b"") == photo_columns(b"%!PS-Adobe-3.0 EPSF-3.0") == {}
