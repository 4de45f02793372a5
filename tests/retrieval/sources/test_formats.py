"""What looks like a picture, and that nothing which does is passed over."""

import io
from pathlib import Path

import pytest
from PIL import Image

from retrieval.errors import UnreadableImageError
from retrieval.sources.decode import decode
from retrieval.sources.formats import FORMATS, HEAD_BYTES, format_of, is_image_name, looks_like_image

FLAT = Image.new("RGB", (64, 48), (10, 200, 30))
# Name of the format -> how Pillow, or a plugin of it, writes it.
READ = {
    "JPEG": "JPEG",
    "PNG": "PNG",
    "WebP": "WEBP",
    "GIF": "GIF",
    "BMP": "BMP",
    "AVIF": "AVIF",
    "HEIC": "HEIF",
    "JPEG 2000": "JPEG2000",
    "TIFF": "TIFF",
    "DDS": "DDS",
    "QOI": "QOI",
    "ICNS": "ICNS",
    "ICO": "ICO",
    "PCX": "PCX",
    "SGI": "SGI",
    "PNM": "PPM",
    "TGA": "TGA",
}
# First bytes of what is a picture and is not read here.
REFUSED = {
    "camera raw": b"II*\0\x10\0\0\0CR\2\0",
    "SVG": b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n",
    "JPEG XR": b"II\xbc\1",
    "OpenEXR": b"v/1\x01\2\0\0\0",
    "Radiance HDR": b"#?RADIANCE\n",
    "GIMP": b"gimp xcf v011\0",
    "Photoshop": b"8BPS\0\x02\0\0",
    "PAM": b"P7\nWIDTH 1\n",
    "BPG": b"BPG\xfb",
}


def encoded(form: str, image: Image.Image = FLAT) -> bytes:
    file = io.BytesIO()
    if form == "HEIF":
        pytest.importorskip("pillow_heif").from_pillow(image).save(file, quality=100)
    else:
        image.save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("name", READ)
def test_formats_that_are_read(name: str) -> None:
    data = encoded(READ[name])
    form = format_of(data)
    assert form is not None
    assert form.name == name
    assert looks_like_image(data[:HEAD_BYTES]) == form.is_telling
    image = decode(data)
    red, green, blue = image.getpixel((5, 5))
    assert (abs(red - 10), abs(green - 200), abs(blue - 30)) < (12, 12, 12)


@pytest.mark.parametrize(
    "form, options",
    [
        ("PNG", {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]}),  # APNG
        ("MPO", {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]}),
        ("TIFF", {"big_tiff": True}),
        ("JPEG2000", {"no_jp2": True}),
        ("TGA", {"compression": "tga_rle"}),
    ],
)
def test_their_variants_are_read(form: str, options: dict[str, object]) -> None:
    file = io.BytesIO()
    FLAT.save(file, form, **options)
    assert decode(file.getvalue()).size == (64, 48)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_modes_of_the_formats_without_a_magic(mode: str) -> None:
    for form in ("TGA", "PCX", "PPM", "SGI", "ICO"):
        if (form, mode) not in [("PCX", "RGBA"), ("PPM", "P"), ("SGI", "1"), ("SGI", "P"), ("ICO", "1")]:
            assert decode(encoded(form, FLAT.convert(mode))).size[0] >= 48


@pytest.mark.parametrize("name", REFUSED)
def test_pictures_that_are_not_read_say_why(name: str) -> None:
    with pytest.raises(UnreadableImageError, match=f"^{name} is not read here: [a-z]+ it (as|to) "):
        decode(REFUSED[name])


def test_heic_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    remedy = r"in the clone of matvit, pip install -e '\.\[heic\]'"
    with pytest.raises(UnreadableImageError, match=rf"^HEIC is not read here: {remedy}$"):
        decode(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic")


def test_every_plugin_is_there() -> None:
    for form in FORMATS:
        assert (form.opener() is None) == (form.plugin == "")


@pytest.mark.parametrize("brand", [b"avif", b"avis", b"mif1\0\0\0\0mif1avif", b"msf1\0\0\0\0avis"])
def test_brands_of_avif(brand: bytes) -> None:
    form = format_of(b"\0\0\0\x1cftyp" + brand)
    assert form is not None
    assert form.name == "AVIF"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\0" * 64,
        b"{}",
        b"P6 is a road",
        b"BM is short for something that goes on",
        b"II and III",
        b"MM",
        b"RIFF\0\0\0\0WAVE",
        b"\0\0\0\x20ftypisom\0\0\2\0isomiso2",
        b"#define MAX 1",
        b"<html><svg/></html>",
        b"%PDF-1.7",
        b"PK\3\4",
        b"GIF8 or so",
    ],
)
def test_other_files_look_like_no_picture(head: bytes) -> None:
    assert not looks_like_image(head)


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "b.avif",
        "c.jp2",
        "d.jfif",
        "e.jpe",
        "f.ppm",
        "h.HEIC",
        "i.PNG",
        "j.tga",
        "k.ico",
        "l.cr2",
        "m.nef",
        "n.dng",
        "o.svg",
        "p.jxl",
        "q.psd",
    ],
)
def test_names_of_pictures(name: str) -> None:
    assert is_image_name(name)


@pytest.mark.parametrize("name", ["a", "jpg", "a.txt", "a.jpg.txt", "a.pdf", "a.mp4", "a.json", ".DS_Store"])
def test_other_names(name: str) -> None:
    assert not is_image_name(name)


def test_no_extension_is_listed_twice() -> None:
    extensions = [extension for form in FORMATS for extension in form.extensions]
    assert len(set(extensions)) == len(extensions)
    assert all(extension == extension.lower() and Path(f"a.{extension}").suffix for extension in extensions)


def test_many_comments_are_looked_through_once() -> None:
    # Ways to divide comments among themselves grew with two to the power of their number.
    assert not looks_like_image(b"<!---->" * 40 + b"<div>")
    assert looks_like_image(b"<?xml version='1.0'?>" + b"<!-- a -- b -->\n" * 20 + b"<svg>")
