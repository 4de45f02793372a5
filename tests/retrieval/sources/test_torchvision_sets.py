"""torchvision's sets as a source of images: their splits, keys and labels, offline."""

import io
import os
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from entries import keys_of
from PIL import Image

from retrieval import Encoder, Searcher, build_index, open_source
from retrieval.errors import ImageSourceError
from retrieval.measuring.evaluate import evaluate
from retrieval.sources import folder_walk, torchvision_sets
from retrieval.sources.decode import decode, in_mode
from retrieval.sources.sample import Failure, Sample
from retrieval.sources.torchvision_sets import TorchvisionSet, open_set

FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]


def write_idx(file: Path, array: np.ndarray, kind: int = 8) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(
        struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a network that refuses every connection."""
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "torchvision"


@pytest.fixture
def fashion(cache: Path) -> dict[str, np.ndarray]:
    """Fashion-MNIST with few images, where torchvision looks for it; the class of image i is i % 5."""
    sets = {}
    for name, split, count in (("train", "train", 13), ("test", "t10k", 6)):
        greys = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        raw = cache / "FashionMNIST" / "raw"
        write_idx(raw / f"{split}-images-idx3-ubyte", greys)
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 5)
        sets[name] = greys
    return sets


def read(text: str) -> list[Sample | Failure]:
    return [item for part in open_source(text).parts for item in part.read()]


@pytest.mark.parametrize(
    "text, split",
    [
        ("torchvision:fashion_mnist", "train"),
        ("torchvision:Fashion_MNIST/train", "train"),
        ("torchvision:fashion_mnist/test", "test"),
        ("torchvision:fashion_mnist/validation", "test"),
    ],
)
def test_a_split_of_a_set(fashion: dict[str, np.ndarray], cache: Path, text: str, split: str) -> None:
    greys = fashion[split]
    found = read(text)
    assert [item.key for item in found] == [f"{split}/{i}" for i in range(len(greys))]
    for i, item in enumerate(found):
        assert isinstance(item, Sample)
        assert (item.path, item.label, item.extra) == (
            f"torchvision:fashion_mnist/{split}",
            FASHION[i % 5],
            {},
        )
        assert np.array_equal(np.asarray(decode(item.data, mode="L")), greys[i])
    source = open_source(text)
    assert (source.text, source.location, source.size) == (text, text, len(greys))
    assert source.labels() == [(item.key, item.label) for item in found]


def test_parts_are_rows_in_order(fashion: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_walk, "PART_SIZE", 5)
    source = open_source("torchvision:fashion_mnist")
    assert [(part.name, part.size) for part in source.parts] == [
        ("images 0-4", 5),
        ("images 5-9", 5),
        ("images 10-12", 3),
    ]
    for part in pickle.loads(pickle.dumps(source)).parts:
        first = int(part.name.split()[1].partition("-")[0])
        assert [item.key for item in part.read()] == [f"train/{first + i}" for i in range(part.size)]
    assert len({part.fingerprint for part in source.parts}) == 3


def test_the_fingerprint_changes_with_files_and_split(fashion: dict[str, np.ndarray], cache: Path) -> None:
    def mark(text: str) -> str:
        return open_source(text).parts[0].fingerprint

    train, test = mark("torchvision:fashion_mnist"), mark("torchvision:fashion_mnist/test")
    assert train != test
    assert mark("torchvision:FASHION_MNIST/train") == train
    os.utime(cache / "FashionMNIST" / "raw" / "train-images-idx3-ubyte", ns=(0, 1))
    assert mark("torchvision:fashion_mnist") != train


class Pairs:
    """A set of given images; None cannot be read."""

    def __init__(self, images: Sequence[Image.Image | None]) -> None:
        self._images = images

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        image = self._images[i]
        if image is None:
            raise OSError("no\n such thing")
        return image, 0


def set_of(images: Sequence[Image.Image | None], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"train/{i}" for i in range(len(images))]
    found = TorchvisionSet(Pairs(images), ["x"] * len(keys), keys, ["x"], folder)
    monkeypatch.setattr(torchvision_sets, "open_set", lambda *_, **__: found)


def test_pixels_of_every_mode_come_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    images = [Image.fromarray(pixels).convert(mode) for mode in ("L", "RGB", "RGBA", "P", "1", "CMYK", "LA")]
    images.append(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257))
    set_of(images, tmp_path, monkeypatch)
    for item, image in zip(read("torchvision:made_up"), images, strict=True):
        assert isinstance(item, Sample)
        assert decode(item.data).tobytes() == in_mode(image, "RGB").tobytes()
        if image.mode not in ("CMYK", "LA"):  # greys of greys may round
            assert decode(item.data, mode="L").tobytes() == in_mode(image, "L").tobytes()


def test_an_image_that_cannot_be_read_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = Image.new("RGB", (3, 3))
    truncated = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        truncated, "JPEG"
    )
    broken = Image.open(io.BytesIO(truncated.getvalue()[:-500]))
    set_of([good, None, broken, good], tmp_path, monkeypatch)
    first, missing, cut, last = read("torchvision:made_up")
    assert isinstance(first, Sample)
    assert isinstance(last, Sample)
    assert missing == Failure("train/1", "no such thing")
    assert cut == Failure("train/2", "truncated image")


def test_images_of_two_sets_are_not_taken_for_each_other(fashion: dict[str, np.ndarray], cache: Path) -> None:
    for split, count in (("train", 3), ("t10k", 3)):
        raw = cache / "KMNIST" / "raw"
        write_idx(raw / f"{split}-images-idx3-ubyte", np.zeros((count, 28, 28), np.uint8))
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.zeros(count, np.uint8))
    one, other = read("torchvision:fashion_mnist")[0], read("torchvision:kmnist")[0]
    assert isinstance(one, Sample)
    assert isinstance(other, Sample)
    assert one.key == other.key
    assert one.path != other.path


def test_a_set_is_indexed_and_evaluated(
    fashion: dict[str, np.ndarray], encoder: Encoder, tmp_path: Path
) -> None:
    build_index(open_source("torchvision:fashion_mnist"), encoder, tmp_path / "i")
    searcher = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32")
    assert keys_of(searcher.index) == [f"train/{i}" for i in range(13)]
    full = [encoder.space.full]
    result = evaluate(searcher, open_source("torchvision:fashion_mnist/test"), full, same_encoder=True)
    assert (result.queries, result.left_out) == (6, 0)
    (point,) = result.points
    assert point["adaptive_1nn"] == point["same_encoder_1nn"]
    again = evaluate(searcher, open_source("torchvision:fashion_mnist"), full)
    assert again.left_out == 13, "training images are found in the corpus that they are"


# --- what is no set ---


def refused(text: str) -> str:
    with pytest.raises(ImageSourceError) as caught:
        open_source(text)
    message = str(caught.value)
    assert "\n" not in message
    message.encode()
    return message


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "no_such_set", "cifar10/test"])
def test_a_set_that_is_not_there_is_one_clear_line(cache: Path, name: str) -> None:
    message = refused(f"torchvision:{name}")
    assert message.startswith(f"torchvision:{name.partition('/')[0]}: ")
    assert message.endswith(f"; torchvision keeps its sets in {cache}")


@pytest.mark.parametrize(
    "text",
    [
        "torchvision:",
        "torchvision:/test",
        "torchvision:cifar10/",
        "torchvision:cifar10/val",
        "torchvision:cifar10/test/0",
        "torchvision:../../cifar10",
        "torchvision:cifar10::pipe:touch marker",
        "torchvision:pipe:touch marker.tar",
        "torchvision: cifar10",
        "torchvision:cifar10\n",
        "torchvision:caf\udce9",
    ],
)
def test_other_forms_are_refused(
    cache: Path, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "write torchvision:cifar10 or torchvision:cifar10/test" in refused(text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [" torchvision:cifar10", "TORCHVISION:cifar10", "x::torchvision:cifar10"])
def test_it_must_be_spelled_exactly(text: str) -> None:
    assert "is not read; understood are" in refused(text)


def test_a_set_without_one_class_an_image(cache: Path) -> None:
    """QMNIST says eight things of each."""
    raw = cache / "QMNIST" / "raw"
    write_idx(raw / "qmnist-train-images-idx3-ubyte", np.zeros((4, 28, 28), np.uint8))
    write_idx(raw / "qmnist-train-labels-idx2-int", np.zeros((4, 8), ">i4"), kind=12)
    assert (
        refused("torchvision:qmnist") == "torchvision:qmnist: not a set with one class an image; take another"
    )


def test_classes_without_images_are_known(fashion: dict[str, np.ndarray]) -> None:
    found: Any = open_set("fashion_mnist", train=False)
    assert found.classes[:5] == FASHION
    assert len(found.classes) == 10
    assert len(found.images) == len(found.labels) == 6
