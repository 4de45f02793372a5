"""Decoding what is an image, and refusing everything else in one way."""

import io
import platform
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, TiffImagePlugin

from matvit.files.lock import INSIDE, exclusive
from retrieval.errors import UnreadableImageError
from retrieval.sources.decode import AS_SEEN, Reading, decode, in_mode

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


JPEG = encode(Image.fromarray(NOISE), "JPEG")
HOSTILE = [JPEG, *(encode(Image.fromarray(NOISE), form) for form in ("PNG", "WEBP", "BMP", "GIF", "TIFF"))]


def decodes_or_refuses(data: bytes) -> None:
    try:
        image = decode(data)
    except UnreadableImageError as error:
        reason = str(error)
    else:
        image.getpixel((0, 0))
        reason = image.mode
    assert reason.isprintable()
    assert 0 < len(reason) < 300


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_of_pillow(form: str, mode: str) -> None:
    data = encode(Image.fromarray(NOISE), form)
    image = decode(data, mode=mode)
    assert image.mode == mode
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data)).convert(mode)))


# A black bar, upright or lying, or nothing, that only alpha shows: the colours below it are one and the same.
SHAPES = {
    "upright": np.pad(np.full((8, 2), 255, np.uint8), ((0, 0), (3, 3))),
    "lying": np.pad(np.full((2, 8), 255, np.uint8), ((3, 3), (0, 0))),
    "empty": np.zeros((8, 8), np.uint8),
}


def through(shape: np.ndarray, mode: str, hidden: int) -> bytes:
    """Black where a shape is, and transparent elsewhere, over hidden colours."""
    grey = Image.fromarray(np.where(shape > 0, 0, hidden).astype(np.uint8))
    alpha = Image.fromarray(shape)
    match mode:
        case "LA" | "RGBA":
            image = grey.convert(mode)
            image.putalpha(alpha)
            return encode(image, "PNG")
        case "WEBP" | "TIFF" | "AVIF" | "JPEG2000" | "ICO" | "TGA" | "DDS" | "QOI":
            image = grey.convert("RGBA")
            image.putalpha(alpha)
            options = {"WEBP": {"lossless": True, "exact": True}, "ICO": {"sizes": [(8, 8)]}}
            return encode(image, mode, **options.get(mode, {}))
        case "P" | "GIF":
            palette = Image.fromarray((shape == 0).astype(np.uint8), "P")
            palette.putpalette([0, 0, 0, hidden, hidden, hidden])
            return encode(palette, "GIF" if mode == "GIF" else "PNG", transparency=1)
        case "P, alpha a colour":
            palette = Image.fromarray((shape == 0).astype(np.uint8), "P")
            palette.putpalette([0, 0, 0, hidden, hidden, hidden])
            return encode(palette, "PNG", transparency=b"\xff\x00")
        case "L, a grey is transparent":
            return encode(grey, "PNG", transparency=hidden)
        case "RGB, a colour is transparent":
            return encode(grey.convert("RGB"), "PNG", transparency=(hidden,) * 3)
        case "1, white is transparent":
            return encode(Image.fromarray(shape == 0), "PNG", transparency=255)
        case "16 bits, a grey is transparent":
            wide = np.where(shape > 0, 0, 257 * hidden).astype(np.uint16)
            return encode(Image.fromarray(wide), "PNG", transparency=257 * hidden)
        case _:
            raise ValueError(mode)


TRANSPARENT = [
    *("RGBA", "LA", "P", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "TGA", "DDS", "QOI"),
    *("P, alpha a colour", "L, a grey is transparent", "RGB, a colour is transparent"),
    *("1, white is transparent", "16 bits, a grey is transparent"),
]


@pytest.mark.parametrize("kind", TRANSPARENT)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_transparent_images_are_seen_on_white(kind: str, mode: str) -> None:
    # The kind: every mode with alpha, and every one in which a colour stands for transparency.
    hidden = 255 if kind.startswith("1") else 40
    for shape in SHAPES.values():
        seen = np.asarray(decode(through(shape, kind, hidden), mode=mode), int)
        wanted = np.where(shape > 0, 0, 255)
        assert np.abs(seen - (wanted[..., None] if mode == "RGB" else wanted)).max() <= (kind == "AVIF") * 12


def test_half_transparent_colours_mix_with_white_and_opaque_ones_stay() -> None:
    half = encode(Image.new("RGBA", (2, 2), (0, 100, 200, 51)), "PNG")
    assert decode(half).getpixel((0, 0)) == (204, 224, 244)
    opaque = Image.fromarray(NOISE).convert("RGBA")
    assert np.array_equal(np.asarray(decode(encode(opaque, "PNG"))), NOISE)


def test_transparency_is_dropped_where_an_index_was_made_that_way() -> None:
    data = encode(Image.new("RGBA", (2, 2), (9, 9, 9, 0)), "PNG")
    assert decode(data, reading=Reading.of({"mean": [0.5]})).getpixel((0, 0)) == (9, 9, 9)
    assert Reading.of({"mean": [0.5]}).record() == {}
    assert Reading.of(AS_SEEN.record()) == AS_SEEN
    assert AS_SEEN.record() == {"exif_transpose": True, "alpha": "white"}


def test_images_of_several_strips_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.fromarray(NOISE).convert("RGBA"), "PNG")
    monkeypatch.setattr("retrieval.sources.decode._STRIP_PIXELS", 100)
    assert np.array_equal(np.asarray(decode(data)), NOISE)


ORIENTED = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "MPO": {"quality": 100, "subsampling": 0},
}


@pytest.mark.parametrize("form", ORIENTED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says(form: str, orientation: int) -> None:
    # The kind: all eight orientations, in every format that carries them.
    upright = Image.fromarray(
        np.kron(np.array([[0, 85, 170], [255, 40, 120]], np.uint8), np.ones((16, 16), np.uint8))
    )
    back = {6: 8, 8: 6}.get(orientation, orientation)
    exif = Image.Exif()
    exif[0x0112] = back
    stored = ImageOps.exif_transpose(_with(upright, exif))
    exif[0x0112] = orientation
    data = encode(stored.convert("RGB"), form, exif=exif.tobytes(), **ORIENTED[form])
    seen = np.asarray(decode(data, mode="L"), int)
    assert seen.shape == (32, 48)
    assert np.abs(seen - np.asarray(upright, int)).max() <= 6
    asis = decode(data, reading=Reading(exif_transpose=False))
    if form not in ("TIFF", "AVIF"):  # whose decoders turn them themselves
        assert asis.size == stored.size


def _with(image: Image.Image, exif: Image.Exif) -> Image.Image:
    return Image.open(io.BytesIO(encode(image, "PNG", exif=exif.tobytes())))


@pytest.mark.parametrize("exif", [b"", b"nonsense", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0"])
def test_damaged_exif_says_nothing_of_the_pixels(exif: bytes) -> None:
    assert decode(encode(Image.fromarray(NOISE), "JPEG", exif=exif)).size == (32, 24)


def test_open_images_are_turned_and_laid_on_white_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encode(Image.new("RGBA", (2, 4)), "PNG", exif=exif.tobytes())))
    assert in_mode(image, "RGB").size == (4, 2)
    assert in_mode(image, "RGB").getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_colours_that_use_twelve_are_refused_by_name() -> None:
    # Pillow keeps their upper 8 bits, in which these are black.
    for depth, wanted in ((65535, None), (4095, "stay below 4096")):
        data = _png16(np.linspace(0, depth, 48).astype(np.uint16).reshape(4, 4, 3))
        if wanted:
            with pytest.raises(UnreadableImageError, match=wanted):
                decode(data)
        else:
            assert decode(data).getextrema()[2] == (10, 255)


# A black square, of which the upper half alone is opaque.
DARK = np.zeros((4, 4, 4), np.uint16)
DARK[:2, :, 3] = 65535


@pytest.mark.parametrize("channels", [[0, 1, 2, 3], [0, 3]], ids=["RGBA", "LA"])
def test_black_in_sixteen_bits_is_seen_on_white(channels: list[int]) -> None:
    wide = DARK[..., channels]
    assert np.asarray(decode(_png16(wide)))[..., 1].tolist() == [[0] * 4] * 2 + [[255] * 4] * 2
    assert decode(_png16(wide * 0)).getextrema() == ((255, 255),) * 3  # nothing is seen


@pytest.mark.parametrize(
    "values, reading",
    [
        (np.maximum(DARK, [0, 0, 0, 65535]), AS_SEEN),  # all of it is opaque
        (np.minimum(DARK, 4095), AS_SEEN),  # alpha is of 12 bits, too
        (DARK, Reading(alpha="")),
    ],
    ids=["opaque", "faint", "alpha is dropped"],
)
def test_black_in_sixteen_bits_that_no_white_shows_through_is_refused(
    values: np.ndarray, reading: Reading
) -> None:
    with pytest.raises(UnreadableImageError, match="stay below 4096"):
        decode(_png16(values.astype(np.uint16)), reading=reading)


def test_a_dark_colour_in_sixteen_bits_that_is_transparent_is_seen_as_white() -> None:
    values = np.zeros((1, 2, 3), np.uint16)
    values[0, 1] = 257 * 7
    seen = decode(_png16(values, transparent=(257 * 7,) * 3))
    assert [seen.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]


def _png16(values: np.ndarray, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG of several channels of 16 bits, which Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + (chunk(b"tRNS", struct.pack(">3H", *transparent)) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["DNG", "NEF"])
def test_thumbnails_of_camera_raws_are_not_taken_for_the_picture(kind: str) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    tags[50706 if kind == "DNG" else 330] = b"\1\4\0\0" if kind == "DNG" else 8
    if kind == "DNG":
        tags.tagtype[50706] = 1
    data = encode(Image.new("RGB", (16, 12)), "TIFF", tiffinfo=tags)
    with pytest.raises(UnreadableImageError, match="camera raw is not read here"):
        decode(data)


def test_giants_are_decoded_one_at_a_time_and_jpegs_in_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("retrieval.sources.decode.GIANT_PIXELS", 24 * 32 // 5)
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    flat = Image.new("RGB", (32, 24), (10, 200, 30))
    assert decode(encode(flat, "JPEG")).size == (8, 6)
    assert decode(encode(flat, "PNG")).size == (32, 24)
    giant = tmp_path / f"giant-{platform.node()}"
    with exclusive(giant):
        waiting = threading.Thread(target=decode, args=(encode(flat, "PNG"),), daemon=True)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["a file", "a link to a file"])
def test_giants_that_have_nowhere_to_wait_for_each_other_are_decoded_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    monkeypatch.setattr("retrieval.sources.decode.GIANT_PIXELS", 24 * 32 // 5)
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file").write_text("mine")
    if place == "a file":
        (tmp_path / "file").rename(tmp_path / "cache")
    else:
        (tmp_path / "cache").mkdir()
        lock = tmp_path / "cache" / f"{INSIDE}-giant-{platform.node()}"
        lock.symlink_to(tmp_path / "file")
    assert decode(encode(Image.new("RGB", (32, 24)), "PNG")).size == (32, 24)
    assert "mine" in [file.read_text() for file in tmp_path.iterdir() if file.is_file()]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_only_the_first_frame_counts(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], form, save_all=True, append_images=frames[1:])
    red, _, blue = np.asarray(decode(data), int)[0, 0]
    assert red > 240
    assert blue < 15


@pytest.mark.parametrize(
    "data", [b"", b"%!PS-Adobe-3.0\n", b"%PDF-1.4", b"#define x_width 1", b"<html/>", b"\0\0\1\xb3"]
)
def test_other_formats_reach_no_decoder(data: bytes) -> None:
    with pytest.raises(UnreadableImageError, match=r"^not an image$"):
        decode(data)


def test_the_limit_is_on_the_pixels_and_inclusive() -> None:
    assert decode(JPEG, max_pixels=768).size == (32, 24)
    with pytest.raises(UnreadableImageError, match="32 x 24 pixels is over the limit of 767"):
        decode(JPEG, max_pixels=767)


def test_large_but_allowed_images_raise_no_warning_even_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow warns from here, and refuses from 1,000
    data = encode(Image.fromarray(NOISE), "GIF")
    before = list(warnings.filters)
    errors: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(50):
                decode(data)
        except UnreadableImageError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(warnings.filters) == before


@pytest.mark.parametrize("cut", [3, 30, 400, len(JPEG) - 1])
def test_truncated_images_are_refused(cut: int) -> None:
    with pytest.raises(UnreadableImageError, match=r"truncated image|corrupt image"):
        decode(JPEG[:cut])


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    decodes_or_refuses(data)
    for whole in HOSTILE:
        decodes_or_refuses(whole[:16] + data)


@given(
    st.sampled_from(HOSTILE),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=20),
    st.floats(0, 1),
)
@settings(max_examples=300, deadline=None)
def test_mutated_images_raise_nothing_else(whole: bytes, changes: list[tuple[int, int]], kept: float) -> None:
    data = bytearray(whole)
    for place, value in changes:
        data[place % (len(data) if place % 2 else 64)] = value  # half of them in the header
    decodes_or_refuses(bytes(data[: round(kept * len(data))] if place % 3 == 0 else data))
