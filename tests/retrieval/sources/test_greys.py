"""Greys of more than 8 bits: black and white are where the file says, or it is refused."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from retrieval.errors import UnreadableImageError
from retrieval.sources.decode import decode, in_mode

STEPS = np.array([[0, 0.25, 0.5, 0.75, 1]])
SHOWN = [[0, 64, 128, 191, 255]]


def plainly(values_HW: np.ndarray, white: int, *, inverted: bool = False, through: int = -1) -> np.ndarray:
    """Greys as they are seen, all rows at once."""
    greys_HW = values_HW.astype(np.float64) * (255 / white) + 0.5
    if inverted:
        greys_HW = 256 - greys_HW
    return np.where(values_HW == through, 255, greys_HW.clip(0, 255).astype(np.uint8))


def encode(values: np.ndarray, form: str = "TIFF", **tags: object) -> bytes:
    file = io.BytesIO()
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in tags.items():
        info[int(number[1:])] = value
    Image.fromarray(values).save(file, form, **({"tiffinfo": info} if tags else {}))
    return file.getvalue()


def shown(data: bytes) -> list[list[int]]:
    rgb = np.asarray(decode(data))
    assert np.array_equal(rgb[..., 0], np.asarray(decode(data, mode="L")))
    return rgb[..., 0].tolist()


@pytest.mark.parametrize("white", [1, 255, 1023, 4095, 16383, 65535])
def test_floats_up_to_one_or_to_what_some_bits_hold(white: int) -> None:
    assert np.allclose(shown(encode((STEPS * white).astype(np.float32))), SHOWN, atol=1)


@pytest.mark.parametrize("white", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_integers_of_any_number_of_bits(white: int, form: str) -> None:
    assert np.allclose(shown(encode((STEPS * white).round().astype(np.uint16), form)), SHOWN, atol=1)


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.int16])
def test_integers_of_every_type(dtype: type) -> None:
    assert np.allclose(shown(encode((STEPS * 4095).astype(dtype))), SHOWN, atol=1)


def test_what_the_format_scales_itself_is_not_scaled_again() -> None:
    # A PGM says what is white: 16 of 4095 is nearly black, not 16 of 255.
    dark = b"P5 2 1 4095\n" + np.array([0, 160], ">u2").tobytes()
    assert shown(dark) == [[0, 10]]


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_where_zero_is_white_greys_are_turned(dtype: type) -> None:
    inverted = encode(((1 - STEPS) * 65535).astype(dtype), t262=0)
    assert np.allclose(shown(inverted), SHOWN, atol=1)


@pytest.mark.parametrize(
    "values, tags",
    [
        (STEPS * 200 - 100, {"t340": -100.0, "t341": 100.0}),
        ((STEPS * 2000).astype(np.uint16), {"t280": 0, "t281": 2000}),
    ],
)
def test_the_range_that_a_file_gives(values: np.ndarray, tags: dict[str, object]) -> None:
    values = values if values.dtype == np.uint16 else values.astype(np.float32)
    assert np.allclose(shown(encode(values, **tags)), SHOWN, atol=1)


@pytest.mark.parametrize("tags", [{"t340": 5.0, "t341": 5.0}, {"t340": 0.0, "t341": 0.5}, {"t340": 0.2}])
def test_a_range_that_cannot_be_is_none(tags: dict[str, object]) -> None:
    assert np.allclose(shown(encode(STEPS.astype(np.float32), **tags)), SHOWN, atol=1)


@pytest.mark.parametrize(
    "values",
    [
        np.array([[-0.5, 1]], np.float32),
        np.array([[0, 65536]], np.float32),
        np.array([[0, np.inf]], np.float32),
        np.array([[0, np.nan]], np.float32),
        np.array([[-1024, 3071]], np.int16),
        np.array([[0, 1_000_000]], np.int32),
    ],
)
def test_what_cannot_be_told_is_refused(values: np.ndarray) -> None:
    with pytest.raises(UnreadableImageError, match=r"^greys from .* does not say which are black and white"):
        decode(encode(values))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_black_stays_black(dtype: type) -> None:
    assert shown(encode(np.zeros((1, 3), dtype))) == [[0, 0, 0]]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "dtype, white, form, more",
    [
        (np.uint16, 65535, "TIFF", {}),
        (">u2", 4095, "TIFF", {}),
        (np.int32, 16383, "TIFF", {}),
        (np.float32, 1, "TIFF", {}),
        (np.uint16, 65535, "TIFF", {"tiffinfo": {262: 0}}),
        (np.uint16, 65535, "PNG", {"transparency": 700}),
    ],
)
def test_images_of_several_strips_are_as_if_all_rows_were_scaled_at_once(
    mode: str, dtype: str, white: int, form: str, more: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.sources.greys._STRIP_PIXELS", 100)
    values = (np.random.default_rng(0).random((23, 31)) * white).astype(dtype)
    values.flat[[5, 300, 712]] = white, min(700, white), 0  # in the first strip, in the middle, in the last
    file = io.BytesIO()
    Image.fromarray(values).save(file, form, **more)
    wanted = plainly(values, white, inverted="tiffinfo" in more, through=more.get("transparency", -1))
    seen = np.asarray(decode(file.getvalue(), mode=mode))
    assert seen.shape == ((23, 31, 3) if mode == "RGB" else (23, 31))
    assert np.array_equal(seen, np.broadcast_to(wanted.T, seen.T.shape).T)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_numbers_of_a_giant_are_not_all_there_at_once(dtype: type) -> None:
    """Beside the image and the one that is made of it, which Pillow keeps."""
    data = encode(np.broadcast_to((np.linspace(0, 1, 2**11) * 255).astype(dtype), (2**11, 2**11)))
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        tracemalloc.start()
        assert in_mode(image, "RGB").getpixel((2**11 - 1, 2**11 - 1)) == (255, 255, 255)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 3 * 2**22
