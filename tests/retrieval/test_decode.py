"""Decoding what is an image, and refusing everything else in one way."""

import io
import threading
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval.decode import decode
from retrieval.errors import UnreadableImageError

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


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_palettes_and_alpha_become_plain_colours(mode: str) -> None:
    colour, grey = (0, 128, 255), 104
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([9, 9, 9, *colour])
    wanted = colour if mode == "RGB" else grey
    for image, options in [
        (palette, {}),
        (palette, {"transparency": b"\x10\x80"}),
        (Image.new("RGBA", (2, 2), (*colour, 7)), {}),
    ]:
        assert decode(encode(image, "PNG", **options), mode=mode).getpixel((1, 1)) == wanted
    assert decode(encode(Image.new("LA", (2, 2), (104, 3)), "PNG"), mode="L").getpixel((1, 1)) == grey


def test_integer_greys_are_scaled_not_clipped() -> None:
    grey = np.array([[0, 257, 32768, 65535]])
    sixteen = Image.fromarray(grey.astype(np.uint16))
    for form in ("PNG", "TIFF"):
        assert np.asarray(decode(encode(sixteen, form), mode="L")).tolist() == [[0, 1, 128, 255]]
    dark = Image.fromarray(np.array([[0, 2570]], np.uint16))
    assert np.asarray(decode(encode(dark, "PNG"), mode="L")).tolist() == [[0, 10]]
    wide = Image.fromarray(np.array([[-1000, 0, 1_000_000]], np.int32))
    assert np.asarray(decode(encode(wide, "TIFF"), mode="L")).tolist() == [[0, 0, 255]]
    flat = Image.fromarray(np.full((1, 2), 1_000_000, np.int32))
    assert decode(encode(flat, "TIFF")).mode == "RGB"


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_only_the_first_frame_counts(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], form, save_all=True, append_images=frames[1:])
    red, _, blue = np.asarray(decode(data), int)[0, 0]
    assert red > 240
    assert blue < 15


@pytest.mark.parametrize(
    "data", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.4", b"P6 1 1 255 abc", b"<svg/>"]
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
